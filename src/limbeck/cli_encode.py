"""`limbeck encode`: texts of files → vectors in a file, or in shards."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.cli_parts import (
    Backend,
    BackendOption,
    Compute,
    ComputeOption,
    DimOption,
    EngineOption,
    FieldOption,
    JsonOption,
    ModelArgument,
    SourcesArgument,
    WorkerCpusOption,
    WorkerGpusOption,
    WorkersOption,
    crew_of,
    print_json,
    progress,
)

if TYPE_CHECKING:
    from limbeck.encode_file import Settings
    from limbeck.scale.crew import Crew
    from limbeck.scale.encode_corpus import Corpus, ModelPlace

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
            "for shards: one that was killed goes on where it stopped. A URL too, such as s3://bucket/vectors/, which "
            "is made file by file, as with --workers."
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
    workers: WorkersOption = None,
    engine: EngineOption = None,
    worker_cpus: WorkerCpusOption = 1.0,
    worker_gpus: WorkerGpusOption = None,
    backend: BackendOption = Backend.torch,
    compute: ComputeOption = Compute.auto,
    compile: Annotated[
        bool, typer.Option("--compile", help="Let torch compile the model: slower to start, faster after that.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn texts into vectors. Row N of the output is row N of the input.

    How many texts were cut at the model's limit is said at the end.

    With --workers or --engine, each input file becomes a file of vectors in the folder --out, by many workers; a file
    that fails is named at the end, and run again, only what is missing is made. Inputs may then be URLs.
    """
    import limbeck
    from limbeck.encode_file import Settings, encode_file, is_folder, parse_task
    from limbeck.encoding.reading import count_rows, find_inputs
    from limbeck.encoding.shards import Sharding

    settings = Settings(
        role=role.value,
        task=parse_task(task) if task else None,
        dim=dim,
        precision=precision.value,
        on_long="error" if strict else "truncate",
        space=space.value,
    )
    urls = [name for name in (*(sources or ()), out) if "://" in name]
    if workers or engine or worker_cpus != 1 or worker_gpus is not None or urls:
        from limbeck.scale.encode_corpus import Corpus, ModelPlace

        if shard_rows or not out.endswith("/"):
            raise typer.BadParameter(
                "file by file (--workers, --engine, URLs) each input is a shard, without --shard-rows, and --out a "
                f"folder, ending in /; got {out!r}"
            )
        form = shard_format.value if shard_format else "parquet"
        corpus = Corpus(tuple(sources or ()), out, field, id_field, form, force)
        place = ModelPlace(model, backend.value, compute.value, compile)
        _by_file(place, corpus, settings, crew_of(engine, workers, worker_cpus, worker_gpus), as_json=as_json)
        return
    sharding = None
    if shard_rows or is_folder(out):
        given = {"rows": shard_rows, "format": shard_format and shard_format.value}
        sharding = Sharding(**{name: value for name, value in given.items() if value}, force=force)
    elif shard_format or force:
        raise typer.BadParameter(f"--format and --force are for a folder of shards: end --out in /, got {out!r}")
    inputs = find_inputs(sources or ["-"], field=field, id=id_field)
    encoder = limbeck.load(model, backend=backend.value, precision=compute.value, compile=compile)
    with progress("encoding", lambda: count_rows(inputs)) as advance:
        stats = encode_file(encoder, inputs, out, settings, sharding=sharding, progress=advance)
    if as_json:
        print_json(asdict(stats), to=sys.stderr if out == "-" else sys.stdout)
    else:
        typer.echo(stats, err=True)


def _by_file(place: ModelPlace, corpus: Corpus, settings: Settings, crew: Crew, *, as_json: bool) -> None:
    from limbeck.scale.encode_corpus import encode_corpus

    encoder = place.load(None) if crew.is_alone else place.load_to_ask()
    with progress("encoding", lambda: None) as advance:
        stats = encode_corpus(encoder, place, corpus, settings, crew=crew, progress=advance)
    if as_json:
        print_json(asdict(stats))
    else:
        typer.echo(stats, err=True)
    stats.check()
