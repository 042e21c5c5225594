"""What the search for training texts in evaluation texts found, as a table and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from limbeck.evaluation import formatting as fmt
from limbeck.evaluation.blocks import Table
from limbeck.evaluation.results import Leak


@dataclass(frozen=True)
class LeakReport:
    """The outcome over all tasks: `found` of `texts` evaluation texts are training texts, or near one.

    examples: (task, evaluation text, training text).
    """

    found: int
    texts: int
    sentence: str
    table: Table
    examples: list[tuple[str, str, str]]


def leak_report(leaks: Mapping[str, Leak]) -> LeakReport | None:
    """The outcome for each task, or task and model. None when nothing was looked for."""
    if not leaks:
        return None
    rows = [
        [name, fmt.count(x.exact), fmt.count(x.near), fmt.count(x.texts), fmt.percent(_share(x)), f"{x.threshold:g}"]
        for name, x in leaks.items()
    ]
    head = ["", "equal to a training text", "near a training text", "texts", "share", "near from"]
    examples = [(name, *pair) for name, leak in leaks.items() for pair in leak.examples]
    exact, near, texts = (sum(getattr(leak, of) for leak in leaks.values()) for of in ("exact", "near", "texts"))
    return LeakReport(exact + near, texts, _sentence(exact, near, texts), Table(head, rows), examples)


def _share(leak: Leak) -> float | None:
    return (leak.exact + leak.near) / leak.texts if leak.texts else None


def _sentence(exact: int, near: int, texts: int) -> str:
    if not exact + near:
        return f"None of {fmt.count(texts)} evaluation texts is a training text or near one."
    return (
        f"{fmt.count(exact + near)} of {fmt.count(texts)} evaluation texts were seen in training "
        f"({fmt.count(exact)} equal, {fmt.count(near)} near): read the scores of their tasks with that in mind."
    )
