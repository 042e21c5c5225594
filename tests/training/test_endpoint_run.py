"""A run whose teacher is an endpoint: it shows no files, and a student of its own needs none."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from killable import Zygote

DIM = 40


def vector(text: str) -> list[float]:
    """Words counted in DIM places."""
    counts = np.ones(DIM)
    for word in text.split():
        counts[crc32(word.encode()) % DIM] += 5
    return counts.tolist()


@pytest.fixture
def url() -> Iterator[str]:
    """Of an OpenAI-compatible server in a thread."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
            data = [{"object": "embedding", "index": i, "embedding": vector(t)} for i, t in enumerate(texts)]
            body = json.dumps({"object": "list", "model": "m", "data": data}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def taught_by_endpoint(
    body: dict[str, Any], url: str, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    monkeypatch.setenv("LIMBECK_TEST_KEY", "none is needed")
    body["teacher"] = {
        "type": "openai",
        "model": "m",
        "dim": DIM,
        "base_url": url,
        "api_key_env": "LIMBECK_TEST_KEY",
        "store": str(tmp_path / "store"),
    }
    body["student"] |= {"init": "pretrained", "model": str(teacher_folder), "pruned": None, "rope": {}}
    return body


@pytest.fixture
def key_for_children(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zygote]:
    """A zygote started after the key was set, so that its children have it."""
    monkeypatch.setenv("LIMBECK_TEST_KEY", "none is needed")
    with Zygote() as started:
        yield started


def test_a_pretrained_student_learns_from_an_endpoint(
    taught_by_endpoint: dict[str, Any], write_recipe: Callable[..., Path], key_for_children: Zygote, tmp_path: Path
) -> None:
    outcome = key_for_children.run(["run", write_recipe(taught_by_endpoint)])
    assert outcome.code == 0, outcome.stderr
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    width = taught_by_endpoint["student"]["dims"][-1]
    assert scores["vector_dim"] == {"teacher": DIM, "student": width, "static": None}
    assert scores["parameters"]["teacher"] is None and scores["parameters"]["student"]["total"] > 0


def test_a_student_that_would_copy_from_an_endpoint_is_refused_with_the_ways_out(
    taught_by_endpoint: dict[str, Any], write_recipe: Callable[..., Path], key_for_children: Zygote
) -> None:
    taught_by_endpoint["student"] |= {"init": "pruned", "pruned": {"layers": [0]}, "model": None}
    outcome = key_for_children.run(["run", write_recipe(taught_by_endpoint)])
    assert outcome.code == 1
    assert "copies from the teacher, which is an endpoint" in outcome.stderr
    assert "student.init=pretrained" in outcome.stderr and "Traceback" not in outcome.stderr
