"""Does A beat B? Paired bootstrap over the queries of a task, for the models of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

from limbeck.evaluation import formatting as fmt
from limbeck.evaluation.columns import Column, Task
from limbeck.evaluation.statistics import Paired, paired_bootstrap

_MOST_PAIRED = 4  # with more models, each is compared with the first only: pairs grow with the square


@dataclass(frozen=True)
class Verdict:
    """One comparison of two models on one task; `ahead` has the higher mean."""

    task: Task
    ahead: str
    behind: str
    paired: Paired  # ahead minus behind
    left_out: int  # queries that only one of them has

    @property
    def certain(self) -> bool:
        """The 95% interval of the difference does not hold 0."""
        return self.paired.low > 0

    @property
    def interval(self) -> str:
        """The difference and its interval: "+0.012 [+0.004, +0.020]"."""
        p = self.paired
        return f"{fmt.change(p.difference)} [{fmt.change(p.low)}, {fmt.change(p.high)}]"

    @property
    def sentence(self) -> str:
        """In words: "A beats B by 0.012 [0.004, 0.020], 1,000 queries"."""
        p = self.paired
        numbers = f"{_signed(p.difference)} [{_signed(p.low)}, {_signed(p.high)}], {fmt.count(p.n)} queries"
        if self.certain:
            return f"{self.ahead} beats {self.behind} by {numbers}"
        return f"{self.ahead} and {self.behind} cannot be told apart: {numbers}"


def verdicts(columns: Sequence[Column], tasks: Sequence[Task], reference: Column | None = None) -> list[Verdict]:
    """Every pair of models on every task whose queries both have scores of.

    With a reference, or with more than four models, each is compared with the reference, or the first. Scores of
    several seeds are averaged by query.
    """
    first = reference or columns[0]
    every = reference is None and len(columns) <= _MOST_PAIRED
    pairs = list(combinations(columns, 2)) if every else [(first, c) for c in columns if c is not first]
    found = []
    for task in tasks:
        items = {column.name: _by_item(column, task.name) for column in columns}
        for one, other in pairs:
            a, b = items[one.name], items[other.name]
            if a.keys() & b.keys():
                found.append(_verdict(task, (one.name, a), (other.name, b)))
    return found


def _verdict(task: Task, one: tuple[str, dict[str, float]], other: tuple[str, dict[str, float]]) -> Verdict:
    (_, a), (_, b) = one, other
    if sum(a[q] - b[q] for q in a.keys() & b.keys()) < 0:
        one, other = other, one
    paired = paired_bootstrap(one[1], other[1], common_only=True)
    return Verdict(task, one[0], other[0], paired, left_out=len(a.keys() ^ b.keys()))


def _by_item(column: Column, task: str) -> dict[str, float]:
    """Query → its score, mean over the seeds; queries that every seed has."""
    runs = [t.by_item for t in column.found(task)]
    if not runs:
        return {}
    common = set.intersection(*(set(run) for run in runs))
    return {query: fmean(run[query] for run in runs) for query in runs[0] if query in common}


def _signed(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")
