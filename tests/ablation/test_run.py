"""Arms × seeds on a run of a second: what is shared, what is done again, what fails alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tiny_texts import TEACHER_DIM

from limbeck.ablation.experiments import BITS, HELD_OUT, RANK, Arm, Contrast, Experiment, after, at_dims, of_source
from limbeck.ablation.results import Results
from limbeck.ablation.run import Settings, ablate
from limbeck.ablation.schedule import workers
from limbeck.config import load_recipe
from limbeck.errors import ConfigError, TrainingError
from limbeck.files import read_json

Write = Callable[[dict[str, Any]], Path]

ADAPTER = Arm("adapter", stage="adapt-retrieval")
TINY = Experiment(
    name="tiny",
    question="Does an adapter help?",
    claim="An adapter helps",
    recipe="given",
    arms=(
        ADAPTER,
        Arm("without GOR", ("adapters.retrieval.spread_weight=0",), "adapt-retrieval"),
        Arm("base, as long", as_many_tokens_as="adapter"),
    ),
    contrasts=(Contrast("adapter", "base, as long"), Contrast("adapter", "without GOR")),
    fixed=("Everything else",),
)


@pytest.fixture(scope="module")
def two() -> Iterator[Settings]:
    """Two seeds, by one process that serves all tests here: to start one takes longer than what it is asked to do."""
    with workers(1) as by:
        yield Settings(seeds=(0, 1), workers=by)


@pytest.fixture
def recipe(adapted: dict[str, Any], write_recipe: Write) -> str:
    adapted["train_share"] = 0.7
    return str(write_recipe(adapted))


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def times(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors") if not p.is_symlink()}


def test_arms_share_what_they_have_in_common_and_a_second_call_does_nothing(
    two: Settings, recipe: str, tmp_path: Path
) -> None:
    out = tmp_path / "tiny"
    results = ablate(TINY, out, two, recipe=recipe)
    assert [arm.name for arm in results.arms] == [arm.name for arm in TINY.arms]
    assert all(len(arm.scores[HELD_OUT]) == 2 for arm in results.arms)
    assert results.arms[0].scores[HELD_OUT][0] != results.arms[0].scores[HELD_OUT][1]
    # two seeds × (one base for both adapters, and the long one); the texts are read once
    made = sorted(p.name.rsplit("-", 1)[0] for p in (out / "stages").iterdir())
    assert made == ["adapt-retrieval"] * 4 + ["data"] + ["distill"] * 4 + ["teach"] * 2
    assert not list(out.rglob("step-*"))  # no checkpoint of a finished stage is kept
    before = times(out)
    again = ablate(TINY, out, two, recipe=recipe)
    assert times(out) == before
    assert again.arms == results.arms
    assert again.answers == results.answers
    assert Results.model_validate(read_json(out / "results.json")) == again


def test_an_arm_gets_as_many_tokens_as_the_one_it_is_matched_with(two: Settings, recipe: str, tmp_path: Path) -> None:
    results = ablate(TINY, tmp_path / "tiny", replace(two, seeds=(0,)), recipe=recipe)
    two_stages, _, one_stage = results.arms
    assert one_stage.tokens[0] == pytest.approx(two_stages.tokens[0], rel=0.12)  # of whole steps, and whole rows
    assert one_stage.steps[0] > load_recipe(recipe).distill.steps


def test_another_seed_or_arm_is_added_without_doing_the_others_again(
    two: Settings, recipe: str, tmp_path: Path
) -> None:
    out = tmp_path / "tiny"
    small = replace(TINY, arms=TINY.arms[:1], contrasts=())
    ablate(small, out, replace(two, seeds=(0,)), recipe=recipe)
    before = times(out)
    more = replace(TINY, arms=TINY.arms[:2], contrasts=TINY.contrasts[1:])
    results = ablate(more, out, two, recipe=recipe)
    assert before.items() <= times(out).items()
    assert [len(arm.tokens) for arm in results.arms] == [2, 2]


def test_a_score_has_its_queries_widths_bits_and_sources(
    two: Settings, body: dict[str, Any], write_recipe: Write, tmp_path: Path
) -> None:
    body["data"]["sources"].append(body["data"]["sources"][0] | {"name": "more", "path": str(tmp_path / "more.jsonl")})
    lines = [{"q": f"zebra {i}", "d": f"zebra {i} and some words of number {i}"} for i in range(60)]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    body["student"]["dims"] = [16, TEACHER_DIM]
    base = replace(TINY, arms=(Arm("base"),), contrasts=())
    out = tmp_path / "tiny"
    results = ablate(base, out, replace(two, seeds=(0,)), recipe=str(write_recipe(body)))
    found = read_json(out / "seed-0" / "base" / "scores.json")
    assert {HELD_OUT, BITS, RANK, of_source("pairs"), of_source("more")} <= set(found["scores"])
    assert at_dims(32) not in found["scores"]  # as wide as the vectors are not
    queries = found["by_query"]
    assert len(queries[HELD_OUT]) == len(queries[of_source("pairs")]) + len(queries[of_source("more")])
    assert found["scores"][HELD_OUT] == pytest.approx(sum(queries[HELD_OUT]) / len(queries[HELD_OUT]))
    assert 1 <= found["scores"][RANK] <= TEACHER_DIM
    assert results.references["teacher"][HELD_OUT] > 0


def test_a_learning_curve_has_the_checkpoints_and_ends_at_the_score(
    two: Settings, body: dict[str, Any], write_recipe: Write, tmp_path: Path
) -> None:
    curved = replace(TINY, arms=(Arm("base"), Arm("by KL", ("distill.objective=kl",))), contrasts=(), curve=5)
    results = ablate(curved, tmp_path / "tiny", replace(two, seeds=(0,)), recipe=str(write_recipe(body)))
    for arm in results.arms:
        (curve,) = arm.curves
        assert [point.step for point in curve] == [2, 4, 6, 8, 10]
        assert curve[-1].score == pytest.approx(arm.scores[HELD_OUT][0])
        assert curve[-1].tokens == arm.tokens[0]
        assert arm.scores[after(1, 5)] == [curve[0].score]


def test_a_learning_curve_outlives_its_checkpoints_and_is_made_anew_where_it_must(
    two: Settings, body: dict[str, Any], write_recipe: Write, tmp_path: Path
) -> None:
    curved = replace(TINY, arms=(Arm("base"),), contrasts=(), curve=5)
    out, settings, recipe = tmp_path / "tiny", replace(two, seeds=(0,)), str(write_recipe(body))
    before = ablate(curved, out, settings, recipe=recipe)
    weights = times(out / "seed-0" / "base" / "distill")
    (out / "seed-0" / "base" / "scores.json").unlink()  # as when it is to be scored on more
    assert ablate(curved, out, settings, recipe=recipe).arms[0].curves == before.arms[0].curves
    assert times(out / "seed-0" / "base" / "distill") == weights
    (out / "seed-0" / "base" / "curve.json").unlink()
    (out / "seed-0" / "base" / "scores.json").unlink()
    assert ablate(curved, out, settings, recipe=recipe).arms[0].curves == before.arms[0].curves


def test_an_arm_that_fails_leaves_the_others_and_goes_on_when_it_is_put_right(
    two: Settings, recipe: str, tmp_path: Path
) -> None:
    out = tmp_path / "tiny"
    bad = Arm("bad", ("distill.optimizer.learning_rate=1.0e30",))
    broken = replace(TINY, arms=(bad, Arm("base"), Arm("long", as_many_tokens_as="bad")), contrasts=())
    with pytest.raises(TrainingError, match=r"2 of 3 arms of tiny failed, .* kept:\n  bad, seed 0: the loss"):
        ablate(broken, out, replace(two, seeds=(0,)), recipe=recipe)
    before = times(out / "seed-0" / "base")
    assert (out / "seed-0" / "base" / "scores.json").exists()
    right = replace(broken, arms=(Arm("bad"), *broken.arms[1:]))
    assert len(ablate(right, out, replace(two, seeds=(0,)), recipe=recipe).arms) == 3
    assert times(out / "seed-0" / "base") == before


def test_named_tasks_are_scored_and_searched_for_training_texts(
    two: Settings, body: dict[str, Any], pairs: Path, write_recipe: Write, tmp_path: Path
) -> None:
    folder = tmp_path / "retrieval" / "words"
    folder.mkdir(parents=True)
    rows = [json.loads(line) for line in pairs.read_text().splitlines()[:40]]
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"id": f"d{i}", "text": row["d"]}) + "\n" for i, row in enumerate(rows))
    )
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"id": f"q{i}", "text": row["q"]}) + "\n" for i, row in enumerate(rows))
    )
    (folder / "qrels.tsv").write_text("".join(f"q{i}\td{i}\t1\n" for i in range(len(rows))))
    base = replace(TINY, arms=(Arm("base"),), contrasts=())
    settings = replace(two, seeds=(0,), tasks=(str(folder),))
    results = ablate(base, tmp_path / "tiny", settings, recipe=str(write_recipe(body)))
    assert {"words", "words, 1 bit"} <= set(results.arms[0].scores)
    assert results.leaks["words"] > 20  # most of its texts were trained on, and that is said


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = (
        "import multiprocessing, sys, time\n"
        "from limbeck.ablation import work\n"
        "def main():\n"
        "    work.start(None, 1)\n"
        "    print(multiprocessing.current_process().pid, flush=True)\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    multiprocessing.get_context('spawn').Process(target=main).start()\n"
        "    time.sleep(600)\n"
    )
    (tmp_path / "parent.py").write_text(script)
    with subprocess.Popen([sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = partial(alive, int(parent.stdout.readline()))
        assert worker()
        parent.kill()
    for _ in range(300):
        if not worker():
            return
        time.sleep(0.1)
    raise AssertionError("the worker outlived its parent by half a minute")


def test_an_experiment_without_seeds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one seed"):
        ablate(TINY, tmp_path, Settings(seeds=()))
