"""Does a lower theta in training and a higher one at inference help long texts, and does the long-context phase?

Three students, trained on the same texts for as many tokens: `before` the long-context phase, `after` it, and
`swapped`, whose phase ran under the theta that the other is used with. Each is used with every theta, on passkey and
needle retrieval at every length, on real long documents, and on the run's own held-out short queries.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from limbeck import machine
from limbeck.ablation import arms
from limbeck.config import Recipe, load_recipe
from limbeck.errors import ConfigError
from limbeck.evaluation import heldout
from limbeck.evaluation.local_data import LocalFolder, find_folders, read_search
from limbeck.evaluation.long_text import KINDS, LENGTHS, LongTextTask, long_text_tasks, mean_by_depth
from limbeck.evaluation.retrieval import Relevant, evaluate_retrieval
from limbeck.files import read_json, write_json
from limbeck.model.encoder import Encoder
from limbeck.model.loading import load
from limbeck.training.pipeline import Pipeline

ArmName = Literal["before", "after", "swapped"]
Kind = Literal["passkey", "needle", "documents", "short"]
ARMS: tuple[ArmName, ...] = get_args(ArmName)
RESULTS = "results.json"
CELLS = "cells.json"  # every score that was ever made here, by all that it depends on
SHORT = "short texts"  # the task made of the run's own held-out queries


class Cell(BaseModel):
    """One score: a student, used with a theta, on a task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    arm: ArmName
    theta: float  # at inference
    task: str  # "passkey-1024", a folder's name, or SHORT
    kind: Kind
    length: int  # tokens that every document has (passkey, needle), or where documents are cut
    score: float  # nDCG@10
    first: float  # share of queries that find their document first
    queries: int
    documents: int
    chance: float | None = None  # nDCG@10 of a random order, where each query has one document
    by_depth: dict[str, float] = {}  # nDCG@10 by where the answer is hidden, 0 = beginning
    seconds: float  # to encode and score


