"""A model made up for tests: fast, exact, and it knows what it was asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from limbeck import compress
from limbeck.errors import TextError


class CountingEncoder:
    """Its vectors count the letters a to h, and one; a text over `max_tokens` letters is cut."""

    dim, max_tokens, truncated = 8, 50, 0

    def __init__(self, name: str = "counting") -> None:
        self.name, self.runtime = name, SimpleNamespace(backend="numpy", precision="fp32", device="cpu")
        self.calls: list[list[str]] = []  # texts of each call of `encode`
        self.routed: list[list[str]] = []

    def fingerprint_of(self, task: Any, **_: Any) -> str:
        return f"{self.name} {task}"

    def route(self, texts: Any, *, role: str) -> dict[str, float]:
        self.routed.append(list(texts))
        return {"clustering": 1.0}

    def encode(self, texts: list[str], *, dim: int | None = None, precision: Any = "float32", **options: Any) -> Any:
        self.calls.append(list(texts))
        for i, text in enumerate(texts):
            if "\ud800" in text:
                raise TextError(i, "is not valid Unicode")
            if len(text) > self.max_tokens and options.get("on_long") == "error":
                raise TextError(i, f"has {len(text)} tokens")
        self.truncated = sum(len(text) > self.max_tokens for text in texts)
        if options.get("progress"):
            options["progress"](len(texts))
        counts = np.array([[t.count(letter) + 1 for letter in "abcdefgh"] for t in texts], np.float32).reshape(-1, 8)
        return compress.compress(compress.truncate(counts - 1.5, dim or self.dim), precision)
