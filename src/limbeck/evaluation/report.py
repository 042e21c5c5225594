"""The report of a run: one self-contained HTML page and a Markdown file, made from scores and the training log.

The page needs no network and no script. Every part that was not measured is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from limbeck.evaluation import formatting as fmt
from limbeck.evaluation.adapters import averaging_table, matrix, spread_chart, spread_effect, term_charts, term_table
from limbeck.evaluation.blocks import Bar, Headline, Metrics, Table, Tile, column, finite
from limbeck.evaluation.compression import FLOAT, STORAGES
from limbeck.evaluation.curves import said, storage, storage_series, words
from limbeck.evaluation.leak_table import leak_report
from limbeck.evaluation.page import write_page
from limbeck.evaluation.plots import Chart, Series, bin_means, line_chart
from limbeck.evaluation.scores import DimScore, Scores, Sides, parse_scores
from limbeck.evaluation.vector_map import map_chart

_CURVE_POINTS = 240  # of each line of the learning curve: more than a chart has room to show
_LOG_ROWS = 12  # of the learning curve's table
_DATA_LABELS = {  # in the order of the table; other counts follow under their own names
    "read": "read",
    "malformed": "malformed",
    "too_short": "too short",
    "exact_duplicates": "exact duplicates",
    "near_duplicates": "near duplicates",
    "without_query": "no query found",
    "shared_query": "query not its own",
    "overlap": "shared with held-out",
    "train": "training",
    "heldout": "held out",
}
_MOST_LANGUAGES = 6  # in a cell of the table
_ALWAYS_SHOWN = ("read", "malformed", "exact_duplicates", "near_duplicates", "train", "heldout")


def write_report(
    scores: Scores | Mapping[str, Any],
    metrics: Metrics,
    out: Path,
    *,
    adapter_metrics_log: Mapping[str, Metrics] | None = None,
) -> None:
    """Write `out`/index.html and `out`/report.md, each whole or not at all.

    Args:
        scores: as `Scores` or as its JSON; only `ndcg_at_10` is required.
        metrics: rows of the training log: "step", "loss", and where logged "loss/dim32" …, "tokens_per_second",
            "tokens", "lr". May be empty.
        out: folder, made when absent.
        adapter_metrics_log: task → rows of its adapter's log: "step", "loss", and each term of the loss by name.

    Raises DataError when `scores` does not fit the schema.
    """
    context = _context(parse_scores(scores), metrics, adapter_metrics_log or {})
    write_page(out, {"index.html": "index.html.j2", "report.md": "report.md.j2"}, context)


def _context(scores: Scores, metrics: Metrics, adapter_metrics: Mapping[str, Metrics]) -> dict[str, Any]:
    parts = {
        "s": scores,
        "title": f"limbeck · {scores.name}" if scores.name else "limbeck report",
        "name": scores.name,
        "created": scores.created,
        "headline": _headline(scores),
        "tiles": _tiles(scores),
        "quality": _quality_bars(scores),
        "quality_table": _quality_table(scores),
        "indexes": _index_table(scores),
        "matrix": matrix(scores),
        "averaging": averaging_table(scores),
        "spread": spread_effect(scores),
        "spread_chart": spread_chart(scores),
        "dims_chart": _dims_chart(scores),
        "dims_table": _dims_table(scores),
        "curve_chart": _learning_chart(metrics),
        "curve_table": _learning_table(metrics),
        "term_charts": term_charts(adapter_metrics),
        "term_table": term_table(adapter_metrics),
        "speed": _speed_table(scores),
        "training": _training_facts(scores, metrics),
        "map": scores.map and map_chart(scores.map),
        "leaks": leak_report(scores.leaks),
        "sources": _training_table(scores),
        "data": _data_table(scores),
        "stages": _stage_bars(scores),
        "machine": {_words(k): fmt.plain(v) for k, v in scores.machine.items() if v is not None}
        | ({} if scores.peak_rss_mb is None else {"peak memory of the run": fmt.memory(scores.peak_rss_mb)}),
    }
    of_learning = ("curve_chart", "curve_table", "training", "term_table", "averaging")
    made = parts["stages"] or scores.command or parts["machine"] or scores.versions
    return parts | {"learning": any(parts[part] for part in of_learning), "made": bool(made)}


# ------------------------------------------------------------------------------------------ headline


def _headline(scores: Scores) -> Headline:
    ndcg = scores.ndcg_at_10
    if scores.retention is None:
        if ndcg.student is None:
            return Headline("", "What was measured", "")
        return Headline("nDCG@10 of ", fmt.score(ndcg.student), " on held-out text")
    cost = scores.compute_per_token_ratio
    tail = "" if cost is None else f" at {fmt.whole_percent(cost)} of its compute"
    return Headline("Keeps ", fmt.percent(scores.retention), " of the teacher" + tail)


def _tiles(scores: Scores) -> list[Tile]:
    tiles = []
    ndcg, speed = scores.ndcg_at_10, scores.texts_per_second
    if ndcg.student is not None:
        against = [] if ndcg.teacher is None else [f"teacher {fmt.score(ndcg.teacher)}"]
        against += [] if ndcg.untrained is None else [f"before training {fmt.score(ndcg.untrained)}"]
        tiles.append(Tile(fmt.score(ndcg.student), "held-out nDCG@10", ", ".join(against)))
    if (faster := _quotient(speed)) is not None and speed is not None:
        rates = f"{fmt.rate(speed.student)} texts a second against {fmt.rate(speed.teacher)}"
        tiles.append(Tile(fmt.ratio(faster), "the teacher’s speed", rates))
    if bits := _widest(scores.dims, "binary"):
        kept = [] if bits.relative_to_full is None else [f"keep {fmt.percent(bits.relative_to_full)} of full precision"]
        tiles.append(Tile(fmt.size(bits.bytes), "a 1-bit vector", ", ".join([f"{bits.dim} dims", *kept])))
    if scores.seconds is not None:
        where = [f"on {cores} cores" for cores in [scores.machine.get("cores")] if cores]
        where += [] if scores.peak_rss_mb is None else [f"peak memory {fmt.memory(scores.peak_rss_mb)}"]
        taken = re.sub(r" (?=\D)", "\u00a0", fmt.duration(scores.seconds))  # breaks before a number, not a unit
        tiles.append(Tile(taken, "from texts to report", ", ".join(where)))
    return tiles


def _quotient(sides: Sides | None) -> float | None:
    return sides.student / sides.teacher if sides and sides.student is not None and sides.teacher else None


def _widest(dims: Sequence[DimScore], precision: str) -> DimScore | None:
    return max((d for d in dims if d.precision == precision), key=lambda d: d.dim, default=None)


# ------------------------------------------------------------------------------------------- quality

_MODELS = (
    ("teacher", "Teacher"),
    ("student", "Student"),
    ("static", "Static token vectors"),
    ("untrained", "Student, untrained"),
)


def _quality_bars(scores: Scores) -> list[Bar]:
    ndcg = scores.ndcg_at_10
    bars = []
    for key, name in _MODELS:
        value = getattr(ndcg, key)
        if value is not None:
            bars.append(Bar(name, key, min(1.0, max(0.0, value)), fmt.score(value)))
    return bars


def _quality_table(scores: Scores) -> Table:
    measures = (
        ("nDCG@10", scores.ndcg_at_10),
        ("recall@10", scores.recall_at_10),
        ("MRR@10", scores.mrr_at_10),
    )
    given = [(name, values) for name, values in measures if values is not None]
    teacher = scores.ndcg_at_10.teacher
    table = Table(["", *(name for name, _ in given), *(["of teacher"] if teacher else [])], [])
    for key, name in _MODELS:
        if any(getattr(values, key) is not None for _, values in given):
            ndcg = getattr(scores.ndcg_at_10, key)
            share = [fmt.percent(None if ndcg is None else ndcg / teacher)] if teacher else []
            table.rows.append([name, *(fmt.score(getattr(values, key)) for _, values in given), *share])
    return table


def _index_table(scores: Scores) -> Table | None:
    """Who asks, whose index is searched, and how well that goes, against the teacher in its own index."""
    adapted = any(x.queries == "retrieval" for x in scores.indexes)
    names = {"teacher": "teacher", "retrieval": "student", "base": "student, base" if adapted else "student"}
    teacher = next((x.ndcg_at_10 for x in scores.indexes if x.queries == x.documents == "teacher"), None)
    rows = [
        [names[x.queries], names[x.documents], fmt.score(x.ndcg_at_10)]
        + ([fmt.percent(x.ndcg_at_10 / teacher)] if teacher else [])
        for x in scores.indexes
    ]
    head = ["queries by", "documents by", "nDCG@10", *(["of teacher"] if teacher else [])]
    return Table(head, rows, names=2) if rows else None


# ---------------------------------------------------------------------------------------------- dims


def _dims_chart(scores: Scores) -> Chart | None:
    teacher = storage_series([d.point() for d in scores.teacher_dims if d.precision == "float32"], "Teacher")
    series = [replace(s, css="teacher", marker="ring", dashed=True) for s in teacher]
    series += storage_series([d.point() for d in scores.dims], "Student")
    if len({d.dim for d in scores.dims}) < 2:
        return None
    return line_chart(
        series,
        id="dims",
        title="nDCG@10 against the number of dimensions",
        description=" ".join(said(s, "dimensions") for s in series),
        x_label="dimensions kept",
        y_label="nDCG@10",
        x_scale="log",
        x_ticks=sorted({x for s in series for x, _ in s.points}),
    )


def _dims_table(scores: Scores) -> Table | None:
    found = [
        (whose, kind, by_dim)
        for whose, dims in (("student", scores.dims), ("teacher", scores.teacher_dims))
        for kind in STORAGES
        if (by_dim := {d.dim: d for d in dims if storage(d.point()) == kind})
    ]
    if not found:
        return None
    head = ["dims"]
    for whose, kind, _ in found:
        name = whose if kind == FLOAT else f"{whose}, {words(kind)}"
        head += [name, "kept"] + (["bytes"] if whose == "student" else [])
    rows = []
    for dim in sorted({dim for _, _, by_dim in found for dim in by_dim}):
        row = [str(dim)]
        for whose, _, by_dim in found:
            d = by_dim.get(dim)
            row += [fmt.score(d and d.ndcg_at_10), fmt.percent(d and d.relative_to_full)]
            row += [fmt.count(d and d.bytes)] if whose == "student" else []
        rows.append(row)
    return Table(head, rows)


# ------------------------------------------------------------------------------------ learning curve


def _learning_chart(metrics: Metrics) -> Chart | None:
    dims = _loss_dims(metrics)
    series = []
    for rank, dim in enumerate(dims):
        points = bin_means(column(metrics, f"loss/dim{dim}"), _CURVE_POINTS)
        # Wider prefixes are drawn stronger, so that one family of lines needs one colour.
        strength = 0.4 + 0.6 * (rank + 1) / len(dims)
        series.append(Series(f"first {dim} dims", points, "student", strength=strength, end_label=str(dim)))
    total = bin_means(column(metrics, "loss"), _CURVE_POINTS)
    if not dims:
        series.append(Series("loss", total, "student"))
    series = [s for s in series if len(s.points) > 1]
    if not series:
        return None
    first, last = series[-1].points[0], series[-1].points[-1]
    return line_chart(
        series,
        id="loss",
        title="Training loss against steps",
        description=f"{series[-1].label}: {first[1]:.3f} at step {first[0]:.0f}, {last[1]:.3f} at step {last[0]:.0f}.",
        x_label="optimizer step",
        y_label="loss, 1 − cosine to the teacher" + (", by dimensions kept" if dims else ""),
        y_scale="log" if all(y > 0 for s in series for _, y in s.points) else "linear",
    )


def _learning_table(metrics: Metrics) -> Table | None:
    rows = [row for row in metrics if finite(row.get("step")) and finite(row.get("loss"))]
    if not rows:
        return None
    picked = sorted({round(i * (len(rows) - 1) / max(1, _LOG_ROWS - 1)) for i in range(_LOG_ROWS)})
    dims = _loss_dims(metrics)
    head = ["step", "loss", *(f"{d} dims" for d in dims), "learning rate", "tokens/s"]
    body = []
    for row in (rows[i] for i in picked):
        losses = [_number(row.get(key), ".4f") for key in ("loss", *(f"loss/dim{d}" for d in dims))]
        body.append([_number(row["step"], ",.0f"), *losses, _number(row.get("lr"), ".3g")])
        body[-1].append(_number(row.get("tokens_per_second"), ",.0f"))
    return Table(head, body)


def _loss_dims(metrics: Metrics) -> list[int]:
    found = {int(m[1]) for row in metrics for key in row if (m := re.fullmatch(r"loss/dim(\d+)", key))}
    return sorted(found)


def _number(value: Any, spec: str) -> str:
    return format(value, spec) if finite(value) else fmt.NONE


# ------------------------------------------------------------------------------------- speed and data


def _speed_table(scores: Scores) -> Table | None:
    rows: list[list[str]] = []
    static = scores.ndcg_at_10.static is not None

    def add(label: str, sides: Sides | None, show: Any, relation: bool = True) -> None:
        if sides is None or (sides.teacher is None and sides.student is None):
            return
        quotient = _quotient(sides) if relation else None
        shown = [show(sides.teacher), show(sides.student), *([show(sides.static)] if static else [])]
        rows.append([label, *shown, fmt.NONE if quotient is None else f"{quotient:.2f}×"])

    parameters, width = scores.parameters, scores.vector_dim
    add("texts a second", scores.texts_per_second, fmt.rate)
    if parameters:
        t, s, v = parameters.teacher, parameters.student, parameters.static
        add("parameters", Sides(teacher=t and t.total, student=s and s.total, static=v and v.total), fmt.short_count)
        inner = Sides(teacher=t and t.without_token_embeddings, student=s and s.without_token_embeddings)
        add("parameters, without token embeddings", inner, fmt.short_count)
    if scores.compute_per_token_ratio is not None:
        add("compute per token, teacher = 1", Sides(teacher=1.0, student=scores.compute_per_token_ratio), fmt.count)
    if width:
        add("dimensions", width, fmt.count)
        add("bytes a vector, float32", _scaled(width, 4), fmt.count)
        add("bytes a vector, 1 bit", _scaled(width, 1 / 8), fmt.count)
    add("longest text, tokens", scores.max_tokens, fmt.count)
    head = ["", "teacher", "student", *(["static"] if static else []), "student / teacher"]
    return Table(head, rows) if rows else None


def _scaled(sides: Sides, factor: float) -> Sides:
    return Sides(**{who: value and value * factor for who, value in sides.model_dump().items()})


def _training_facts(scores: Scores, metrics: Metrics) -> dict[str, str]:
    steps = scores.steps or max((int(x) for x, _ in column(metrics, "step")), default=None)
    tokens = scores.tokens or max((int(y) for _, y in column(metrics, "tokens")), default=None)
    rates = sorted(y for _, y in column(metrics, "tokens_per_second"))
    facts = {
        "optimizer steps": fmt.count(steps),
        "tokens trained on": fmt.short_count(tokens),
        "tokens a second (median)": fmt.count(round(rates[len(rates) // 2])) if rates else fmt.NONE,
    }
    return {label: value for label, value in facts.items() if value != fmt.NONE}


def _training_table(scores: Scores) -> Table | None:
    """What training read of each source; a column that no source has is left out."""
    sources = scores.training
    if not sources:
        return None
    columns = {
        "examples of": {n: s.kind.replace("_", " ") for n, s in sources.items()},
        "weight": {n: f"{s.weight:g}" for n, s in sources.items() if s.weight is not None},
        "languages": {n: _languages(s.languages) for n, s in sources.items() if s.languages},
        "examples": {n: fmt.count(s.examples) for n, s in sources.items()},
        "tokens": {n: fmt.short_count(s.tokens) for n, s in sources.items() if s.tokens is not None},
    }
    shown = {label: cells for label, cells in columns.items() if cells}
    rows = [[name, *(cells.get(name, fmt.NONE) for cells in shown.values())] for name in sources]
    return Table(["source", *shown], rows)


def _languages(counts: Mapping[str, int]) -> str:
    ranked = sorted(counts, key=lambda tag: (-counts[tag], tag))
    more = len(ranked) - _MOST_LANGUAGES
    return ", ".join(ranked[:_MOST_LANGUAGES]) + (f" and {more} more" if more > 0 else "")


def _data_table(scores: Scores) -> Table | None:
    if not scores.data:
        return None
    present = dict.fromkeys(k for counts in scores.data.values() for k in counts)
    # A rare kind of loss that did not happen needs no column.
    shown = [k for k in present if k in _ALWAYS_SHOWN or any(counts.get(k) for counts in scores.data.values())]
    keys = [k for k in _DATA_LABELS if k in shown] + [k for k in shown if k not in _DATA_LABELS]
    rows = [[name, *(fmt.plain(counts.get(k)) for k in keys)] for name, counts in scores.data.items()]
    foot = None
    if len(rows) > 1:
        columns = [[counts.get(k) for counts in scores.data.values()] for k in keys]
        foot = ["all", *(_total(column) for column in columns)]
    return Table(["source", *(_DATA_LABELS.get(k, _words(k)) for k in keys)], rows, foot)


def _total(column: Sequence[float | int | str | None]) -> str:
    numbers = [v for v in column if isinstance(v, (int, float))]
    return fmt.count(sum(numbers)) if numbers and all(v is None or finite(v) for v in column) else ""


def _stage_bars(scores: Scores) -> list[Bar]:
    total = sum(scores.seconds_by_stage.values())
    return [
        Bar(name, "student", seconds / total if total else 0.0, fmt.duration(seconds))
        for name, seconds in scores.seconds_by_stage.items()
    ]


def _words(key: str) -> str:
    return key.replace("_", " ")
