"""Models made up for tests of search: a text is the sum of its words."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from limbeck.errors import ConfigError, TextError


class HashEncoder:
    """Each word has a fixed random direction; a text is the sum of its words. Counts what it was asked for."""

    def __init__(self, dim: int = 256, fingerprint: str = "hash-1", tasks: Sequence[str] = ()) -> None:
        self.dim, self.fingerprint, self.tasks = dim, fingerprint, tasks
        self.encoded: list[tuple[str, int]] = []
        self.asked: list[Any] = []

    def fingerprint_of(self, task: Any) -> str:
        return f"{self.fingerprint} {task}"

    def encode(self, texts: Sequence[str], *, role: str, task: Any = None, dim: int | None = None) -> np.ndarray:
        self.encoded.append((role, len(texts)))
        self.asked.append(task)
        vectors = np.stack([sum((_word(w, self.dim) for w in t.split()), np.zeros(self.dim)) for t in texts])
        vectors = vectors[:, : dim or self.dim]
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _word(word: str, dim: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(dim)


class WordModel(HashEncoder):
    """The same, as an index takes it: with adapters, prompts, and texts that it refuses or gives no direction."""

    max_tokens, truncated = 12, 0

    def __init__(self, dim: int = 64, fingerprint: str = "words-1", pooling: str = "last") -> None:
        super().__init__(dim, fingerprint, ["retrieval", "text-matching"])
        prompts = {"query": "Query: ", "document": "Document: "}
        self.spec = SimpleNamespace(name="word-model", pooling=pooling, prompts=prompts)
        self.texts: list[str] = []  # that it was asked for, but for queries

    def fingerprint_of(self, task: Any) -> str:
        if task not in self.tasks:
            raise ConfigError(f"unknown task {task!r}")
        return super().fingerprint_of(task)

    def route(self, texts: Sequence[str]) -> dict[str, float]:
        return {"retrieval": 1.0}

    def encode(self, texts: Sequence[str], *, role: str = "document", progress: Any = None, **how: Any) -> np.ndarray:
        if bad := [i for i, text in enumerate(texts) if "\ud800" in text]:
            raise TextError(bad[0], "is not valid Unicode")
        self.truncated = sum(len(text.split()) > self.max_tokens for text in texts)
        if not texts:
            return np.empty((0, how.get("dim") or self.dim), np.float32)
        self.texts += list(texts) if role == "document" else []
        if progress is not None:
            progress(len(texts))
        vectors = super().encode(texts, role=role, **how)
        return vectors * [[0.0] if "nowhere" in text else [1.0] for text in texts]
