"""The only step loop. A stage brings its batches and its loss; this brings the order of things."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor, nn

from limbeck.config import Adapter, Optimizer, Recipe, Stage1, Tracker
from limbeck.errors import TrainingError
from limbeck.evaluation.scores import read_metrics
from limbeck.training import checkpoint
from limbeck.training.sharding import join, split, whole
from limbeck.training.tracking import start_trackers

M = TypeVar("M")


@dataclass(frozen=True)
class Batch(Generic[M]):
    """One optimizer step of this process: forward passes with their share of the global loss, and the global tokens.

    The shares of all forward passes of all processes add up to 1.
    """

    micro: Sequence[tuple[M, float]]
    tokens: int


class Batches(Protocol[M]):
    """Endless batches whose position can be saved."""

    def next(self) -> Batch[M]:
        """Make the next step's batch."""
        ...

    def state(self) -> dict[str, Any]:
        """The position, as JSON."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a position."""
        ...


@dataclass(frozen=True)
class Run:
    """What the loop is told about a run."""

    folder: Path  # checkpoints/ and metrics.jsonl go here
    key: str  # digest of all that the weights depend on
    steps: int
    optimizer: Optimizer
    checkpoint_every: int
    keep_checkpoints: int
    log_every: int
    seed: int  # of whatever is drawn while training, such as dropout
    title: str = "training"
    kept_steps: frozenset[int] = frozenset()  # saved after these steps too, and kept
    shard: bool = False  # split the weights over the processes, where there are several
    project: str = "limbeck"  # name of the recipe, for trackers
    track: tuple[Tracker, ...] = ("tensorboard",)

    @classmethod
    def of(cls, recipe: Recipe, settings: Stage1 | Adapter, *, kept_steps: Collection[int] = (), **about: Any) -> Run:
        """A stage of a recipe with a section's steps, optimizer and intervals; `about` is the rest."""
        return cls(
            seed=recipe.seed,
            shard=recipe.shard,
            project=recipe.name,
            track=tuple(recipe.track),
            steps=settings.steps,
            optimizer=settings.optimizer,
            checkpoint_every=settings.checkpoint_every,
            keep_checkpoints=settings.keep_checkpoints,
            log_every=settings.log_every,
            kept_steps=frozenset(kept_steps),
            **about,
        )


def train(
    model: nn.Module,
    loss: Callable[[nn.Module, M], dict[str, Tensor]],
    batches: Batches[M],
    run: Run,
    accelerator: Accelerator,
    *,
    console: Console | None = None,
) -> int:
    """Run, or go on with, `run.steps` optimizer steps. Returns the real tokens trained on.

    Args:
        model: holds every weight; those that require a gradient are trained.
        loss: (model, forward pass) → named terms, "loss" being the one that is minimised (a mean over the pass).
        batches: see Batches; continued from the checkpoint's position.
        run: see Run.
        accelerator: device, precision and processes.
        console: where the progress bar goes (of the main process, and on a terminal only); None = nowhere.

    Raises TrainingError when the loss or its gradient is not finite, or a checkpoint cannot be written or read.
    """
    given, rank = model, accelerator.process_index
    sharded = run.shard and accelerator.num_processes > 1
    if sharded:  # with Accelerate's autocast, and without its DDP
        model = accelerator.prepare_model(
            split(given, accelerator.device), device_placement=False, evaluation_mode=True
        )
    else:
        model = accelerator.prepare(given)
    plain = model if sharded else accelerator.unwrap_model(model)
    optimizer = adamw(plain, run.optimizer)
    done = checkpoint.Progress(0, 0, batches.state())
    torch.manual_seed(run.seed + rank)
    # all go on from the checkpoint that the main process sees
    [newest] = broadcast_object_list([checkpoint.latest(run.folder / "checkpoints")])
    if newest:
        done = checkpoint.load(newest, plain, optimizer, key=run.key, rank=rank)
        batches.restore(done.data)
    log = Metrics(run, accelerator, from_step=done.step)
    model.train()
    tokens, started, since = done.tokens, time.monotonic(), done.tokens
    with closing(log), _Bar(run, done.step, console if accelerator.is_main_process else None) as advance:
        for step in range(done.step, run.steps):
            batch = batches.next()
            terms: dict[str, Tensor] = {}
            for i, (micro, share) in enumerate(batch.micro):
                last = i == len(batch.micro) - 1
                with nullcontext() if last else accelerator.no_sync(model):
                    values = loss(model, micro)
                    # DDP averages gradients over processes; the shares are of the global batch, so undo that
                    accelerator.backward(values["loss"] * (share * accelerator.num_processes))
                for name, value in values.items():
                    terms[name] = terms.get(name, 0) + value.detach() * share
            length: Any = accelerator.clip_grad_norm_(plain.parameters(), run.optimizer.clip_norm)
            norm = whole(length)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * schedule(step, run.steps, run.optimizer)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            tokens += batch.tokens
            logs, saves = ((step + 1) % n == 0 or step + 1 == run.steps for n in (run.log_every, run.checkpoint_every))
            saves = saves or step + 1 in run.kept_steps
            if logs or saves:
                total = accelerator.reduce({k: v.float() for k, v in terms.items()}, reduction="sum")
                row = {k: float(v) for k, v in total.items()}
                row |= {"lr": optimizer.param_groups[0]["lr"], "grad_norm": float(norm), "tokens": tokens}
                if not math.isfinite(row["loss"] + row["grad_norm"]):  # seen before it is saved: a run can go on
                    raise TrainingError(
                        f"the loss became {row['loss']} at step {step + 1} (norm of its gradient: {row['grad_norm']}): "
                        "lower optimizer.learning_rate, or set precision=fp32; the last checkpoint is from before that"
                    )
                if logs:
                    speed = (tokens - since) / (time.monotonic() - started)
                    log.write(step + 1, row | {"tokens_per_second": round(speed, 1)})
                    advance(step + 1, row["loss"], speed)
            if saves:
                done = checkpoint.Progress(step + 1, tokens, batches.state())
                checkpoint.save(
                    run.folder / "checkpoints",
                    plain,
                    optimizer,
                    done,
                    key=run.key,
                    keep=run.keep_checkpoints,
                    spared=run.kept_steps,
                    rng=gather_object([checkpoint.random_state()]),
                    writes=accelerator.is_main_process,
                )
                accelerator.wait_for_everyone()
    if sharded:
        join(given, plain)
        given.to(accelerator.device)
    return tokens


