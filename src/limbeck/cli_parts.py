"""What commands share: options, where they print, how they were typed."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from limbeck.scale.crew import Crew


class Backend(StrEnum):
    """What computes a forward pass."""

    torch = "torch"
    openvino = "openvino"


class Engine(StrEnum):
    """Where workers run."""

    local = "local"
    ray = "ray"


class Compute(StrEnum):
    """What a forward pass computes in."""

    fp32 = "fp32"
    bf16 = "bf16"
    auto = "auto"


SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Change one value of the recipe; may be given many times."),
]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A bundle, such as runs/demo/model.")]
SourcesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUT…",
        help="Files of texts, one a line, or with --field JSONL or Parquet (.txt and .jsonl also .gz); folders of "
        "them; or -, standard input, which it is if none is named.",
    ),
]
FieldOption = Annotated[
    str | None, typer.Option(help="Read JSON lines or Parquet, and take the text from this field or column.")
]
BackendOption = Annotated[Backend, typer.Option(help="What computes: openvino is an extra, for CPUs.")]
ComputeOption = Annotated[Compute, typer.Option(help="fp32 gives the same vectors on every machine.")]
DimOption = Annotated[int | None, typer.Option(help="Keep the first so many numbers of each vector.", min=1)]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        help="So many workers, each with a model of its own; on a Ray cluster as many as fit, if not said.", min=1
    ),
]
EngineOption = Annotated[
    Engine | None, typer.Option(help="Where workers run: local, processes of this machine; ray, a Ray cluster.")
]
WorkerCpusOption = Annotated[
    float, typer.Option(help="Cores of a worker on a cluster; torch takes so many threads.", min=0.01)
]
WorkerGpusOption = Annotated[
    float | None, typer.Option(help="GPUs of a worker on a cluster; 1 where it has any, if not said.", min=0)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def crew_of(engine: Engine | None, workers: int | None, cpus: float, gpus: float | None) -> Crew:
    """The workers that these options ask for. Raises ConfigError."""
    from limbeck.scale.crew import Crew

    return Crew("ray" if engine is Engine.ray else "local", workers, cpus, gpus)


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


@contextmanager
def progress(what: str, total: Callable[[], int | None]) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere; where there is no total, a count and a rate.

    Yields a function that is told how many texts are done since it was called. `total` is asked on a terminal only.
    """
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    to = console(sys.stderr)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        TextColumn("{task.completed:,} texts"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=to, transient=True, disable=not to.is_terminal) as bar:
        task = bar.add_task(what, total=total() if to.is_terminal else None)
        yield lambda done: bar.advance(task, done)
