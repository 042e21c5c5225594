"""Line charts as SVG, laid out here and drawn by `templates/chart.svg.j2`.

Colours, fonts and dark mode come from the page's style sheet through CSS classes, so a chart has no colour of its own.
Each chart is laid out twice, wide and narrow, and the style sheet shows the one that fits: text keeps its size on a
phone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

SIZES = {"wide": (720, 330), "narrow": (350, 270)}


@dataclass(frozen=True)
class Series:
    """One line of a chart. points: (x, y) in data units, ascending in x."""

    label: str
    points: Sequence[tuple[float, float]]
    css: str  # class that carries the colour: "student", "teacher", "bits", "ink", or one of KINDS
    marker: Shape | Literal["none", "ring"] = "none"
    dashed: bool = False
    strength: float = 1.0  # opacity, to tell apart lines of one family
    hover: Sequence[str] = ()  # one text a point
    end_label: str = ""  # written beside the last point

    @property
    def shape(self) -> str:
        """The marker as the `d` of an SVG path, relative to its centre; "" for none."""
        return "" if self.marker == "none" else SHAPES["circle" if self.marker == "ring" else self.marker]


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


@dataclass(frozen=True)
class Chart:
    """A chart at all its widths. `description` says in words what the picture shows."""

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
