"""Every experiment in miniature, by the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck import cli
from limbeck.ablation.experiments import EXPERIMENTS
from limbeck.ablation.results import Results
from limbeck.files import read_json


@pytest.mark.slow
def test_every_experiment_runs_in_miniature_and_says_that_one_seed_decides_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["ablate", "--smoke", "--out", str(tmp_path), "--jobs", "1"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    for name, experiment in EXPERIMENTS.items():
        results = Results.model_validate(read_json(tmp_path / name / "results.json"))
        assert [arm.name for arm in results.arms] == [arm.name for arm in experiment.arms]
        assert results.status == "not decidable at this scale"
        assert all(set(experiment.metrics) <= set(arm.scores) for arm in results.arms if experiment.name != "signal")
        assert (tmp_path / name / "index.html").exists() and f"{name}: " in said
        if not any(arm.as_many_tokens_as for arm in experiment.arms):  # so few steps are not matched to 3%
            assert not results.warnings
        if experiment.curve:
            assert all(len(arm.curves[0]) == experiment.curve for arm in results.arms)
    # the base of a seed serves the experiments on adapters
    bases = {(tmp_path / arm / "distill").resolve() for arm in ("gor/seed-0/GOR-1", "stages/seed-0/both-stages")}
    assert len(bases) == 1


def test_the_command_runs_an_experiment_on_another_recipe_and_its_results_become_evidence(
    adapted: dict[str, Any],
    write_recipe: Callable[[dict[str, Any]], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, recipe = tmp_path / "averaging", write_recipe(adapted)
    options = ["--recipe", str(recipe), "--out", str(out), "--seed", "4", "--jobs", "1", "--json"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["ablate", "averaging", *options, "--set", "adapters.retrieval.steps=4"])
    assert ended.value.code == 0
    said = Results.model_validate(json.loads(capsys.readouterr().out))
    assert said.seeds == [4]
    assert said == Results.model_validate(read_json(out / "results.json"))
    assert said.commands[0].startswith(f"limbeck ablate averaging --recipe {recipe}")
    with pytest.raises(SystemExit):
        cli.main(["ablate", "evidence", str(out), "--out", str(tmp_path / "evidence")])
    page = (tmp_path / "evidence" / "README.md").read_text()
    assert said.claim in page and "one seed" in page
    assert (tmp_path / "evidence" / "averaging" / "plot.svg").exists()


def test_the_smoke_test_and_a_name_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["ablate", "--smoke", "gor"])
    assert "leave out gor" in capsys.readouterr().err


def test_options_before_a_name_are_refused_and_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["ablate", "--jobs", "1", "gor"])
    assert "after its name" in " ".join(capsys.readouterr().err.replace("│", " ").split())
