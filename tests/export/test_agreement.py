"""Exports are compared with the model on every task, role and text, together and alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from tiny_facts import facts_of

from limbeck.errors import ModelError
from limbeck.export.agreement import TEXTS, check, is_near, least_cosine, sides

SEEN = {text: np.random.default_rng(i).normal(size=8) for i, text in enumerate(TEXTS)}


def right(texts: Sequence[str], task: str | None, role: str) -> np.ndarray:
    return np.stack([SEEN[text] for text in texts])


def test_an_export_that_gives_the_same_vectors_has_a_cosine_of_one() -> None:
    assert least_cosine(right, right, ["retrieval", "clustering"]) == pytest.approx(1)


@pytest.mark.parametrize("wrong", [("clustering", "document", False), ("retrieval", "query", True)])
def test_one_text_that_is_off_in_one_task_alone_or_in_a_batch_is_the_least(wrong: tuple[str, str, bool]) -> None:
    def found(texts: Sequence[str], task: str | None, role: str) -> np.ndarray:
        vectors = right(texts, task, role).copy()
        if (task, role, len(texts) == 1) == wrong and TEXTS[3] in texts:
            row = list(texts).index(TEXTS[3])
            vectors[row] = -vectors[row]
        return vectors

    assert least_cosine(found, right, ["retrieval", "clustering"]) == pytest.approx(-1)


@pytest.mark.parametrize("bad", [np.nan, "width"])
def test_vectors_of_another_width_or_not_finite_are_an_error(bad: object) -> None:
    def found(texts: Sequence[str], task: str | None, role: str) -> np.ndarray:
        vectors = right(texts, task, role)
        return vectors[:, :4] if bad == "width" else vectors * np.nan

    with pytest.raises(ModelError, match="expected .10, 8., all finite"):
        least_cosine(found, right, [])


def test_only_retrieval_has_queries_and_a_base_alone_is_asked_in_both_roles() -> None:
    assert sides(["retrieval", "clustering"]) == [
        ("retrieval", "query"),
        ("retrieval", "document"),
        ("clustering", "document"),
    ]
    assert sides([]) == [(None, "query"), (None, "document")]


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.9999), ("int8", 0.99)])
def test_an_export_below_the_least_is_an_error_that_says_the_number(precision: str, least: float) -> None:
    check(facts_of(precision=precision, min_cosine=least))
    below = facts_of(precision=precision, min_cosine=least - 1e-4)
    assert not is_near(below)
    with pytest.raises(ModelError, match=f"{least - 1e-4:.6f}, and {least} is needed. Nothing was kept; export"):
        check(below)
