"""Charts as SVG, of lines or of dots by row, laid out here and drawn by `templates/chart.svg.j2`.

Colours, fonts and dark mode come from the page's style sheet through CSS classes, so a chart has no colour of its own.
Each chart is laid out twice, wide and narrow, and the style sheet shows the one that fits: text keeps its size on a
phone. A `Picture` is a chart as a file of its own, `templates/plot.svg.j2`, which takes the style sheet's part along.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Scale = Literal["linear", "log"]
Shape = Literal["circle", "square", "triangle", "diamond", "plus", "wedge", "cross", "bar"]
SHAPES: dict[Shape, str] = {  # the `d` of an SVG path, relative to the centre; all cover about the same area
    "circle": "m-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0z",
    "square": "m-4.1,-4.1h8.2v8.2h-8.2z",
    "triangle": "m0,-5.6l5.2,9h-10.4z",
    "diamond": "m0,-5.8l5.2,5.8l-5.2,5.8l-5.2,-5.8z",
    "plus": "m-1.8,-5.4h3.6v3.6h3.6v3.6h-3.6v3.6h-3.6v-3.6h-3.6v-3.6h3.6z",
    "wedge": "m0,5.6l5.2,-9h-10.4z",
    "cross": "m0,-2.5l3,-3l2.5,2.5l-3,3l3,3l-2.5,2.5l-3,-3l-3,3l-2.5,-2.5l3,-3l-3,-3l2.5,-2.5z",
    "bar": "m-5.8,-2h11.6v4h-11.6z",
}
KINDS: tuple[tuple[str, Shape], ...] = tuple((f"k{i}", shape) for i, shape in enumerate(SHAPES))
"""What tells things of one kind apart: a colour's class and a shape, so that no reader needs the colours."""

SMALL = "m-3,0a3,3 0 1,0 6,0a3,3 0 1,0 -6,0z"  # a single value, beside the mark of a mean

SIZES = {"wide": (720, 330), "narrow": (350, 270)}
_LEAST_PLOT = 260  # pixels beside the names of rows; with fewer, each name stands above its row
_CHARACTER = 7.0  # pixels of a character at the charts' 13, on average and with some to spare


@dataclass(frozen=True)
class Series:
    """One line of a chart. points: (x, y) in data units, ascending in x."""

    label: str
    points: Sequence[tuple[float, float]]
    css: str  # class that carries the colour: "student", "teacher", "bits", "ink", or one of KINDS
    marker: Shape | Literal["none", "ring", "small"] = "none"
    dashed: bool = False
    strength: float = 1.0  # opacity, to tell apart lines of one family
    hover: Sequence[str] = ()  # one text a point
    end_label: str = ""  # written beside the last point

    @property
    def shape(self) -> str:
        """The marker as the `d` of an SVG path, relative to its centre; "" for none."""
        match self.marker:
            case "none":
                return ""
            case "small":
                return SMALL
            case "ring":
                return SHAPES["circle"]
        return SHAPES[self.marker]


