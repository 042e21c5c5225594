"""What commands share: options, where they print, how they were typed."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Change one value of the recipe; may be given many times."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def typed(context: typer.Context) -> str:
    """The command that is running, as it would be typed."""
    return shlex.join(["limbeck", *context.find_root().obj])


def console(stream: Any) -> Console:
    """Where to print to a stream."""
    from rich.console import Console

    # A pipe or a file has no width; wrapping tables to 80 columns there only makes them hard to read.
    return Console(file=stream, width=None if stream.isatty() else 160)


def print_json(value: Any, to: Any = None) -> None:
    """One line of JSON."""
    print(json.dumps(value, ensure_ascii=False), file=to or sys.stdout)
