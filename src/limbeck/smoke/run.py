"""A smoke run: every stage for a few steps, what it took beside what `limbeck plan` said, and the bundle at work."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from limbeck.config import Recipe
from limbeck.errors import ConfigError, TrainingError
from limbeck.evaluation.scores import read_metrics
from limbeck.files import write_json
from limbeck.machine import Machine, PeakMemory, describe, usable_cores, without_holes
from limbeck.smoke.recipe import Sizes, reduced

RESULTS = "smoke.json"
MARK = ".smoke"  # says that a folder may be removed
_NOT_RUN = ("static", "evaluate", "report")  # a score of random weights says nothing
_TEXTS = ["a text", "another text, which is a little longer"]


@dataclass(frozen=True, slots=True)
class Ran:
    """A stage that ran. None = it has no such number."""

    name: str
    seconds: float
    peak: int  # bytes that it held at most, beyond what was held when it began
    planned: int | None = None  # bytes that `limbeck plan` says, by its parts
    parts: dict[str, int] | None = None
    weights: int | None = None  # all that it holds
    trained: int | None = None  # of them
    steps: int | None = None
    tokens_per_second: float | None = None  # real tokens, after the first step

    @property
    def ratio(self) -> float | None:
        """Measured over planned."""
        return self.peak / self.planned if self.planned else None


@dataclass(frozen=True, slots=True)
class Smoke:
    """What a smoke run found."""

    recipe: str
    out: str
    machine: Machine
    device: str
    notes: list[str]  # how it differs from the run itself
    stages: list[Ran]
    backbone: int  # weights of the transformer
    adapters: dict[str, int]  # weights of each
    vectors: dict[str, list[int]]  # shapes of what the loaded bundle encoded, by task; "base" = none

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        body = asdict(self)
        for stage, ran in zip(body["stages"], self.stages, strict=True):
            stage["ratio"] = ran.ratio
        return body


def folder_of(recipe: Recipe) -> Path:
    """Where the smoke run of a recipe writes: beside the run itself, never in it."""
    return recipe.out_dir.with_name(f"{recipe.out_dir.name}-smoke")


def run_smoke(recipe: Recipe, steps: int, *, sizes: Sizes | None = None, console: Console | None = None) -> Smoke:
    """Run every stage but the scores, each with so many steps, into `folder_of(recipe)`; begins anew each time.

    Args:
        recipe: of the true run.
        steps: of every stage that trains.
        sizes: what steps are cut to, see `reduced`.
        console: where progress goes; None = nowhere.

    Raises:
        ConfigError: as `reduced`; the folder is there and was not made by a smoke run.
        TrainingError: the bundle gives no unit vectors.
        LimbeckError: as `limbeck run`.
    """
    import torch
    from transformers.utils.logging import disable_progress_bar

    from limbeck.model import runtime
    from limbeck.plan import make_plan
    from limbeck.training.pipeline import Pipeline
    from limbeck.training.stages import stages_of

    out, device = folder_of(recipe), runtime.device_of().type
    _begin(out)
    made = reduced(recipe, steps, out, device=device, sizes=sizes)
    small = made.recipe
    disable_progress_bar()  # of transformers, in the midst of ours
    planned = {stage.name: stage.memory for stage in make_plan(small, probe=False).stages}
    torch.set_num_threads(recipe.threads or usable_cores())
    pipeline = Pipeline(small, console or Console(quiet=True), f"limbeck run {recipe.name} --smoke {steps}")
    small.save(out / "recipe.yaml")
    ran = []
    for name in (name for name in stages_of(small) if name not in _NOT_RUN):
        with without_holes(), PeakMemory(device) as memory:
            body = pipeline.do(name)
        folder = pipeline.stage(name).folder
        ran.append(_ran(name, folder, body, memory.bytes, planned[name]))
        # as large as those of the run itself, and nothing goes on from them
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    found = Smoke(
        recipe=recipe.name,
        out=str(out),
        machine=describe(),
        device=device,
        notes=made.notes,
        stages=ran,
        **_at_work(out / "model"),
    )
    write_json(out / RESULTS, found.as_dict())
    return found


def _begin(out: Path) -> None:
    """Empty the folder of an earlier smoke run; one that is anything else is left alone."""
    if out.exists() and any(out.iterdir()):
        if not (out / MARK).exists():
            raise ConfigError(f"{out} was not made by a smoke run, and would be overwritten: move it, or set `out`")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text("Made by limbeck run --smoke, which begins by removing this folder.\n")


def _ran(name: str, folder: Path, body: dict[str, Any], peak: int, parts: dict[str, int]) -> Ran:
    weights: dict[str, int] = body.get("weights", {})
    return Ran(
        name=name,
        seconds=body["seconds"],
        peak=peak,
        planned=sum(parts.values()) or None,
        parts=parts,
        weights=weights.get("all"),
        trained=weights.get("trained"),
        steps=body.get("steps"),
        tokens_per_second=_speed(folder / "metrics.jsonl") if "steps" in body else None,
    )


def _speed(log: Path) -> float | None:
    """Tokens a second after the first step, which pays for page faults and the choice of kernels."""
    rows = [(row["tokens"], row["tokens"] / row["tokens_per_second"]) for row in read_metrics(log)]
    (before, start), (after, end) = rows[0], rows[-1]
    return (after - before) / (end - start) if end > start else None


def _at_work(folder: Path) -> dict[str, Any]:
    """Load the bundle, and encode by every adapter. Raises TrainingError: vectors that are not of unit length."""
    from limbeck.model import backbone as backbones
    from limbeck.model.adapters import Adapter
    from limbeck.model.bundle import ADAPTERS
    from limbeck.model.loading import load

    encoder = load(folder)
    shapes = {}
    for task in (None, *encoder.tasks):
        vectors = (encoder.base if task is None else encoder).encode(_TEXTS, task=task)
        if not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3):  # NaN included
            raise TrainingError(f"{folder} gives vectors that are not of unit length, by {task or 'its base'}")
        shapes[task or "base"] = list(vectors.shape)
    factors = {task: Adapter.load(folder / ADAPTERS / task).factors for task in encoder.tasks}
    return {
        "backbone": backbones.size(encoder.base.model.backbone).total,
        "adapters": {task: sum(a.numel() + b.numel() for a, b in pairs.values()) for task, pairs in factors.items()},
        "vectors": shapes,
    }
