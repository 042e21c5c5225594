"""The page that shows one or several models side by side: HTML that needs no network and no script, and Markdown.

Every part that was not measured is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from limbeck.evaluation import formatting as fmt
from limbeck.evaluation.blocks import Bar, Headline, Table, Tile
from limbeck.evaluation.columns import (
    Column,
    Task,
    best_of,
    cell,
    column_named,
    columns_of,
    mean_of,
    tasks_of,
    types_of,
)
from limbeck.evaluation.compression import Storage
from limbeck.evaluation.curves import Curves, bytes_chart, curve_table, dims_charts, storage_series
from limbeck.evaluation.leak_table import LeakReport, leak_report
from limbeck.evaluation.page import write_page
from limbeck.evaluation.plots import Chart, Series
from limbeck.evaluation.results import Evaluation, Leak
from limbeck.evaluation.verdicts import Verdict, verdicts

_MEANS = ("Mean (Task)", "Mean (TaskType)")


def write_comparison(
    evaluation: Evaluation, out: Path, *, reference: str | None = None, title: str | None = None
) -> None:
    """Write `out`/index.html and `out`/report.md, each whole or not at all.

    Args:
        evaluation: one or several models; those of one group are shown as the mean over their seeds.
        out: folder, made when absent.
        reference: name of the model that the others are held against, such as the teacher.
        title: of the page; None = the names of the models.

    Raises ConfigError when `reference` names no model, DataError when two models have a task by different metrics.
    """
    context = _context(evaluation, reference, title)
    write_page(out, {"index.html": "comparison.html.j2", "report.md": "comparison.md.j2"}, context)


def score_table(evaluation: Evaluation) -> Table:
    """Tasks and their means by model: what `limbeck compare` prints. "–" = not measured."""
    columns, tasks = columns_of(evaluation), tasks_of(evaluation)
    scores = _task_table(columns, tasks)
    means = _means_table(columns, tasks)
    rows = [[row[0], "", "", *row[1:]] for row in means.rows] if len(tasks) > 1 else []
    return Table(scores.head, scores.rows + rows, names=scores.names)


def _context(evaluation: Evaluation, reference: str | None, title: str | None) -> dict[str, Any]:
    columns, tasks = columns_of(evaluation), tasks_of(evaluation)
    against = None if reference is None else column_named(columns, reference)
    kept = [] if against is None else _retentions(columns, tasks, against)
    judged = verdicts(columns, tasks, against)
    leaks = leak_report(_leaks(columns, tasks))
    return {
        "title": title or f"limbeck · {' · '.join(c.name for c in columns)}",
        "name": title or ("comparison" if len(columns) > 1 else columns[0].name),
        "created": evaluation.created,
        "headline": _headline(columns, tasks, kept),
        "tiles": _tiles(columns, tasks, leaks),
        "lede": _lede(columns, tasks),
        "bars_of": _mean_bars(columns, tasks),
        "shared": len(_shared(columns, tasks)),
        "tasks": len(tasks),
        "means": _means_table(columns, tasks) if len(tasks) > 1 else None,
        "scores": _task_table(columns, tasks),
        "subsets": _subset_table(columns, tasks),
        "seeds": _seed_table(columns, tasks),
        "missing": _missing(columns, tasks),
        "reference": against and against.name,
        "kept_bars": _kept_bars(kept),
        "kept": _kept_table(kept, tasks, against),
        "verdicts": judged,
        "verdict_table": _verdict_table(judged),
        "curves": _curve_parts(columns, tasks),
        "speed": _speed_table(columns),
        "leaks": leaks,
        "warnings": [("The evaluation", text) for text in evaluation.warnings] + _warnings(columns, tasks),
        "commands": evaluation.commands,
        "identities": [(c.name, f"{r.kind}: {r.identity}") for c in columns for r in c.results],
        "machine": {k.replace("_", " "): fmt.plain(v) for k, v in evaluation.machine.items() if v is not None},
        "versions": evaluation.versions,
    }


# ------------------------------------------------------------------------------------------ headline


def _headline(columns: Sequence[Column], tasks: Sequence[Task], kept: Sequence[Retention]) -> Headline:
    where = tasks[0].name if len(tasks) == 1 else f"{len(tasks)} tasks"
    known = [x for x in kept if x.share is not None]
    if known:
        top = max(known, key=lambda x: x.share or 0.0)
        on = "" if len(top.tasks) == len(tasks) else f" on {len(top.tasks)} of {len(tasks)} tasks"
        return Headline(f"{top.column.name} keeps ", fmt.percent(top.share), f" of {top.reference.name}{on}")
    means = {c.name: fmean(values) for c, values in _shared_means(columns, tasks)}
    if not means:
        return Headline("", "What was measured", "")
    shared = _shared(columns, tasks)
    on = f" on {where}" if len(shared) == len(tasks) else f" on {len(shared)} of {where}"
    name = max(means, key=lambda n: means[n])
    return Headline("" if len(columns) == 1 else f"{name} has the highest mean, ", fmt.score(means[name]), on)


def _shared(columns: Sequence[Column], tasks: Sequence[Task]) -> list[Task]:
    """The tasks that every model was scored on."""
    return [task for task in tasks if all(column.found(task.name) for column in columns)]


def _shared_means(columns: Sequence[Column], tasks: Sequence[Task]) -> list[tuple[Column, list[float]]]:
    """Mean over the shared tasks, one a seed; nothing where no task is shared."""
    shared = _shared(columns, tasks)
    if not shared:
        return []
    scores = [(c, [[t.score for t in c.found(task.name)] for task in shared]) for c in columns]
    return [(c, [fmean(of_seed) for of_seed in zip(*of_tasks, strict=False)]) for c, of_tasks in scores]


def _lede(columns: Sequence[Column], tasks: Sequence[Task]) -> str:
    types = types_of(tasks)
    models = "one model" if len(columns) == 1 else f"{len(columns)} models"
    said = f"{_counted(len(tasks), 'task')} of {_counted(len(types), 'type')}, {models}."
    if any(len(c.results) > 1 for c in columns):
        said += " Where several seeds were trained, scores are their mean with its 95% interval."
    return said


def _tiles(columns: Sequence[Column], tasks: Sequence[Task], leaks: LeakReport | None) -> list[Tile]:
    tiles = [Tile(fmt.count(len(tasks)), "task" if len(tasks) == 1 else "tasks", ", ".join(types_of(tasks)))]
    means = {c.name: value for c in columns if (value := mean_of(c.means(tasks).get(_MEANS[1]))) is not None}
    if len(means) == len(columns) and len(tasks) > 1:
        top = max(means, key=lambda name: means[name])
        tiles.append(Tile(fmt.score(means[top]), "Mean (TaskType)", top if len(columns) > 1 else ""))
    rates = {c.name: rate for c in columns for r in c.results[:1] if (rate := r.texts_per_second)}
    if rates:
        top = max(rates, key=lambda name: rates[name])
        tiles.append(Tile(fmt.rate(rates[top]), "texts a second", top if len(columns) > 1 else ""))
    if leaks:
        tiles.append(
            Tile(fmt.count(leaks.found), "training texts found", f"in {fmt.count(leaks.texts)} evaluation texts")
        )
    return tiles


# -------------------------------------------------------------------------------------------- scores


def _mean_bars(columns: Sequence[Column], tasks: Sequence[Task]) -> list[Bar]:
    return [
        Bar(column.name, column.css, min(1.0, max(0.0, fmean(values))), cell(values))
        for column, values in _shared_means(columns, tasks)
    ]


def _means_table(columns: Sequence[Column], tasks: Sequence[Task]) -> Table:
    means = [column.means(tasks) for column in columns]
    types = types_of(tasks)
    names = [*_MEANS, *(f"{type} ({sum(t.type == type for t in tasks)})" for type in types)]
    keys = [*_MEANS, *types]
    return _scored(
        ["", *(c.name for c in columns)],
        [([name], [found.get(key, []) for found in means]) for name, key in zip(names, keys, strict=True)],
    )


def _task_table(columns: Sequence[Column], tasks: Sequence[Task]) -> Table:
    return _scored(
        ["task", "type", "metric", *(c.name for c in columns)],
        [([t.name, t.type, t.metric], [[f.score for f in c.found(t.name)] for c in columns]) for t in tasks],
    )


def _subset_table(columns: Sequence[Column], tasks: Sequence[Task]) -> Table | None:
    """Scores by language, or what else a task has several of."""
    rows = []
    for task in tasks:
        found = [c.found(task.name) for c in columns]
        names = dict.fromkeys(name for of_column in found for t in of_column for name in t.subsets)
        for name in names:
            values = [[t.subsets[name] for t in of_column if name in t.subsets] for of_column in found]
            rows.append(([f"{task.name}, {name}"], values))
    return _scored(["task, subset", *(c.name for c in columns)], rows) if rows else None


def _scored(head: list[str], rows: Sequence[tuple[list[str], list[list[float]]]]) -> Table:
    """Rows of names, and of one value a seed for each column; the highest mean of a row is set in bold."""
    best = {
        (i, len(names) + j) for i, (names, values) in enumerate(rows) for j in best_of([mean_of(v) for v in values])
    }
    names = len(rows[0][0]) if rows else 1
    return Table(head, [[*row, *map(cell, values)] for row, values in rows], best=frozenset(best), names=names)


def _seed_table(columns: Sequence[Column], tasks: Sequence[Task]) -> Table | None:
    results = [(c, r) for c in columns if len(c.results) > 1 for r in c.results]
    if not results:
        return None
    scores = [{t.task: t.score for t in r.tasks} for _, r in results]
    head = [r.model if r.seed is None else f"{c.name}: seed {r.seed}" for c, r in results]
    return Table(["task", *head], [[t.name, *(fmt.score(s.get(t.name)) for s in scores)] for t in tasks])


def _missing(columns: Sequence[Column], tasks: Sequence[Task]) -> list[str]:
    """What the "–" of the tables stand for, in words."""
    said = []
    for column in columns:
        absent = [t.name for t in tasks if not column.found(t.name)]
        if absent:
            said.append(f"{column.name} was not scored on {_counted(len(absent), 'task')}: {', '.join(absent)}.")
    return said


# ----------------------------------------------------------------------------------------- retention


@dataclass(frozen=True)
class Retention:
    """A model against the reference, over the tasks that both have."""

    column: Column
    reference: Column
    tasks: dict[str, float | None]  # task → score / reference's score; None where the reference has none above 0
    means: tuple[float, float] | None  # of the model and of the reference over these tasks

    @property
    def share(self) -> float | None:
        """Mean score / mean score of the reference."""
        return self.means[0] / self.means[1] if self.means and self.means[1] > 0 else None


def _retentions(columns: Sequence[Column], tasks: Sequence[Task], reference: Column) -> list[Retention]:
    found = []
    for column in columns:
        if column is reference:
            continue
        both = {t.name: (column.score(t.name), reference.score(t.name)) for t in tasks}
        pairs = {name: (a, b) for name, (a, b) in both.items() if a is not None and b is not None}
        means = (fmean(a for a, _ in pairs.values()), fmean(b for _, b in pairs.values())) if pairs else None
        shares = {name: a / b if b > 0 else None for name, (a, b) in pairs.items()}
        found.append(Retention(column, reference, shares, means))
    return found


def _kept_bars(kept: Sequence[Retention]) -> list[Bar]:
    return [
        Bar(x.column.name, x.column.css, min(1.0, max(0.0, x.share)), fmt.percent(x.share))
        for x in kept
        if x.share is not None
    ]


def _kept_table(kept: Sequence[Retention], tasks: Sequence[Task], reference: Column | None) -> Table | None:
    if reference is None or not kept:
        return None
    rows = [
        [t.name, fmt.score(reference.score(t.name)), *(fmt.percent(x.tasks.get(t.name)) for x in kept)] for t in tasks
    ]
    foot = ["mean over shared tasks", "", *(fmt.percent(x.share) for x in kept)]
    return Table(["task", reference.name, *(x.column.name for x in kept)], rows, foot)


def _verdict_table(judged: Sequence[Verdict]) -> Table | None:
    rows = [
        [
            v.task.name,
            v.ahead,
            v.behind,
            v.interval,
            f"{v.paired.p_value:.2g}",
            f"{v.paired.wins:,} / {v.paired.ties:,} / {v.paired.n - v.paired.wins - v.paired.ties:,}",
            fmt.count(v.paired.n),
            fmt.count(v.left_out),
        ]
        for v in judged
    ]
    if not rows:
        return None
    head = ["task", "ahead", "behind", "difference [95%]", "p", "won / equal / lost", "queries", "not shared"]
    if not any(v.left_out for v in judged):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return Table(head, rows)


# -------------------------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class CurvePart:
    """One task's compression curves. charts: model → score against dims; size: all models against bytes."""

    task: str
    metric: str
    legend: list[Series]
    charts: dict[str, Chart]
    size: Chart | None
    table: Table


