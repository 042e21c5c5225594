"""Scores and contrasts of an experiment as a reader wants them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from limbeck.ablation.experiments import BIT_LOSS, HELD_OUT, RANK
from limbeck.ablation.results import Answer, Results
from limbeck.evaluation import formatting as fmt
from limbeck.evaluation.columns import best_of, cell
from limbeck.evaluation.statistics import mean_interval


def shown(score: str, values: Sequence[float]) -> str:
    """Mean over seeds ± half of its 95% interval: "0.612 ± 0.008"; ranks have one digit, shares are percentages."""
    if score not in (RANK, BIT_LOSS) or not values:
        return cell(values)
    digits = (lambda value: f"{value:.1f}") if score == RANK else fmt.percent
    if len(values) == 1:
        return digits(values[0])
    found = mean_interval(values)
    return f"{digits(found.mean)} ± {digits((found.high - found.low) / 2)}"


def best(score: str, values: Sequence[Sequence[float]]) -> set[int]:
    """Places of the best means, as they are shown."""
    if score == RANK:  # shows collapse; a spread-out space may still be a bad one
        return set()
    sign = -1 if score == BIT_LOSS else 1
    return best_of([sign * fmean(v) if v else None for v in values])


def arms(a: Answer) -> str:
    """What is held against what: "“both stages” against “distillation only”"; a question of ours says so."""
    return f"“{a.arm}” against “{a.against}”" + ("" if a.claimed else " (beside the claim)")


def metric(a: Answer) -> str:
    """By what: "held-out", "cut in 1-bit loss", "held-out, 256 dims against full width"."""
    if a.kind == "reduction":
        return f"cut in {a.metric}"
    return a.metric if a.metric == a.against_metric else f"{a.metric} against {_short(a.against_metric)}"


def contrast(a: Answer) -> str:
    """All of it: "“both stages” against “distillation only”, held-out: +0.021 [+0.010, +0.031]"."""
    said = f"{arms(a)}, {metric(a)}: {estimate(a)}"
    return said if math.isnan(a.low) else f"{said} {interval(a)}"


def estimate(a: Answer) -> str:
    """The difference, or the share by which it is smaller."""
    return "not measured" if math.isnan(a.estimate) else _amount(a, a.estimate)


def interval(a: Answer) -> str:
    """The 95% interval: "[+0.010, +0.031]"."""
    return fmt.NONE if math.isnan(a.low) else f"[{_amount(a, a.low)}, {_amount(a, a.high)}]"


def needed(a: Answer) -> str:
    """What the claim says of the difference: "> 0"."""
    return f">\N{NO-BREAK SPACE}{_amount(a, a.least) if a.least else 0}"


def p_value(p: float) -> str:
    """A probability: "0.012", "< 0.001"."""
    return fmt.NONE if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def reasons(results: Results) -> list[str]:
    """Why the status is what it is, one sentence a contrast that is not met, and what limits the experiment."""
    claimed = [a for a in results.answers if a.claimed]
    unmet = [_reason(a) for a in claimed if a.holds != "yes"]
    met = f"All {len(claimed)} contrasts hold" if len(claimed) > 1 else "The contrast holds"
    said = unmet or [f"{met}: the whole interval lies above what is needed."]
    return [*said, f"A limit of this experiment: {results.caveat}."] if results.caveat else said


def _reason(a: Answer) -> str:
    found = contrast(a)
    if math.isnan(a.estimate):
        return f"{found}, so it is open."
    if math.isnan(a.low):
        return f"{found}, from one seed, which cannot tell an effect from chance, so it is open."
    if a.holds == "open":
        return f"{found} leaves open whether it is {needed(a)}."
    return f"{found} is not {needed(a)}, or by too little to matter."


def _short(metric: str) -> str:
    return "full width" if metric == HELD_OUT else metric.removeprefix(f"{HELD_OUT}, ")


def _amount(a: Answer, value: float) -> str:
    if a.kind == "reduction" or a.metric == BIT_LOSS:
        return fmt.percent(value)
    return f"{value:+.1f}".replace("-", "−") if a.metric == RANK else fmt.change(value)
