"""`limbeck cluster`: texts of files → clusters, what they are about, and a map."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.cli_parts import (
    Backend,
    BackendOption,
    DimOption,
    FieldOption,
    JsonOption,
    ModelArgument,
    SourcesArgument,
    console,
    print_json,
    progress,
)

if TYPE_CHECKING:
    from rich.console import Console

    from limbeck.cluster import Clustering

EPILOG = "Example: limbeck cluster runs/demo/model notes.jsonl --field text --out clusters --k 12"

_OVERLAP = 0.1  # of a silhouette; below it there are no gaps between clusters


class Method(StrEnum):
    """How texts are grouped."""

    kmeans = "kmeans"
    hdbscan = "hdbscan"


def cluster(
    model: ModelArgument,
    sources: SourcesArgument = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Write assignments.jsonl, topics.json and map.html here, all or none; or - for the assignments alone, "
            "on standard output. Without it, clusters are printed and nothing is written.",
        ),
    ] = None,
    method: Annotated[
        Method,
        typer.Option(help="kmeans: every text is in a cluster; hdbscan: dense regions, what lies between is in none."),
    ] = Method.kmeans,
    k: Annotated[
        int | None, typer.Option("--k", help="Clusters of kmeans; chosen by silhouette if not said.", min=1)
    ] = None,
    min_size: Annotated[
        int | None,
        typer.Option(help="Texts in the smallest cluster of hdbscan; 1% of them, from 5 to 50, if not said.", min=2),
    ] = None,
    field: FieldOption = None,
    id_field: Annotated[
        str | None,
        typer.Option("--id", metavar="FIELD", help="Write this field or column in assignments, not texts."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Adapter to use: clustering where the model has it, if none is named.")
    ] = None,
    dim: DimOption = None,
    draw: Annotated[bool, typer.Option("--map/--no-map", help="Draw the map, one HTML file.")] = True,
    seed: Annotated[int, typer.Option(help="Of all that is drawn; the same one gives the same clusters.", min=0)] = 0,
    backend: BackendOption = Backend.torch,
    as_json: JsonOption = False,
) -> None:
    """Group texts by what they are about, name the groups, and draw a map of them.

    The names are the words that tell a cluster from the others. Texts and vectors are held in memory.
    """
    from pathlib import Path

    import limbeck
    from limbeck.cluster.clustering import check_request
    from limbeck.cluster.clustering import cluster as group
    from limbeck.cluster.folder import MAP, TOPICS, check_folder, write_assignments, write_folder
    from limbeck.cluster.groups import check_hdbscan
    from limbeck.cluster.layout import layout
    from limbeck.encode_file import parse_task
    from limbeck.encoding.reading import find_inputs, read_rows
    from limbeck.encoding.vectors import settled_task, vectors_of

    check_request(method.value, k, min_size)
    folder = Path(out) if out not in (None, "-") else None
    if folder is not None:
        check_folder(folder)
    for needed in ("sklearn", *(["jinja2"] if draw and folder else [])):
        import_module(needed)  # before the minutes that vectors take
    rows = list(read_rows(find_inputs(sources or ["-"], field=field, id=id_field)))
    if method is Method.hdbscan:
        check_hdbscan(len(rows), min_size)
    encoder = limbeck.load(model, backend=backend.value)
    texts = [row.text for row in rows]
    used = settled_task(encoder, parse_task(task) if task else None, texts, usual="clustering")
    with progress("encoding", lambda: len(rows)) as advance:
        vectors = vectors_of(encoder, texts, [row.place for row in rows], task=used, dim=dim, progress=advance)
    with console(sys.stderr).status("grouping"):
        found = group(vectors, texts, method=method.value, k=k, min_size=min_size, seed=seed)
    points = None
    if folder is not None and draw:
        with progress("drawing the map", lambda: len(rows)) as advance:
            points = layout(vectors, seed=seed, progress=advance)
    if folder is not None:
        write_folder(folder, rows, found, points)
    elif out == "-":
        write_assignments(sys.stdout, rows, found)
    if as_json:
        summary = found.summary(texts) | {"truncated": encoder.truncated, "out": out}
        print_json(summary, to=sys.stderr if out == "-" else sys.stdout)
        return
    to = console(sys.stderr if out == "-" else sys.stdout)
    _show(found, texts, to)
    if encoder.truncated:
        to.print(f"{encoder.truncated:,} texts were cut at {encoder.max_tokens:,} tokens", highlight=False)
    if folder is not None:
        to.print(f"{folder / (MAP if points is not None else TOPICS)}", highlight=False, soft_wrap=True)


def _show(found: Clustering, texts: Sequence[str], to: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("cluster", justify="right")
    table.add_column("texts", justify="right")
    table.add_column("about", max_width=40)
    table.add_column("for example", no_wrap=True, overflow="ellipsis", ratio=1)
    for c in found.clusters:
        example = escape(" ".join(texts[c.central[0]].split())[:200])
        table.add_row(str(c.cluster), f"{c.size:,}", escape(c.label), example)
    to.print(table)
    for line in _said(found):
        to.print(line, highlight=False)


def _said(found: Clustering) -> list[str]:
    """What there is to say below the table."""
    count = len(found.clusters)
    lines = [f"{len(found.labels):,} texts in {count:,} cluster{'s' * (count != 1)} by {found.method_name}"]
    if found.silhouette is not None:
        lines[0] += f", silhouette {found.silhouette:.3f}"
    if found.noise:
        lines[0] += f"; {found.noise:,} in none"
    if found.tried:
        best = sorted(found.tried, key=lambda k: -found.tried[k])[:5]
        lines.append("silhouette by k: " + ", ".join(f"{k} {found.tried[k]:.3f}" for k in best))
    if found.tried and found.silhouette is not None and found.silhouette < _OVERLAP:
        lines.append("The clusters overlap, and no k stands out: give the number that is of use to you (--k).")
    return lines
