"""Compression curves as charts and tables: score against dims, one line a precision, and against bytes a vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from limbeck.evaluation import formatting as fmt
from limbeck.evaluation.blocks import Table
from limbeck.evaluation.compression import STORAGES, Storage
from limbeck.evaluation.plots import KINDS, Chart, Series, Shape, line_chart
from limbeck.evaluation.results import CurvePoint

Curves = Mapping[str, Sequence[CurvePoint]]
"""Whose vectors → their curve."""

_STYLES: dict[Storage, tuple[str, str, Shape, bool]] = {  # words, colour, marker, dashed
    Storage("float32"): ("float32", "student", "circle", False),
    Storage("int8"): ("int8", "k3", "diamond", False),
    Storage("binary"): ("1 bit", "bits", "square", False),
    Storage("binary", "int8"): ("1 bit, rescored by int8", "k4", "triangle", True),
    Storage("binary", "float32"): ("1 bit, rescored by float32", "k1", "wedge", True),
}
_SMALL = {"small": (390, 250)}


def storage(point: CurvePoint) -> Storage:
    """How the vectors of a point are stored."""
    return Storage(point.precision, point.rescored_by)


def words(kind: Storage) -> str:
    """What a table calls a way of storing vectors: "1 bit, rescored by int8"."""
    return _STYLES[kind][0]


def storage_series(points: Sequence[CurvePoint], whose: str = "") -> list[Series]:
    """Score against dims, one line a way of storing. `whose` comes first in names and hover texts."""
    series = []
    for kind, (name, css, marker, dashed) in _STYLES.items():
        line = sorted((p for p in points if storage(p) == kind), key=lambda p: p.dim)
        if line:
            label = f"{whose}, {name}" if whose else name
            hover = [_hover(whose, p) for p in line]
            series.append(Series(label, [(p.dim, p.score) for p in line], css, marker, dashed, hover=hover))
    return series


def dims_charts(curves: Curves, *, id: str, metric: str) -> dict[str, Chart]:
    """A small chart for each, score against dims. All have the same axes, so that they compare side by side."""
    points = [p for curve in curves.values() for p in curve]
    charts = {}
    for number, (name, curve) in enumerate(curves.items()):
        series = storage_series(curve)
        if not any(len(s.points) > 1 for s in series):
            continue
        charts[name] = line_chart(
            series,
            id=f"{id}-{number}",
            title=f"{metric} of {name} against the number of dimensions",
            description=" ".join(said(s, "dimensions") for s in series),
            x_label="dimensions kept",
            y_label=metric,
            x_scale="log",
            x_ticks=sorted({p.dim for p in curve}),
            y_from=min(p.score for p in points),
            y_to=max(p.score for p in points),
            sizes=_SMALL,
        )
    return charts


def bytes_chart(curves: Curves, kinds: Mapping[str, int], *, id: str, metric: str) -> Chart | None:
    """Score against bytes a vector: for each the points that no smaller vector reaches. kinds: index into KINDS."""
    series = []
    for name, curve in curves.items():
        front = frontier(curve)
        css, marker = KINDS[kinds[name] % len(KINDS)]
        hover = [_hover(name, p) for p in front]
        series.append(Series(name, [(p.bytes, p.score) for p in front], css, marker, hover=hover))
    if len({x for s in series for x, _ in s.points}) < 2:
        return None
    return line_chart(
        series,
        id=id,
        title=f"{metric} against bytes a vector",
        description=" ".join(said(s, "bytes") for s in series),
        x_label="bytes of one stored vector, with what rescoring needs",
        y_label=metric,
        x_scale="log",
        x_ticks=sorted({x for s in series for x, _ in s.points}),
    )


def frontier(curve: Sequence[CurvePoint]) -> list[CurvePoint]:
    """The points that score higher than all with as few bytes or fewer, by bytes."""
    front: list[CurvePoint] = []
    for point in sorted(curve, key=lambda p: (p.bytes, -p.score)):
        if not front or point.score > front[-1].score:
            front.append(point)
    return front


def curve_table(curves: Curves) -> Table:
    """One row for each width and way of storing: bytes, and for each curve its score and what is kept of full."""
    found = {name: {(storage(p), p.dim): p for p in curve} for name, curve in curves.items()}
    kinds = sorted({key for points in found.values() for key in points}, key=lambda k: (STORAGES.index(k[0]), k[1]))
    rows = []
    for kind, dim in kinds:
        here = [points.get((kind, dim)) for points in found.values()]
        cells = [cell for p in here for cell in (fmt.score(p and p.score), fmt.percent(p and p.relative_to_full))]
        rows.append([f"{words(kind)}, {dim} dims", fmt.count(next(p.bytes for p in here if p)), *cells])
    return Table(["vectors", "bytes", *(cell for name in found for cell in (name, "kept"))], rows)


def said(series: Series, unit: str) -> str:
    """A line in words, for who does not see it."""
    (low, first), (high, last) = series.points[0], series.points[-1]
    return f"{series.label}: {fmt.score(first)} at {low:.0f} {unit} to {fmt.score(last)} at {high:.0f}."


def _hover(whose: str, point: CurvePoint) -> str:
    kept = [] if point.relative_to_full is None else [f"{fmt.percent(point.relative_to_full)} of full"]
    name = [whose] if whose else []
    stored = [words(storage(point)), f"{point.dim} dims: {fmt.score(point.score)}"]
    return ", ".join([*name, *stored, *kept, fmt.size(point.bytes)])
