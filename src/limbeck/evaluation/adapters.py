"""Parts of the report about stage 2: scores by task and adapter, the orthogonal regulariser, the adapters' losses.

Sentences are made from the numbers beside them, and say no more than those show.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from limbeck.config import TASKS
from limbeck.evaluation import formatting as fmt
from limbeck.evaluation.blocks import Bar, Metrics, Table, column
from limbeck.evaluation.curves import said
from limbeck.evaluation.plots import Chart, Series, Shape, bin_means, line_chart
from limbeck.evaluation.scores import SPEAKERS, Scores

_PRECISIONS = ("float32", "binary")
_SPREAD_LINES: dict[str, tuple[str, Shape, bool]] = {  # precision → words, marker, dashed
    "float32": ("float32", "circle", False),
    "int8": ("int8", "diamond", True),
    "binary": ("1 bit", "square", True),
}
_NEAR = 0.01  # of a metric: less does not matter to who uses the vectors
_NUMBERS = ("no", "one", "two", "three", "four")
_CURVE_POINTS = 120  # of each line of a small chart
_CURVE_SIZE = {"small": (390, 230)}
_BESIDES = {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_second"}  # columns of a log that are no terms
_TERMS = {  # name and colour; what imitates the teacher has the teacher's
    "info_nce": ("InfoNCE", "student"),
    "cosent": ("CoSENT", "bits"),
    "distill": ("distill", "teacher"),
    "relational": ("relational", "teacher"),
    "spread": ("spread", "bits"),
}


# ------------------------------------------------------------------------------------ task × adapter


@dataclass(frozen=True)
class Cell:
    """One score. own: of the adapter made for the task; best: none of the base and the adapters scores higher."""

    who: str
    value: str
    own: bool
    best: bool


@dataclass(frozen=True)
class Matrix:
    """Rows are tasks with their metric, columns whose vectors were scored."""

    heading: str
    columns: list[str]
    adapters: list[str]  # those of the columns that are adapters
    rows: list[tuple[str, str, list[Cell]]]
    sentences: list[str]


def matrix(scores: Scores) -> Matrix | None:
    """Scores by task and adapter, and what they say in words."""
    rows = {task: scores.adapters[task] for task in TASKS if scores.adapters.get(task)}
    if not rows:
        return None
    columns = [who for who in SPEAKERS if any(who in row for row in rows.values())]
    adapters = [task for task in TASKS if task in columns]
    made = len(adapters)
    return Matrix(
        f"{_NUMBERS[made].capitalize()} adapter{'s' * (made != 1)}",
        columns,
        adapters,
        [(task, scores.adapter_metrics.get(task, "score"), _cells(task, columns, row)) for task, row in rows.items()],
        [s for s in (_winners(rows), _gains(rows), _router(rows)) if s],
    )


def _cells(task: str, columns: list[str], row: Mapping[str, float]) -> list[Cell]:
    contenders = _contenders(row)
    top = max(contenders.values(), default=None)
    return [Cell(who, fmt.score(row.get(who)), who == task, who in contenders and row[who] == top) for who in columns]


def _contenders(row: Mapping[str, float]) -> dict[str, float]:
    """What a user may choose from: the router chooses from these, and the teacher is another model."""
    return {who: value for who, value in row.items() if who == "base" or who in TASKS}


def _winners(rows: Mapping[str, Mapping[str, float]]) -> str:
    judged = {task: found for task, row in rows.items() if task in (found := _contenders(row)) and len(found) > 1}
    if not judged:
        return ""
    ahead = {task: max(found, key=lambda who: found[who]) for task, found in judged.items()}
    lost = {task: who for task, who in ahead.items() if judged[task][who] > judged[task][task]}
    kept = len(judged) - len(lost)
    where = f"in {_of(kept, len(judged))}"
    exceptions = [
        f"on {task} {'the base' if who == 'base' else f'the {who} adapter'} is ahead, "
        f"{fmt.score(judged[task][who])} against {fmt.score(judged[task][task])}"
        for task, who in lost.items()
    ]
    return "; ".join([f"The adapter made for a task serves it best {where}", *exceptions]) + "."


def _gains(rows: Mapping[str, Mapping[str, float]]) -> str:
    gains = [f"{t} {fmt.change(row[t] - row['base'])}" for t, row in rows.items() if t in row and "base" in row]
    return f"Against the base without an adapter: {', '.join(gains)}." if gains else ""


def _router(rows: Mapping[str, Mapping[str, float]]) -> str:
    lost: dict[str, float] = {t: row[t] - row["auto"] for t, row in rows.items() if t in row and "auto" in row}
    if not lost:
        return ""
    near = sum(loss <= _NEAR for loss in lost.values())
    worst = max(lost, key=lambda task: lost[task])
    most = f", and loses most on {worst}: {fmt.score(lost[worst])}" if lost[worst] >= 0.0005 else ""
    beside = [row["auto"] > row["base"] for row in rows.values() if "auto" in row and "base" in row]
    above = f" It is above the base in {_of(sum(beside), len(beside))}." if beside else ""
    return (
        f"“auto”, which is not told the task, stays within {_NEAR} of the adapter made for it "
        f"in {_of(near, len(lost))}{most}.{above}"
    )


def _of(some: int, all_of_them: int) -> str:
    if all_of_them == 1:
        return "the one task measured" if some else "none"
    whole = _NUMBERS[all_of_them]
    if some == all_of_them:
        return "both tasks" if some == 2 else f"all {whole} tasks"
    return f"{_NUMBERS[some] if some else 'none'} of {whole} tasks"


def averaging_table(scores: Scores) -> Table | None:
    """Which of an adapter's two ends was kept, and what decided it."""
    rows = [
        [task, scores.adapter_metrics.get(task, "score"), fmt.score(found.final), fmt.score(found.averaged), found.kept]
        for task in TASKS
        if (found := scores.averaging.get(task))
    ]
    return Table(["adapter", "metric", "final", "averaged", "kept"], rows) if rows else None


