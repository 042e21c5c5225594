"""What clients and operators do to a server over real sockets, and that it lives on: faults of both sides."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import threading
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn")

from server_process import Process  # noqa: E402
from slow_encoder import SECRET, Slow  # noqa: E402

import limbeck  # noqa: E402
from limbeck.serve.app import make_app  # noqa: E402
from limbeck.serve.settings import Settings  # noqa: E402

WAIT = 20  # seconds until a test gives up


class Running:
    """A server in a thread of this process."""

    def __init__(self, encoder: Any, **settings: Any) -> None:
        import uvicorn

        app = make_app(encoder, Settings(**settings))
        self.parts = app.state.parts
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})
        self._thread.start()
        until(lambda: self._server.started)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(WAIT)
        self._socket.close()

    def connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT)

    def ask(self, body: Any, path: str = "/v1/embeddings") -> tuple[int, Any]:
        """The status and body of an answer; `body` as JSON, or as it is where it is bytes."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        line.request("POST", path, data, {"Content-Type": "application/json"})
        answer = line.getresponse()
        found = answer.status, json.loads(answer.read())
        line.close()
        return found

    def counted(self, name: str) -> float:
        return self.parts.metrics.registry.get_sample_value(name) or 0.0


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    for _ in range(100 * WAIT):
        if holds():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never held")


def request_of(body: Any, length: int | None = None) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data) if length is None else length}\r\n\r\n".encode() + data


def read_to_the_end(line: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    found = b""
    while part := line.recv(65_536):
        found += part
    return found


@pytest.fixture
def running() -> Iterator[Callable[..., Running]]:
    with ExitStack() as stack:

        def start(encoder: Any, **settings: Any) -> Running:
            made = Running(encoder, **settings)
            stack.callback(made.close)
            if isinstance(encoder, Slow):
                stack.callback(encoder.go.set)  # before the server closes, which finishes what it has
            return made

        yield start


def test_texts_of_a_client_that_hangs_up_are_not_computed(encoder: Any, running: Any) -> None:
    slow = Slow(encoder)
    server = running(slow, parallel_batches=1)
    answers: list[Any] = []
    first = threading.Thread(target=lambda: answers.append(server.ask({"input": "a key column"})))
    first.start()
    assert slow.began.wait(WAIT)
    own = server.parts.embedder.batcher.tokens
    with server.connected() as line:
        line.sendall(request_of({"input": ["two tables"] * 20}))
        until(lambda: server.parts.embedder.batcher.tokens > own)
    until(lambda: server.parts.embedder.batcher.tokens == own)
    assert server.counted("limbeck_gone_total") == 1
    slow.go.set()
    first.join(WAIT)
    assert answers[0][0] == 200 and slow.passes == 1
    assert server.ask({"input": "another"})[0] == 200


def test_a_body_that_drips_is_ended_and_holds_up_nobody(encoder: Any, running: Any) -> None:
    server = running(encoder, body_seconds=0.3, waiting_requests=2)
    with server.connected() as line:
        line.sendall(request_of(b'{"input": "', length=1_000))
        assert server.ask({"input": "a key column"})[0] == 200
        stop, dripping = threading.Event(), threading.Thread(target=lambda: drip(line, stop))
        dripping.start()
        answer = read_to_the_end(line)
        stop.set()
        dripping.join(WAIT)
    assert answer.startswith(b"HTTP/1.1 408 ") and b"body_timeout" in answer
    for _ in range(2):  # as many as there is room for
        assert server.ask({"input": "a key column"})[0] == 200


def drip(line: socket.socket, stop: threading.Event) -> None:
    try:
        while not stop.wait(0.02):
            line.sendall(b"x")
    except OSError:  # the server has closed
        return


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"input": "a key column"',
        b'{"input": xyzzysecretxyzzy}',
        b"\xff\xfe\x00{",
        b'{"input": "\xff"}',
        b'"xyzzysecretxyzzy"',
        b"[" * 100_000,
        b'{"input": "a", "dimensions": ' + b"9" * 5_000 + b"}",
        b'{"input": "a", "dimensions": 1e999}',
        b'{"input": "a", "task": {"retrieval": NaN}}',
        b'{"input": "\\ud800"}',
        b'{"input": {"xyzzysecretxyzzy": []}}',
    ],
)
def test_a_body_that_does_not_fit_is_refused_and_not_quoted(body: bytes, encoder: Any, running: Any) -> None:
    server = running(encoder)
    for path in ("/v1/embeddings", "/v1/classify", "/v1/similarity"):
        status, answer = server.ask(body, path)
        assert status in (400, 422), (path, status)
        assert answer["error"]["message"] and SECRET not in json.dumps(answer)
    assert server.ask({"input": "a key column"})[0] == 200