def _curve_parts(columns: Sequence[Column], tasks: Sequence[Task]) -> list[CurvePart]:
    parts = []
    for number, task in enumerate(tasks):
        # Curves of several seeds would hide each other: the first one's is drawn.
        curves: Curves = {c.name: found[0].curve for c in columns if (found := c.found(task.name)) and found[0].curve}
        if not curves:
            continue
        kinds = {c.name: c.number for c in columns}
        every = [point for curve in curves.values() for point in curve]
        parts.append(
            CurvePart(
                task.name,
                task.metric,
                storage_series(every),
                dims_charts(curves, id=f"dims-{number}", metric=task.metric),
                bytes_chart(curves, kinds, id=f"bytes-{number}", metric=task.metric),
                curve_table(curves),
            )
        )
    return parts


# ------------------------------------------------------------------------------- speed, leaks, words


def _speed_table(columns: Sequence[Column]) -> Table:
    """One row a model; what is known of none has no column."""
    first = [c.results[0] for c in columns]
    seconds = [[t.seconds for t in r.tasks if t.seconds is not None] for r in first]
    cells: dict[str, list[str]] = {
        "texts a second": [fmt.rate(r.texts_per_second) for r in first],
        "parameters": [fmt.short_count(r.parameters) for r in first],
        "dims": [fmt.count(r.dim) for r in first],
        "stored as": [r.precision for r in first],
        "bytes a vector": [fmt.count(Storage(r.precision).bytes(r.dim)) for r in first],
        "longest text, tokens": [fmt.count(r.max_tokens) for r in first],
        "evaluation took": [fmt.duration(sum(s) if s else None) for s in seconds],
    }
    shown = {label: values for label, values in cells.items() if any(value != fmt.NONE for value in values)}
    rows = [[column.name, *row] for column, row in zip(columns, zip(*shown.values(), strict=True), strict=True)]
    return Table(["model", *shown], rows)


def _leaks(columns: Sequence[Column], tasks: Sequence[Task]) -> dict[str, Leak]:
    """Task → what was found; task and model, where the models were trained on other texts."""
    found = {}
    for task in tasks:
        # The seeds of one column were trained on one set of texts.
        of_task = {c.name: t.leak for c in columns for t in c.found(task.name)[:1] if t.leak is not None}
        alike = all(leak == next(iter(of_task.values())) for leak in of_task.values())
        for name, leak in of_task.items():
            found[task.name if alike else f"{task.name}, {name}"] = leak
    return found


def _warnings(columns: Sequence[Column], tasks: Sequence[Task]) -> list[tuple[str, str]]:
    """(task and models, what the matter is): one entry for what several models meet, as it is mostly the data's."""
    met: dict[tuple[str, str], dict[str, None]] = {}
    for task in tasks:
        for column in columns:
            for text in (text for t in column.found(task.name) for text in t.warnings):
                met.setdefault((task.name, text), {})[column.name] = None
    return [(", ".join([task, *names]), text) for (task, text), names in met.items()]


def _counted(number: int, what: str) -> str:
    return f"{fmt.count(number)} {what}{'' if number == 1 else 's'}"
