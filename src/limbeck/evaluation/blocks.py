"""What a page is put together from: headline, tiles, tables, bars, and columns of a training log."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Metrics = Sequence[Mapping[str, Any]]
"""Rows of a training log."""


@dataclass(frozen=True)
class Bar:
    """One bar. share: 0 … 1 of the bar's track."""

    name: str
    css: str
    share: float
    value: str


@dataclass(frozen=True)
class Headline:
    """The first sentence: `strong` is the measured part."""

    before: str
    strong: str
    after: str


@dataclass(frozen=True)
class Tile:
    """One headline number."""

    big: str
    label: str
    small: str


@dataclass(frozen=True)
class Table:
    """A table of finished texts; the first cell of a row is its header."""

    head: list[str]
    rows: list[list[str]]
    foot: list[str] | None = None
    best: frozenset[tuple[int, int]] = frozenset()  # (row, cell) that are set in bold
    names: int = 1  # so many cells of a row are words, and stand left


def column(metrics: Metrics, key: str) -> list[tuple[float, float]]:
    """(step, value) of each row that has both, as finite numbers."""
    return [(float(r["step"]), float(r[key])) for r in metrics if finite(r.get("step")) and finite(r.get(key))]


def finite(value: object) -> bool:
    """A number, and neither NaN nor infinite."""
    return isinstance(value, (int, float)) and math.isfinite(value)
