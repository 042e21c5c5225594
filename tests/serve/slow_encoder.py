"""An encoder that stands still until it is told to go on."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

SECRET = "xyzzysecretxyzzy"  # in the errors of one that fails


class Slow:
    """An encoder whose passes wait until they are let go, or fail."""

    def __init__(self, encoder: Any) -> None:
        self._encoder, self.passes = encoder, 0
        self.go, self.began = threading.Event(), threading.Event()
        self.fails = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_rows(self, rows: list[np.ndarray], *rest: Any, **options: Any) -> Any:
        self.passes += 1
        self.began.set()
        if self.fails:
            raise RuntimeError(f"cannot compute {SECRET}")
        assert self.go.wait(20)
        return self._encoder.encode_rows(rows, *rest, **options)
