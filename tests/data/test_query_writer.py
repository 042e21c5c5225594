"""Queries by a language model: asked for once, kept at once, and clean; against a server in a thread."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the modules there that are no tests

from http_server import Answer, Behaviour, Server, serving_at  # noqa: E402
from limbeck.config import QueryModel  # noqa: E402
from limbeck.data.query_writer import MAX_QUERY_CHARS, cache_file, write_queries  # noqa: E402
from limbeck.errors import DataError  # noqa: E402

KEY = "sk-very-secret-key-0123456789"


def saying(content: str | None) -> Answer:
    message = {"role": "assistant", "content": content}
    return 200, {}, {"object": "chat.completion", "choices": [{"index": 0, "message": message}]}


def asking(request: dict[str, Any]) -> Answer:
    """A right answer: a question that tells which document it is about."""
    return saying(f"What is {prompt_of(request).removeprefix('Ask: ')}?")


def failing(status: int, message: str = "because", **headers: str) -> Behaviour:
    return lambda request: (status, headers, {"error": {"message": message}})


def prompt_of(request: dict[str, Any]) -> str:
    return request["messages"][0]["content"]


def prompts(server: Server) -> list[str]:
    return [prompt_of(request) for request in server.requests]


def serving(*behaviours: Behaviour) -> AbstractContextManager[Server]:
    return serving_at("/v1/chat/completions", asking, behaviours)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """How long the client meant to sleep between tries; it does not."""
    asked: list[float] = []
    monkeypatch.setattr("openai._base_client.time.sleep", asked.append)
    return asked


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., QueryModel]:
    def made(server: Server, **changes: Any) -> QueryModel:
        body = {"model": "org/m", "base_url": server.url, "prompt": "Ask: {document}", "max_retries": 2}
        return QueryModel.model_validate(body | {"cache": str(tmp_path / "cache"), "timeout_seconds": 10} | changes)

    return made


def entries(settings: QueryModel) -> list[dict[str, str]]:
    return [json.loads(line) for line in cache_file(settings).read_text().splitlines() if line]


# --------------------------------------------------------------------------------------------- asking


def test_queries_come_in_the_order_of_the_documents_over_many_requests_at_once(settings):
    documents, steps = [f"text {i}" for i in range(40)], []
    with serving() as server:
        queries = write_queries(documents, settings(server), steps.append)
    assert queries == [f"What is text {i}?" for i in range(40)]
    assert sum(steps) == 40


def test_the_request_holds_the_document_cut_at_a_word_and_the_settings(settings):
    with serving() as server:
        write_queries(["one {document} three"], settings(server, max_chars=15, max_tokens=9, temperature=0.5))
    sent = {"model": "org/m", "max_tokens": 9, "temperature": 0.5}
    assert server.requests == [sent | {"messages": [{"role": "user", "content": "Ask: one {document}"}]}]
    assert [h["authorization"] for h in server.headers] == [f"Bearer {KEY}"]


def test_a_document_that_comes_twice_is_asked_for_once(settings):
    steps: list[int] = []
    with serving() as server:
        assert write_queries(["a", "b", "a"], settings(server), steps.append) == [
            "What is a?",
            "What is b?",
            "What is a?",
        ]
    assert sorted(prompts(server)) == ["Ask: a", "Ask: b"]
    assert sum(steps) == 3


def test_blank_documents_and_no_documents_are_not_asked_for(settings):
    with serving() as server:
        assert write_queries([" \n", ""], settings(server)) == [None, None]
        assert write_queries([], settings(server)) == []
    assert not server.requests


# ---------------------------------------------------------------------------------------------- cache


def test_a_second_call_sends_nothing_and_a_longer_one_asks_only_for_what_is_new(settings):
    steps: list[int] = []
    with serving() as server:
        first = write_queries(["a", "b"], settings(server))
        assert write_queries(["a", "b"], settings(server), steps.append) == first
        assert len(server.requests) == 2 and steps == [2]
        write_queries(["c", "b", "a"], settings(server))
    assert prompts(server)[2:] == ["Ask: c"]


def test_a_known_answer_needs_neither_a_server_nor_a_key(settings, monkeypatch):
    with serving() as server:
        asked = settings(server)
        write_queries(["a"], asked)
    monkeypatch.delenv("OPENAI_API_KEY")
    elsewhere = asked.model_copy(update={"base_url": "http://nowhere.invalid/v1"})
    assert write_queries(["a"], elsewhere) == ["What is a?"]


@pytest.mark.parametrize(
    "change", [{"model": "org/n"}, {"prompt": "{document}"}, {"max_chars": 9}, {"max_tokens": 9}, {"temperature": 1}]
)
def test_another_setting_that_an_answer_depends_on_asks_anew(settings, change):
    with serving() as server:
        write_queries(["a"], settings(server))
        write_queries(["a"], settings(server, **change))
        assert len(server.requests) == 2
        write_queries(["a"], settings(server, concurrency=1, timeout_seconds=9, requests_per_minute=6000))
    assert len(server.requests) == 2


@pytest.mark.parametrize("torn", [b'\n{"document": "ab', b"\n\x00\x00\x00", b'\n"half"', b"\n[1]", b"\n{}"])
def test_a_torn_line_is_left_out_and_spoils_no_other(settings, torn, caplog):
    with serving() as server:
        asked = settings(server)
        write_queries(["a"], asked)
        with open(cache_file(asked), "ab") as file:
            file.write(torn)
        assert write_queries(["a", "b"], asked) == ["What is a?", "What is b?"]
        assert prompts(server) == ["Ask: a", "Ask: b"]
        assert "1 torn line" in caplog.text
        assert write_queries(["a", "b"], asked) == ["What is a?", "What is b?"]
    assert len(server.requests) == 2


def test_an_answer_whose_line_was_torn_is_asked_for_again(settings):
    with serving() as server:
        asked = settings(server)
        write_queries(["a"], asked)
        whole = cache_file(asked).read_bytes()
        for end in range(0, len(whole), 9):
            cache_file(asked).write_bytes(whole[:end])
            before = len(server.requests)
            assert write_queries(["a"], asked) == ["What is a?"]
            assert len(server.requests) == before + 1
            assert write_queries(["a"], asked) == ["What is a?"]
            assert len(server.requests) == before + 1


_WRITER = """
import sys
from limbeck.config import QueryModel
from limbeck.data.query_writer import write_queries
write_queries(sys.argv[2].split(), QueryModel.model_validate_json(sys.argv[1]))
"""


def writer(documents: list[str], settings: QueryModel) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _WRITER, settings.model_dump_json(), " ".join(documents)])


def test_after_kill_9_only_what_was_not_answered_is_asked_for(settings):
    documents = [f"t{i}" for i in range(8)]
    with serving() as server:
        asked = settings(server, concurrency=1)
        process = writer(documents, asked)

        def kill(request: dict[str, Any]) -> Answer:
            os.kill(process.pid, signal.SIGKILL)
            return asking(request)

        server.behaviours[:] = [asking, asking, asking, kill]
        assert process.wait(60) == -signal.SIGKILL
        assert len(entries(asked)) == 3
        assert write_queries(documents, asked) == [f"What is {d}?" for d in documents]
    assert prompts(server) == [f"Ask: {d}" for d in [*documents[:4], *documents[3:]]]


def test_processes_that_write_at_the_same_time_lose_nothing(settings):
    documents = [f"t{i}" for i in range(60)]
    with serving() as server:
        asked = settings(server, concurrency=8)
        processes = [writer(documents[start : start + 40], asked) for start in (0, 20)]
        assert [process.wait(60) for process in processes] == [0, 0]
        sent = len(server.requests)
        assert write_queries(documents, asked) == [f"What is {d}?" for d in documents]
        assert len(server.requests) == sent
    assert len(entries(asked)) == sent >= 60


# -------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("answer", "query"),
    [
        ("\n  How long is it?  \nAnd how wide?", "How long is it?"),
        ('"How long is it?"', "How long is it?"),
        ("“How long is it?”", "How long is it?"),
        ("「長さは？」", "長さは？"),
        ("- How long is it?", "How long is it?"),
        ("1. How long is it?\n2. How wide?", "How long is it?"),
        ('Question: "How long is it?"', "How long is it?"),
        ("**Question:** How long is it?", "How long is it?"),
        ("**Question: How long is it?**", "How long is it?"),
        ("Question 1: How long is it?", "How long is it?"),
        ("问题：有多长？", "有多长？"),
        ("Here is a question:\n\nHow long is it?", "How long is it?"),
        ("<think>\nLong?\n</think>\n\nHow long is it?", "How long is it?"),
        ('Is "long" or "wide"', 'Is "long" or "wide"'),
        ('"long" or "wide"', '"long" or "wide"'),
        ("How long is a \ud83d?", "How long is a ?"),
        ("q" * MAX_QUERY_CHARS, "q" * MAX_QUERY_CHARS),
        ("q" * (MAX_QUERY_CHARS + 1), None),
        ("", None),
        (None, None),
        ('""', None),
        ("Question:", None),
        ("<think>\nHow long is it, and how", None),
        (" THE text  itself", None),
    ],
)
def test_an_answer_is_cleaned_and_one_of_no_use_is_none_and_not_asked_for_again(settings, answer, query, caplog):
    with serving(lambda request: saying(answer)) as server:
        assert write_queries(["The text itself"], settings(server)) == [query]
        assert write_queries(["The text itself"], settings(server)) == [query]
    assert len(server.requests) == 1
    assert ("nothing usable for 1 of 1 documents" in caplog.text) == (query is None)


# ----------------------------------------------------------------------------------- retries, refusals


def test_a_retry_after_is_obeyed(settings, pauses):
    with serving(failing(429, **{"Retry-After": "37"})) as server:
        assert write_queries(["a"], settings(server)) == ["What is a?"]
    assert pauses == [37.0] and len(server.requests) == 2


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (failing(401), r"at 127\.0\.0\.1:\d+ answered 401 \(.*because.*\): check the key in .* OPENAI_API_KEY"),
        (failing(404, "no model org/m"), r"answered 404 \(.*no model org/m.*\): check the source's model\.model"),
        (failing(400, "too long"), "answered 400 .*begins 'a' and has 1 characters.*lower max_chars of the source's"),
        (lambda request: (200, {}, "<html>hello</html>"), "not answer in the form of /v1/chat/completions .*base_url"),
        (lambda request: (200, {}, {"choices": []}), "expected one choice, got none"),
    ],
)
def test_a_refusal_says_what_to_do_and_is_not_asked_for_again(settings, behaviour, message, pauses):
    with serving(behaviour) as server, pytest.raises(DataError, match=message):
        write_queries(["a"], settings(server))
    assert len(server.requests) == 1


def test_what_was_answered_before_a_refusal_is_kept(settings, pauses):
    with serving(asking, asking, *[failing(500)] * 3) as server:
        asked = settings(server, concurrency=1)
        with pytest.raises(DataError, match=r"answered 500 .*after 3 tries"):
            write_queries(["a", "b", "c", "d"], asked)
        assert write_queries(["a", "b", "c", "d"], asked)[0] == "What is a?"
    assert prompts(server)[:5] == [f"Ask: {d}" for d in "abccc"]
    assert not {"Ask: a", "Ask: b"} & set(prompts(server)[5:])


def test_the_key_is_in_no_log_no_error_and_no_cache(settings, pauses, caplog):
    caplog.set_level(logging.DEBUG)
    with serving(asking, failing(401, f"you sent {KEY}")) as server:
        asked = settings(server, concurrency=1)
        with pytest.raises(DataError, match=r"\*\*\*") as error:
            write_queries(["a", "b"], asked)
    shown = "".join(traceback.format_exception(error.value)) + cache_file(asked).read_text()
    assert KEY not in shown + "".join(f"{r.getMessage()} {r.__dict__}" for r in caplog.records)


def test_half_a_character_is_refused_before_anything_is_sent(settings):
    with serving() as server, pytest.raises(DataError, match="document 1 .*not valid Unicode"):
        write_queries(["fine", "\ud800"], settings(server))
    assert not server.requests


def test_a_cache_that_cannot_be_written_says_what_to_do(settings, tmp_path):
    (tmp_path / "file").write_text("")
    with serving() as server, pytest.raises(DataError, match=r"cannot keep an answer in .*set `cache`"):
        write_queries(["a"], settings(server, cache=str(tmp_path / "file" / "cache")))
