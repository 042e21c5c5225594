"""What a loaded mteb task holds: its texts, their number, and the score of each query."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytrec_eval
from mteb._evaluators.retrieval_metrics import mrr
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.abstask import AbsTask
from mteb.abstasks.aggregated_task import AbsTaskAggregate

from limbeck.evaluation.mteb_model import Ranking, Search, document_texts, query_texts

_MEASURES = {  # mteb's name → trec_eval's
    "ndcg": "ndcg_cut",
    "map": "map_cut",
    "recall": "recall",
    "precision": "P",
    "hit_rate": "success",
}
_AGREES = 1e-4  # mteb rounds to five places


def single_tasks(task: AbsTask) -> list[AbsTask]:
    """The tasks that an aggregate is the mean of; of any other, itself."""
    if isinstance(task, AbsTaskAggregate):
        return [single for part in task.metadata.tasks for single in single_tasks(part)]
    return [task]


def evaluation_texts(task: AbsTask) -> Iterator[str]:
    """Every text of the splits that a loaded task is scored on: queries, documents, pairs, test texts."""
    for single in single_tasks(task):
        if isinstance(single, AbsTaskRetrieval):
            for _, part in _searched(single):
                yield from query_texts(part["queries"])
                yield from document_texts(part["corpus"])
            continue
        columns = list(single._get_content_columns())
        for rows in _splits(single):
            for column in columns:
                yield from _flat(rows[column])


def counts_of(task: AbsTask) -> dict[str, int]:
    """How much of what a loaded task scores: {"queries": 300, "documents": 5183}, {"pairs": 1500}, {"texts": 500}."""
    counts: dict[str, int] = {}

    def add(what: str, number: int) -> None:
        counts[what] = counts.get(what, 0) + number

    for single in single_tasks(task):
        if isinstance(single, AbsTaskRetrieval):
            for _, part in _searched(single):
                add("queries", len(part["queries"]))
                add("documents", len(part["corpus"]))
        else:
            columns = list(single._get_content_columns())
            for rows in _splits(single):
                add("pairs" if len(columns) == 2 else "texts", sum(1 for _ in _flat(rows[columns[0]])))
    return counts


def fewest_documents(task: AbsTask) -> int | None:
    """Documents of the smallest corpus that a loaded task searches in; None where it does not search."""
    sizes = [
        len(part["corpus"])
        for single in single_tasks(task)
        if isinstance(single, AbsTaskRetrieval)
        for _, part in _searched(single)
    ]
    return min(sizes, default=None)


def by_query(task: AbsTask, searches: Mapping[tuple[str, str], Search], metric: str, score: float) -> dict[str, float]:
    """Each query's part of the score of a loaded task, where the score is their mean; else nothing.

    Args:
        task: as it was scored.
        searches: what was found, by subset and split.
        metric: the task's main metric, as mteb names it.
        score: what mteb gives; what follows from the queries must agree with it.
    """
    match = re.fullmatch(r"(ndcg|map|recall|precision|hit_rate|mrr)_at_(\d+)", metric)
    if match is None or not isinstance(task, AbsTaskRetrieval) or len(searches) != 1:
        return {}
    [((subset, split), search)] = searches.items()
    qrels: Any = task.dataset[subset][split]["relevant_docs"]
    ranking = _without_first(search.ranking) if task.skip_first_result else search.ranking
    kind, k = match.groups()
    if kind == "mrr":
        values = dict(zip(ranking, mrr(qrels, ranking, [int(k)])[f"MRR@{k}"], strict=True))
    else:
        measure = _MEASURES[kind]
        found = pytrec_eval.RelevanceEvaluator(qrels, {f"{measure}.{k}"}).evaluate(ranking)
        values = {query: scores[f"{measure}_{k}"] for query, scores in found.items()}
    agrees = bool(values) and abs(float(np.mean(list(values.values()))) - score) <= _AGREES
    return {query: float(value) for query, value in values.items()} if agrees else {}


def _without_first(ranking: Ranking) -> Ranking:
    return {q: dict(sorted(found.items(), key=lambda item: -item[1])[1:]) for q, found in ranking.items()}


def _searched(task: AbsTaskRetrieval) -> Iterator[tuple[str, Any]]:
    """(subset, queries and corpus) of every split that is scored."""
    task.convert_v1_dataset_format_to_v2(None)  # older tasks hold theirs elsewhere until they are scored
    for subset in task.hf_subsets:
        for split in task.eval_splits:
            yield subset, task.dataset[subset][split]


def _splits(task: AbsTask) -> Iterator[Any]:
    """The rows of every subset and split that is scored, each once: parallel texts share theirs between subsets."""
    dataset: Any = task.dataset
    seen: set[int] = set()
    for subset in task.hf_subsets:
        parts = dataset[subset] if subset in dataset else dataset
        for split in task.eval_splits:
            if split in parts and id(parts[split]) not in seen:
                seen.add(id(parts[split]))
                yield parts[split]


def _flat(values: Any) -> Iterator[str]:
    """Texts of a column; older tasks have all of them as a list in one row."""
    for value in values:
        yield from [value] if isinstance(value, str) else value
