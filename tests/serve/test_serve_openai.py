"""`/v1/embeddings` and `/v1/models`: OpenAI's fields, Jina's fields, and vectors that are the encoder's."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import limbeck
from limbeck.config import TASKS
from limbeck.model.router import Router

pytest.importorskip("fastapi")

TEXTS = ["how do I join two tables?", "Split the string.", "", "äöü " * 3, "a key column"]
LONG = "two tables on a key column " * 20


def post(client: Any, **body: Any) -> Any:
    return client.post("/v1/embeddings", json=body)


def vectors(answer: Any) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [each["index"] for each in data] == list(range(len(data)))
    return np.array([each["embedding"] for each in data], np.float32)


def refused(answer: Any, status: int) -> str:
    """The message, which both kinds of clients find."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body["error"]["message"] == body["detail"]["message"]
    assert body["detail"]["request_id"] == answer.headers["x-request-id"]
    return body["error"]["message"]


@pytest.mark.parametrize(
    ("asked", "task", "role"),
    [
        ("retrieval.query", "retrieval", "query"),
        ("retrieval.passage", "retrieval", "document"),
        ("text-matching", "text-matching", "document"),
        ("clustering", "clustering", "document"),
        ("classification", "classification", "document"),
        (None, "text-matching", "document"),
    ],
)
@pytest.mark.parametrize("by_model", [False, True])
def test_vectors_are_the_encoder_s(
    asked: str | None, task: str, role: str, by_model: bool, client: Any, encoder: Any
) -> None:
    named = {"model": f"tiny:{asked}" if asked else "tiny"} if by_model else {"task": asked}
    answer = post(client, input=TEXTS, **named)
    np.testing.assert_allclose(vectors(answer), encoder.encode(TEXTS, task=task, role=role), atol=1e-5)
    body = answer.json()
    assert body["task"] == (asked or "text-matching") == answer.headers["x-limbeck-task"]
    assert body["fingerprint"] == encoder.fingerprint_of(task) == answer.headers["x-limbeck-fingerprint"]
    assert body["dimensions"] == 32 and answer.headers["x-limbeck-dims"] == "32"
    assert body["model"] == named.get("model", "tiny")


def test_one_text_is_one_vector_and_tokens_are_counted(client: Any, encoder: Any) -> None:
    answer = post(client, input=TEXTS[0], user="ann", something="else")
    np.testing.assert_allclose(vectors(answer), encoder.encode(TEXTS[:1], task="text-matching"), atol=1e-5)
    [ids], _ = encoder.tokenizer.ids(TEXTS[:1], prefix="Document: ", max_tokens=32)
    assert answer.json()["usage"] == {"prompt_tokens": len(ids), "total_tokens": len(ids)}


@pytest.mark.parametrize("name", ["dimensions", "output_dimension", "output_dimensionality"])
def test_fewer_dims_are_at_unit_length_again(name: str, client: Any, encoder: Any) -> None:
    found = vectors(post(client, input=TEXTS, **{name: 5}))
    np.testing.assert_allclose(found, encoder.encode(TEXTS, task="text-matching", dim=5), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("field", ["encoding_format", "embedding_type", "encoding_type"])
def test_base64_is_little_endian_float32(field: str, client: Any, encoder: Any) -> None:
    data = post(client, input=TEXTS, dimensions=8, **{field: "base64"}).json()["data"]
    found = np.array([np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in data])
    np.testing.assert_allclose(found, encoder.encode(TEXTS, task="text-matching", dim=8), atol=1e-5)


@pytest.mark.parametrize("form", ["binary", "ubinary"])
def test_bits_are_of_the_truncated_vector_and_laid_out_as_the_encoder_lays_them(
    form: Any, client: Any, encoder: Any
) -> None:
    answer = post(client, input=TEXTS, dimensions=16, embedding_type=form)
    data = [each["embedding"] for each in answer.json()["data"]]
    assert data == encoder.encode(TEXTS, task="text-matching", dim=16, precision=form).tolist()
    assert answer.json()["dimensions"] == 16


def test_what_a_client_adds_by_hand_counts_more_than_what_it_sends_by_itself(client: Any) -> None:
    both = post(client, input="a", dimensions=8, encoding_format="base64", embedding_type="ubinary")
    assert len(both.json()["data"][0]["embedding"]) == 1


def test_unnormalised_vectors_have_the_same_direction_and_another_length(client: Any, encoder: Any) -> None:
    raw = vectors(post(client, input=TEXTS, normalized=False))
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert np.all(np.abs(lengths - 1) > 1e-3)
    np.testing.assert_allclose(raw / lengths, encoder.encode(TEXTS, task="text-matching"), atol=1e-5)
    few = vectors(post(client, input=TEXTS, normalized=False, dimensions=8))
    np.testing.assert_allclose(few, raw[:, :8], atol=1e-5)


def test_late_chunking_reads_the_texts_as_one(client: Any, encoder: Any) -> None:
    texts = ["Split the string.", "two tables"]
    found = vectors(post(client, input=texts, late_chunking=True, dimensions=8))
    whole = " ".join(texts)
    expected = encoder.encode(whole, task="text-matching", dim=8, spans=[(0, 17), (18, len(whole))])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - vectors(post(client, input=texts, dimensions=8))).max() > 1e-2
    assert "late chunking reads the texts as one" in refused(post(client, input=[LONG, "a"], late_chunking=True), 400)