@dataclass(frozen=True)
class Dots:
    """What was measured of one thing: every value, their mean and its interval (NaN = none is known)."""

    values: Sequence[float]
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Tick:
    """A labelled position along an axis, in pixels."""

    at: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A point drawn at (x, y), in pixels."""

    x: float
    y: float
    hover: str


@dataclass(frozen=True)
class Line:
    """A series in pixels."""

    series: Series
    path: str  # the `d` of an SVG path
    marks: list[Mark]
    end: Tick | None  # y and text of the end label


@dataclass(frozen=True)
class Layout:
    """One chart at one width, in pixels."""

    id: str
    css: str
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[Line]
    rows: Literal["beside", "above"] | None = None  # where rows have their names, which are y_ticks; None = no rows


@dataclass(frozen=True)
class Chart:
    """A chart at all its widths. `description` says in words what the picture shows; `series` make its legend."""

    id: str
    title: str
    description: str
    x_label: str
    y_label: str
    series: list[Series]
    layouts: list[Layout]


def line_chart(
    series: Sequence[Series],
    *,
    id: str,
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    x_scale: Scale = "linear",
    x_ticks: Sequence[float] | None = None,
    y_scale: Scale = "linear",
    y_from: float | None = None,
    y_to: float | None = None,
    sizes: Mapping[str, tuple[int, int]] = SIZES,
) -> Chart:
    """Lay out a chart. At least one series with at least one point; all numbers finite, and > 0 on a log scale.

    `x_ticks`: where to put labels along x (left out where they would collide); None = round numbers. `y_from`, `y_to`:
    the axis starts and ends here or beyond. `sizes`: width and height in pixels of each layout, by the CSS class that
    shows it.
    """
    drawn = [s for s in series if s.points]
    xs = [x for s in drawn for x, _ in s.points]
    ys = [y for s in drawn for _, y in s.points] + [y for y in (y_from, y_to) if y is not None]
    y_values = round_ticks(min(ys), max(ys), 5) if y_scale == "linear" else log_ticks(min(ys), max(ys))
    room = 10 + max((len(s.end_label) for s in drawn), default=0) * 8

    def layout(css: str, width: int, height: int) -> Layout:
        left, right, top, bottom = 46, width - max(14, room), 14, height - 30
        x_low, x_high = min(xs), max(xs)
        x_values = list(x_ticks) if x_ticks else [t for t in round_ticks(x_low, x_high, width // 90) if t <= x_high]
        # A margin inside the frame keeps the outermost markers off the axis.
        pad = 12 if any(s.marker != "none" for s in drawn) else 0

        def x(value: float) -> float:
            return _place(value, x_low, x_high, left + pad, right - pad, x_scale)

        def y(value: float) -> float:
            return _place(value, y_values[0], y_values[-1], bottom, top, y_scale)

        ends = _spread([y(s.points[-1][1]) for s in drawn if s.end_label], gap=15, low=top, high=bottom)
        end_at = iter(ends)
        lines = [
            Line(
                s,
                "M" + "L".join(f"{x(a):.1f},{y(b):.1f}" for a, b in s.points),
                [Mark(x(a), y(b), h) for (a, b), h in zip(s.points, s.hover, strict=False)],
                Tick(next(end_at), s.end_label) if s.end_label else None,
            )
            for s in drawn
        ]
        return Layout(
            id=f"{id}-{css}",
            css=css,
            width=width,
            height=height,
            left=left,
            right=right,
            top=top,
            bottom=bottom,
            x_ticks=_thin([Tick(x(v), number(v)) for v in x_values if x_low <= v <= x_high], gap=34),
            y_ticks=[Tick(y(v), number(v)) for v in y_values],
            lines=lines,
        )

    layouts = [layout(css, *size) for css, size in sizes.items()]
    return Chart(id, title, description, x_label, y_label, drawn, layouts)


def dot_chart(
    rows: Sequence[str],
    groups: Mapping[str, Sequence[Dots]],
    *,
    id: str,
    title: str,
    description: str,
    x_label: str,
    words: Callable[[float], str],
    widths: Mapping[str, int] | None = None,
) -> Chart:
    """Lay out a chart of `rows`, each with a mean, its interval and its single values, of one group or of several.

    `groups`: name in the legend → what was measured, one a row. `words`: a value as hover texts say it. `widths`: in
    pixels of each layout, by the CSS class that shows it; None = those of `SIZES`.
    """
    legend = [Series(name, [], css, marker) for name, (css, marker) in zip(groups, KINDS, strict=False)]
    found = [dots for group in groups.values() for dots in group]
    ends = [x for dots in found for x in (*dots.values, dots.low, dots.high) if math.isfinite(x)]
    longest = max(map(len, rows)) * _CHARACTER

    def layout(css: str, width: int) -> Layout:
        above = width - longest < _LEAST_PLOT
        left, right, top = (12 if above else round(longest) + 12), width - 16, 6
        heading = 22 if above else 0
        band = heading + 18 * len(groups) + 12
        ticks = round_ticks(min(ends), max(ends), (right - left) // 90)
        names, lines = [], []

        def x(value: float) -> float:
            return _place(value, ticks[0], ticks[-1], left, right, "linear")

        for i, row in enumerate(rows):
            begin = top + i * band
            names.append(Tick(begin + (14 if above else band / 2), row))
            for j, (style, group) in enumerate(zip(legend, groups.values(), strict=False)):
                y = begin + heading + 6 + 18 * j + 9
                lines += _dots(style, f"{row}, {style.label}" if len(groups) > 1 else row, group[i], x, y, words)
        bottom = top + len(rows) * band
        return Layout(
            id=f"{id}-{css}",
            css=css,
            width=width,
            height=bottom + 30,
            left=left,
            right=right,
            top=top,
            bottom=bottom,
            x_ticks=_thin([Tick(x(v), number(v)) for v in ticks], gap=40),
            y_ticks=names,
            lines=lines,
            rows="above" if above else "beside",
        )

    sizes = widths or {css: width for css, (width, _) in SIZES.items()}
    return Chart(id, title, description, x_label, "", legend, [layout(css, width) for css, width in sizes.items()])


def _dots(
    style: Series, name: str, dots: Dots, x: Callable[[float], float], y: float, words: Callable[[float], str]
) -> list[Line]:
    """The interval, the single values on it, and the mean on top."""
    known = math.isfinite(dots.low)
    interval = f"M{x(dots.low):.1f},{y:.1f}L{x(dots.high):.1f},{y:.1f}" if known else ""
    said = f"{name}: {words(dots.mean)}" + (f" [{words(dots.low)}, {words(dots.high)}]" if known else "")
    values = Series(name, [], style.css, "small")
    return [
        Line(replace(style, marker="none"), interval, [], None),
        Line(values, "", [Mark(x(v), y, f"{name}: {words(v)}") for v in dots.values], None),
        Line(style, "", [Mark(x(dots.mean), y, said)], None),
    ]


@dataclass(frozen=True)
class Key:
    """An entry of a legend at (x, y), in pixels."""

    x: float
    y: float
    series: Series


@dataclass(frozen=True)
class Picture:
    """A chart as a file of its own: title, legend and its widest layout, moved to (left, top)."""

    chart: Chart
    layout: Layout
    keys: list[Key]
    left: int
    top: int
    width: int
    height: int


def picture(chart: Chart) -> Picture:
    """Place title, legend, labels and chart, in pixels."""
    layout = max(chart.layouts, key=lambda c: c.width)
    margin, below_title, line = 20, 56, 22
    named = chart.series if len(chart.series) > 1 else []
    column = 58 + max((len(s.label) for s in named), default=0) * _CHARACTER
    columns = max(1, int(layout.width / column))
    keys = [Key(margin + i % columns * column, below_title + i // columns * line, s) for i, s in enumerate(named)]
    top = below_title + -(-len(named) // columns) * line + (14 if chart.y_label else -8)
    return Picture(chart, layout, keys, margin, top, layout.width + 2 * margin, top + layout.height + 34)


def round_ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers (steps of 1, 2, 2.5 or 5 × 10ⁿ) that enclose low … high."""
    span = high - low
    if span < 1e-9 * max(1.0, abs(low), abs(high)):  # all the same, but for rounding
        span = max(1.0, abs(high))
    rough = span / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Numbers 1, 2, 3, 5 or 7 × 10ⁿ that enclose low … high, both > 0; fewer of each ten where there are many tens."""
    decades = math.log10(high / low)
    digits = (1, 2, 3, 5, 7) if decades <= 1 else (1, 2, 5) if decades <= 2 else (1,)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    ladder = [float(f"{m}e{n}") for n in powers for m in digits]
    first = max(i for i, value in enumerate(ladder) if value <= low * (1 + 1e-9))
    last = min(i for i, value in enumerate(ladder) if value >= high * (1 - 1e-9))
    return ladder[first : max(last, first + 1) + 1]


def number(value: float) -> str:
    """A tick's text: thousands separated, no trailing zeros."""
    if value == int(value):
        return f"{int(value):,}"
    if abs(value) < 1e-3:
        return f"{value:.3g}".replace("e-0", "e-")
    return f"{value:.4f}".rstrip("0")


