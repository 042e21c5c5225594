"""What the report is put together from: tables, bars, and columns of a training log."""

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
class Table:
    """A table of finished texts; the first cell of a row is its header."""

    head: list[str]
    rows: list[list[str]]
    foot: list[str] | None = None


def column(metrics: Metrics, key: str) -> list[tuple[float, float]]:
    """(step, value) of each row that has both, as finite numbers."""
    return [(float(r["step"]), float(r[key])) for r in metrics if finite(r.get("step")) and finite(r.get(key))]


def finite(value: object) -> bool:
    """A number, and neither NaN nor infinite."""
    return isinstance(value, (int, float)) and math.isfinite(value)
