"""One variant on one task: mteb scores it, and what it says is put into our schema."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mteb
import numpy as np
from mteb.abstasks.abstask import AbsTask

from limbeck.errors import DataError
from limbeck.evaluation.compression import compression_curve_of
from limbeck.evaluation.mteb_model import MtebModel, Search
from limbeck.evaluation.named_tasks import EvaluationTask
from limbeck.evaluation.results import CurvePoint, TaskResult
from limbeck.evaluation.task_contents import by_query, counts_of, fewest_documents
from limbeck.evaluation.variants import BY_TASK, Variant
from limbeck.evaluation.vectors import Spent, VectorCache

_BATCH = 256  # texts that mteb hands over at a time; the model makes its own batches
_SEARCHES = ("Retrieval", "InstructionRetrieval")  # types whose corpus should be larger than the k of the metric

Tell = Callable[[str], None]
Searches = Mapping[tuple[str, str], Search]


class UndefinedScore(DataError):
    """The main score of a task is no number, as a correlation with vectors that are all the same."""


@dataclass(frozen=True)
class Scored:
    """One score, and what encoding for it took."""

    result: TaskResult
    spent: Spent


def score(variant: Variant, task: EvaluationTask, cache: VectorCache, *, curve: bool, tell: Tell) -> Scored:
    """Score one variant on a loaded task.

    Args:
        variant: the model.
        task: inside its `loaded()`.
        cache: of vectors.
        curve: also score smaller vectors, where the task searches one corpus.
        tell: called with what is being done.

    Raises DataError: a score that is no number. ModelError: a vector that cannot be scored. StoreError.
    """
    fingerprint = variant.subject.fingerprint(None)
    before = replace(cache.spent.get(fingerprint, Spent()))
    told = 0

    def encoded(texts: int) -> None:
        nonlocal told
        told += texts
        tell(f"{variant.label} on {task.name}: {told:,} vectors")

    tell(f"{variant.label} on {task.name}")
    cache.tell = encoded
    model = MtebModel(variant, cache, keep_vectors=curve)
    start = time.perf_counter()
    found: Any = mteb.evaluate(
        model,  # pyright: ignore[reportArgumentType]  # its encode takes any batches, mteb's protocol a DataLoader
        _fresh(task.task),
        cache=None,
        co2_tracker=False,
        encode_kwargs={"batch_size": _BATCH, "show_progress_bar": False},
        show_progress_bar=False,
    )
    seconds = time.perf_counter() - start
    after = cache.spent.get(fingerprint, Spent())
    result = _task_result(variant, task, found.task_results[0], model.searches)
    result = result.model_copy(
        update={
            "seconds": round(seconds, 3),
            "curve": _curve(variant, task, model.searches) if curve else [],
        }
    )
    return Scored(result, Spent(after.texts - before.texts, after.seconds - before.seconds))


def _fresh(task: AbsTask) -> AbsTask:
    """The same task and data, with its random state as at the start: clustering draws its samples from it."""
    again = copy.copy(task)
    again.rng_state, again.np_rng = copy.deepcopy(task.rng_state), copy.deepcopy(task.np_rng)
    return again


def _task_result(variant: Variant, task: EvaluationTask, found: Any, searches: Searches) -> TaskResult:
    """What mteb found, in our schema. Raises UndefinedScore."""
    parts = [(split, part) for split, of_split in found.scores.items() for part in of_split]
    score = float(found.get_score())
    if not np.isfinite(score):
        raise UndefinedScore(
            f"{variant.label} has no {task.metric} on {task.name} (mteb gives {score}): are all its vectors, or all "
            "labels or scores of the task, the same?"
        )
    names = [name for name in parts[0][1] if all(_is_number(part.get(name)) for _, part in parts)]
    adapter = variant.adapter_of(task.type)
    return TaskResult(
        task=task.name,
        type=task.type,
        metric=task.metric,
        score=score,
        scores={name: float(np.mean([part[name] for _, part in parts])) for name in names if name != "main_score"},
        subsets=_subsets(parts) if len(parts) > 1 else {},
        languages=task.languages(),
        counts=counts_of(task.task),
        adapter=adapter,
        by_item=by_query(task.task, searches, task.metric, score),
        warnings=[*task.warnings(), *_warnings(variant, task, adapter)],
    )


def _warnings(variant: Variant, task: EvaluationTask, adapter: str | None) -> list[str]:
    found = list(variant.subject.notes)
    if variant.adapter == BY_TASK and variant.subject.adapters and adapter is None:
        found.append(f"{variant.label} has no adapter for {task.type}, and is scored without one")
    k = re.search(r"_at_(\d+)$", task.metric)
    documents = fewest_documents(task.task)
    if k and documents is not None and documents < int(k[1]) and task.type in _SEARCHES:
        found.append(f"{documents} documents are fewer than the {k[1]} that {task.metric} looks at")
    return found


def _subsets(parts: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, float]:
    """Main score by subset, split, or both, whichever there are several of."""
    splits, subsets = ({split for split, _ in parts}, {part["hf_subset"] for _, part in parts})

    def name(split: str, subset: str) -> str:
        return subset if len(splits) == 1 else split if len(subsets) == 1 else f"{subset}/{split}"

    return {name(split, part["hf_subset"]): float(part["main_score"]) for split, part in parts}


def _curve(variant: Variant, task: EvaluationTask, searches: Searches) -> list[CurvePoint]:
    """nDCG@10 with smaller vectors, where one corpus was searched."""
    if len(searches) != 1:
        return []
    [((subset, split), search)] = searches.items()
    if search.queries is None or search.documents is None:
        return []
    place = {identity: i for i, identity in enumerate(search.document_ids)}
    qrels: Any = task.task.dataset[subset][split]["relevant_docs"]  # pyright: ignore[reportOptionalSubscript]
    relevant = [{place[d]: int(g) for d, g in qrels[q].items() if d in place} for q in search.query_ids]
    asked = [i for i, grades in enumerate(relevant) if any(grades.values())]
    return compression_curve_of(
        search.queries[asked], search.documents, [relevant[i] for i in asked], variant.subject.dims
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))