def adamw(model: nn.Module, settings: Optimizer) -> torch.optim.AdamW:
    """AdamW over the trainable weights: decay on matrices only, another rate for a projection if the recipe has one."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            projection = name.startswith("projection.") and settings.projection_learning_rate
            rate = settings.projection_learning_rate if projection else settings.learning_rate
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((float(rate or 0), decay), []).append(parameter)
    if not groups:
        raise TrainingError("no weight of the model requires a gradient: there is nothing to train")
    parameters = [{"params": p, "lr": r, "peak": r, "weight_decay": d} for (r, d), p in groups.items()]
    return torch.optim.AdamW(parameters, betas=settings.betas, fused=True)


def schedule(step: int, steps: int, settings: Optimizer) -> float:
    """Share of the peak learning rate at a step (from 0): linear warm-up, then cosine to `final_fraction`.

    A function of the step alone, so there is no scheduler state to lose.
    """
    warmup = min(settings.warmup_steps, steps)
    if step < warmup:
        return (step + 1) / warmup
    through = (step - warmup) / max(1, steps - warmup)
    return settings.final_fraction + (1 - settings.final_fraction) * 0.5 * (1 + math.cos(math.pi * through))


class Metrics:
    """metrics.jsonl and the trackers. Rows after the step resumed from are dropped: they are about to be made again."""

    def __init__(self, run: Run, accelerator: Accelerator, *, from_step: int) -> None:
        """Args: run; accelerator: only its main process writes; from_step: last step to keep."""
        self._main = accelerator.is_main_process
        if not self._main:
            return
        folder, path = run.folder, run.folder / "metrics.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        logged = read_metrics(path) if path.exists() else []
        kept = [r for r in logged if r["step"] <= from_step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(r) + "\n" for r in kept))
        os.replace(temporary, path)
        about = {"steps": run.steps, "seed": run.seed, "key": run.key, **run.optimizer.model_dump(mode="json")}
        self._trackers = start_trackers(
            run.track, folder, project=run.project, title=run.title, from_step=from_step, about=about
        )
        self._file = open(path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115  closed by close()

    def write(self, step: int, row: dict[str, float]) -> None:
        """Log one row."""
        if self._main:
            self._file.write(json.dumps({"step": step, **row}) + "\n")
            self._trackers.log(row, step=step)

    def close(self) -> None:
        """Flush and close."""
        if self._main:
            self._file.close()
            self._trackers.finish()


class _Bar:
    def __init__(self, run: Run, start: int, console: Console | None) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
        )
        self._bar = Bar(*columns, console=console, disable=console is None or not console.is_terminal)
        self._task = self._bar.add_task(run.title, total=run.steps, completed=start, state="")

    def __enter__(self) -> Callable[[int, float, float], None]:
        self._bar.start()
        return lambda step, loss, speed: self._bar.update(
            self._task, completed=step, state=f"loss {loss:.4f}  {speed:,.0f} tokens/s"
        )

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
