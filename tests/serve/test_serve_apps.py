"""`/v1/classify` and `/v1/similarity`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

from limbeck.classify import zero_shot  # noqa: E402
from limbeck.classify.examples import Described  # noqa: E402
from limbeck.classify.saved import Classifier  # noqa: E402
from limbeck.errors import ModelError  # noqa: E402

TEXTS = ["how do I join two tables?", "Split the string."]
LABELS = [Described("tables", "columns and keys"), Described("strings")]


@pytest.fixture
def classifier(encoder: Any, tmp_path: Path) -> Classifier:
    head = zero_shot.head_of(encoder, LABELS, task="classification", dim=16, scale=5)
    made = Classifier.of(encoder, head, task="classification", kind="zero-shot", calibrated=True, examples=3)
    return Classifier.load(made.save(tmp_path / "topics"))


def check(answer: Any, probabilities: np.ndarray) -> None:
    assert answer.status_code == 200, answer.text
    for row, expected in zip(answer.json()["data"], probabilities, strict=True):
        scores = {each["label"]: each["score"] for each in row["predictions"]}
        np.testing.assert_allclose([scores["tables"], scores["strings"]], expected, atol=1e-5)
        assert row["score"] == max(scores.values()) and scores[row["prediction"]] == row["score"]
        assert [each["score"] for each in row["predictions"]] == sorted(scores.values(), reverse=True)


def test_a_saved_classifier_gives_its_probabilities(serve: Any, encoder: Any, classifier: Classifier) -> None:
    client = serve(classifiers={"topics": classifier})
    expected = classifier.head.probabilities(encoder.encode(TEXTS, task="classification", dim=16))
    for field in ("classifier", "classifier_id"):
        answer = client.post("/v1/classify", json={"input": TEXTS, field: "topics"})
        check(answer, expected)
    assert answer.json()["calibrated"] is True and answer.json()["dimensions"] == 16
    assert client.get("/info").json()["classifiers"] == ["topics"]


def test_labels_of_a_request_are_compared_by_what_they_mean(client: Any, encoder: Any) -> None:
    labels = [{"label": "tables", "description": "columns and keys"}, "strings"]
    for more, task, dim, scale in (
        ({}, "clustering", 32, zero_shot.SCALE),
        ({"task": "classification", "dimensions": 8, "scale": 3}, "classification", 8, 3),
        ({"model": "tiny:text-matching"}, "text-matching", 32, zero_shot.SCALE),
    ):
        answer = client.post("/v1/classify", json={"input": TEXTS, "labels": labels} | more)
        head = zero_shot.head_of(encoder, LABELS, task=task, dim=dim, scale=scale)
        check(answer, head.probabilities(encoder.encode(TEXTS, task=task, dim=dim)))
        assert (answer.json()["task"], answer.json()["calibrated"]) == (task, False)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 422, "give either `labels` or a `classifier`; those known are topics"),
        ({"classifier": "topics", "labels": ["a", "b"]}, 422, "give either"),
        ({"classifier": "other"}, 404, "known are topics"),
        ({"classifier": "../topics"}, 404, "known are topics"),
        ({"classifier": "topics", "task": "clustering"}, 422, "leave them out"),
        ({"labels": ["a"]}, 422, "two labels or more"),
        ({"labels": ["a", "a"]}, 422, "all different"),
        ({"labels": ["a", "b"], "task": "nope"}, 422, "known tasks"),
        ({"labels": ["a", "b"], "scale": 0}, 422, "scale"),
        ({"labels": ["a", "b"], "dimensions": 33}, 422, "from 1 to 32"),
    ],
)
def test_what_does_not_fit_is_said(
    body: dict[str, Any], status: int, message: str, serve: Any, classifier: Classifier
) -> None:
    client = serve(classifiers={"topics": classifier})
    answer = client.post("/v1/classify", json={"input": TEXTS} | body)
    assert answer.status_code == status and message in answer.json()["error"]["message"]


def test_a_classifier_of_another_model_is_refused_at_the_start(
    serve: Any, encoder: Any, classifier: Classifier
) -> None:
    with pytest.raises(ModelError, match="its vectors mean something else"):
        serve(encoder.base, classifiers={"topics": classifier})


def test_similarities_are_cosines_of_queries_and_passages(client: Any, encoder: Any) -> None:
    body = {"queries": "two tables", "texts": TEXTS, "task": "retrieval", "dimensions": 16}
    answer = client.post("/v1/similarity", json=body)
    queries = encoder.encode(["two tables"], task="retrieval", role="query", dim=16)
    expected = queries @ encoder.encode(TEXTS, task="retrieval", dim=16).T
    np.testing.assert_allclose(answer.json()["similarities"], expected, atol=1e-5)
    assert answer.json()["fingerprint"] == encoder.fingerprint_of("retrieval")


def test_other_tasks_have_no_sides_and_a_text_is_like_itself(client: Any, encoder: Any) -> None:
    answer = client.post("/v1/similarity", json={"queries": TEXTS, "texts": TEXTS}).json()
    vectors = encoder.encode(TEXTS, task="text-matching")
    np.testing.assert_allclose(answer["similarities"], vectors @ vectors.T, atol=1e-5)
    assert answer["task"] == "text-matching"
    assert client.post("/v1/similarity", json={"queries": [], "texts": TEXTS}).status_code == 400
