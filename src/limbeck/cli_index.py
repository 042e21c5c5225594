"""`limbeck index`, `search`, `delete`: an index of documents, made, asked and mended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.cli_parts import (
    Backend,
    BackendOption,
    DimOption,
    JsonOption,
    ModelArgument,
    console,
    print_json,
    progress,
)

if TYPE_CHECKING:
    from limbeck.search.index import Index

INDEX_EPILOG = "Example: limbeck index runs/demo/model notes.jsonl --out notes.index --dim 256 --precision binary"
SEARCH_EPILOG = (
    'Example: limbeck search notes.index "merge two sorted lists" --where lang=en --top 3; without an index: '
    'limbeck search runs/demo/model runs/demo "merge two sorted lists"'
)
DELETE_EPILOG = "Example: limbeck delete notes.index 17 18"

_SHOWN = 100  # characters of a text


class Precision(StrEnum):
    """What is searched."""

    float16 = "float16"
    int8 = "int8"
    binary = "binary"


class Chunks(StrEnum):
    """How long documents are cut."""

    auto = "auto"
    none = "none"
    separate = "separate"
    late = "late"


class By(StrEnum):
    """What documents are found by."""

    vectors = "vectors"
    words = "words"
    both = "both"


IndexArgument = Annotated[str, typer.Argument(metavar="INDEX", help="A folder, or http://HOST:6333/NAME.")]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Of documents whose field fits: lang=en, lang=en,de, lang!=en, 'year>=2020'. May be given many times; all "
        "must hold.",
    ),
]


def index(
    model: ModelArgument,
    corpus: Annotated[
        str,
        typer.Argument(
            metavar="CORPUS",
            help="A JSONL, CSV or Parquet file with id, text, maybe title, and fields to filter by; - for JSONL on "
            "standard input; a run folder, python-docs or debian-packages.",
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            metavar="INDEX",
            help="A folder; or http://HOST:6333/NAME, a collection on a Qdrant server. One that is there is added to.",
        ),
    ],
    dim: DimOption = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="Of what is searched: binary (if none is named) and int8 find candidates, which float16 puts in order."
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Adapter to use: retrieval where the model has it, if none is named.")
    ] = None,
    chunks: Annotated[
        Chunks | None,
        typer.Option(
            help="How documents longer than a chunk are cut: late, after one reading of the whole (what auto means for "
            "a model that pools by mean); separate, each part encoded by itself; or none."
        ),
    ] = None,
    chunk_chars: Annotated[
        int | None, typer.Option(help="Characters of the longest chunk; 2,000 if not said.", min=1)
    ] = None,
    words: Annotated[
        bool | None, typer.Option("--words/--no-words", help="Keep words too, for BM25; kept if not said.")
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="Whose stop words and endings BM25 leaves out, such as english; none if not said."),
    ] = None,
    fields: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,…",
            help="Fields of the file to keep, all if not said; year:integer, price:number for columns of a CSV.",
        ),
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Delete documents of the index that CORPUS lacks.")] = False,
    optimize: Annotated[
        bool, typer.Option("--optimize/--no-optimize", help="Build graph and small vectors at the end.")
    ] = True,
    shards: Annotated[int | None, typer.Option(help="On a server: parts of a new collection.", min=1)] = None,
    replicas: Annotated[int | None, typer.Option(help="On a server: copies of each part.", min=1)] = None,
    backend: BackendOption = Backend.torch,
    as_json: JsonOption = False,
) -> None:
    """Make an index of documents, or bring one up to date.

    Documents are told apart by id. Those that are new are added, those that changed are encoded again, the others are
    left: killed, the same command goes on.
    """
    import limbeck
    from limbeck.encode_file import parse_task
    from limbeck.search.documents import read_documents
    from limbeck.search.exact import default_cache_dir

    named = fields.split(",") if fields else None
    documents = read_documents(corpus, fields=named, cache_dir=default_cache_dir())
    sample, documents = _sampled(documents)
    encoder = limbeck.load(model, backend=backend.value)
    asked = {
        "task": parse_task(task) if task else None,
        "dim": dim,
        "precision": precision and precision.value,
        "chunks": chunks and chunks.value,
        "chunk_chars": chunk_chars,
        "words": words,
        "language": language,
        "shards": shards,
        "replicas": replicas,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    with _opened_or_made(out, encoder, model, given, sample) as made:
        with progress("indexing", lambda: _total(corpus)) as advance:
            report = made.add(documents, progress=advance)
        deleted = made.keep_only(report.ids) if prune else 0
        if optimize and (report.chunks or deleted):
            with console(sys.stderr).status("building the graph"):
                made.optimize()
        details = made.details()
    summary = report.as_dict() | {"deleted": deleted, "out": out}
    if as_json:
        print_json(summary | {"index": details})
        return
    cut = f"; {report.truncated:,} cut at {encoder.max_tokens:,} tokens" if report.truncated else ""
    disk = f", {details['disk_bytes'] / 2**20:.1f} MiB" if "disk_bytes" in details else ""
    typer.echo(
        f"{report.added:,} documents added, {report.updated:,} updated, {deleted:,} deleted, {report.unchanged:,} as "
        f"they were; {report.chunks:,} chunks stored{cut}"
    )
    typer.echo(f"{out}: {details['points']:,} chunks × {details['dim']} {details['precision']}{disk}")


def search(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="INDEX QUERY | MODEL CORPUS QUERY",
            help="An index (a folder, or http://HOST:6333/NAME); or a model, and a corpus: a JSONL, CSV or Parquet "
            "file with id and text, a run folder, python-docs or debian-packages. QUERY is what to look for; - reads "
            "one from each line of standard input.",
        ),
    ],
    top: Annotated[int, typer.Option(help="How many documents to print.", min=1)] = 10,
    where: WhereOption = None,
    by: Annotated[
        By | None,
        typer.Option(
            help="Of an index: vectors, if nothing is said; words, BM25; or both, by the sum of 1/(60 + rank)."
        ),
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Of an index: compare with every vector, at float16.")] = False,
    oversampling: Annotated[
        float | None,
        typer.Option(
            help="Of an index: candidates by int8 or bits for each hit, 15 if nothing is said; more find more of what "
            "--exact would, and take longer.",
            min=1,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Of an index: where its model is now, if it was moved.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="Of a corpus: adapter to use, retrieval where the model has adapters, if none is named; text-matching "
            "finds texts that say the same as QUERY."
        ),
    ] = None,
    dim: DimOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search an index, or a corpus without one, and print the documents nearest to the query.

    A corpus is encoded once, and compared vector by vector; its vectors are kept in the user's cache folder for the
    next search.
    """
    if len(what) not in (2, 3):
        raise typer.BadParameter(f"expected INDEX QUERY, or MODEL CORPUS QUERY; got {len(what)} arguments")
    *place, query = what
    queries = list(_lines()) if query == "-" else [query]
    if len(place) == 1:
        if task or dim:
            raise typer.BadParameter("--task and --dim are those that the index was made with: leave them out")
        how: dict[str, Any] = {"by": (by or By.vectors).value, "exact": exact}
        how |= {} if oversampling is None else {"oversampling": oversampling}
        found = _search_index(place[0], queries, top, where, how, model)
    else:
        if where or by or exact or model or oversampling:
            raise typer.BadParameter(
                "--where, --by, --exact, --oversampling and --model are for an index: make one with limbeck index"
            )
        found = _search_corpus(place[0], place[1], queries, top, task, dim)
    for asked, hits in zip(queries, found, strict=True):
        if as_json:
            print_json({"query": asked, "hits": hits})
            continue
        if query == "-":
            typer.echo(f"{asked}")
        for hit in hits:
            typer.echo(f"{hit['rank']:>3}  {hit['score']:.3f}  {hit['id']}")
            typer.echo(f"            {_shortened(hit.get('title'), hit.get('text') or hit.get('document'))}")