def bin_means(rows: Sequence[tuple[float, float]], bins: int) -> list[tuple[float, float]]:
    """At most `bins` points, each the mean of consecutive rows, so that a long log stays a small page."""
    size = -(-len(rows) // bins) if rows else 1
    groups = [rows[i : i + size] for i in range(0, len(rows), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _place(value: float, low: float, high: float, start: float, stop: float, scale: Scale) -> float:
    if scale == "log":
        value, low, high = math.log(value), math.log(low), math.log(high)
    share = (value - low) / (high - low) if high > low else 0.5
    return start + share * (stop - start)


def _thin(ticks: list[Tick], gap: float) -> list[Tick]:
    """Leave out ticks closer than `gap` pixels to the one right of them; the last (the full width) always stays."""
    kept: list[Tick] = []
    for tick in sorted(ticks, key=lambda t: -t.at):
        if not kept or kept[-1].at - tick.at >= gap:
            kept.append(tick)
    return kept[::-1]


def _spread(wanted: list[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, at least `gap` apart, inside low … high where there is room."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [0.0] * len(wanted)
    previous = low - gap
    for i in order:
        placed[i] = previous = max(wanted[i], previous + gap)
    ceiling = high
    for i in reversed(order):  # push back up what ran off the bottom
        placed[i] = ceiling = min(placed[i], ceiling)
        ceiling -= gap
    return placed
