"""`/v1/search` and `/v1/indexes`: hits that are the index's own, with vectors that the server makes."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("qdrant_edge")

from connections import Connection, running  # noqa: E402

from limbeck.errors import ModelError, StoreError  # noqa: E402
from limbeck.search.index import Document, Index  # noqa: E402
from limbeck.serve.app import make_app  # noqa: E402
from limbeck.serve.settings import Settings  # noqa: E402

QUERIES = ["two tables", "a string"]
SECRET = "xyzzysecretxyzzy"


@pytest.fixture
def client(serve: Any, index_folder: Path) -> Any:
    return serve(indexes={"notes": Index.without_model(index_folder)})


def refused(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    return answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "how"),
    [
        ({}, {}),
        ({"k": 2}, {"k": 2}),
        ({"top_k": 1, "exact": True}, {"k": 1, "exact": True}),
        ({"oversampling": 2.5}, {"oversampling": 2.5}),
        ({"by": "words"}, {"by": "words"}),
        ({"by": "both", "where": {"year": {">=": 2021}}}, {"by": "both", "where": {"year": {">=": 2021}}}),
        ({"where": {"lang": ["de", "fr"], "year": "2024"}}, {"where": {"lang": ["de", "fr"], "year": 2024}}),
        ({"where": {}}, {}),
    ],
)
def test_hits_are_those_of_the_index(
    fields: dict[str, Any], how: dict[str, Any], serve: Any, encoder: Any, index_folder: Path
) -> None:
    with Index.open(index_folder, encoder) as index:
        expected = [[asdict(hit) for hit in hits] for hits in index.search_all(QUERIES, **how)]
        made = index.spec.fingerprint
    client = serve(indexes={"notes": Index.without_model(index_folder)})
    answer = client.post("/v1/search", json={"query": QUERIES, "index": "notes"} | fields)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [each["index"] for each in body["data"]] == [0, 1]
    for found, hits in zip(body["data"], expected, strict=True):
        scores = [hit.pop("score") for hit in found["hits"]], [hit.pop("score") for hit in hits]
        assert found["hits"] == hits and scores[0] == pytest.approx(scores[1], abs=1e-4)
    assert (body["index"], body["model"], body["task"], body["dimensions"]) == ("notes", "tiny", "retrieval.query", 32)
    assert body["fingerprint"] == made == encoder.fingerprint_of("retrieval")
    assert answer.headers["x-limbeck-task"] == "retrieval.query" and answer.headers["x-limbeck-fingerprint"] == made
    assert (body["usage"]["total_tokens"] > 0) == (how.get("by") != "words")
    counted = 'limbeck_texts_total{task="retrieval.query"} 2.0' in client.get("/metrics").text
    assert counted == (how.get("by") != "words")  # by words nothing is encoded


def test_one_query_may_be_a_text_and_one_index_need_not_be_named(client: Any) -> None:
    [found] = client.post("/v1/search", json={"query": "two tables", "by": "words"}).json()["data"]
    assert [hit["id"] for hit in found["hits"]] == ["1"]
    assert found["hits"][0]["fields"] == {"lang": "en", "year": 2020} and found["hits"][0]["title"] == "Tables"


def test_indexes_say_what_they_are(client: Any, encoder: Any, index_folder: Path) -> None:
    [found] = client.get("/v1/indexes").json()["data"]
    assert found == {
        "name": "notes",
        "object": "index",
        "documents": 4,
        "dimensions": 32,
        "precision": "binary",
        "task": "retrieval",
        "fingerprint": encoder.fingerprint_of("retrieval"),
        "chunks": "separate" if encoder.spec.pooling != "mean" else "late",
        "words": True,
        "fields": {"lang": "text", "year": "integer"},
    }
    assert client.get("/info").json()["indexes"] == ["notes"]
    assert str(index_folder) not in client.get("/v1/indexes").text


@pytest.fixture
def two(serve: Any, encoder: Any, index_folder: Path, tmp_path: Path) -> Iterator[Any]:
    """A server of two indexes: `notes`, and `few` of 8 dims for text-matching, without words."""
    with Index.create(tmp_path / "few", encoder, task="text-matching", dim=8, words=False) as index:
        index.add([Document("a", "a key column"), Document("b", "a string")])
    places = {"notes": index_folder, "few": tmp_path / "few"}
    yield serve(indexes={name: Index.without_model(place) for name, place in places.items()})


def test_an_index_of_another_task_and_width_gets_vectors_of_its_own_kind(two: Any) -> None:
    answer = two.post("/v1/search", json={"query": "a string", "index": "few"}).json()
    assert (answer["task"], answer["dimensions"]) == ("text-matching", 8)
    assert answer["data"][0]["hits"][0]["id"] == "b"
    assert answer["data"][0]["hits"][0]["score"] == pytest.approx(1, abs=1e-3)  # the same text as a document
    assert "made without words" in refused(
        two.post("/v1/search", json={"query": "a", "index": "few", "by": "both"}), 422
    )
    assert "known are few, notes" in refused(two.post("/v1/search", json={"query": "a"}), 422)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"index": "nope"}, 404, "this index is not served; known are notes"),
        ({"index": "../notes.index"}, 404, "known are notes"),
        ({"query": []}, 400, "there is no query"),
        ({"query": ["a", " "]}, 422, "query 1 is empty"),
        ({"query": 7}, 422, "query: expected a text, or a list of texts"),
        ({"k": 0}, 422, "k: Input should be greater than or equal to 1"),
        ({"k": 1001}, 422, "k: Input should be less than or equal to 1000"),
        ({"by": "luck"}, 422, "by: Input should be 'vectors', 'words' or 'both'"),
        ({"where": {"nope": 1}}, 422, "no document has a field of this name to filter by; known are lang, year"),
        ({"where": {"year": SECRET}}, 422, "field 'year' holds integer"),
        ({"where": {"year": {"gt": 1}}}, 422, "a condition is one of = != < <= > >="),
        ({"where": SECRET}, 422, "where: Input should be a valid dictionary"),
        ({"query": "two tables on a key column " * 20}, 400, "text 0 has"),
    ],
)
def test_what_does_not_fit_is_said(body: dict[str, Any], status: int, message: str, client: Any) -> None:
    answer = client.post("/v1/search", json={"query": "a"} | body)
    assert message in refused(answer, status) and SECRET not in answer.text


def test_an_overlong_query_is_cut_where_that_is_asked(client: Any) -> None:
    body = {"query": "two tables on a key column " * 20, "truncate": True}
    assert client.post("/v1/search", json=body).status_code == 200


def test_a_server_without_indexes_says_so(serve: Any) -> None:
    client = serve()
    assert "known are none" in refused(client.post("/v1/search", json={"query": "a"}), 404)
    assert client.get("/v1/indexes").json()["data"] == [] == client.get("/info").json()["indexes"]


@pytest.mark.parametrize(
    "body",
    [
        {"query": SECRET, "by": "both"},
        {"query": [SECRET, ""]},
        {"query": f"{SECRET} \ud800", "by": "words"},
        {"query": f"{SECRET} \ud800"},
        {"query": "a", "where": {SECRET: SECRET}},
        {"query": "a", "where": {"lang": f"{SECRET} \ud800"}},
        {"query": "a", "where": {"lang": {SECRET: "en"}}},
        {"query": "a", "index": SECRET, "by": SECRET, "k": SECRET},
    ],
)
def test_no_text_comes_back_or_into_the_log(body: Any, client: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="limbeck"):
        headers = {"Content-Type": "application/json"}
        answer = client.post("/v1/search", content=json.dumps(body).encode(), headers=headers)
    assert answer.status_code < 500
    assert SECRET not in answer.text and SECRET not in caplog.text and SECRET not in client.get("/metrics").text


def test_an_index_of_another_model_is_refused_at_the_start(serve: Any, encoder: Any, index_folder: Path) -> None:
    with Index.without_model(index_folder) as index, pytest.raises(ModelError, match="its vectors mean something else"):
        serve(encoder.base, indexes={"notes": index})


def test_an_engine_that_fails_is_503_and_says_nothing_of_where_it_is(
    client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any) -> Any:
        raise StoreError(f"/srv/{SECRET}: the engine failed")

    engine = client.app.state.parts.searchers["notes"].index.engine
    monkeypatch.setattr(engine, "search", fails)
    monkeypatch.setattr(engine, "count", fails)
    for answer in (client.post("/v1/search", json={"query": "a"}), client.get("/v1/indexes")):
        assert "does not answer now" in refused(answer, 503) and answer.headers["retry-after"] == "5"
        assert SECRET not in answer.text and SECRET not in caplog.text
    assert "index notes failed: StoreError" in caplog.text


def test_who_has_gone_is_searched_for_no_more_and_the_folder_is_let_go_of(encoder: Any, index_folder: Path) -> None:
    index = Index.without_model(index_folder)
    app = make_app(encoder, Settings(), indexes={"notes": index})
    began, go, asked, search = threading.Event(), threading.Event(), [], index.engine.search

    def slow(ask: Any) -> Any:
        asked.append(ask)
        began.set()
        assert go.wait(20)
        return search(ask)

    index.engine.search = slow  # type: ignore[method-assign]

    async def work() -> None:
        leaves = Connection(app, "/v1/search", {"query": ["a", "b", "c"], "by": "vectors"})
        assert await asyncio.to_thread(began.wait, 20)
        leaves.messages.put_nowait({"type": "http.disconnect"})
        await leaves.task
        go.set()
        stays = Connection(app, "/v1/search", {"query": "two tables", "k": 1})
        await stays.task
        assert (leaves.status, stays.status) == (499, 200)

    running(app, work)
    assert [ask.limit for ask in asked].count(20) == 1  # of k = 10, in two chunks a document: the first query's alone
    with Index.without_model(index_folder, wait=0.1) as again:
        assert len(again) == 4


def test_documents_that_were_deleted_before_are_not_found(
    serve: Any, encoder: Any, index_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(index_folder, tmp_path / "copy")
    with Index.without_model(tmp_path / "copy") as index:
        index.delete(["1"])
    client = serve(indexes={"copy": Index.without_model(tmp_path / "copy")})
    [found] = client.post("/v1/search", json={"query": "two tables"}).json()["data"]
    assert "1" not in [hit["id"] for hit in found["hits"]] and len(found["hits"]) == 3
