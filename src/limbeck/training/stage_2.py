"""Stage 2 within a run: an adapter, from its sources to the checkpoint that is kept; the router among adapters."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.config import Adapter, Task
from limbeck.data.tables import evenly
from limbeck.evaluation.tasks import heldout_tasks
from limbeck.files import atomic_write
from limbeck.folders import replaced_folder
from limbeck.model import rope
from limbeck.model.adapters import Adapter as LoraAdapter
from limbeck.model.bundle import PROJECTION, ROUTER
from limbeck.model.loading import load
from limbeck.model.projection import Projection
from limbeck.model.router import Router
from limbeck.model.tokenizer import Tokenizer
from limbeck.training.adapt import Adapted, adapt
from limbeck.training.measure import vectors_of
from limbeck.training.stages import adapters_of, count_weights
from limbeck.training.task_batches import TaskSource
from limbeck.training.task_sources import task_source

if TYPE_CHECKING:
    from limbeck.training.pipeline import Pipeline

_ROUTER_TEXTS = 1000  # of each source of a task


def train_adapter(run: Pipeline, name: str) -> dict[str, Any]:
    """Train one adapter on the base that stage 1 left. Returns the facts of the stage's manifest."""
    recipe, key = run.recipe, run.key(f"adapt-{name}")
    task, block = adapters_of(recipe)[name]
    folder = run.out / "adapt" / name
    if task == "clustering" and block.teacher_instruction is None:
        run.console.print(
            f"[dim]{recipe.teacher.model} is given no instruction for clustering "
            "(adapters.clustering.teacher_instruction): the adapter learns from its plain vectors[/dim]"
        )
    base = run.base()
    rope.set_rope(base.model, block.theta, block.scaling)
    projection = Projection.load(run.student_folder / PROJECTION)
    sources, counts = run.ranks.from_main(lambda: _task_sources(run, task, block, base.tokenizer, folder, key))
    found = adapt(recipe, task, block, base, projection, sources, run.store.gather, folder, key=key, console=run.live)
    if not run.ranks.main:
        return {}
    kept, scores = _better(run, task, block, found)
    with replaced_folder(folder / "adapter") as temporary:
        kept.save(temporary, base_model=recipe.name)
        if found.projection is not None:
            found.projection.save(temporary / PROJECTION)
    weights = count_weights(base.model, projection)
    return {"steps": block.steps, "tokens": found.tokens, **scores, "counts": counts, "weights": weights}


def train_router(run: Pipeline) -> dict[str, Any]:
    """Learn which adapter suits a text, from texts of each one's sources. Returns the facts of the stage's manifest."""
    base = load(run.student_folder)
    vectors, tasks = [], []
    for task, block in run.blocks.items():
        tables = [run.prepared.sources[source.name].train for source in block.sources]
        texts = [text for table in tables for text in evenly(table.texts(table.roles[-1]), _ROUTER_TEXTS)]
        with run.live.status(f"router: encoding texts of {task}"):
            vectors.append(base.encode(texts, role="document"))
        tasks += [task] * len(texts)
    router = Router.fit(np.concatenate(vectors), tasks)
    folder = run.out / "router"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / ROUTER) as temporary:
        router.save(temporary)
    return {"texts": len(tasks)}


def _task_sources(
    run: Pipeline, task: Task, block: Adapter, tokenizer: Tokenizer, folder: Path, key: str
) -> tuple[list[TaskSource], dict[str, Any]]:
    """What an adapter is trained on, and what was counted of each source."""
    sources, counts = [], {}
    for asked in block.sources:
        stem = folder / "tokens" / f"{asked.name}-{key}"
        with run.live.status(f"{task}: preparing {asked.name}"):
            source, counts[asked.name] = task_source(
                run.recipe,
                task,
                block,
                asked,
                run.prepared,
                tokenizer,
                run.teach_texts,
                run.store.gather,
                stem,
            )
        sources.append(source)
    return sources, counts


def _better(run: Pipeline, task: Task, block: Adapter, found: Adapted) -> tuple[LoraAdapter, dict[str, Any]]:
    """The adapter to keep, and what was measured to choose it."""
    if found.averaged is None or block.average is None or block.average.keep == "final":
        return found.final, {"kept": "final"}
    dev = block.average.keep == "better"
    tests = heldout_tasks(run.prepared, run.recipe.evaluate, part="dev") if dev else {}
    if task not in tests:
        return found.averaged, {"kept": "averaged"}
    scores: dict[str, float] = {}
    for name, adapter in (("final", found.final), ("averaged", found.averaged)):
        with run.live.status(f"{task}: scoring the {name} adapter"):
            encoder = run.encoder_with({task: adapter})
            scores[name] = tests[task].score(partial(vectors_of, encoder, task))
    kept = "averaged" if scores["averaged"] >= scores["final"] else "final"
    return found.averaged if kept == "averaged" else found.final, {"kept": kept, "dev": scores}
