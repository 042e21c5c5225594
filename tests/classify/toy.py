"""A model made up for tests, and labelled vectors whose best answer is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from limbeck.errors import ConfigError, TextError


class LetterModel:
    """Its vectors count the letters a to h; the task decides how much "a" counts."""

    dim, max_tokens, truncated = 8, 50, 0

    def __init__(self, name: str = "letters", tasks: Sequence[str] = ("classification", "clustering")) -> None:
        self.spec, self.tasks = SimpleNamespace(name=name), list(tasks)
        self.calls: list[list[str]] = []
        self.before: Callable[[int], None] = lambda texts: None  # called with the number of texts of each call

    def fingerprint_of(self, task: Any, **_: Any) -> str:
        self._check(task)
        return f"{self.spec.name} {task}"

    def route(self, texts: Sequence[str], **_: Any) -> dict[str, float]:
        return {"classification": 0.75, "clustering": 0.25}

    def encode(self, texts: Sequence[str], *, task: Any = None, dim: int | None = None, **options: Any) -> np.ndarray:
        self._check(task)
        self.before(len(texts))
        for i, text in enumerate(texts):
            if "\ud800" in text:
                raise TextError(i, "is not valid Unicode")
        self.calls.append(list(texts))
        self.truncated = sum(len(text) > self.max_tokens for text in texts)
        if options.get("progress"):
            options["progress"](len(texts))
        counts = np.array([[t.count(letter) for letter in "abcdefgh"] for t in texts], np.float32).reshape(-1, 8) + 0.1
        counts[:, 0] *= 2 if task == "clustering" else 1
        counts = counts[:, : dim or self.dim]
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    def _check(self, task: Any) -> None:
        names = list(task) if isinstance(task, dict) else [task] if task is not None else []
        if (task is None and self.tasks) or not set(names) <= set(self.tasks):
            raise ConfigError(f"unknown task {task!r}; known are {', '.join(self.tasks)}")


def clouds(each: int, *, labels: int = 3, spread: float = 0.6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors [labels · each, 16] around the first axes, and the places of their labels."""
    rng = np.random.default_rng(seed)
    targets = np.repeat(np.arange(labels), each)
    vectors = np.eye(16)[targets] + spread * rng.normal(size=(len(targets), 16))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), targets
