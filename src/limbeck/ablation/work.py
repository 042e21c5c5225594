"""What one worker process does: the stages of one arm, and its scores. Imported without torch, so that it starts fast.

A worker serves many arms, one after the other.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.ablation.results import ArmScores, CurvePoint
from limbeck.files import read_json, write_json

SCORES = "scores.json"
CURVE = "curve.json"


@dataclass(frozen=True)
class Job:
    """One arm of one seed. `folder` holds its recipe.yaml."""

    arm: str
    seed: int
    folder: Path
    stages: tuple[str, ...]  # to do, in order; the last one is scored
    shared: Path  # of finished stages
    curve: bool  # score the checkpoints too, and share no training
    topics: bool  # score the clustering of held-out labelled texts too
    tasks: tuple[str, ...]  # to score besides

    @property
    def own(self) -> tuple[str, ...]:
        """Stages that are not shared: those whose checkpoints are scored."""
        return self.stages[2:] if self.curve else ()


def start(devices: Any, threads: int) -> None:
    """Set a worker up, before anything imports torch. devices: queue of GPU numbers, one a worker; None = no GPUs."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(devices.get())
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as the command line sets it
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"


def _end_with_parent() -> None:
    """Killed alone, the parent would leave workers that write into the folders of whoever starts it again."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def do(job: Job, threads: int) -> ArmScores:
    """Train and score an arm; what is done is not done again. Raises LimbeckError."""
    import torch
    from rich.console import Console
    from transformers.utils.logging import disable_progress_bar

    from limbeck.ablation import arms, scoring
    from limbeck.config import load_recipe
    from limbeck.training.pipeline import Pipeline

    disable_progress_bar()
    if not gc.get_freeze_count():
        gc.freeze()  # what was imported is never garbage: to look through it takes as long as a small stage
    torch.set_num_threads(threads)
    run = Pipeline(load_recipe(job.folder / "recipe.yaml"), Console(quiet=True))
    key = key_of(run, job)
    if done := known(job, key):
        return done
    for name in job.stages:
        if name in job.own:
            run.do(name)
        else:
            arms.do_shared(run, name, job.shared)
    curve = _curve(run, job) if job.curve else []
    vectors, dim = scoring.trained(run, job.stages[-1])
    own = scoring.score_heldout(run, vectors, topics=job.topics)
    name = f"{job.folder.parent.name}-{job.folder.name}"
    named = scoring.score_tasks(run, job.tasks, vectors, key, dim, name, job.folder / "evaluation")
    manifests = [run.stage(stage).manifest() or {} for stage in job.stages]
    trained = [m for m in manifests if "tokens" in m]
    found = ArmScores(
        key=key,
        arm=job.arm,
        seed=job.seed,
        dims=dim,
        scores=own.scores | named.scores | scoring.curve_scores(curve),
        by_query=own.by_query | named.by_query,
        curve=curve,
        tokens=sum(m["tokens"] for m in trained),
        steps=sum(m.get("steps", 0) for m in trained),
        seconds=round(sum(m.get("seconds", 0.0) for m in trained), 1),
        leaks=named.leaks,
    )
    write_json(job.folder / SCORES, found.model_dump(mode="json"))
    _tidy(run, job)
    return found


def _curve(run: Any, job: Job) -> list[CurvePoint]:
    """The learning curve; kept apart from the scores, since the checkpoints that it is made of are not."""
    from limbeck.ablation import scoring
    from limbeck.training.stages import digest

    path, asked = job.folder / CURVE, run.recipe.evaluate.model_dump(mode="json")
    key = digest(run.stage("distill").key, scoring.curve_steps(run.recipe), asked)
    with suppress(FileNotFoundError, ValueError, KeyError):
        if (found := read_json(path))["key"] == key:
            return [CurvePoint.model_validate(point) for point in found["points"]]
    if not (run.stage("distill").folder / "checkpoints").exists():  # scored before, in another way
        run.do("distill", force=True)
    points = list(scoring.learning_curve(run))
    write_json(path, {"key": key, "points": [point.model_dump() for point in points]})
    return points


def key_of(run: Any, job: Job) -> str:
    """Digest of all that an arm's scores depend on."""
    from limbeck.evaluation.named_tasks import find_tasks
    from limbeck.training.stages import digest

    tasks = [[t.name, t.digest()] for t in find_tasks(job.tasks).tasks] if job.tasks else []
    asked = run.recipe.evaluate.model_dump(mode="json")
    return digest("scores", [run.stage(name).key for name in job.stages], asked, tasks, job.curve, job.topics)


def known(job: Job, key: str) -> ArmScores | None:
    """The scores of an arm that is done."""
    try:
        found = ArmScores.model_validate(read_json(job.folder / SCORES))
    except (FileNotFoundError, ValueError):
        return None  # absent, or of an earlier make
    return found if found.key == key else None


def _tidy(run: Any, job: Job) -> None:
    """A finished stage needs no checkpoint, and vectors that were scored are of no more use."""
    import shutil

    for name in job.stages:
        shutil.rmtree(run.stage(name).folder / "checkpoints", ignore_errors=True)
    shutil.rmtree(job.folder / "evaluation" / "vectors", ignore_errors=True)
