"""A model whose vectors are said beforehand, and corpora of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from limbeck.dedup.corpus import Corpus, read_corpus
from limbeck.encoding.reading import Row
from limbeck.errors import TextError


class Dictated:
    """Texts → the vectors given for them, at length 1."""

    tasks = ("retrieval", "text-matching")
    max_tokens, truncated = 50, 0

    def __init__(self, vectors: Mapping[str, np.ndarray]) -> None:
        self.vectors = dict(vectors)
        self.dim = len(next(iter(self.vectors.values())))
        self.calls: list[list[str]] = []
        self.asked: list[Any] = []

    def route(self, texts: Any) -> dict[str, float]:
        return {"retrieval": 1.0}

    def encode(self, texts: list[str], *, task: Any, dim: int | None, progress: Any = None) -> np.ndarray:
        if not texts:
            return np.empty((0, dim or self.dim), np.float32)
        self.calls.append(list(texts))
        self.asked.append(task)
        if progress:
            progress(len(texts))
        if "\ud800" in "".join(texts):
            raise TextError(next(i for i, text in enumerate(texts) if "\ud800" in text), "is not valid Unicode")
        found = np.array([self.vectors[text] for text in texts], np.float32)[:, :dim]
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        return found / np.where(lengths, lengths, 1)


@contextmanager
def corpus_of(vectors: np.ndarray, lengths: list[int] | None = None) -> Iterator[Corpus]:
    """The corpus of texts with these vectors [N, D]; lengths are those of the texts, at least 6."""
    texts = [f"text{i:>{(lengths[i] if lengths else 8) - 4}}" for i in range(len(vectors))]
    model: Any = Dictated(dict(zip(texts, vectors, strict=True)))
    rows = (Row(text, None, f"line {i}") for i, text in enumerate(texts, start=1))
    with read_corpus(model, rows) as corpus:
        yield corpus


def families(count: int, each: int, dims: int, *, spread: float, seed: int = 0) -> np.ndarray:
    """`count` random directions with `each` vectors about them, one family after another: [count · each, dims]."""
    draw = np.random.default_rng(seed)
    middles = draw.normal(size=(count, dims))
    return (np.repeat(middles, each, axis=0) + spread * draw.normal(size=(count * each, dims))).astype(np.float32)
