"""The page of an experiment as sections, written as HTML, as Markdown, and with its chart as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.evaluation import formatting as fmt
from limbeck.evaluation.blocks import Headline, Table
from limbeck.evaluation.page import write_page
from limbeck.evaluation.plots import Chart, picture

PLOT = "plot.svg"


@dataclass(frozen=True)
class Section:
    """What stands under one heading: a note, then whatever there is of the rest, in the order of the fields.

    items: sentences of a list; lines: a name → what one types for it; pictured: the chart is the one of PLOT; folded: a
    title, and a table that the page shows when it is asked to; wrapped: names of rows may break.
    """

    id: str
    title: str
    note: str = ""
    items: Sequence[str] = ()
    lines: Mapping[str, str] | None = None
    chart: Chart | None = None
    pictured: bool = False
    table: Table | None = None
    folded: tuple[str, Table] | None = None
    wrapped: bool = False


@dataclass(frozen=True)
class Page:
    """An experiment to read. said: what it came to, the most important first; made: facts under their headings."""

    name: str  # as the command line has it
    subject: str
    created: str
    headline: Headline
    said: Sequence[str]
    about: Sequence[str]
    sections: Sequence[Section]
    commands: Sequence[str]
    made: Mapping[str, Mapping[str, str]]


def write(page: Page, out: Path, *, html: bool = True) -> None:
    """Write `out`/report.md, its picture where a section is pictured, and (html) `out`/index.html."""
    templates = {"index.html": "experiment.html.j2"} if html else {}
    templates["report.md"] = "experiment.md.j2"
    context: dict[str, Any] = {
        "title": f"limbeck · {page.name} · {page.subject}",
        "name": f"ablate {page.name}",
        "created": page.created,
        "headline": page.headline,
        "tiles": [],
        "page": page,
        "plot": PLOT,
    }
    for section in page.sections:
        if section.pictured and section.chart:
            templates[PLOT] = "plot.svg.j2"
            context["p"] = picture(section.chart)
    write_page(out, templates, context)


def machine_facts(machine: Mapping[str, Any]) -> dict[str, str]:
    """What is known of a machine, in words."""
    return {name.replace("_", " "): fmt.plain(value) for name, value in machine.items() if value is not None}
