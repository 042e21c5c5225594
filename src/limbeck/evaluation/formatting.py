"""Numbers as a reader wants them."""

from __future__ import annotations

NONE = "–"


def score(value: float | None) -> str:
    """A metric in 0 … 1: "0.787"."""
    return NONE if value is None else f"{value:.3f}"


def change(value: float) -> str:
    """A difference of two metrics: "+0.021", "−0.004"."""
    return "±0.000" if abs(value) < 0.0005 else f"{value:+.3f}".replace("-", "−")


def percent(value: float | None) -> str:
    """A share: "93.1%", "−0.4%"."""
    return NONE if value is None else f"{100 * value:.1f}%".replace("-", "−")


def whole_percent(value: float | None) -> str:
    """A share, rounded: "45%"; below 1% with one digit."""
    if value is None:
        return NONE
    return f"{100 * value:.0f}%" if value >= 0.01 or value == 0 else f"{100 * value:.1g}%"


def count(value: float | None) -> str:
    """A number of things: "72,104"; a fraction keeps three digits."""
    if value is None:
        return NONE
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def rate(value: float | None) -> str:
    """Things a second: "1,013", "8.4"."""
    return NONE if value is None else count(float(round(value)) if value >= 10 else round(value, 1))


def plain(value: float | int | str | None) -> str:
    """A word as it is, a number as a count."""
    return value if isinstance(value, str) else count(value)


def short_count(value: float | None) -> str:
    """A large number: "10.6M"."""
    if value is None:
        return NONE
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            scale = 1e3 if unit == "k" else size
            return f"{value / scale:.3g}{unit}"
    return count(value)


def ratio(value: float | None) -> str:
    """A factor: "2.4×"."""
    return NONE if value is None else f"{value:.1f}×" if value < 10 else f"{value:.0f}×"


def duration(seconds: float | None) -> str:
    """A time: "0.4 s", "42 s", "9 min 41 s", "3 h 05 min"."""
    if seconds is None:
        return NONE
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def memory(mebibytes: float | None) -> str:
    """An amount of memory given in MiB: "2.9 GB"."""
    if mebibytes is None:
        return NONE
    return f"{mebibytes / 1024:.1f} GB" if mebibytes >= 1000 else f"{mebibytes:.0f} MB"


def size(value: float | None) -> str:
    """A vector's size: "1,536 bytes"."""
    return NONE if value is None else f"{value:,.0f} bytes"
