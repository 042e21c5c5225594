"""A stream gives what one call gives, batch after batch, and takes no more texts than it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_adapters import adapted_bundle
from tiny_models import WIDTH, student

from limbeck.errors import ConfigError, TextError
from limbeck.model.encoder import Encoder
from limbeck.model.loading import load
from limbeck.model.router import Router

TEXTS = [
    "a",
    "",
    "join two tables",
    "Split the string at the first occurrence of sep. " * 9,
    "äöü 🙂",
    " x",
    "key " * 20,
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, bert: Path) -> Encoder:
    router = Router(("retrieval", "clustering"), torch.ones(2, WIDTH), torch.zeros(2))
    section = student(init="pruned", pruned={"layers": [0, 2]})
    folder = tmp_path_factory.mktemp("stream") / "model"
    adapted_bundle(folder, section, bert, ("retrieval", "clustering"), router=router)
    return load(folder, device="cpu", precision="fp32")


class Texts:
    """A generator of texts that knows how many were taken, and whether it was closed."""

    def __init__(self, texts: list[str], fails_after: int | None = None) -> None:
        self.taken, self.closed, self.texts, self.fails_after = 0, False, texts, fails_after

    def __iter__(self) -> Iterator[str]:
        try:
            for text in self.texts:
                if self.taken == self.fails_after:
                    raise OSError("the source is gone")
                self.taken += 1
                yield text
        finally:
            self.closed = True


@given(texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=40), max_size=10), chunk=st.integers(1, 12))
@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_stream_in_chunks_of_any_size_is_the_whole(encoder: Encoder, texts: list[str], chunk: int) -> None:
    options: dict[str, Any] = {"task": "retrieval", "role": "query", "dim": 16}
    batches = list(encoder.encode_stream(iter(texts), chunk=chunk, **options))
    assert [len(b) for b in batches] == [len(texts[i : i + chunk]) for i in range(0, len(texts), chunk)]
    together = np.concatenate([np.empty((0, 16), np.float32), *batches])
    np.testing.assert_allclose(together, encoder.encode(texts, **options), atol=1e-5, rtol=0)
    for start, batch in zip(range(0, len(texts), chunk), batches, strict=True):
        assert np.array_equal(batch, encoder.encode(texts[start : start + chunk], **options))


@pytest.mark.parametrize("precision", ["float32", "int8", "binary", "ubinary"])
def test_a_batch_is_what_encode_returns_at_every_precision(encoder: Encoder, precision: Any) -> None:
    options: dict[str, Any] = {
        "task": {"retrieval": 0.5, "clustering": 0.5},
        "precision": precision,
        "batch_tokens": 64,
    }
    batches = list(encoder.encode_stream(TEXTS, chunk=3, **options))
    for start, batch in zip((0, 3, 6), batches, strict=True):
        expected = encoder.encode(TEXTS[start : start + 3], **options)
        for ours, theirs in zip(*(x if isinstance(x, tuple) else (x,) for x in (batch, expected)), strict=True):
            assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


def test_a_text_is_taken_when_its_batch_is_asked_for_and_not_before(encoder: Encoder) -> None:
    texts = Texts(["word"] * 1_000_000)
    stream = encoder.encode_stream(iter(texts), chunk=4, task="retrieval")
    assert texts.taken == 0
    for batch in range(1, 6):
        next(stream)
        assert texts.taken == 4 * batch


def test_who_stops_early_closes_the_generator_of_texts(encoder: Encoder) -> None:
    texts = Texts(TEXTS)
    source = iter(texts)
    stream = encoder.encode_stream(source, chunk=2, task="retrieval")
    next(stream)
    assert not texts.closed
    stream.close()  # type: ignore[attr-defined]
    assert texts.closed
    assert texts.taken == 2


def test_an_error_of_the_source_comes_after_the_batches_before_it(encoder: Encoder) -> None:
    stream = encoder.encode_stream(iter(Texts(TEXTS, fails_after=5)), chunk=2, task="retrieval")
    assert [len(next(stream)), len(next(stream))] == [2, 2]
    with pytest.raises(OSError, match="the source is gone"):
        next(stream)


def test_auto_is_settled_by_the_first_batch_and_kept(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = TEXTS[:3], TEXTS[3:6]
    blends = {tuple(first): {"retrieval": 0.75, "clustering": 0.25}, tuple(second): {"clustering": 1.0}}
    monkeypatch.setattr(encoder, "route", lambda texts, *, role: blends[tuple(texts)])
    found = list(encoder.encode_stream([*first, *second], chunk=3, task="auto"))
    assert np.array_equal(found[0], encoder.encode(first, task=blends[tuple(first)]))
    assert np.array_equal(found[1], encoder.encode(second, task=blends[tuple(first)]))
    assert not np.allclose(found[1], encoder.encode(second, task="auto"), atol=1e-3)


def test_an_error_counts_from_the_first_text_of_all(encoder: Encoder) -> None:
    stream = encoder.encode_stream([*TEXTS, "\ud800"], chunk=3, task="retrieval")
    next(stream), next(stream)
    with pytest.raises(TextError, match="^text 7 is not valid Unicode") as caught:
        next(stream)
    assert caught.value.index == 7
    long = encoder.encode_stream(["a", "b", "c", "word " * 99], chunk=2, task="retrieval", on_long="error")
    next(long)
    with pytest.raises(TextError, match=r"^text 3 has \d+ tokens, over the limit of 32"):
        next(long)


def test_truncated_tells_of_the_last_batch(encoder: Encoder) -> None:
    counted = []
    for _ in encoder.encode_stream(["a", "word " * 99, "b", "c", "word " * 98], chunk=2, task="retrieval"):
        counted.append(encoder.truncated)
    assert counted == [1, 0, 1]


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("one text", {"task": "retrieval"}, "got one str"),
        (["a"], {"task": ["retrieval"]}, "one task, or one blend"),
        (["a"], {"task": "retrieval", "chunk": 0}, "chunk must be at least 1"),
        (["a"], {"task": "nonsense"}, "unknown task 'nonsense'"),
        (["a"], {}, "`task` is needed"),
        (["a"], {"task": "retrieval", "dim": 99}, "dim must be from 1 to"),
    ],
)
def test_what_does_not_fit_is_said_at_once(encoder: Encoder, texts: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        encoder.encode_stream(texts, **options)


def test_no_texts_are_no_batches(encoder: Encoder) -> None:
    assert list(encoder.encode_stream([], task="auto")) == []