# ---------------------------------------------------------------------------- orthogonal regulariser


@dataclass(frozen=True)
class SpreadEffect:
    """What one bit costs with and without the regulariser.

    bars: what each row loses, against the row that loses most. sentence: of the widest vectors, "" where not known.
    """

    table: Table
    bars: list[Bar]
    sentence: str


def spread_effect(scores: Scores) -> SpreadEffect | None:
    """nDCG@10 in floats and bits, with and without the regulariser."""
    if not scores.spread:
        return None
    found = {(s.dim, s.regularised, s.precision): s.ndcg_at_10 for s in scores.spread}
    kinds = sorted({(s.dim, s.regularised) for s in scores.spread}, key=lambda kind: (kind[0], not kind[1]))
    one_width = len({dim for dim, _ in kinds}) == 1
    both = {kind: [found.get((*kind, precision)) for precision in _PRECISIONS] for kind in kinds}
    lost = {kind: _lost(*values) for kind, values in both.items()}
    most = max((loss for loss in lost.values() if loss), default=0.0)
    rows, bars = [], []
    for (dim, regularised), values in both.items():
        name = ("with" if regularised else "without") + ("" if one_width else f", {dim} dims")
        loss = lost[dim, regularised]
        rows.append([name, *map(fmt.score, values), fmt.percent(loss)])
        share = max(0.0, (loss or 0.0) / most) if most > 0 else 0.0
        bars.append(Bar(name, "student" if regularised else "untrained", share, fmt.percent(loss)))
    table = Table(["regulariser", "float32", "1 bit", "lost at 1 bit"], rows)
    widest = kinds[-1][0]
    with_it, without = lost.get((widest, True)), lost.get((widest, False))
    if with_it is None or without is None:
        return SpreadEffect(table, bars, "")
    gain = found[widest, True, "float32"] - found[widest, False, "float32"]
    return SpreadEffect(table, bars, _spread_sentence(widest, with_it, without, gain))


