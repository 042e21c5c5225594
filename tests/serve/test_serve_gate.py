"""Keys, limits, clients that leave, and what gets out of the server: nothing of a text, nothing of a failure."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")

from connections import Connection, running  # noqa: E402
from slow_encoder import SECRET, Slow  # noqa: E402

from limbeck.errors import ConfigError  # noqa: E402
from limbeck.serve.app import make_app  # noqa: E402
from limbeck.serve.settings import Settings, checked  # noqa: E402

BODY = {"input": ["a key column"]}


@pytest.fixture
def slow(encoder: Any) -> Iterator[Slow]:
    made = Slow(encoder)
    yield made
    made.go.set()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def began(slow: Slow) -> None:
    assert await asyncio.to_thread(slow.began.wait, 20)


def test_a_key_is_needed_where_there_are_keys(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("from-file\n")
    client = serve(keys="one two", keys_file=tmp_path / "keys")
    for headers in ({}, bearer("three"), bearer(""), {"Authorization": "one"}):
        answer = client.post("/v1/embeddings", json=BODY, headers=headers)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "invalid_api_key"
    for key in ("one", "two", "from-file"):
        assert client.post("/v1/embeddings", json=BODY, headers=bearer(key)).status_code == 200
    for path in ("/v1/models", "/v1/indexes", "/info", "/metrics", "/nope"):
        assert client.get(path).status_code == 401
    for path in ("/", "/health", "/ready", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200


def test_a_body_is_not_read_without_a_key(encoder: Any) -> None:
    app = make_app(encoder, Settings(), keys="one")

    async def work() -> None:
        connection = Connection(app, body=None)  # it never comes
        await connection.task
        assert connection.status == 401

    running(app, work)


def test_a_large_body_is_refused_whether_its_length_is_said_or_not(encoder: Any) -> None:
    app = make_app(encoder, Settings(body_bytes=100))

    async def work() -> None:
        said = Connection(app, body=None, **{"content-length": "101"})
        await said.task
        unsaid = Connection(app, body=None)
        for _ in range(2):
            unsaid.messages.put_nowait({"type": "http.request", "body": b"x" * 60, "more_body": True})
        await unsaid.task
        assert said.status == unsaid.status == 413
        assert b"over the limit of 100 bytes" in said.sent[1]["body"]

    running(app, work)


def test_a_body_that_does_not_arrive_is_not_waited_for(encoder: Any) -> None:
    app = make_app(encoder, Settings(body_seconds=0.01))

    async def work() -> None:
        connection = Connection(app, body=None)
        await connection.task
        assert connection.status == 408

    running(app, work)


def test_a_client_that_leaves_takes_its_texts_along(slow: Slow) -> None:
    app = make_app(slow, Settings())
    embedder = app.state.parts.embedder

    async def work() -> None:
        first = Connection(app)
        await began(slow)
        leaves, stays = Connection(app, body={"input": ["a"] * 50}), Connection(app)
        while embedder.batcher.requests < 2:
            await asyncio.sleep(0.001)
        leaves.messages.put_nowait({"type": "http.disconnect"})
        await leaves.task
        assert leaves.status == 499 and embedder.batcher.requests == 1
        slow.go.set()
        await asyncio.gather(first.task, stays.task)
        assert first.status == stays.status == 200

    running(app, work)
    assert slow.passes == 2
    assert b"limbeck_gone_total 1.0" in app.state.parts.metrics.page()


def test_an_answer_that_takes_too_long_is_given_up(slow: Slow) -> None:
    app = make_app(slow, Settings(request_seconds=0.05))

    async def work() -> None:
        first, second = Connection(app), Connection(app)
        await asyncio.gather(first.task, second.task)
        assert first.status == second.status == 504
        slow.go.set()

    running(app, work)
    assert slow.passes <= 2


def test_a_full_queue_is_429_with_a_time_to_come_again(slow: Slow) -> None:
    app = make_app(slow, Settings(queue_tokens=10))

    async def work() -> None:
        first = Connection(app)
        await began(slow)
        for path, body in (("/v1/embeddings", BODY), ("/v2/embed", {"texts": ["a b c"], "input_type": "clustering"})):
            late = Connection(app, path, body)
            await late.task
            assert late.status == 429 and int(late.headers["retry-after"]) >= 1
        slow.go.set()
        await first.task
        assert first.status == 200

    running(app, work)


def test_too_many_requests_at_a_time_are_429_before_they_are_read(slow: Slow) -> None:
    app = make_app(slow, Settings(waiting_requests=2))

    async def work() -> None:
        two = [Connection(app), Connection(app)]
        await began(slow)
        third = Connection(app, body=None)
        await third.task
        assert third.status == 429 and "retry-after" in third.headers
        slow.go.set()
        await asyncio.gather(*(each.task for each in two))
        assert [each.status for each in two] == [200, 200]
        again = Connection(app)
        await again.task
        assert again.status == 200

    running(app, work)


@pytest.mark.parametrize(
    ("limit", "body", "message"),
    [
        ({"request_texts": 2}, {"input": ["a"] * 3}, "3 texts in one request, over the limit of 2"),
        ({"request_tokens": 10}, {"input": ["a b c"] * 3}, "tokens in one request, over the limit of 10"),
    ],
)
def test_a_request_has_its_limits(limit: dict[str, int], body: Any, message: str, serve: Any) -> None:
    answer = serve(**limit).post("/v1/embeddings", json=body)
    assert answer.status_code == 413 and message in answer.json()["error"]["message"]


def test_many_texts_in_one_request_are_split_here(serve: Any, encoder: Any) -> None:
    texts = [f"two tables {i} on a key column" for i in range(300)]
    client = serve(batch_tokens=64)
    found = [each["embedding"] for each in client.post("/v1/embeddings", json={"input": texts}).json()["data"]]
    np.testing.assert_allclose(found, encoder.encode(texts, task="text-matching"), atol=1e-5)
    text = client.get("/metrics").text
    [batches] = [line.split()[1] for line in text.splitlines() if line.startswith("limbeck_batch_seconds_count")]
    assert float(batches) > 30


@pytest.mark.parametrize("limit", ["requests_per_minute", "tokens_per_minute"])
def test_each_key_has_its_own_allowance(limit: str, serve: Any) -> None:
    client = serve(keys="one two", **{limit: 2 if limit.startswith("requests") else 10})
    statuses = {
        key: [client.post("/v1/embeddings", json=BODY, headers=bearer(key)) for _ in range(4)] for key in ("one", "two")
    }
    for answers in statuses.values():
        assert answers[0].status_code == 200 and answers[-1].status_code == 429
        assert int(answers[-1].headers["retry-after"]) >= 1
    assert client.get("/v1/models", headers=bearer("one")).status_code == 200


def test_no_page_of_another_site_may_call_unless_it_is_named(serve: Any) -> None:
    ask = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    closed, opened = serve(keys="one"), serve(keys="one", origins=("https://a.example",))
    assert "access-control-allow-origin" not in closed.options("/v1/embeddings", headers=ask).headers
    allowed = opened.options("/v1/embeddings", headers=ask)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://a.example"
    other = opened.options("/v1/embeddings", headers=ask | {"Origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("debug", [False, True])
def test_a_failure_tells_the_client_its_number_and_the_log_its_kind(
    debug: bool, serve: Any, slow: Slow, caplog: pytest.LogCaptureFixture
) -> None:
    slow.fails = True
    client = serve(slow, debug=debug)
    with caplog.at_level(logging.DEBUG):
        answer = client.post("/v1/embeddings", json={"input": SECRET})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] in answer.json()["error"]["message"]
    assert SECRET not in answer.text and "Traceback" not in answer.text
    assert "RuntimeError" in caplog.text and answer.headers["x-request-id"] in caplog.text
    assert (SECRET in caplog.text) == debug


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": SECRET}),
        ("/v1/embeddings", {"input": [SECRET, 5]}),
        ("/v1/embeddings", {"input": {"text": SECRET}}),
        ("/v1/embeddings", {"input": f"{SECRET} \ud800"}),
        ("/v1/embeddings", {"input": f"{SECRET} " * 90}),
        ("/v1/embeddings", {"input": SECRET, "task": SECRET, "model": SECRET, "dimensions": SECRET}),
        ("/v2/embed", {"texts": [SECRET], "input_type": "clustering"}),
        ("/v2/embed", {"texts": SECRET, "truncate": SECRET}),
        ("/embed", {"inputs": {"x": SECRET}}),
        ("/v1/similarity", {"queries": SECRET, "texts": [SECRET, None]}),
        ("/v1/classify", {"input": SECRET, "labels": ["a"]}),
        (f"/{SECRET}", {}),
    ],
)
def test_no_text_comes_back_or_into_the_log(
    path: str, body: Any, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="limbeck"):
        content = json.dumps(body).encode()
        answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert SECRET not in answer.text and SECRET not in caplog.text
    assert SECRET not in client.get("/metrics").text


def test_an_unknown_path_and_a_wrong_method_are_said(client: Any) -> None:
    answer = client.get("/v1/nope")
    assert answer.status_code == 404 and "/v1/embeddings" in answer.json()["error"]["message"]
    assert client.get("/v1/embeddings").status_code == 405


def test_behind_a_proxy_that_takes_a_prefix_off_paths_stay_what_they_are(encoder: Any) -> None:
    app = make_app(encoder, Settings(), keys="one")

    async def work() -> None:
        for path, status in (("/x/health", 200), ("/x/v2/embed", 401)):
            connection = Connection(app, path)
            connection.scope |= {"root_path": "/x", "method": "GET" if status == 200 else "POST"}
            await connection.task
            assert connection.status == status
        assert set(json.loads(connection.sent[1]["body"])) == {"id", "message"}  # as Cohere's clients know it

    running(app, work)


def test_metrics_count_what_was_asked_by_route_and_task(client: Any) -> None:
    client.post("/v1/embeddings", json={"input": ["a", "b"], "task": "clustering"})
    client.post("/v1/embeddings", json={"input": "a", "task": "retrieval=0.5,clustering=0.5"})
    client.post("/v1/embeddings", json={"input": "a", "task": "nope"})
    client.get("/any/path/at/all")
    text = client.get("/metrics").text
    assert 'limbeck_requests_total{route="/v1/embeddings",status="200"} 2.0' in text
    assert 'limbeck_requests_total{route="/v1/embeddings",status="422"} 1.0' in text
    assert 'limbeck_requests_total{route="other",status="404"} 1.0' in text
    assert 'limbeck_texts_total{task="clustering"} 2.0' in text
    assert 'limbeck_texts_total{task="blend"} 1.0' in text
    assert 'limbeck_refused_total{reason="invalid_task"} 1.0' in text
    assert "limbeck_queue_tokens 0.0" in text


def test_a_server_that_is_closed_is_neither_alive_nor_ready(encoder: Any) -> None:
    app = make_app(encoder, Settings())

    async def work() -> None:
        await app.state.parts.embedder.batcher.close()
        for path in ("/health", "/ready"):
            connection = Connection(app, path)
            connection.scope["method"] = "GET"
            await connection.task
            assert connection.status == 503
        late = Connection(app)
        await late.task
        assert late.status == 503

    running(app, work)


def test_settings_name_the_field_that_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="queue_tokens: .*got 0"):
        checked(queue_tokens=0)
