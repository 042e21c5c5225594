"""`limbeck serve` as it is typed: a process that serves, that SIGTERM lets finish, and what it says instead."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvicorn")

from server_process import Process  # noqa: E402

from commands import typed  # noqa: E402


@pytest.fixture
def process(folder: Path, tmp_path: Path) -> Iterator[Process]:
    made = Process(folder, tmp_path / "log", "--compute", "fp32", "--batch-tokens", "32", "--name", "mine")
    yield made
    made.process.kill()
    made.process.wait()


def test_sigterm_finishes_what_was_accepted(process: Process, encoder: Any) -> None:
    texts = [f"two tables {i} on a key column" for i in range(1_000)]
    answers: list[Any] = []
    body = {"input": texts, "task": "clustering", "model": "mine"}
    asking = threading.Thread(target=lambda: answers.append(json.loads(process.ask("/v1/embeddings", body))))
    asking.start()
    while asking.is_alive() and b"limbeck_queue_tokens 0.0" in process.ask("/metrics"):
        pass
    process.process.send_signal(signal.SIGTERM)
    asking.join()
    found = np.array([each["embedding"] for each in answers[0]["data"]], np.float32)
    np.testing.assert_allclose(found, encoder.encode(texts, task="clustering"), atol=1e-5)
    assert process.process.wait(60) in (0, -signal.SIGTERM)
    log = process.log.read_text()
    assert "POST /v1/embeddings 200" in log and "Finished server process" in log
    assert "Traceback" not in log and "key column" not in log


def test_the_options_become_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    import uvicorn

    seen: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: seen.update(app=app, **options))
    monkeypatch.delenv("LIMBECK_API_KEYS", raising=False)
    (tmp_path / "keys").write_text("one\n")
    options = ["--keys", tmp_path / "keys", "--alias", "other", "--origin", "https://a.example", "--queue-tokens", 99]
    options += ["--default-task", "clustering", "--requests-per-minute", 5, "--ssl-certfile", "c", "--ssl-keyfile", "k"]
    code, _, err = typed(capsys, "serve", folder, "--host", "0.0.0.0", *options)
    assert (code, err) == (0, "")
    assert (seen["host"], seen["port"], seen["ssl_certfile"], seen["ssl_keyfile"]) == ("0.0.0.0", 8080, "c", "k")
    parts = seen["app"].state.parts
    assert parts.settings.keys_file == tmp_path / "keys" and parts.settings.queue_tokens == 99
    assert parts.settings.origins == ("https://a.example",) and parts.settings.requests_per_minute == 5
    assert "other:clustering" in parts.catalogue.models and parts.catalogue.default.label == "clustering"


def test_indexes_are_opened_and_the_page_can_be_left_out(
    folder: Path, index_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import uvicorn

    seen: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: seen.update(app=app))
    code, _, err = typed(capsys, "serve", folder, "--index", f"notes={index_folder}", "--no-page")
    assert (code, err) == (0, "")
    parts = seen["app"].state.parts
    assert len(parts.searchers["notes"].index) == 4 and not parts.settings.page
    parts.searchers["notes"].index.close()


def test_only_this_machine_can_reach_it_and_an_open_server_is_warned_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import uvicorn

    seen: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: seen.update(options))
    monkeypatch.delenv("LIMBECK_API_KEYS", raising=False)
    assert typed(capsys, "serve", folder)[2] == ""
    assert seen["host"] == "127.0.0.1"
    assert "anyone who can reach 0.0.0.0 may ask" in typed(capsys, "serve", folder, "--host", "0.0.0.0")[2]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--default-task", "nope"], 1, "the default task does not fit"),
        (["--keys", "/nowhere/keys"], 1, "no keys in /nowhere/keys"),
        (["--queue-tokens", "0"], 1, "queue_tokens: "),
        (["--classifier", "topics=/nowhere"], 1, "/nowhere is no classifier"),
        (["--classifier", "topics"], 2, "NAME=FOLDER"),
        (["--index", "notes"], 2, "NAME=PLACE"),
        (["--index", "notes=/nowhere"], 1, "no index /nowhere: make one"),
        (["--index", "a=x", "--index", "a=y"], 2, "names 'a' twice"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_served(
    options: list[str], code: int, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import uvicorn

    monkeypatch.setenv("LIMBECK_DEBUG", "0")
    monkeypatch.setattr(uvicorn, "run", lambda *_, **__: pytest.fail("served"))
    found, _, err = typed(capsys, "serve", folder, *options)
    assert found == code and message in " ".join(err.split())