class Results(BaseModel):
    """All scores of the experiment, and what they were made with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    low: float  # theta that `after` was trained with, and `swapped` is used with
    high: float  # the other way about
    cells: list[Cell]
    tokens: dict[str, int]  # of each arm: trained on, in stage 1
    seconds: dict[str, float]  # of each arm: to train it, shared stages included
    commands: list[str]
    machine: dict[str, str | int | float | None]
    versions: dict[str, str]


@dataclass(frozen=True)
class Settings:
    """What is scored.

    lengths: of passkey and needle; documents: of each of their tasks, and as many queries; real: folders of
    long-document sets; windows: tokens that their documents are cut to; thetas: at inference, beside those of the
    recipe; budget: tokens of the documents of one length at most, so that fewer are made of long ones (but at least
    10), None = no limit.
    """

    lengths: Sequence[int] = LENGTHS
    documents: int = 50
    real: Sequence[Path] = ()
    windows: Sequence[int] = (512, 8192)
    thetas: Sequence[float] = ()
    seeds: Sequence[int] = (0,)
    budget: int | None = None

    def texts(self, length: int) -> int:
        """Documents of a length."""
        return self.documents if self.budget is None else min(self.documents, max(10, self.budget // length))


def ablate_theta(
    recipe: str | Path,
    out: Path,
    settings: Settings,
    *,
    overrides: Sequence[str] = (),
    command: str = "",
    console: Console | None = None,
) -> Results:
    """Train the arms, score them, and write `out`/results.json and a page; what is done is not done again.

    Raises ConfigError: the recipe has no `extend` section, or says only one theta. Others as `limbeck.training` does.
    """
    console = console or Console(quiet=True)
    disable_progress_bar()  # of transformers, in the midst of ours
    asked = load_recipe(recipe, tuple(overrides))
    low, high = thetas_of(asked)
    torch.set_num_threads(asked.threads or machine.usable_cores())
    known = _known(out / CELLS)
    cells: dict[str, Cell] = {}
    tokens: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for seed in settings.seeds:
        runs = _train(recipe, out, [*overrides, f"seed={seed}"], seed, low, high, console)
        for name, run in runs.items():
            phases = [run.stage(stage).manifest() or {} for stage in _phases(name)]
            tokens[name] = sum(phase.get("tokens", 0) for phase in phases)
            seconds[name] = seconds.get(name, 0) + sum(phase.get("seconds", 0) for phase in phases)
            for theta in sorted({low, high, *settings.thetas}):
                for key, cell in _scored(run, name, seed, theta, settings, known, console):
                    cells[key] = known[key] = cell
                    write_json(out / CELLS, {k: c.model_dump() for k, c in known.items()})
    about = machine.describe()
    results = Results(
        recipe=asked.name,
        low=low,
        high=high,
        cells=list(cells.values()),
        tokens=tokens,
        seconds=seconds,
        commands=[command] if command else [],
        machine={"cpu": about.cpu, "cores": about.cores, "memory_gib": about.ram_gib, "gpu": about.gpu},
        versions={"python": about.python, **about.packages},
    )
    write_json(out / RESULTS, results.model_dump(mode="json"))
    return results


def thetas_of(recipe: Recipe) -> tuple[float, float]:
    """Theta of the long-context phase, and at inference after it. Raises ConfigError where there is only one."""
    if recipe.extend is None:
        raise ConfigError(f"recipe {recipe.name} has no `extend:` section: there is no long-context phase to look at")
    low, high = recipe.extend.theta or recipe.student.rope.train_theta, recipe.student.rope.inference_theta
    if low is None or high is None or low == high:
        raise ConfigError(
            f"recipe {recipe.name} must say two thetas that differ, extend.theta (got {low}) and "
            f"student.rope.inference_theta (got {high})"
        )
    return low, high


def _train(
    recipe: str | Path, out: Path, overrides: list[str], seed: int, low: float, high: float, console: Console
) -> dict[ArmName, Pipeline]:
    """The three runs, trained. They share all stages before the long-context phase."""
    folder = out / f"seed-{seed}"
    after = arms.arm(recipe, folder / "after", [*overrides, f"extend.theta={low}"], console)
    console.print(f"[bold]after[/bold]: long-context phase under theta {low:g}")
    _trained(after, out / arms.STAGES)
    swapped = arms.arm(recipe, folder / "swapped", [*overrides, f"extend.theta={high}"], console)
    console.print(f"[bold]swapped[/bold]: long-context phase under theta {high:g}")
    _trained(swapped, out / arms.STAGES)
    return {"before": after, "after": after, "swapped": swapped}


def _trained(run: Pipeline, shared: Path) -> None:
    for stage in ("data", "teach", "distill"):
        arms.do_shared(run, stage, shared)
    run.do("extend")


def _phases(name: ArmName) -> tuple[str, ...]:
    return ("distill",) if name == "before" else ("distill", "extend")


def _scored(
    run: Pipeline,
    name: ArmName,
    seed: int,
    theta: float,
    settings: Settings,
    known: dict[str, Cell],
    console: Console,
) -> Iterator[tuple[str, Cell]]:
    """Every task for one student and theta: (digest of all that the score depends on, score)."""
    stage = run.stage(_phases(name)[-1])
    encoder = load(stage.folder / "student", rope_theta=theta, max_tokens=max(settings.lengths, default=512))
    for task in _tasks(run, settings, encoder):
        about = {"seed": seed, "arm": name, "theta": theta, "task": task.name, "kind": task.kind, "length": task.length}
        key = _digest(stage.key, theta, task.name, task.length, task.state)
        if key in known:
            yield key, known[key].model_copy(update=about)
            continue
        console.print(f"{name}, theta {theta:g}: {task.name}, {task.length:,} tokens")
        if encoder.max_tokens != task.length:
            encoder = load(stage.folder / "student", rope_theta=theta, max_tokens=task.length)
        started = time.monotonic()
        facts = task.score(encoder)
        yield key, Cell.model_validate({**about, **facts, "seconds": round(time.monotonic() - started, 1)})


@dataclass(frozen=True)
class _Task:
    """Something to score, with documents cut at `length` tokens. state: what its texts depend on."""

    name: str
    kind: Kind
    length: int
    state: str
    score: Callable[[Encoder], dict[str, Any]]


def _tasks(run: Pipeline, settings: Settings, encoder: Encoder) -> Iterator[_Task]:
    prefix = encoder.spec.prompts["document"]

    def count(text: str) -> int:
        return len(encoder.tokenizer.ids([text], prefix=prefix, max_tokens=1 << 30)[0][0])

    held = heldout.heldout_sets(run.prepared, run.recipe.evaluate.queries)
    extended = run.recipe.extend.sources if run.recipe.extend else []
    if short := [s for s in held if s.source not in extended]:
        limit = run.recipe.distill.max_tokens or run.recipe.student.max_tokens
        state = f"{run.prepared.fingerprint} {[s.source for s in short]}"
        yield _Task(SHORT, "short", limit, state, partial(_short, sets=short))
    for kind, length in product(KINDS, settings.lengths):
        asked = {"documents": settings.texts(length), "queries": settings.texts(length)}
        make = partial(long_text_tasks, [length], kinds=[kind], count=count, **asked)
        yield _Task(f"{kind}-{length}", kind, length, f"{asked} {prefix}", partial(_hidden, make=make))
    for folder in (found for path in settings.real for found in find_folders(path)):
        for window in settings.windows:
            yield _Task(folder.path.name, "documents", window, str(folder.path), partial(_real, folder=folder))


def _hidden(encoder: Encoder, make: Callable[[], list[LongTextTask]]) -> dict[str, Any]:
    """Passkey or needle."""
    (task,) = make()
    place = {document: i for i, document in enumerate(task.corpus)}
    relevant = [{place[task.qrels[query]]} for query in task.queries]
    facts, ndcg = _search(encoder, list(task.queries.values()), list(task.corpus.values()), relevant)
    by_depth = mean_by_depth(dict(zip(task.queries, ndcg.tolist(), strict=True)))
    return facts | {"by_depth": {f"{depth:g}": round(value, 4) for depth, value in by_depth.items()}}


def _real(encoder: Encoder, folder: LocalFolder) -> dict[str, Any]:
    """A set of real documents."""
    found = read_search(folder)
    place = {document: i for i, document in enumerate(found.documents)}
    relevant = [{place[d]: grade for d, grade in found.grades[query].items()} for query in found.queries]
    documents = [" ".join(filter(None, parts)) for parts in found.documents.values()]
    return _search(encoder, list(found.queries.values()), documents, relevant)[0]


def _short(encoder: Encoder, sets: Sequence[heldout.HeldOut]) -> dict[str, Any]:
    """Held-out queries of the run, each source counting the same."""
    facts = [_search(encoder, s.queries, s.documents, s.relevant)[0] for s in sets]
    means = {name: fmean(f[name] for f in facts) for name in ("score", "first")}
    return means | {name: sum(f[name] for f in facts) for name in ("queries", "documents")}


def _search(
    encoder: Encoder, queries: Sequence[str], documents: Sequence[str], relevant: Relevant
) -> tuple[dict[str, Any], np.ndarray]:
    """Facts of a cell, and nDCG@10 of each query [Q]."""
    found = evaluate_retrieval(
        encoder.encode(queries, role="query"),
        encoder.encode(documents, role="document"),
        relevant,
        k=min(10, len(documents)),
    )
    first = [int(hits[0]) in wanted for hits, wanted in zip(found.hits.indices, relevant, strict=True)]
    facts: dict[str, Any] = {"score": float(found.ndcg.mean()), "first": fmean(first)}
    facts |= {"queries": len(queries), "documents": len(documents)}
    if all(len(wanted) == 1 for wanted in relevant):
        facts["chance"] = sum(1 / math.log2(rank + 2) for rank in range(min(10, len(documents)))) / len(documents)
    return facts, found.ndcg


def _known(path: Path) -> dict[str, Cell]:
    try:
        return {key: Cell.model_validate(cell) for key, cell in read_json(path).items()}
    except (FileNotFoundError, ValueError):  # pydantic's is one: cells of an earlier version are made again
        return {}


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]
