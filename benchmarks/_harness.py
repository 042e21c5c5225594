"""What every benchmark prints: the machine, both sides measured in turn with their spread, and one line of JSON."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Literal

from limbeck import machine


def introduce(benchmark: str, what: str, packages: Sequence[str] = ()) -> None:
    """Print what is measured, on what, with which versions, and how busy the machine is."""
    here = machine.describe()
    versions = here.packages | {name: version(name) for name in packages}
    print(f"{benchmark}: {what}")
    print(f"machine   {here}")
    print(f"system    {here.os}, Python {here.python}")
    print(f"versions  {', '.join(f'{name} {number}' for name, number in versions.items())}")
    if here.load_average is not None:
        busy = "  <- busy: timings mean little" if here.load_average[0] > here.cores else ""
        print(f"load      {', '.join(f'{x:.2f}' for x in here.load_average)} (over 1, 5 and 15 min){busy}")
    print(flush=True)


class Clock:
    """Moments at which training steps begin."""

    def __init__(self) -> None:
        """Without any moment."""
        self._at: list[float] = []

    def tick(self) -> None:
        """A step begins now, and the one before has ended."""
        self._at.append(time.perf_counter())

    def seconds(self, warmup: int, timed: int) -> float:
        """From the end of the first `warmup` steps to that of `timed` more."""
        return self._at[warmup + timed] - self._at[warmup]


def alternate(sides: Mapping[str, Callable[[], float]], *, rounds: int = 5, warmup: int = 1) -> dict[str, list[float]]:
    """Measure every side once a round, in turn, so that a busy spell of the machine meets all of them.

    Args:
        sides: name → a function that runs its side once and returns what it measured.
        rounds: measurements kept of each side.
        warmup: rounds before them that are thrown away: page faults, caches, compilation.
    """
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(warmup + rounds):
        for name, run in sides.items():
            value = run()
            if i >= warmup:
                measured[name].append(value)
    return measured


def show(name: str, values: Sequence[float], unit: str) -> None:
    """Print one side: median, minimum and maximum."""
    median, low, high = statistics.median(values), min(values), max(values)
    print(f"{name:<44} {median:>12,.4g} {unit}   (min {low:,.4g}, max {high:,.4g}, n={len(values)})")


def conclude(
    benchmark: str,
    *,
    ours: tuple[str, Sequence[float]],
    peer: tuple[str, Sequence[float]],
    unit: str,
    better: Literal["less", "more"],
    also: Mapping[str, float] | None = None,
) -> None:
    """Print both sides, how many times better ours is, and as the last line one JSON object.

    The ratio is the median over rounds of peer / ours where less is better, of ours / peer where more is: above 1, ours
    wins. Both values of a round were measured one after the other.
    """
    show(*ours, unit)
    show(*peer, unit)
    pairs = list(zip(ours[1], peer[1], strict=True))
    ratios = [p / o if better == "less" else o / p for o, p in pairs]
    ratio = statistics.median(ratios)
    print(f"{'ratio':<44} {ratio:>12,.4g} x   (min {min(ratios):,.4g}, max {max(ratios):,.4g}; {better} is better)")
    load = machine.load_average()
    print(f"load at the end: {load[0]:.2f}" if load else "")
    result = {
        "benchmark": benchmark,
        "ours": statistics.median(ours[1]),
        "peer": statistics.median(peer[1]),
        "ratio": ratio,
        "unit": unit,
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        **(also or {}),
    }
    print(json.dumps({name: round(v, 6) if isinstance(v, float) else v for name, v in result.items()}), flush=True)
