"""`limbeck ablate theta`, on a run of a second: what is trained once, what is scored, and what is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limbeck import cli
from limbeck.ablation.theta import ARMS, Cell, Results, Settings, ablate_theta, thetas_of
from limbeck.ablation.theta_page import verdicts, write_theta_page
from limbeck.config import load_recipe
from limbeck.errors import ConfigError

Write = Callable[[dict[str, Any]], Path]

SETTINGS = Settings(lengths=(300, 400), documents=12, windows=(64,))


def write_set(folder: Path) -> Path:
    """A set of long documents: each repeats what one query asks for."""
    folder = folder / "longdoc" / "minutes"
    folder.mkdir(parents=True)
    words = ["array", "buffer", "column", "digit", "event", "field", "group", "header", "index", "join", "key", "label"]
    rows = {
        "corpus": [{"id": f"d{i}", "text": f"{word} table " * 40} for i, word in enumerate(words)],
        "queries": [{"id": f"q{i}", "text": word} for i, word in enumerate(words)],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    (folder / "qrels.tsv").write_text("".join(f"q{i}\td{i}\t1\n" for i in range(len(words))))
    return folder


@pytest.fixture
def recipe(extended: dict[str, Any], write_recipe: Write) -> Path:
    return write_recipe(extended)


def test_every_student_is_scored_with_every_theta_and_a_second_call_does_nothing(recipe: Path, tmp_path: Path) -> None:
    out, settings = tmp_path / "theta", replace(SETTINGS, real=[write_set(tmp_path)], thetas=[9000.0])
    results = ablate_theta(recipe, out, settings)
    tasks = {"short texts", "passkey-300", "passkey-400", "needle-300", "needle-400", "minutes"}
    assert {(c.arm, c.theta, c.task) for c in results.cells} == {
        (arm, theta, task) for arm in ARMS for theta in (1500.0, 4000.0, 9000.0) for task in tasks
    }
    assert len(results.cells) == len(ARMS) * 3 * len(tasks)
    assert all(0 <= c.score <= 1 and 0 <= c.first <= 1 for c in results.cells)
    assert {c.documents for c in results.cells if c.kind in ("passkey", "needle")} == {12}
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    again = ablate_theta(recipe, out, settings)
    assert again.cells == results.cells
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == written


def test_the_arms_share_stage_1_and_differ_in_the_theta_of_the_phase_alone(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "theta"
    results = ablate_theta(recipe, out, replace(SETTINGS, lengths=(300,)))
    after, swapped = out / "seed-0" / "after", out / "seed-0" / "swapped"
    assert (swapped / "distill").resolve() == (after / "distill").resolve()
    assert not (swapped / "extend").is_symlink()
    one, other = (load_recipe(folder / "recipe.yaml").model_dump() for folder in (after, swapped))
    assert (one["extend"].pop("theta"), other["extend"].pop("theta")) == (1500, 4000)
    one.pop("out"), other.pop("out")
    assert one == other
    assert results.tokens["after"] == results.tokens["swapped"] > results.tokens["before"]


def test_the_command_writes_a_page_that_names_every_student(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "theta"
    options = [
        "--recipe",
        str(recipe),
        "--out",
        str(out),
        "--length",
        "300",
        "--documents",
        "10",
        "--set",
        "name=small",
    ]
    with pytest.raises(SystemExit) as end:
        cli.main(["ablate", "theta", *options])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "nDCG@10 of needle at 300 tokens: the long-context phase" in printed and str(out / "index.html") in printed
    page, text = (out / "index.html").read_text(), (out / "report.md").read_text()
    for part in ("before, 1,500", "after, 4,000", "swapped, 1,500", "small", f"limbeck ablate theta --recipe {recipe}"):
        assert part in page and part in text
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("theta", [None, 1500])
def test_a_recipe_that_says_one_theta_only_is_refused(
    extended: dict[str, Any], write_recipe: Write, theta: float | None
) -> None:
    extended["student"]["rope"]["inference_theta"] = theta
    with pytest.raises(ConfigError, match="two thetas that differ"):
        thetas_of(load_recipe(write_recipe(extended)))
    del extended["extend"]
    with pytest.raises(ConfigError, match="no `extend:` section"):
        thetas_of(load_recipe(write_recipe(extended)))


def cell(arm: Any, theta: float, kind: Any, length: int, score: float, seed: int = 0) -> Cell:
    return Cell(
        seed=seed,
        arm=arm,
        theta=theta,
        task=f"{kind}-{length}",
        kind=kind,
        length=length,
        score=score,
        first=score,
        queries=10,
        documents=10,
        chance=0.45,
        by_depth={"0": score, "1": score},
        seconds=1.0,
    )


def results_of(cells: list[Cell]) -> Results:
    tokens, seconds = dict.fromkeys(ARMS, 100), dict.fromkeys(ARMS, 1.0)
    return Results(
        recipe="r",
        low=10.0,
        high=40.0,
        cells=cells,
        tokens=tokens,
        seconds=seconds,
        commands=[],
        machine={},
        versions={},
    )


def test_verdicts_say_differences_at_the_longer_lengths_and_where_a_score_breaks() -> None:
    scores = {
        ("before", 10.0): (0.9, 0.3),
        ("after", 10.0): (0.9, 0.7),
        ("after", 40.0): (0.9, 0.8),
        ("swapped", 10.0): (0.9, 0.8),
    }
    cells = [
        cell(arm, theta, "needle", length, score)
        for (arm, theta), both in scores.items()
        for length, score in zip((256, 512), both, strict=True)
    ]
    said = verdicts(results_of(cells))
    assert said[0] == (
        "nDCG@10 of needle at 512 tokens: the long-context phase 0.300 → 0.700, +0.400 [+0.400, +0.400]; theta 40 at "
        "inference 0.700 → 0.800, +0.100 [+0.100, +0.100]; both thetas the other way about 0.800 → 0.800, ±0.000 "
        "[±0.000, ±0.000], may be chance."
    )
    assert "before, 10 to 256; after, 10 to 256; after, 40 to 512; swapped, 10 to 512" in said[1]  # 80% of 0.9 is 0.72


def test_several_seeds_give_means_with_intervals(tmp_path: Path) -> None:
    scores = (0.5, 0.6, 0.7)
    cells = [cell("after", 10.0, "passkey", x, s, seed) for x in (256, 512) for seed, s in enumerate(scores)]
    write_theta_page(results_of(cells), tmp_path)
    assert "0.600 ± 0.248" in (tmp_path / "report.md").read_text()  # t(0.975, 2) · 0.1 / √3