def test_a_blend_is_a_blend(client: Any, encoder: Any) -> None:
    blend = {"retrieval": 0.75, "clustering": 0.25}
    expected = encoder.encode(TEXTS, task=blend)
    for asked in (blend, "retrieval=0.75,clustering=0.25"):
        answer = post(client, input=TEXTS, task=asked)
        np.testing.assert_allclose(vectors(answer), expected, atol=1e-5)
        assert answer.json()["fingerprint"] == encoder.fingerprint_of(blend)


@pytest.mark.parametrize("field", ["truncate", "truncation"])
def test_an_overlong_text_is_refused_unless_it_may_be_cut(field: str, client: Any, encoder: Any) -> None:
    answer = post(client, input=["a", LONG])
    assert "text 1 has" in refused(answer, 400)
    assert answer.json()["detail"]["code"] == "INPUT_TOKEN_LIMIT_EXCEEDED"
    found = vectors(post(client, input=["a", LONG], **{field: True}))
    np.testing.assert_allclose(found, encoder.encode(["a", LONG], task="text-matching"), atol=1e-5)


@pytest.mark.parametrize("ids", [[1, 2, 3], [[1, 2], [3]]])
def test_token_ids_are_refused_with_the_way_out(ids: Any, client: Any) -> None:
    assert "check_embedding_ctx_length=False" in refused(post(client, input=ids), 400)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"dimensions": 0}, 422, "dimensions must be from 1 to 32, got 0; trained widths are 8, 16, 32"),
        ({"dimensions": 33}, 422, "dimensions must be from 1 to 32, got 33"),
        ({"dimensions": 12, "embedding_type": "binary"}, 422, "a multiple of 8, got 12"),
        ({"embedding_type": "int8"}, 422, "'float', 'base64', 'binary' or 'ubinary'"),
        ({"embedding_type": ["float", "binary"]}, 422, "embedding_type"),
        ({"encoding_format": "hex"}, 422, "encoding_format"),
        ({"task": "nope"}, 422, "known tasks are retrieval.query, retrieval.passage, text-matching"),
        ({"task": "auto"}, 422, "known tasks are"),  # this model has no router
        ({"model": "gpt"}, 404, "known are tiny, tiny:retrieval.query"),
        ({"model": "tiny:nope"}, 422, "known tasks are"),
        ({"model": "tiny:clustering", "task": "classification"}, 422, "leave one out"),
        ({"return_multivector": True}, 422, "one vector"),
        ({"input": []}, 400, "no text"),
        ({"input": 7}, 422, "input: expected a text, or a list of texts"),
        ({"input": [{"image": "x"}]}, 422, "input: expected a text"),
        ({"input": ["a", None]}, 422, "input: expected a text"),
    ],
)
def test_what_does_not_fit_is_said(body: dict[str, Any], status: int, message: str, client: Any) -> None:
    assert message in refused(post(client, **({"input": "a"} | body)), status)


def test_a_body_that_is_no_json_is_said(client: Any) -> None:
    answer = client.post("/v1/embeddings", content=b"{nope", headers={"Content-Type": "application/json"})
    assert "not valid JSON" in refused(answer, 400)
    assert "input" in refused(client.post("/v1/embeddings", json={}), 422)


def test_every_listed_model_can_be_asked(client: Any) -> None:
    listed = client.get("/v1/models").json()["data"]
    assert [each["id"] for each in listed][:2] == ["tiny", "tiny:retrieval.query"]
    for each in listed:
        answer = post(client, input="a", model=each["id"]).json()
        assert (answer["task"], answer["fingerprint"]) == (each["task"], each["fingerprint"])
        assert client.get(f"/v1/models/{each['id']}").json() == each
    assert "known are tiny" in refused(client.get("/v1/models/other"), 404)


def test_the_documentation_has_every_field(client: Any) -> None:
    schema = client.get("/openapi.json").json()
    fields = schema["components"]["schemas"]["EmbeddingsRequest"]["properties"]
    assert {"input", "model", "encoding_format", "dimensions", "task", "normalized", "late_chunking"} <= set(fields)
    assert {"/v1/embeddings", "/v2/embed", "/embed", "/info", "/v1/classify", "/v1/similarity"} <= set(schema["paths"])
    assert client.get("/docs").status_code == 200


def test_auto_is_the_blend_that_suits_the_texts(folder: Path, tmp_path: Path, serve: Any) -> None:
    shutil.copytree(folder, tmp_path / "routed")
    torch.manual_seed(0)
    Router(list(TASKS), torch.randn(4, 32), torch.zeros(4)).save(tmp_path / "routed" / "router.safetensors")
    encoder = limbeck.load(tmp_path / "routed", device="cpu", precision="fp32")
    client = serve(encoder)
    answer = post(client, input=TEXTS, task="auto")
    np.testing.assert_allclose(vectors(answer), encoder.encode(TEXTS, task="auto"), atol=1e-5)
    blend = encoder.route(TEXTS)
    assert answer.json()["fingerprint"] == encoder.fingerprint_of(blend)
    # what it was is said so that it can be asked for again
    again = post(client, input=TEXTS[:1], task=answer.json()["task"])
    np.testing.assert_allclose(vectors(again), vectors(answer)[:1], atol=1e-5)
    broken = b'{"input": "a \\ud800", "task": "auto"}'
    answer = client.post("/v1/embeddings", content=broken, headers={"Content-Type": "application/json"})
    assert "not valid Unicode" in refused(answer, 422)
    assert client.post("/v1/similarity", json={"queries": "a", "texts": "b", "task": "auto"}).status_code == 422
