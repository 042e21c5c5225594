"""Any number of processes trains as one does, a killed one ends the run, and another number of them goes on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from limbeck.config import TASKS, Distill, load_recipe
from limbeck.data.tokens import TokenTable
from limbeck.errors import ConfigError, TrainingError
from limbeck.evaluation.scores import read_metrics
from limbeck.training import pipeline
from limbeck.training.distill import DistillBatches, TaughtSource

RANK = Path(__file__).with_name("rank.py")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
LAST = "adapt-classification"  # the last stage that trains
STAGES = ("distill", *(f"adapt/{task}" for task in TASKS))
TERMS = {
    "distill": {"loss/dim8", "loss/dim24"},
    "adapt/retrieval": {"info_nce", "distill", "spread"},
    "adapt/text-matching": {"cosent", "info_nce", "distill"},  # its sources take turns
    "adapt/clustering": {"distill"},
    "adapt/classification": {"info_nce", "relational"},
}


def python(*arguments: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=300
    )


@pytest.fixture(scope="module")
def finished() -> dict[str, Path]:
    """Folder of the run of one process, filled by `recipe_in`."""
    return {}


@pytest.fixture
def recipe_in(adapted: dict[str, Any], tmp_path: Path, finished: dict[str, Path]) -> Callable[..., Path]:
    """Write the recipe of a run in a folder of its own; one process has done it before."""
    gentle = {"learning_rate": 0.001, "warmup_steps": 1}  # AdamW makes whole steps of what is rounding alone
    adapted["distill"] |= {"log_every": 1, "checkpoint_every": 2}
    for block in adapted["adapters"].values():
        # what is dropped depends on how a step is cut
        block |= {"log_every": 1, "lora": {"rank": 2, "dropout": 0.0}, "optimizer": gentle}
        block["train_projection"] = True  # which not every loss, nor every step, reads
    adapted["adapters"]["text-matching"]["sources"][0]["weight"] = 4  # so that steps with scores come up

    def write(name: str, **changes: Any) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(adapted | {"out": str(tmp_path / name)} | changes))
        return path

    if not finished:
        finished["one"] = pipeline.run(load_recipe(write("one")), stop_after=LAST)
    return write


def same(found: Path, expected: Path) -> None:
    for stage in STAGES:
        ours, rows = (read_metrics(out / stage / "metrics.jsonl") for out in (found, expected))
        assert [row["step"] for row in ours] == [row["step"] for row in rows]
        assert set().union(*rows) >= TERMS[stage]
        for a, b in zip(rows, ours, strict=True):
            assert a.keys() == b.keys() and (a["tokens"], a["lr"]) == (b["tokens"], b["lr"])
            for name in a.keys() & (TERMS[stage] | {"loss"}):
                assert a[name] == pytest.approx(b[name], rel=0, abs=1e-5), (stage, a["step"], name)
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4), (stage, a["step"])
    for file in expected.rglob("*.safetensors"):
        if "checkpoints" not in file.parts:
            for name, tensor in load_file(file).items():
                theirs = load_file(found / file.relative_to(expected))[name]
                torch.testing.assert_close(theirs, tensor, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_four_processes_have_the_losses_of_one_and_one_of_them_does_the_rest(
    recipe_in: Callable[..., Path], finished: dict[str, Path], tmp_path: Path
) -> None:
    done = python(RANK, "--fork", 4, -1, "", 0, "run", recipe_in("four"))
    assert done.returncode == 0, done.stderr
    for stage in ("teach", "distill", "evaluate"):
        assert len(re.findall(f"{stage} +done in", done.stderr)) == 1  # one process speaks for all
    assert (tmp_path / "four" / "report" / "index.html").exists()
    same(tmp_path / "four", finished["one"])


@pytest.mark.slow
def test_a_run_goes_on_after_a_kill_with_any_number_of_processes_and_with_weights_that_are_split_or_not(
    recipe_in: Callable[..., Path], finished: dict[str, Path], tmp_path: Path
) -> None:
    recipe = recipe_in("elastic")
    command = ("classification", 3, "run", recipe, "--stop-after", LAST)

    done = python(*TORCHRUN, 2, RANK, 1, *command, "--set", "shard=true")
    ended_with(done, victim=1, processes=2)
    held = [(int(part), int(all_)) for part, all_ in re.findall(r"rank \d holds (\d+) of (\d+)", done.stdout)]
    assert len(held) == 2 * len(STAGES) and all(0.4 < part / all_ < 0.6 for part, all_ in held)

    ended_with(python(RANK, "--fork", 4, 0, "classification", 5, *command[2:]), victim=0, processes=4)
    steps = sorted(p.name for p in (tmp_path / "elastic" / "adapt" / "classification" / "checkpoints").iterdir())
    assert steps[-1] == "step-00000004"  # four went on from the second step to the fifth
    pipeline.run(load_recipe(recipe), stop_after=LAST)
    same(tmp_path / "elastic", finished["one"])


def ended_with(done: subprocess.CompletedProcess[str], *, victim: int, processes: int) -> None:
    assert done.returncode != 0
    said = re.findall(r"^limbeck: (.*)$", done.stderr, re.MULTILINE)
    assert said and re.match(
        rf"rank {victim} \(process \d+ on .*\) .*ended before the run was done, so all {processes} ranks stop; .*"
        "the same command, with any number of processes, goes on from the last checkpoint",
        said[0],
    ), done.stderr


@pytest.mark.parametrize("rank", range(3))
def test_a_step_too_small_to_be_shared_stops_every_process(rank: int) -> None:
    tokens = TokenTable(np.arange(8, dtype=np.int32), np.array([0, 4, 8]), truncated=0)
    source = TaughtSource("one-pair", 1.0, tokens, np.arange(2), roles=2)
    place: Any = SimpleNamespace(num_processes=3, process_index=rank, device=torch.device("cpu"))
    batches = DistillBatches(
        [source],
        lambda rows: np.ones((len(rows), 2)),
        Distill(steps=1, tokens_per_step=1),
        pad_id=0,
        seed=0,
        accelerator=place,
    )
    # one that went on alone would wait for the others for ever
    with pytest.raises(TrainingError, match="a step of 2 texts cannot be shared by 3 processes: raise tokens_per_step"):
        batches.next()


def test_split_weights_are_not_compiled(adapted: dict[str, Any], tmp_path: Path) -> None:
    adapted["adapters"]["clustering"] |= {"compile": "on"}
    path = tmp_path / "compiled.yaml"
    path.write_text(yaml.safe_dump(adapted | {"shard": True}))
    with pytest.raises(ConfigError, match="set adapters.clustering.compile to auto or off"):
        load_recipe(path)
