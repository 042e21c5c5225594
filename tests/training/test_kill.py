"""kill −9 at any moment, the same command again: the weights are those of a run that nobody killed, bit for bit."""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from killable import Outcome, Zygote

from limbeck.config import TASKS

SIGKILL = -9
STAGES = ("data", "teach", "distill", "bundle", "evaluate", "report")
ADAPTERS = tuple(f"adapt-{task}" for task in TASKS)

Weights = dict[str, bytes]


@dataclass
class Runner:
    """Runs one recipe again and again."""

    zygote: Zygote
    recipe: Path
    out: Path

    def __call__(self, *arguments: str, **how: Any) -> Outcome:
        return self.zygote.run(["run", self.recipe, *arguments], **how)

    def finish(self) -> Weights:
        done = self()
        assert done.code == 0, done.stderr
        assert (self.out / "scores.json").exists() and (self.out / "report" / "index.html").exists()
        return weights(self.out)


def weights(out: Path) -> Weights:
    files = sorted((out / "model").rglob("*.safetensors"))
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


@pytest.fixture
def runner(zygote: Zygote, body: dict[str, Any], write_recipe: Callable[[dict[str, Any]], Path]) -> Runner:
    return Runner(zygote, write_recipe(body), Path(body["out"]))


@pytest.fixture(scope="session")
def never_killed() -> dict[str, tuple[Outcome, Weights]]:
    """Kind of student → an uninterrupted run of it, filled by `uninterrupted`."""
    return {}


@pytest.fixture
def uninterrupted(
    never_killed: dict[str, tuple[Outcome, Weights]],
    zygote: Zygote,
    body: dict[str, Any],
    write_recipe: Callable[[dict[str, Any]], Path],
    tmp_path: Path,
) -> tuple[Outcome, Weights]:
    """Events and weights of the recipe's uninterrupted run."""
    kind = str(body["student"]) + str(body["distill"]) + str(body.get("extend")) + str(body.get("adapters"))
    if kind not in never_killed:
        other = copy.deepcopy(body)
        other["out"], other["teacher"]["store"] = str(tmp_path / "whole"), str(tmp_path / "whole-store")
        outcome = zygote.run(["run", write_recipe(other)])
        assert outcome.code == 0, outcome.stderr
        never_killed[kind] = outcome, weights(Path(other["out"]))
        write_recipe(body)
    return never_killed[kind]


def count(outcome: Outcome, start: str) -> int:
    return sum(event.startswith(start) for event in outcome.events)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_again_and_again_in_a_stage_ends_with_the_same_weights(
    stage: str, uninterrupted: tuple[Outcome, Weights], runner: Runner
) -> None:
    outcome, expected = uninterrupted
    killed = 0
    for share in (0, 0.25, 0.5, 0.75, 1):
        done = runner(kill_at=(stage, int(share * (count(outcome, stage) - 1))))
        assert done.code in (SIGKILL, 0), done.stderr
        killed += done.code == SIGKILL  # a stage that goes on where it was killed has fewer events left
    assert killed >= 2
    assert runner.finish() == expected


@pytest.mark.parametrize("step", [3, 9])  # the first checkpoint, and one that takes the place of another
def test_a_run_killed_while_it_writes_a_checkpoint_ends_with_the_same_weights(
    step: int, uninterrupted: tuple[Outcome, Weights], runner: Runner
) -> None:
    outcome, expected = uninterrupted
    moment = f"distill/checkpoint-{step}:"
    for n in range(0, count(outcome, moment), 3):
        assert runner(kill_at=(moment, n)).code == SIGKILL
    assert runner.finish() == expected


@pytest.mark.parametrize("stage", [*ADAPTERS, "router"])
def test_a_run_killed_in_an_adapters_stage_ends_with_the_same_adapters(
    stage: str, adapted: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    outcome, expected = request.getfixturevalue("uninterrupted")
    runner: Runner = request.getfixturevalue("runner")
    assert len(expected) == 1 + 1 + len(TASKS) + 1  # base, projection, adapters, router
    total = count(outcome, stage)
    for n in (total // 3, total // 2):  # a run that goes on has fewer events left, but no fewer than half
        assert runner(kill_at=(stage, n)).code == SIGKILL
    if stage != "router":
        assert runner(kill_at=(f"{stage}/checkpoint-6:", 1)).code == SIGKILL
    assert runner.finish() == expected


def test_a_run_killed_in_the_long_context_phase_ends_with_the_same_weights(
    extended: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    outcome, expected = request.getfixturevalue("uninterrupted")
    runner: Runner = request.getfixturevalue("runner")
    assert count(outcome, "extend") > 20
    for moment, n in (("extend", 2), ("extend/checkpoint-2:", 1), ("extend/checkpoint-6:", 1), ("extend", 9)):
        assert runner(kill_at=(moment, n)).code == SIGKILL
    assert runner.finish() == expected


def test_dropout_is_drawn_the_same_after_a_kill(
    body: dict[str, Any], request: pytest.FixtureRequest, teacher_folder: Path
) -> None:
    body["student"] |= {"init": "pretrained", "model": str(teacher_folder), "pruned": None, "rope": {}}
    _, expected = request.getfixturevalue("uninterrupted")
    runner: Runner = request.getfixturevalue("runner")
    assert runner(kill_at=("teach", 10)).code == SIGKILL  # training starts in another process than teaching did
    assert runner(kill_at=("distill:before schedule", 3)).code == SIGKILL
    assert runner(kill_at=("distill:before schedule", 13)).code == SIGKILL
    assert runner.finish() == expected


def test_a_run_killed_at_random_moments_ends_with_the_same_weights(
    uninterrupted: tuple[Outcome, Weights], runner: Runner
) -> None:
    outcome, expected = uninterrupted
    draw = random.Random(0)
    for _ in range(8):
        assert runner(kill_after=draw.uniform(0.1, 0.8) * outcome.seconds).code in (SIGKILL, 0)
    assert runner.finish() == expected


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_killed_between_checkpoints_ends_with_the_same_weights(
    body: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    body["distill"] |= {"compile": "on"}
    body["student"]["pruned"] = {"layers": [0]}  # less to compile
    _, expected = request.getfixturevalue("uninterrupted")
    runner: Runner = request.getfixturevalue("runner")
    assert runner(kill_at=("distill:before schedule", 9)).code == SIGKILL
    assert runner.finish() == expected
