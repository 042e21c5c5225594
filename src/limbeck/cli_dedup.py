"""`limbeck dedup`: texts of files → groups of near duplicates, and the input without them."""

from __future__ import annotations

import sys
from enum import StrEnum
from importlib import import_module
from typing import Annotated

import typer

from limbeck.cli_parts import (
    Backend,
    BackendOption,
    DimOption,
    FieldOption,
    JsonOption,
    ModelArgument,
    SourcesArgument,
    print_json,
    progress,
)

EPILOG = "Example: limbeck dedup runs/demo/model notes.jsonl --field text --out duplicates.jsonl --kept clean.jsonl"


class Keep(StrEnum):
    """Which text of a group is kept."""

    first = "first"
    longest = "longest"
    central = "central"


class Shape(StrEnum):
    """What a group is."""

    star = "star"
    linked = "linked"


def dedup(
    model: ModelArgument,
    sources: SourcesArgument = None,
    out: Annotated[
        str, typer.Option(metavar="FILE", help="FILE.jsonl or FILE.csv; - for JSON lines on standard output.")
    ] = "-",
    kept: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Also write the input without its duplicates here, its lines or rows as they are."
        ),
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Write all near pairs instead of groups, as they are found.")
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(help="Cosine from which two texts are duplicates; chosen for --precision if not said."),
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(help="Choose the lowest threshold of which so many near pairs are duplicates; 0.95 if not said."),
    ] = None,
    labelled: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Choose and judge the threshold by these pairs: JSONL or Parquet with text_a, text_b and label, 1 or "
            "0. Without it, by copies of the texts themselves, edited.",
        ),
    ] = None,
    keep: Annotated[
        Keep, typer.Option(help="Of a group: the first, the longest, or the text with the most near ones.")
    ] = Keep.first,
    shape: Annotated[
        Shape,
        typer.Option(
            "--group",
            help="star: each text is near the one that is kept; linked: also those that are near by a chain of others.",
        ),
    ] = Shape.star,
    field: FieldOption = None,
    id_field: Annotated[
        str | None,
        typer.Option("--id", metavar="FIELD", help="Name rows by this field or column; by their number if not said."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Adapter to use: text-matching where the model has it, if none is named.")
    ] = None,
    dim: DimOption = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn; the same one gives the same threshold.", min=0)] = 0,
    backend: BackendOption = Backend.torch,
    as_json: JsonOption = False,
) -> None:
    """Find texts that say nearly the same, in groups, and which text of each group to keep.

    Every two texts are compared by one bit a dimension, and what is near by its full vector. Memory
    grows by about half a kilobyte a text; vectors and texts are on disk meanwhile.
    """
    import limbeck
    from limbeck.dedup.run import Request
    from limbeck.dedup.run import dedup as find
    from limbeck.encode_file import parse_task
    from limbeck.encoding.reading import find_inputs

    request = Request(
        inputs=find_inputs(sources or ["-"], field=field, id=id_field),
        out=out,
        rest=kept,
        pairs=pairs,
        keep=keep.value,
        shape=shape.value,
        threshold=threshold,
        labelled=labelled,
        precision=precision,
        task=parse_task(task) if task else None,
        dim=dim,
        seed=seed,
    )
    request.check()
    if labelled or shape is Shape.linked:
        import_module("scipy")  # before the minutes that vectors take
    summary = find(limbeck.load(model, backend=backend.value), request, bar=progress)
    if as_json:
        print_json(summary.as_dict(), to=sys.stderr if out == "-" else sys.stdout)
        return
    for line in summary.lines():
        typer.echo(line, err=True)