def test_what_is_no_http_is_answered_400_and_closed(encoder: Any, running: Any) -> None:
    server = running(encoder)
    for garbage in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GARBAGE / HTTP/9.9\r\n\r\n"):
        with server.connected() as line:
            line.sendall(garbage)
            assert read_to_the_end(line).startswith(b"HTTP/1.1 400 ")
    assert server.ask({"input": "a key column"})[0] == 200


def test_an_empty_label_is_refused(encoder: Any, running: Any) -> None:
    status, answer = running(encoder).ask({"input": "a key column", "labels": ["", "key"]}, "/v1/classify")
    assert status == 422 and answer["error"]["param"] == "labels"


def test_kill_9_closes_connections_and_the_next_process_answers_alike(folder: Path, tmp_path: Path) -> None:
    options = ("--compute", "fp32", "--batch-tokens", "32", "--name", "mine")
    body = {"input": ["two tables on a key column"], "task": "clustering"}
    killed = Process(folder, tmp_path / "log", *options)
    try:
        before = killed.ask("/v1/embeddings", body)
        errors: list[BaseException] = []

        def much() -> None:
            try:
                killed.ask("/v1/embeddings", {"input": [f"table {i}" for i in range(2_000)], "task": "clustering"})
            except (urllib.error.URLError, ConnectionError, http.client.HTTPException) as error:
                errors.append(error)

        asking = threading.Thread(target=much)
        asking.start()
        until(lambda: b"limbeck_queue_tokens 0.0" not in killed.ask("/metrics"))
        killed.process.send_signal(signal.SIGKILL)
        asking.join(WAIT)
        assert len(errors) == 1 and killed.process.wait(WAIT) == -signal.SIGKILL
    finally:
        killed.process.kill()
    after = Process(folder, tmp_path / "log2", *options)
    try:
        assert json.loads(after.ask("/v1/embeddings", body)) == json.loads(before)
    finally:
        after.process.kill()
        after.process.wait()


@pytest.mark.parametrize("how", ["removed", "overwritten", "cut short"])
def test_vectors_stay_those_of_the_model_that_was_loaded_whatever_becomes_of_its_folder(
    how: str, folder: Path, encoder: Any, running: Any, tmp_path: Path
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    server = running(limbeck.load(copy, device="cpu", precision="fp32", hold=1))  # each change of task merges anew
    fingerprint = server.ask({"input": "a key column", "task": "clustering"})[1]["fingerprint"]
    weights = list(copy.rglob("*.safetensors"))
    assert weights
    if how == "removed":
        shutil.rmtree(copy)
    for file in weights if how != "removed" else ():
        size = file.stat().st_size
        with file.open("r+b") as opened:
            if how == "cut short":
                opened.truncate(16)
            else:
                opened.write(bytes(size))
    texts = ["two tables", "on a key column"]
    for task in encoder.tasks:
        status, answer = server.ask({"input": texts, "task": task})
        assert status == 200
        found = np.array([each["embedding"] for each in answer["data"]], np.float32)
        np.testing.assert_allclose(found, encoder.encode(texts, task=task), atol=1e-5)
    assert server.ask({"input": "a key column", "task": "clustering"})[1]["fingerprint"] == fingerprint


def test_a_list_is_read_up_to_its_first_item_that_does_not_fit() -> None:
    from pydantic import ValidationError

    from limbeck.serve.routes_apps import ClassifyRequest
    from limbeck.serve.routes_openai import EmbeddingsRequest
    from limbeck.serve.routes_tei import TeiRequest

    for model, field in ((EmbeddingsRequest, "input"), (ClassifyRequest, "input"), (TeiRequest, "inputs")):
        with pytest.raises(ValidationError) as raised:
            model.model_validate({field: [{}] * 1_000})
        assert raised.value.error_count() < 10  # a few for each form that a list may have


def test_a_wrong_method_is_told_the_right_ones(client: Any) -> None:
    answer = client.put("/v1/embeddings")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        ("/v1/embeddings", {"input": "a", "dimensions": 0}, "Refused"),
        ("/v1/similarity", {"queries": "a", "texts": [1.5]}, "Refused"),
        ("/v2/embed", {"texts": ["a"], "input_type": "nope"}, "CohereRefused"),
        ("/embed", {"inputs": "a", "dimensions": 0}, "TeiRefused"),
    ],
)
def test_refusals_are_as_the_description_says(path: str, body: Any, model: str, client: Any) -> None:
    from limbeck.serve import errors

    described = client.get("/openapi.json").json()["paths"][path]["post"]["responses"]
    schema = described["422"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": f"#/components/schemas/{model}"}
    assert {"400", "401", "404", "408", "413", "429", "500", "503", "504"} < set(described)
    answer = client.post(path, json=body)
    assert answer.status_code == 422
    of = getattr(errors, model)
    assert of.model_validate(answer.json()).model_dump() == answer.json()
