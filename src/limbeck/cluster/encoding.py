"""Rows of files → the vectors that are clustered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from limbeck.encoding.reading import Row
from limbeck.errors import DataError, TextError


def default_task(encoder: Any) -> str | None:
    """The clustering adapter where a model has one; else None, which only goes with a model that has no adapters."""
    return "clustering" if "clustering" in encoder.tasks else None


def encoded(
    encoder: Any,
    rows: Sequence[Row],
    *,
    task: str | Mapping[str, float] | None,
    dim: int | None,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Vectors of rows, float32 [N, D].

    Args:
        encoder: as `limbeck.load` gives it.
        rows: N texts with their places.
        task: as of `Encoder.encode`.
        dim: likewise.
        progress: called with the number of texts done since the last call.

    Raises DataError that names the line: a text that cannot be encoded, or whose vector has no direction. As
    `Encoder.encode`.
    """
    try:
        vectors = encoder.encode([row.text for row in rows], task=task, dim=dim, progress=progress)
    except TextError as error:
        raise DataError(f"{rows[error.index].place} {error.reason}") from None
    lengths = np.linalg.norm(vectors, axis=1)
    if (bad := ~(np.isfinite(lengths) & (lengths > 0))).any():
        place = rows[int(bad.argmax())].place
        raise DataError(f"{place} has a vector that is all zeros or not finite: look at the text, or leave it out")
    return vectors
