"""A mean over seeds and queries, and how sure it is when another seed or another query might have been drawn.

Every seed answers the same queries, so that its scores share their luck: neither may be taken for the whole of the
chance. S: seeds, Q: queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from limbeck.errors import DataError


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, its confidence interval, and the two-sided p-value of "it is `null`". NaN where nothing tells."""

    mean: float
    low: float
    high: float
    p_value: float
    seeds: int
    queries: int  # 0 = one value a seed


def crossed_mean(values: npt.ArrayLike, *, level: float = 0.95, null: float = 0.0) -> Estimate:
    """Mean of a table [S, Q] whose rows (seeds) and columns (queries) are both samples, or of [S], a value a seed.

    With M_s, M_q and M_r the mean squares of rows, columns and what is left, the mean's variance is
    (M_s + M_q − M_r) / (S · Q), taken as at least the larger of M_s and M_q over S · Q; its degrees of freedom are
    Satterthwaite's, and the interval is Student's t. (Two crossed random effects, as in multi-reader multi-case
    studies: Hillis et al. 2005, doi 10.1002/sim.2024.) Of values [S] it is the plain t interval. One seed leaves the
    chance of seeds out, so its interval and p-value are NaN.

    Raises DataError: no values, or one that is no finite number.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.ndim not in (1, 2) or not table.size:
        raise DataError(f"expected values of seeds [S] or of seeds and queries [S, Q], got shape {table.shape}")
    if not np.isfinite(table).all():
        raise DataError(f"{np.count_nonzero(~np.isfinite(table))} of {table.size} values are no finite numbers")
    seeds, queries = len(table), table.shape[1] if table.ndim == 2 else 0
    mean = float(table.mean())
    if seeds < 2:
        return Estimate(mean, math.nan, math.nan, math.nan, seeds, queries)
    variance, freedom = _of_seeds(table) if queries < 2 else _of_both(table)
    if variance <= 0:  # the same everywhere
        certain = mean == null
        return Estimate(mean, mean, mean, 1.0 if certain else 0.0, seeds, queries)
    from scipy.stats import t

    error = math.sqrt(variance)
    half = float(t.ppf((1 + level) / 2, freedom)) * error
    p_value = float(2 * t.sf(abs(mean - null) / error, freedom))
    return Estimate(mean, mean - half, mean + half, p_value, seeds, queries)


def _of_seeds(table: npt.NDArray[np.float64]) -> tuple[float, float]:
    rows = table.reshape(len(table), -1).mean(axis=1)
    return float(rows.var(ddof=1)) / len(rows), len(rows) - 1


def _of_both(table: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Variance of the mean, and its degrees of freedom."""
    seeds, queries = table.shape
    rows, columns = table.mean(axis=1), table.mean(axis=0)
    rest = table - rows[:, None] - columns[None, :] + table.mean()
    of_rest = (seeds - 1) * (queries - 1)
    squares = {
        "seeds": (queries * float(rows.var(ddof=1)), seeds - 1),
        "queries": (seeds * float(columns.var(ddof=1)), queries - 1),
        "rest": (float((rest**2).sum()) / of_rest, of_rest),
    }
    (by_seed, s), (by_query, q), (left, r) = squares["seeds"], squares["queries"], squares["rest"]
    total = by_seed + by_query - left
    larger, freedom = max(((by_seed, float(s)), (by_query, float(q))))
    if total > larger:
        freedom = total**2 / (by_seed**2 / s + by_query**2 / q + left**2 / r)
        return total / (seeds * queries), freedom
    return larger / (seeds * queries), freedom


def holm(p_values: list[float]) -> list[float]:
    """p-values of several questions of one experiment, so that any being wrong stays as rare as with one alone.

    (Holm 1979.) NaN stays NaN, and counts as a question.
    """
    order = sorted(range(len(p_values)), key=lambda i: math.inf if math.isnan(p_values[i]) else p_values[i])
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(order):
        if not math.isnan(p_values[i]):
            highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
            adjusted[i] = highest
    return adjusted
