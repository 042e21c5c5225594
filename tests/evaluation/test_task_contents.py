"""What a loaded task holds, and each query's part of a score."""

from __future__ import annotations

from pathlib import Path

import mteb
import pytest
from datasets import Dataset
from evaluation_sets import (
    DOCUMENTS,
    QUERIES,
    TOPICS,
    WordCounts,
    write_all,
    write_instruction,
    write_pairs,
    write_search,
)

from limbeck.evaluation.mteb_model import Search
from limbeck.evaluation.named_tasks import find_tasks
from limbeck.evaluation.task_contents import by_query, counts_of, evaluation_texts, single_tasks


def test_every_text_that_is_scored_is_listed_and_no_training_text(tmp_path: Path) -> None:
    found: dict[str, set[str]] = {}
    counts: dict[str, dict[str, int]] = {}
    for task in find_tasks([str(write_all(tmp_path))]).tasks:
        with task.loaded():
            found[task.name], counts[task.name] = set(evaluation_texts(task.task)), counts_of(task.task)
    assert found["retrieval-set"] == {*QUERIES.values(), *DOCUMENTS.values()}
    assert "cats purr softly" in found["wishes"]  # a query with its instruction
    topics = {text for texts in TOPICS.values() for text in texts}
    assert found["classification-set"] == found["clustering-set"] == topics
    assert found["bitext-set"] >= {"cats purr softly", "cats purr softly indeed"}
    assert counts["retrieval-set"] == {"queries": 5, "documents": 15}
    assert counts["sts-set"] == counts["pairclf-set"] == counts["bitext-set"] == {"pairs": 8}
    assert counts["classification-set"] == {"texts": 15}


def test_what_a_model_is_made_to_encode_is_what_is_listed(tmp_path: Path) -> None:
    """But for the training texts of a classifier."""
    from limbeck.evaluation.runner import evaluate
    from limbeck.evaluation.variants import variants_of

    for task in find_tasks([str(write_all(tmp_path / "sets"))]).tasks:
        subject = WordCounts()
        evaluate(variants_of([subject]), [task], tmp_path / "out" / task.name)
        with task.loaded():
            listed = set(evaluation_texts(task.task))
        encoded = {text for text in subject.texts if not text.endswith(" again")}
        assert encoded == listed, task.name


def test_texts_that_lie_in_one_row_as_a_list_are_counted_each(tmp_path: Path) -> None:
    [task] = find_tasks([str(write_pairs(tmp_path, "pairclf"))]).tasks
    row = {"sentence1": [["a", "b", "c"]], "sentence2": [["d", "e", "f"]], "labels": [[0, 1, 1]]}
    with task.loaded():
        task.task.dataset = {"test": Dataset.from_dict(row)}  # as older tasks of mteb have it
        assert list(evaluation_texts(task.task)) == list("abcdef")
        assert counts_of(task.task) == {"pairs": 3}


def test_parallel_texts_are_read_once_however_many_pairs_of_languages_they_make(tmp_path: Path) -> None:
    [task] = find_tasks([str(write_pairs(tmp_path, "bitext"))]).tasks
    with task.loaded():
        task.task.hf_subsets = ["sentence1-sentence2", "sentence2-sentence1"]
        assert len(list(evaluation_texts(task.task))) == 16


def test_an_aggregate_is_taken_apart() -> None:
    parts = single_tasks(mteb.get_task("CQADupstackRetrieval"))
    assert len(parts) == 12 and all(part.metadata.name.startswith("CQADupstack") for part in parts)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("recall_at_1", {"q0": 0.5, "q1": 0.0}),
        ("precision_at_5", {"q0": 0.2, "q1": 0.2}),
        ("mrr_at_10", {"q0": 1.0, "q1": 0.5}),
        ("hit_rate_at_1", {"q0": 1.0, "q1": 0.0}),
        ("map_at_10", {"q0": 0.5, "q1": 0.5}),
        ("ndcg_at_10", {"q0": 1 / (1 + 0.6309297536), "q1": 0.6309297536}),
    ],
)
def test_each_querys_part_is_what_a_hand_computes(tmp_path: Path, metric: str, expected: dict[str, float]) -> None:
    grades = {"q0": {"d0": 1, "d4": 1}, "q1": {"d4": 1}}
    folder = write_search(tmp_path, queries={q: QUERIES[q] for q in grades}, grades=grades)
    ranking = {"q0": {"d0": 0.9, "d1": 0.8}, "q1": {"d0": 0.9, "d4": 0.8}}
    [task] = find_tasks([str(folder)]).tasks
    searches = {("default", "test"): Search(list(ranking), list(DOCUMENTS), ranking)}
    with task.loaded():
        mean = sum(expected.values()) / 2
        assert by_query(task.task, searches, metric, mean) == pytest.approx(expected)
        assert by_query(task.task, searches, metric, mean + 0.001) == {}  # the score is something else


def test_a_score_that_is_no_mean_over_queries_has_no_parts(tmp_path: Path) -> None:
    [task] = find_tasks([str(write_instruction(tmp_path))]).tasks
    with task.loaded():
        assert by_query(task.task, {("default", "test"): Search([], [], {})}, "p-MRR", 0.1) == {}