def delete(
    place: IndexArgument,
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID…]", help="Documents to delete; - reads one from each line of standard input."),
    ] = None,
    where: WhereOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete documents from an index, by id or by conditions. Unknown ids are passed over."""
    from limbeck.search.conditions import parse_condition
    from limbeck.search.index import Index

    if bool(ids) == bool(where):
        raise typer.BadParameter("name documents, or conditions (--where), one of both")
    with Index.without_model(place) as opened:
        if where:
            gone = opened.delete_where([parse_condition(text) for text in where])
        else:
            gone = opened.delete(_lines() if ids == ["-"] else ids or ())
        left = len(opened)
    if as_json:
        print_json({"deleted": gone, "documents": left})
    else:
        typer.echo(f"{gone:,} documents deleted, {left:,} left")


# ------------------------------------------------------------------------------------------------ parts


def _sampled(documents: Iterator[Any], size: int = 256) -> tuple[list[Any], Iterator[Any]]:
    """The first documents, for a look, and all of them. What is wrong with these is said before anything is made."""
    from itertools import chain, islice

    first = list(islice(documents, size))
    return first, chain(first, documents)


def _opened_or_made(where: str, encoder: Any, address: str, given: dict[str, Any], sample: list[Any]) -> Index:
    from limbeck.encode_file import task_words
    from limbeck.errors import ConfigError
    from limbeck.search.index import Index

    if not Index.exists(where):
        path = Path(address)
        return Index.create(
            where, encoder, sample=sample, address=str(path.resolve()) if path.exists() else address, **given
        )
    opened = Index.open(where, encoder)
    made = opened.spec.model_dump() | {"chunks": "auto" if given.get("chunks") == "auto" else opened.spec.chunks}
    for name, value in given.items():
        if name in ("shards", "replicas") or (task_words(value) if name == "task" else value) != made[name]:
            opened.close()
            was = f"it was made with {made[name]!r}" if name in made else "it was made before"
            raise ConfigError(f"{where} is there, and {name.replace('_', '-')} cannot be changed ({was}): name another")
    return opened


def _total(corpus: str) -> int | None:
    from limbeck.encoding.reading import Inputs, count_rows

    path = Path(corpus)
    if path.is_file() and path.suffix in (".jsonl", ".ndjson", ".parquet"):
        return count_rows(Inputs((corpus,), "parquet" if path.suffix == ".parquet" else "json", "text", "id"))
    return None


def _search_index(
    place: str, queries: list[str], top: int, where: list[str] | None, how: dict[str, Any], model: str | None
) -> list[list[dict[str, Any]]]:
    from limbeck.search.conditions import parse_condition
    from limbeck.search.index import Index

    open_it: Callable[[], Index] = (
        (lambda: Index.without_model(place)) if how["by"] == "words" else (lambda: Index.open(place, model))
    )
    with open_it() as opened:
        conditions = [parse_condition(text) for text in where or ()]
        found = opened.search_all(queries, k=top, where=conditions, **how)
    return [[asdict(hit) for hit in hits] for hits in found]


def _search_corpus(
    model: str, corpus: str, queries: list[str], top: int, task: str | None, dim: int | None
) -> list[list[dict[str, Any]]]:
    import limbeck
    from limbeck.encode_file import parse_task
    from limbeck.search.exact import default_cache_dir, load_corpus, search_corpus

    cache = default_cache_dir()
    loaded = load_corpus(corpus, cache_dir=cache)
    encoder = limbeck.load(model)
    with progress(f"encoding {loaded.name}", lambda: len(loaded.documents)) as advance:
        found = search_corpus(
            encoder,
            loaded.ids,
            loaded.documents,
            queries,
            k=top,
            task=parse_task(task) if task else None,
            dim=dim,
            cache_dir=cache,
            progress=advance,
        )
    return [[asdict(hit) for hit in hits] for hits in found]


def _lines() -> Iterable[str]:
    """Lines of standard input that hold something."""
    from limbeck.encoding.reading import find_inputs, read_rows

    return (row.text for row in read_rows(find_inputs(["-"])) if row.text.strip())


def _shortened(title: str | None, text: str | None) -> str:
    line = " ".join(f"{title + ': ' if title else ''}{text or ''}".split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
