"""Cohere's `/v2/embed`, TEI's `/embed` and `/info`, and what their clients are told when something does not fit."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

TEXTS = ["how do I join two tables?", "Split the string."]
LONG = "start " + "two tables on a key column " * 20


def embed(client: Any, **body: Any) -> Any:
    return client.post("/v2/embed", json={"texts": TEXTS, "input_type": "search_document"} | body)


@pytest.mark.parametrize(
    ("input_type", "task", "role"),
    [
        ("search_query", "retrieval", "query"),
        ("search_document", "retrieval", "document"),
        ("clustering", "clustering", "document"),
        ("classification", "classification", "document"),
        ("text-matching", "text-matching", "document"),
    ],
)
def test_cohere_s_input_types_are_adapters(input_type: str, task: str, role: str, client: Any, encoder: Any) -> None:
    answer = embed(client, input_type=input_type, output_dimension=8)
    expected = encoder.encode(TEXTS, task=task, role=role, dim=8)
    np.testing.assert_allclose(answer.json()["embeddings"]["float"], expected, atol=1e-5)
    assert answer.json()["fingerprint"] == encoder.fingerprint_of(task)
    assert answer.json()["meta"]["billed_units"]["input_tokens"] > 0


def test_cohere_s_types_are_of_one_vector(client: Any, encoder: Any) -> None:
    kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    found = embed(client, embedding_types=kinds, output_dimension=16).json()["embeddings"]
    assert list(found) == kinds
    for kind in ("binary", "ubinary"):
        assert found[kind] == encoder.encode(TEXTS, task="retrieval", dim=16, precision=kind).tolist()
    codes, _ = encoder.encode(TEXTS, task="retrieval", dim=16, precision="int8")
    assert np.abs(np.array(found["int8"]) - codes).max() <= 1
    assert found["uint8"] == (np.array(found["int8"]) + 128).tolist()
    decoded = [np.frombuffer(base64.b64decode(each), "<f4") for each in found["base64"]]
    np.testing.assert_allclose(decoded, found["float"], atol=1e-7)


def test_cohere_cuts_the_end_unless_told_otherwise(client: Any, encoder: Any) -> None:
    end = embed(client, texts=[LONG]).json()["embeddings"]["float"]
    np.testing.assert_allclose(end, encoder.encode([LONG], task="retrieval"), atol=1e-5)
    start = embed(client, texts=[LONG], truncate="START").json()["embeddings"]["float"]
    assert np.abs(np.array(start) - end).max() > 1e-3
    refused = embed(client, texts=[LONG], truncate="NONE")
    assert refused.status_code == 400 and "over the limit of 32" in refused.json()["message"]
    few = embed(client, texts=[LONG], max_tokens=16).json()
    assert few["meta"]["billed_units"]["input_tokens"] == 16


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"input_type": None}, 400, "`input_type` is needed: search_query, search_document, text-matching"),
        ({"input_type": "nope"}, 422, "known tasks are"),
        ({"texts": None}, 400, "`texts` is needed"),
        ({"texts": None, "images": ["x"]}, 400, "images and mixed inputs are not read"),
        ({"texts": []}, 400, "no text"),
        ({"output_dimension": 0}, 422, "from 1 to 32"),
        ({"output_dimension": 33}, 422, "from 1 to 32"),
        ({"output_dimension": 12, "embedding_types": ["float", "ubinary"]}, 422, "a multiple of 8"),
        ({"embedding_types": ["int4"]}, 422, "embedding_types"),
        ({"truncate": "MIDDLE"}, 422, "truncate"),
        ({"model": "embed-v4"}, 404, "known are tiny"),
    ],
)
def test_cohere_s_clients_are_told_in_a_message(body: dict[str, Any], status: int, message: str, client: Any) -> None:
    answer = embed(client, **body)
    assert answer.status_code == status
    assert set(answer.json()) == {"id", "message"} and message in answer.json()["message"]


def test_a_model_s_name_can_stand_for_the_input_type(client: Any) -> None:
    assert embed(client, input_type=None, model="tiny:clustering").json()["task"] == "clustering"


@pytest.mark.parametrize(
    ("prompt", "task", "role"),
    [(None, "text-matching", "document"), ("query", "retrieval", "query"), ("document", "retrieval", "document")],
)
def test_tei_s_answer_is_the_vectors_alone(prompt: Any, task: str, role: str, client: Any, encoder: Any) -> None:
    answer = client.post("/embed", json={"inputs": TEXTS, "prompt_name": prompt, "dimensions": 8})
    np.testing.assert_allclose(answer.json(), encoder.encode(TEXTS, task=task, role=role, dim=8), atol=1e-5)
    assert answer.headers["x-limbeck-fingerprint"] == encoder.fingerprint_of(task)
    one = client.post("/embed", json={"inputs": TEXTS[0], "normalize": False}).json()
    assert len(one) == 1 and abs(np.linalg.norm(one[0]) - 1) > 1e-3


def test_tei_cuts_where_it_is_told(client: Any, encoder: Any) -> None:
    refused = client.post("/embed", json={"inputs": LONG})
    assert refused.status_code == 413 and refused.json()["error_type"] == "Validation"
    right = client.post("/embed", json={"inputs": LONG, "truncate": True}).json()
    np.testing.assert_allclose(right, encoder.encode([LONG], task="text-matching"), atol=1e-5)
    left = client.post("/embed", json={"inputs": LONG, "truncate": True, "truncation_direction": "Left"}).json()
    assert np.abs(np.array(left) - right).max() > 1e-3


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"inputs": []}, 400, "Empty"),
        ({"inputs": "a", "dimensions": 0}, 422, "Validation"),
        ({"inputs": "a", "dimensions": 33}, 422, "Validation"),
        ({"inputs": "a", "prompt_name": "nope"}, 422, "Validation"),
        ({"inputs": {}}, 422, "Validation"),
    ],
)
def test_tei_s_clients_are_told_in_an_error(body: dict[str, Any], status: int, kind: str, client: Any) -> None:
    answer = client.post("/embed", json=body)
    assert (answer.status_code, answer.json()["error_type"]) == (status, kind)


def test_info_says_what_is_served_and_within_which_limits(serve: Any, encoder: Any) -> None:
    info = serve(request_texts=7, name="mine", default_task="clustering").get("/info").json()
    assert info["model_id"] == "mine" and info["model_sha"] == encoder.fingerprint
    assert info["max_input_length"] == 32 and info["max_client_batch_size"] == 7
    assert info["default_task"] == "clustering" and "retrieval.query" in info["tasks"]
    assert info["dimensions"] == [8, 16, 32] and info["model_dtype"] == "float32"


def test_a_default_task_serves_the_apis_that_need_none(serve: Any, encoder: Any) -> None:
    client = serve(default_task="retrieval.query")
    expected = encoder.encode(TEXTS, task="retrieval", role="query")
    np.testing.assert_allclose(client.post("/embed", json={"inputs": TEXTS}).json(), expected, atol=1e-5)
    assert client.post("/v1/embeddings", json={"input": "a"}).json()["task"] == "retrieval.query"


def test_a_model_without_adapters_serves_its_two_sides(serve: Any, encoder: Any) -> None:
    client = serve(encoder.base)
    for prompt, role in ((None, "document"), ("query", "query")):
        found = client.post("/embed", json={"inputs": TEXTS, "prompt_name": prompt}).json()
        np.testing.assert_allclose(found, encoder.base.encode(TEXTS, role=role), atol=1e-5)
    assert embed(client, input_type="search_query").json()["task"] == "query"
    answer = client.post("/v1/embeddings", json={"input": "a", "task": "retrieval.query"})
    assert answer.status_code == 422  # an adapter's name never stands for the base
