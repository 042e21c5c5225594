"""Two processes that share a step train like one that does all of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from limbeck.errors import TrainingError
from limbeck.training.loop import read_metrics


def train_part(recipe_path: Path, folder: Path, *, key: str = "k") -> None:
    """Stage 1 of a recipe on made-up token ids and teacher vectors; the process groups are accelerate's."""
    from limbeck.config import load_recipe
    from limbeck.data.tokens import TokenTable
    from limbeck.model import backbone
    from limbeck.training.distill import TaughtSource, distill

    torch.set_num_threads(1)
    recipe = load_recipe(recipe_path)
    draw = np.random.default_rng(0)
    lengths = draw.integers(3, 40, 60)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = TokenTable(draw.integers(5, 100, offsets[-1]).astype(np.int32), offsets, truncated=0)
    vectors = draw.standard_normal((60, recipe.teacher.dim)).astype(np.float16)
    source = TaughtSource("made-up", 1.0, tokens, np.arange(60), roles=2)
    student = backbone.build(recipe.student, recipe.teacher.model, seed=recipe.seed)
    model, _ = distill(recipe, student, [source], lambda rows: vectors[rows], folder, key=key)
    if os.environ.get("RANK", "0") == "0":
        torch.save(model.state_dict(), folder / "weights.pt")


def adapt_part(recipe_path: Path, folder: Path, *, key: str = "k") -> None:
    """A retrieval adapter of a recipe, likewise: every loss of it needs the vectors of all processes."""
    from limbeck.config import AdapterSource, Lora, Optimizer, RetrievalAdapter, load_recipe
    from limbeck.data.tokens import TokenTable
    from limbeck.model import backbone
    from limbeck.model.projection import Projection
    from limbeck.training.adapt import adapt
    from limbeck.training.task_batches import TaskSource

    torch.set_num_threads(1)
    recipe = load_recipe(recipe_path)
    draw = np.random.default_rng(0)
    lengths = draw.integers(3, 40, 90)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = TokenTable(draw.integers(5, 100, offsets[-1]).astype(np.int32), offsets, truncated=0)
    vectors = draw.standard_normal((90, recipe.teacher.dim)).astype(np.float16)
    each, all_ = np.arange(30), np.arange(90)
    source = TaskSource("made-up", 1.0, 8, tokens, all_, each, each + 30, each[:, None] + 60, teacher_rows=all_)
    settings = RetrievalAdapter(
        sources=[AdapterSource(name="made-up")],
        steps=8,
        tokens_per_micro_batch=100,
        tokens_in_memory=200,  # some steps are recomputed
        train_projection=True,
        precision="fp32",
        lora=Lora(rank=4, dropout=0.0),  # what is dropped depends on how a step is cut
        optimizer=Optimizer(learning_rate=0.01, warmup_steps=2),
        log_every=1,
    )
    torch.manual_seed(0)
    projection = Projection(recipe.student.dims, recipe.teacher.dim)
    student = backbone.build(recipe.student, recipe.teacher.model, seed=recipe.seed)
    found = adapt(
        recipe, "retrieval", settings, student, projection, [source], lambda rows: vectors[rows], folder, key=key
    )
    if os.environ.get("RANK", "0") == "0":
        assert found.projection is not None
        factors = {f"{name}.{i}": f for name, pair in found.final.factors.items() for i, f in enumerate(pair)}
        torch.save(factors | found.projection.state_dict(), folder / "weights.pt")


PARTS = {"distill": train_part, "adapt": adapt_part}


def launch(recipe: Path, folder: Path, processes: int, part: str = "distill") -> list[str]:
    """Run a part in so many processes, as `accelerate launch` does; returns what the failed ones printed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, __file__, str(recipe), str(folder), part]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    running = []
    for rank in range(processes):
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        environment = os.environ | shared | {name: str(value) for name, value in own.items()}
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    ended = [(process.communicate(timeout=120)[1], process.returncode) for process in running]
    return [stderr for stderr, code in ended if code]


@pytest.fixture
def recipe(body: dict[str, Any], tmp_path: Path) -> Path:
    body["distill"] |= {"steps": 8, "checkpoint_every": 3, "log_every": 1, "tokens_per_micro_batch": 100}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(body))
    return path


@pytest.mark.parametrize(
    ("part", "terms"), [("distill", ["loss/dim8", "loss/dim24"]), ("adapt", ["info_nce", "distill", "spread"])]
)
def test_two_processes_have_the_loss_curve_of_one(part: str, terms: list[str], recipe: Path, tmp_path: Path) -> None:
    PARTS[part](recipe, tmp_path / "one")
    assert launch(recipe, tmp_path / "two", 2, part) == []
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [row["step"] for row in two] == list(range(1, 9))
    for a, b in zip(one, two, strict=True):
        assert (a["tokens"], a["lr"]) == (b["tokens"], b["lr"])
        for name in ("loss", "grad_norm", *terms):
            assert a[name] == pytest.approx(b[name], abs=1e-5)
    weights = [torch.load(tmp_path / name / "weights.pt") for name in ("one", "two")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("rank", range(3))
def test_a_step_too_small_to_be_shared_stops_every_process(rank: int) -> None:
    from limbeck.config import Distill
    from limbeck.data.tokens import TokenTable
    from limbeck.training.distill import DistillBatches, TaughtSource

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


if __name__ == "__main__":
    PARTS[sys.argv[3]](Path(sys.argv[1]), Path(sys.argv[2]))
