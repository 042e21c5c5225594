"""`limbeck encode`: texts of files → vectors in a file, or in shards."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import StrEnum
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

EPILOG = "Example: limbeck encode runs/demo/model texts.txt --task clustering --out vectors.npy --dim 128"


class Role(StrEnum):
    """Which side of a search a text is on."""

    query = "query"
    document = "document"


class Precision(StrEnum):
    """What the numbers of a vector are stored as."""

    float32 = "float32"
    int8 = "int8"
    binary = "binary"
    ubinary = "ubinary"


class Space(StrEnum):
    """Whose vectors the texts get."""

    student = "student"
    teacher = "teacher"


class ShardFormat(StrEnum):
    """What a shard is."""

    parquet = "parquet"
    arrow = "arrow"
    npy = "npy"
    npz = "npz"
    jsonl = "jsonl"


def encode(
    model: ModelArgument,
    sources: SourcesArgument = None,
    out: Annotated[
        str,
        typer.Option(
            help="FILE.parquet, .arrow, .npy (for int8 .npz) or .jsonl; - for JSONL on standard output; or FOLDER/, "
            "for shards: one that was killed goes on where it stopped."
        ),
    ] = "-",
    role: Annotated[Role, typer.Option(help="Queries and documents are encoded differently.")] = Role.document,
    task: Annotated[
        str | None,
        typer.Option(
            help="Adapter to use, where the model has adapters: retrieval, text-matching, clustering, classification, "
            "auto (chosen by the first texts), or a blend such as retrieval=0.7,clustering=0.3."
        ),
    ] = None,
    dim: DimOption = None,
    precision: Annotated[Precision, typer.Option(help="binary and ubinary: one bit a number.")] = Precision.float32,
    space: Annotated[
        Space, typer.Option(help="teacher: projected, to search an index that the model's teacher built.")
    ] = Space.student,
    field: FieldOption = None,
    id_field: Annotated[
        str | None,
        typer.Option("--id", metavar="FIELD", help="Write this field or column beside the vectors, not texts."),
    ] = None,
    shard_rows: Annotated[
        int | None, typer.Option(help="Write a folder of shards of so many rows; 65,536 if not said.", min=1)
    ] = None,
    shard_format: Annotated[
        ShardFormat | None, typer.Option("--format", help="Of shards; parquet if not said.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Delete the shards of FOLDER, and begin anew.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a text over the model's limit, instead of cutting it there.")
    ] = False,
    backend: BackendOption = Backend.torch,
    compile: Annotated[
        bool, typer.Option("--compile", help="Let torch compile the model: slower to start, faster after that.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn texts into vectors. Row N of the output is row N of the input.

    How many texts were cut at the model's limit is said at the end.
    """
    import limbeck
    from limbeck.encode_file import Settings, encode_file, is_folder, parse_task
    from limbeck.encoding.reading import count_rows, find_inputs
    from limbeck.encoding.shards import Sharding

    sharding = None
    if shard_rows or is_folder(out):
        given = {"rows": shard_rows, "format": shard_format and shard_format.value}
        sharding = Sharding(**{name: value for name, value in given.items() if value}, force=force)
    elif shard_format or force:
        raise typer.BadParameter(f"--format and --force are for a folder of shards: end --out in /, got {out!r}")
    settings = Settings(
        role=role.value,
        task=parse_task(task) if task else None,
        dim=dim,
        precision=precision.value,
        on_long="error" if strict else "truncate",
        space=space.value,
    )
    inputs = find_inputs(sources or ["-"], field=field, id=id_field)
    encoder = limbeck.load(model, backend=backend.value, compile=compile)
    with progress("encoding", lambda: count_rows(inputs)) as advance:
        stats = encode_file(encoder, inputs, out, settings, sharding=sharding, progress=advance)
    if as_json:
        print_json(asdict(stats), to=sys.stderr if out == "-" else sys.stdout)
    else:
        typer.echo(stats, err=True)
