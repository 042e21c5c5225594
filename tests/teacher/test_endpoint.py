"""A teacher behind HTTP, against a server in a thread that misbehaves in every way that real ones do."""

from __future__ import annotations

import base64
import logging
import shutil
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the modules there that are no tests

from http_server import Answer, Behaviour, Server, serving_at  # noqa: E402
from limbeck import config  # noqa: E402
from limbeck.errors import DataError, TeacherError  # noqa: E402
from limbeck.teacher.backends import load_teacher  # noqa: E402
from limbeck.teacher.endpoint import EndpointTeacher  # noqa: E402

DIM = 4
KEY = "sk-very-secret-key-0123456789"


def vector(text: str) -> list[float]:
    numbers = np.frombuffer(text.encode().ljust(DIM, b"\1")[:DIM], np.uint8).astype(float)
    return (numbers / np.linalg.norm(numbers)).tolist()


def expected(texts: list[str]) -> np.ndarray:
    return np.array([vector(t) for t in texts], np.float32)


def right(request: dict[str, Any]) -> Answer:
    """What a well-behaved server answers."""
    data = [{"object": "embedding", "index": i, "embedding": vector(t)} for i, t in enumerate(request["input"])]
    return 200, {}, {"object": "list", "model": request["model"], "data": data}


def serving(*behaviours: Behaviour) -> AbstractContextManager[Server]:
    return serving_at("/v1/embeddings", right, behaviours)


def endpoint(url: str, **changes: Any) -> EndpointTeacher:
    body = {"type": "openai", "model": "m", "dim": DIM, "base_url": url, "max_retries": 2, "timeout_seconds": 10}
    teacher = load_teacher(config.Teacher.model_validate(body | changes))
    assert isinstance(teacher, EndpointTeacher)
    return teacher


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


def failing(status: int, message: str = "because", **headers: str) -> Callable[[dict[str, Any]], Answer]:
    return lambda request: (status, headers, {"error": {"message": message}})


def changed(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[dict[str, Any]], Answer]:
    """A right answer, its `data` replaced by what `change` returns."""

    def behaviour(request: dict[str, Any]) -> Answer:
        status, headers, body = right(request)
        return status, headers, body | {"data": change(body["data"])}

    return behaviour


# ----------------------------------------------------------------------------------------- right answers


def test_vectors_come_in_the_order_of_the_texts_over_many_requests_at_once():
    texts, steps = [f"{i:04}" for i in range(103)], []
    with serving() as server:
        vectors = endpoint(server.url, texts_per_request=10, concurrency=4).encode(texts, progress=steps.append)
    np.testing.assert_allclose(vectors, expected(texts), atol=1e-6)
    assert vectors.dtype == np.float32
    assert sorted(len(r["input"]) for r in server.requests) == [3] + [10] * 10
    assert sum(steps) == 103


def test_the_instruction_and_the_model_are_sent_and_the_key_as_a_bearer_token():
    with serving() as server:
        endpoint(server.url).encode(["b"], instruction="a: ")
    assert server.requests[0]["input"] == ["a: b"] and server.requests[0]["model"] == "m"
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_vectors_in_base64_are_read_as_those_in_numbers():
    def in_base64(data):
        pack = lambda v: base64.b64encode(np.array(v, "<f4").tobytes()).decode()  # noqa: E731
        return [item | {"embedding": pack(item["embedding"])} for item in data]

    with serving(changed(in_base64)) as server:
        np.testing.assert_allclose(endpoint(server.url).encode(["ab", "cd"]), expected(["ab", "cd"]), atol=1e-6)


def test_an_answer_in_another_order_is_put_in_order_by_its_indices():
    with serving(changed(lambda data: data[::-1])) as server:
        np.testing.assert_allclose(endpoint(server.url).encode(["ab", "cd"]), expected(["ab", "cd"]), atol=1e-6)


def test_vectors_of_any_length_are_brought_to_unit_length():
    with serving(changed(lambda data: [d | {"embedding": [7 * x for x in d["embedding"]]} for d in data])) as server:
        np.testing.assert_allclose(endpoint(server.url).encode(["ab"]), expected(["ab"]), atol=1e-6)


