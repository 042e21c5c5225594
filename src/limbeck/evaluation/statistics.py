"""How sure a score is: intervals over seeds, a paired bootstrap over queries, and the averages that MTEB shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from limbeck.errors import ConfigError, DataError
from limbeck.evaluation.results import ModelResult

_BLOCK_DRAWS = 1 << 20  # queries drawn at once: 8 MiB of indices, as much of differences


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its confidence interval. low and high are NaN for n = 1: one value does not tell how it varies."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Paired:
    """Mean of a − b over n queries, its bootstrap interval, and the two-sided p-value of "the mean is 0"."""

    difference: float
    low: float
    high: float
    p_value: float
    n: int
    wins: int  # queries on which a is better
    ties: int


@dataclass(frozen=True, slots=True)
class Averages:
    """Mean (Task) is over tasks, Mean (TaskType) over the means of the types, so that each type weighs the same."""

    mean_task: float
    mean_type: float
    by_type: dict[str, float]


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean of independent measurements, as of several seeds, with the interval of Student's t (n − 1 degrees).

    Raises DataError for no values or one that is no finite number, ConfigError for a level outside 0 … 1.
    """
    from scipy.stats import t

    _check_level(level)
    found = _finite(values)
    n, mean = len(found), float(found.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(t.ppf((1 + level) / 2, n - 1) * found.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def paired_bootstrap(
    a: Mapping[str, float],
    b: Mapping[str, float],
    *,
    rounds: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
    common_only: bool = False,
) -> Paired:
    """Does `a` beat `b`? Queries are drawn with replacement, each with both its scores, and the mean of a − b taken.

    The interval holds the middle `level` of the rounds' means (percentile bootstrap). The p-value is twice the share of
    rounds on the other side of 0, itself counted as one more round, so it is never 0: p < 1 − level where the interval
    leaves 0 out.

    Args:
        a: query id → score.
        b: query id → score, on the same queries.
        rounds: of drawing as many queries as there are.
        seed: the same seed gives the same answer.
        level: of the interval.
        common_only: take the queries that both have, instead of refusing two that differ.

    Raises DataError: queries that only one of them has, none in common, a score that is no finite number. ConfigError:
    rounds < 1, a level outside 0 … 1.
    """
    _check_level(level)
    if rounds < 1:
        raise ConfigError(f"a bootstrap needs at least 1 round, got {rounds}")
    common = sorted(a.keys() & b.keys())  # sorted: draws are by place, and must not depend on the order of a mapping
    if len(common) < len(a.keys() | b.keys()) and not common_only:
        alone = sorted(a.keys() ^ b.keys())
        raise DataError(
            f"{len(alone)} of {len(a.keys() | b.keys())} queries have a score on one side only, the first is "
            f"{alone[0]!r}: evaluate both on the same queries, or compare what they have in common (common_only)"
        )
    if not common:
        raise DataError("there is no query that both sides have a score of: evaluate both on one task")
    differences = _finite([a[query] - b[query] for query in common])
    means = _resampled_means(differences, rounds, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    beyond = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    return Paired(
        difference=float(differences.mean()),
        low=float(low),
        high=float(high),
        p_value=min(1.0, 2 * (int(beyond) + 1) / (rounds + 1)),
        n=len(differences),
        wins=int(np.count_nonzero(differences > 0)),
        ties=int(np.count_nonzero(differences == 0)),
    )


def averages(result: ModelResult) -> Averages:
    """Average a model's tasks as MTEB's leaderboard does: a task of several subsets counts once, with its mean score.

    Raises DataError when there are no tasks.
    """
    if not result.tasks:
        raise DataError(f"{result.model} has no scores to average: evaluate it on a task first")
    scores: dict[str, list[float]] = {}
    for task in result.tasks:
        scores.setdefault(task.type, []).append(task.score)
    by_type = {type_: float(np.mean(values)) for type_, values in scores.items()}
    return Averages(
        mean_task=float(np.mean([task.score for task in result.tasks])),
        mean_type=float(np.mean(list(by_type.values()))),
        by_type=by_type,
    )


def _resampled_means(values: npt.NDArray[np.float64], rounds: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """[rounds] means of as many draws with replacement, made in blocks."""
    n = len(values)
    block = max(1, _BLOCK_DRAWS // n)
    means = np.empty(rounds)
    for first in range(0, rounds, block):
        drawn = rng.integers(0, n, (min(block, rounds - first), n))
        means[first : first + block] = values[drawn].mean(axis=1)
    return means


def _finite(values: Sequence[float]) -> npt.NDArray[np.float64]:
    found = np.asarray(values, np.float64)
    if not found.size:
        raise DataError("there are no values to take a mean of")
    if not np.isfinite(found).all():
        raise DataError(f"{np.count_nonzero(~np.isfinite(found))} of {found.size} values are no finite numbers")
    return found


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"the level of an interval must lie between 0 and 1, as in 0.95, got {level}")
