"""`limbeck export` and `limbeck push`: models that leave home."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from limbeck.cli_parts import JsonOption, print_json

leave = typer.Typer()


class ExportFormat(StrEnum):
    """Layouts that a model can be written in."""

    sentence_transformers = "sentence-transformers"
    jina_v5 = "jina-v5"
    onnx = "onnx"
    openvino = "openvino"


class Weights(StrEnum):
    """What the weights of an export are stored as."""

    fp32 = "fp32"
    int8 = "int8"


@leave.command(epilog="Example: limbeck export runs/demo/model --format onnx --precision int8 --out runs/demo/onnx")
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A bundle, such as runs/demo/model.")],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder to write; an earlier export in it is replaced.")],
    layout: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="sentence-transformers: one adapter merged in; jina-v5: as jina-embeddings-v5-text, for vLLM among "
            "others; onnx and openvino: one graph, with pooling and normalisation in it.",
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            help="Merge this adapter. Else onnx and openvino keep all, with the task as an input, and "
            "sentence-transformers gets a folder for each."
        ),
    ] = None,
    precision: Annotated[
        Weights, typer.Option(help="Of the weights; int8, for onnx and openvino, says what it costs in retrieval.")
    ] = Weights.fp32,
    as_json: JsonOption = False,
) -> None:
    """Write a model in the layout of other software, and compare its vectors there with the model's own."""
    from pathlib import Path

    from limbeck.export import export as write
    from limbeck.export.facts import read_facts

    folder = write(model, out, format=layout.value, task=task, precision=precision.value)
    facts = read_facts(Path(folder))
    assert facts is not None
    if as_json:
        print_json(facts.model_dump(mode="json"))
        return
    typer.echo(f"wrote {folder}: least cosine to the model's own vectors {facts.min_cosine:.6f}")
    if facts.retrieval:
        typer.echo(facts.retrieval)


@leave.command(epilog="Example: limbeck push runs/demo/model someone/docstring-search --private")
def push(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A bundle, such as runs/demo/model, or an export.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Of the hub; made if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="Made if it is not there. Default: main.")
    ] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Upload a bundle or an export to a repository of the Hugging Face hub.

    The token is that of `hf auth login`, or HF_TOKEN; another hub is HF_ENDPOINT.
    """
    from limbeck.export.hub import push as upload

    url = upload(model, repository, private=private, revision=revision, message=message)
    if as_json:
        print_json({"commit": url})
        return
    typer.echo(url)