def test_no_texts_send_nothing():
    with serving() as server:
        assert endpoint(server.url).encode([]).shape == (0, DIM)
    assert not server.requests


def test_truncation_is_asked_of_the_server_only_where_the_recipe_sets_max_tokens():
    with serving() as server:
        endpoint(server.url).encode(["a"])
        endpoint(server.url, max_tokens=8192).encode(["a"])
    assert [r.get("truncate_prompt_tokens") for r in server.requests] == [None, 8192]


# ------------------------------------------------------------------------------------------- long texts


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> str:
    """Folder with a tokenizer that makes a token of each word."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("words")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(str(folder))
    return str(folder)


LONG = "aa bb cc dd ee"


def test_a_long_text_is_sent_in_pieces_among_the_others_and_put_together_again(words):
    steps = []
    with serving() as server:
        teacher = endpoint(
            server.url, tokenizer=words, max_tokens=3, long_texts="chunks", texts_per_request=2, concurrency=1
        )
        found = teacher.encode(["xx", LONG, "yy"], progress=steps.append)
    assert [r["input"] for r in server.requests] == [["xx", "aa bb cc "], ["dd ee", "yy"]]
    assert all("truncate_prompt_tokens" not in r for r in server.requests)  # the server would cut without a word
    np.testing.assert_allclose(found[[0, 2]], expected(["xx", "yy"]), atol=1e-6)
    first, second = expected(["aa bb cc ", "dd ee"])
    mean = (3 * first + 2 * second) / 5
    np.testing.assert_allclose(found[1], mean / np.linalg.norm(mean), atol=1e-6)
    assert (teacher.chunked, teacher.truncated, sum(steps)) == (1, 0, 3)


def test_where_a_tokenizer_is_named_texts_are_cut_here_counted_and_logged(words, caplog):
    with serving() as server, caplog.at_level(logging.WARNING, logger="limbeck"):
        teacher = endpoint(server.url, tokenizer=words, max_tokens=3)
        found = teacher.encode([LONG, "xx"], instruction="q ")
    assert server.requests[0]["input"] == ["q aa bb ", "q xx"] and "truncate_prompt_tokens" not in server.requests[0]
    np.testing.assert_allclose(found, expected(["q aa bb ", "q xx"]), atol=1e-6)
    assert (teacher.chunked, teacher.truncated) == (0, 1)
    assert [r.getMessage() for r in caplog.records if r.name.startswith("limbeck")] == [
        "1 of 2 texts are longer than the 3 tokens that teacher m reads, and are cut there"
    ]


def test_without_a_tokenizer_only_the_server_knows_what_it_cuts():
    assert endpoint("http://a:1/v1", max_tokens=3).truncated is None


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({}, "set teacher.max_tokens to what the model reads and .* teacher.long_texts=chunks"),
        ({"max_tokens": 9}, "set teacher.tokenizer.* or unset teacher.max_tokens"),
        ({"max_tokens": 9, "tokenizer": "here"}, "lower teacher.max_tokens, if the server counts more tokens"),
    ],
)
def test_a_server_that_finds_a_text_too_long_brings_the_settings_to_change(settings, advice, words):
    if "tokenizer" in settings:
        settings = settings | {"tokenizer": words}
    said = "This model's maximum context length is 8 tokens, however you requested 9 tokens"
    with serving(failing(400, said)) as server, pytest.raises(TeacherError, match=rf"maximum context length.*{advice}"):
        endpoint(server.url, **settings).encode([LONG])


def test_a_tokenizer_that_is_not_there_is_named(tmp_path):
    with serving() as server, pytest.raises(TeacherError, match="teacher.tokenizer .*gone cannot be loaded .*hub id"):
        endpoint(server.url, tokenizer=str(tmp_path / "gone"), max_tokens=3).encode(["a"])
    assert not server.requests


def test_a_fingerprint_tells_how_long_texts_are_read_and_by_which_tokenizer(words, tmp_path):
    def fingerprint(**changes: Any) -> str:
        return endpoint("http://a:1/v1", max_tokens=9, **changes).fingerprint

    copy = shutil.copytree(words, tmp_path / Path(words).name)
    plain, cut_here = fingerprint(), fingerprint(tokenizer=words)
    in_pieces = [fingerprint(tokenizer=words, long_texts="chunks", chunk_overlap=n) for n in (0, 2)]
    assert plain == "m@a:1/v1 max_tokens=9"
    assert len({plain, cut_here, *in_pieces}) == 4
    assert fingerprint(tokenizer=str(copy)) == cut_here
    (copy / "tokenizer.json").write_text("{}")
    assert fingerprint(tokenizer=str(copy)) != cut_here


# ------------------------------------------------------------------------------------- retries and rates


def test_a_server_that_fails_and_recovers_is_asked_again_later_each_time(pauses):
    with serving(failing(500), failing(503)) as server:
        np.testing.assert_allclose(endpoint(server.url).encode(["ab"]), expected(["ab"]), atol=1e-6)
    assert len(server.requests) == 3
    first, second = pauses
    assert 0 < first <= 0.5 < second <= 1.0  # doubled, less a random part


def test_a_retry_after_is_obeyed(pauses):
    with serving(failing(429, **{"Retry-After": "37"})) as server:
        endpoint(server.url).encode(["ab"])
    assert pauses == [37.0] and len(server.requests) == 2


def test_the_rate_counts_retries_too(pauses):
    with serving(failing(500), failing(500)) as server:
        teacher, begun = endpoint(server.url, requests_per_minute=1), []
        teacher._endpoint.limiter.wait = lambda: begun.append(1)  # type: ignore[method-assign]
        teacher.encode(["ab"])
    assert len(begun) == len(server.requests) == 3


# -------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (failing(401), r"answered 401 \(.*because.*\): check the key in the environment variable OPENAI_API_KEY"),
        (failing(403), "answered 403 .*may not use this model"),
        (failing(404, "no model m"), r"answered 404 \(.*no model m.*\): check teacher.model, and teacher.base_url"),
        (failing(400, "too long"), r"answered 400 .*longest of this request is text 1, 'long text', 9 characters"),
        (failing(413), "answered 413 .*lower teacher.texts_per_request"),
        (lambda request: (200, {}, "<html>hello</html>"), "does not answer in the form of /v1/embeddings .*base_url"),
        (lambda request: (200, {}, {"detail": "hello"}), "does not answer in the form of /v1/embeddings"),
        (changed(lambda data: data[:1]), "expected 2 vectors, got 1"),
        (changed(lambda data: []), "does not answer in the form of /v1/embeddings"),
        (changed(lambda data: [d | {"index": 0} for d in data]), "expected the indices 0 to 1, each once"),
        (
            changed(lambda data: [d | {"embedding": [1.0] * 3} for d in data]),
            "expected 4 dims, got 3: set teacher.dim=3",
        ),
        (changed(lambda data: [data[0], data[1] | {"embedding": [1.0]}]), r"vectors of one width, got \[1, 4\]"),
        (changed(lambda data: [data[0], data[1] | {"embedding": [0.0] * 4}]), "zeros to text 1, 'long text'"),
        (changed(lambda data: [data[0], data[1] | {"embedding": [None] * 4}]), "NaN"),
    ],
)
def test_an_answer_that_does_not_fit_says_what_to_do(behaviour, message, pauses):
    with serving(behaviour) as server, pytest.raises(TeacherError, match=message):
        endpoint(server.url).encode(["ab", "long text"])
    assert len(server.requests) == 1  # asking again would not help


def test_a_server_that_stays_busy_is_given_up_with_the_dials_to_turn(pauses):
    with (
        serving(*[failing(429)] * 3) as server,
        pytest.raises(TeacherError, match=r"answered 429 .*after 3 tries: lower teacher.requests_per_minute"),
    ):
        endpoint(server.url).encode(["ab"])
    assert len(server.requests) == 3


def test_a_server_that_stays_broken_is_given_up(pauses):
    with (
        serving(*[failing(500)] * 3) as server,
        pytest.raises(TeacherError, match=r"127\.0\.0\.1:\d+ answered 500 .*after 3 tries"),
    ):
        endpoint(server.url).encode(["ab"])


def test_a_server_that_hangs_is_given_up_after_the_timeout(pauses):
    with serving() as server:

        def hang(request: dict[str, Any]) -> Answer:
            server.closing.wait(30)
            return right(request)

        server.behaviours[:] = [hang, hang]
        with pytest.raises(TeacherError, match=r"did not answer within 0\.2 s, after 2 tries: raise teacher.timeout"):
            endpoint(server.url, timeout_seconds=0.2, max_retries=1).encode(["ab"])
        server.closing.set()


def test_a_server_that_is_not_there_is_named(pauses):
    with serving() as server:
        pass
    with pytest.raises(TeacherError, match=r"at 127\.0\.0\.1:\d+ cannot be reached .*check teacher.base_url"):
        endpoint(server.url).encode(["ab"])


def test_one_refusal_ends_the_call_without_sending_the_rest(pauses):
    with serving() as server:

        def slow(request: dict[str, Any]) -> Answer:
            server.closing.wait(0.05)
            return right(request)

        server.behaviours[:] = [failing(401), *[slow] * 200]
        with pytest.raises(TeacherError, match="401"):
            endpoint(server.url, texts_per_request=1, concurrency=2).encode([f"{i}" for i in range(200)])
    assert len(server.requests) < 100


def test_a_lone_surrogate_is_refused_before_anything_is_sent():
    with serving() as server, pytest.raises(DataError, match="text 1 .*not valid Unicode"):
        endpoint(server.url).encode(["fine", "\ud800"])
    assert not server.requests


# --------------------------------------------------------------------------------------------- the key


def test_a_local_server_needs_no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with serving() as server:
        assert endpoint(server.url).encode(["ab"]).shape == (1, DIM)


def test_a_missing_key_says_which_variable_to_set(monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    teacher = endpoint("https://teacher.invalid/v1", api_key_env="MY_KEY")
    with pytest.raises(TeacherError, match="at teacher.invalid needs a key: set the environment variable MY_KEY"):
        teacher.encode(["ab"])


def test_the_key_is_in_no_log_no_error_no_fingerprint_and_no_repr(caplog, pauses, monkeypatch):
    monkeypatch.setenv("MY_KEY", f"  {KEY}\n")
    caplog.set_level(logging.DEBUG)
    echo = f"you sent Bearer {KEY}, {KEY[:9]}\n{KEY}"
    behaviours = [failing(500, echo), failing(429, echo), failing(401, echo)]
    with serving(*behaviours) as server:
        teacher = endpoint(server.url, api_key_env="MY_KEY")
        with pytest.raises(TeacherError, match=r"\*\*\*") as error:
            teacher.encode(["ab"])
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    shown = "".join(traceback.format_exception(error.value)) + teacher.fingerprint + repr(teacher)
    shown += "".join(f"{r.getMessage()} {r.__dict__}" for r in caplog.records)
    assert KEY not in shown
    assert error.value.__context__ is None


def test_a_password_in_the_url_is_refused_without_repeating_it():
    with pytest.raises(
        TeacherError, match="base_url of localhost holds a user or password: .* OPENAI_API_KEY"
    ) as error:
        endpoint("http://user:hunter2@localhost/v1")
    assert "hunter2" not in str(error.value)


def test_a_fingerprint_names_the_server_unless_a_revision_vouches_for_the_model():
    assert endpoint("http://a:1/v1/").fingerprint == "m@a:1/v1"
    assert endpoint("http://b:2/v1", revision="r1").fingerprint == endpoint("http://a:1/v1", revision="r1").fingerprint
    assert endpoint("http://a:1/v1", revision="r1", max_tokens=9).fingerprint == "m@r1 max_tokens=9"