def spread_chart(scores: Scores) -> Chart | None:
    """nDCG@10 against dims with and without the regulariser, where it was scored at two widths or more."""
    series = []
    for regularised in (True, False):
        for precision, (words, marker, dashed) in _SPREAD_LINES.items():
            line = [s for s in scores.spread if s.regularised == regularised and s.precision == precision]
            points = sorted((s.dim, s.ndcg_at_10) for s in line)
            label = f"{'with' if regularised else 'without'}, {words}"
            hover = [f"{label}, {dim} dims: {fmt.score(score)}" for dim, score in points]
            css = "student" if regularised else "untrained"
            series += [Series(label, points, css, marker, dashed, hover=hover)] if points else []
    dims = sorted({s.dim for s in scores.spread})
    if len(dims) < 2:
        return None
    return line_chart(
        series,
        id="spread-dims",
        title="nDCG@10 against the number of dimensions, with and without the regulariser",
        description=" ".join(said(s, "dimensions") for s in series),
        x_label="dimensions kept",
        y_label="nDCG@10",
        x_scale="log",
        x_ticks=dims,
    )


def _lost(whole: float | None, bits: float | None) -> float | None:
    return 1 - bits / whole if whole and bits is not None else None


def _spread_sentence(dim: int, with_it: float, without: float, gain: float) -> str:
    """Losses as shares of nDCG@10; gain: of the regulariser in floats."""
    shown = fmt.percent(with_it), fmt.percent(without)
    costs = f"One bit for each of the {dim} dimensions costs {shown[0]} of nDCG@10 with the regulariser"
    if shown[0] == shown[1]:
        verdict = f"{costs} and as much without."
    elif with_it > without:
        verdict = f"{costs} and {shown[1]} without: here it does not help."
    elif with_it > 0:
        saved = fmt.whole_percent(1 - with_it / without)
        verdict = f"{costs} and {shown[1]} without: it takes away {saved} of that loss."
    else:
        verdict = f"{costs} and {shown[1]} without: with it nothing is lost."
    return f"{verdict} In floats it changes nDCG@10 by {fmt.change(gain)}."


# ------------------------------------------------------------------------------------------- losses


def term_charts(logs: Mapping[str, Metrics]) -> dict[str, Chart]:
    """Adapter → a small chart of the terms of its loss, where two steps or more were logged.

    A term is drawn as a share of its first logged value: the terms of one loss differ by orders of magnitude.
    """
    charts = {}
    for adapter, log in logs.items():
        series, said = [], []
        for term, points in _terms(log).items():
            (first, start), (last, end) = points[0], points[-1]
            if last == first or start <= 0:
                continue
            label, css = _TERMS.get(term, (term.replace("_", " "), "ink"))
            shares = [(step, value / start) for step, value in bin_means(points, _CURVE_POINTS)]
            series.append(Series(label, shares, css, end_label=label))
            said.append(f"{label}: {start:.3g} at step {first:.0f}, {end:.3g} at step {last:.0f}.")
        if series:
            charts[adapter] = line_chart(
                series,
                id=f"terms-{adapter}",
                title=f"Loss of the {adapter} adapter against steps",
                description=" ".join(said),
                x_label="optimizer step",
                y_label="share of the first value",
                y_from=0.0,
                sizes=_CURVE_SIZE,
            )
    return charts


def term_table(logs: Mapping[str, Metrics]) -> Table | None:
    """First and last logged value of each term."""
    rows = []
    for adapter, log in logs.items():
        for term, points in _terms(log).items():
            (first, start), (last, end) = points[0], points[-1]
            label = _TERMS.get(term, (term.replace("_", " "), ""))[0]
            rows.append([f"{adapter}, {label}", f"{first:,.0f}", f"{start:.3g}", f"{last:,.0f}", f"{end:.3g}"])
    return Table(["adapter, term", "first step logged", "value", "last step logged", "value"], rows) if rows else None


def _terms(log: Metrics) -> dict[str, list[tuple[float, float]]]:
    """Term → (step, value); the loss itself where no term is named. A step has the terms of the source it drew."""
    names = dict.fromkeys(key for row in log for key in row if key not in _BESIDES and "/" not in key)
    found = {name: column(log, name) for name in names} or {"loss": column(log, "loss")}
    return {name: points for name, points in found.items() if points}
