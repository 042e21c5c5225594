"""What the evaluation of a run measures: the student's queries in its teacher's index."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limbeck.config import load_recipe
from limbeck.evaluation.heldout import heldout_sets
from limbeck.evaluation.retrieval import evaluate_retrieval
from limbeck.model.bundle import PROJECTION
from limbeck.model.loading import load
from limbeck.model.projection import Projection
from limbeck.training import pipeline
from limbeck.training.pipeline import Pipeline


def indexes(out: Path) -> dict[tuple[str, str], float]:
    rows = json.loads((out / "scores.json").read_text())["indexes"]
    return {(row["queries"], row["documents"]): row["ndcg_at_10"] for row in rows}


def test_a_retrieval_adapter_asks_the_teachers_index_through_the_projection_it_was_trained_with(
    adapted: dict[str, Any], write_recipe: Callable[[dict[str, Any]], Path]
) -> None:
    for task in ("text-matching", "clustering", "classification"):
        del adapted["adapters"][task]
    adapted["adapters"]["retrieval"]["train_projection"] = True
    recipe = load_recipe(write_recipe(adapted))
    out = pipeline.run(recipe)
    kept = (out / "model" / "adapters" / "retrieval" / PROJECTION).read_bytes()
    assert kept == (out / "adapt" / "retrieval" / "adapter" / PROJECTION).read_bytes()
    assert kept != (out / "model" / PROJECTION).read_bytes()

    found = indexes(out)
    assert set(found) == {
        ("teacher", "teacher"),
        ("base", "base"),
        ("base", "teacher"),
        ("retrieval", "retrieval"),
        ("retrieval", "teacher"),
    }
    run = Pipeline(recipe, pipeline.Console(quiet=True))
    [held] = heldout_sets(run.prepared, recipe.evaluate.queries)
    documents = run.store.gather(run.teach_texts(held.documents, recipe.teacher.document_instruction))
    encoder = load(out / "model")
    plain = encoder.encode(held.queries, role="query", task="retrieval")
    own = Projection.load(out / "model" / "adapters" / "retrieval" / PROJECTION)
    by_hand = evaluate_retrieval(own.lift(plain), documents.astype(np.float32), held.relevant)
    assert found["retrieval", "teacher"] == pytest.approx(by_hand.means()["ndcg_at_10"], abs=1e-6)


def test_an_adapter_that_was_not_held_to_the_teacher_is_not_asked_for_its_queries_there(
    adapted: dict[str, Any], write_recipe: Callable[[dict[str, Any]], Path]
) -> None:
    for task in ("text-matching", "clustering", "classification"):
        del adapted["adapters"][task]
    adapted["adapters"]["retrieval"]["distill_weight"] = 0.0
    out = pipeline.run(load_recipe(write_recipe(adapted)))
    assert set(indexes(out)) == {("teacher", "teacher"), ("base", "base"), ("base", "teacher")}
    assert not (out / "model" / "adapters" / "retrieval" / PROJECTION).exists()
