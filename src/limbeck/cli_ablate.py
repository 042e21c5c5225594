"""`limbeck ablate NAME`: every experiment is a command of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from limbeck.ablation.experiments import EXPERIMENTS
from limbeck.cli_parts import JsonOption, SetOption, console, print_json, typed

ROOT = Path("runs/ablate")

ablate = typer.Typer(
    name="ablate",
    help="Run an experiment: train its arms with several seeds, and compare them. What is done is not done again.",
    epilog="Example: limbeck ablate gor --seed 0 --seed 1 --seed 2",
    invoke_without_command=True,
    no_args_is_help=True,
)

RecipeOption = Annotated[
    str | None, typer.Option(metavar="RECIPE", help="Shipped name or YAML file. Default: the experiment's own.")
]
OutOption = Annotated[str | None, typer.Option(metavar="DIR", help="Default: runs/ablate/NAME.")]
SeedOption = Annotated[list[int] | None, typer.Option(help="Repeatable; default 0, 1, 2.")]
JobsOption = Annotated[int | None, typer.Option(min=1, help="Arms at a time; default: one a GPU, or one a core.")]
TasksOption = Annotated[
    list[str] | None,
    typer.Option(metavar="TASK", help="Score these as well: tasks of mteb, or folders of evaluation sets. Repeatable."),
]


@ablate.callback()
def every(
    context: typer.Context,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Run every experiment in miniature, to see that all of them work.")
    ] = False,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Of --smoke; default: runs/ablate/smoke.")] = None,
    jobs: JobsOption = None,
) -> None:
    """With --smoke all experiments; else the one that is named."""
    if not smoke:
        if out or jobs:
            raise typer.BadParameter(
                "--out and --jobs belong to --smoke here: give those of an experiment after its name"
            )
        return
    if context.invoked_subcommand:
        raise typer.BadParameter(f"--smoke runs every experiment: leave out {context.invoked_subcommand}")
    from limbeck.ablation.page import write_experiment_page
    from limbeck.ablation.smoke import run_all

    root = Path(out) if out else ROOT / "smoke"
    for results, folder in run_all(root, jobs=jobs, command=typed(context), console=console(sys.stderr)):
        write_experiment_page(results, folder)
        typer.echo(f"{results.name}: {len(results.arms)} arms, {len(results.seeds)} seeds, {folder / 'index.html'}")


def _command(name: str) -> Callable[..., None]:
    def command(
        context: typer.Context,
        recipe: RecipeOption = None,
        out: OutOption = None,
        seed: SeedOption = None,
        jobs: JobsOption = None,
        tasks: TasksOption = None,
        changes: SetOption = None,
        as_json: JsonOption = False,
    ) -> None:
        from limbeck.ablation.arms import STAGES
        from limbeck.ablation.page import write_experiment_page
        from limbeck.ablation.run import Settings
        from limbeck.ablation.run import ablate as run

        folder = Path(out) if out else ROOT / name
        settings = Settings(
            seeds=seed or (0, 1, 2),
            tasks=tuple(tasks or ()),
            jobs=jobs,
            shared=None if out else ROOT / STAGES,  # experiments have stages in common
        )
        results = run(
            EXPERIMENTS[name],
            folder,
            settings,
            recipe=recipe,
            overrides=changes or (),
            command=typed(context),
            console=console(sys.stderr),
        )
        write_experiment_page(results, folder)
        if as_json:
            print_json(results.model_dump(mode="json"))
            return
        typer.echo(results.verdict)
        typer.echo(f"{folder / 'index.html'}, {folder / 'results.json'}")

    return command


for _name, _experiment in EXPERIMENTS.items():
    ablate.command(_name, help=f"{_experiment.question} Claim: {_experiment.claim}.")(_command(_name))


@ablate.command()
def evidence(
    folders: Annotated[
        list[str] | None, typer.Argument(metavar="FOLDER…", help="Of finished experiments; default: runs/ablate/*.")
    ] = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder to write.")] = "evidence",
    bench: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the named tasks lie: commands then say BENCH_DIR instead.")
    ] = None,
) -> None:
    """Put the claims, the results and the verdicts of finished experiments on one page."""
    from limbeck.ablation.evidence import write_evidence

    found = [Path(f) for f in folders] if folders else sorted(p.parent for p in ROOT.glob("*/results.json"))
    write_evidence(found, Path(out), bench=Path(bench) if bench else None)
    typer.echo(f"{Path(out) / 'README.md'}")


@ablate.command("theta", epilog="Example: limbeck ablate theta --length 256 --length 4096 --documents 20")
def theta_command(
    context: typer.Context,
    recipe: Annotated[str, typer.Option(help="Shipped name or YAML file, with an `extend:` section.")] = "demo-long",
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Default: runs/ablate/theta.")] = None,
    length: Annotated[
        list[int] | None, typer.Option(min=32, help="Tokens of each document. Repeatable; default 256, 512 … 32,768.")
    ] = None,
    theta: Annotated[
        list[float] | None, typer.Option(help="Another theta at inference, beside the recipe's two. Repeatable.")
    ] = None,
    documents: Annotated[int, typer.Option(min=10, help="Of each passkey and needle task, and as many queries.")] = 50,
    budget: Annotated[
        int | None, typer.Option(min=1, help="Tokens of all documents of a task: fewer documents of long ones, ≥ 10.")
    ] = None,
    tasks: Annotated[
        list[str] | None, typer.Option(metavar="FOLDER", help="Real long documents to score as well. Repeatable.")
    ] = None,
    window: Annotated[
        list[int] | None, typer.Option(min=32, help="Tokens that real documents are cut to. Repeatable.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Repeatable; each trains everything anew.")] = None,
    changes: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Do long texts gain from RoPE theta raised at inference, and from the long-context phase?"""
    from pathlib import Path

    from limbeck.ablation.theta import Settings, ablate_theta
    from limbeck.ablation.theta_page import verdicts, write_theta_page
    from limbeck.evaluation.long_text import LENGTHS

    settings = Settings(
        lengths=length or LENGTHS,
        documents=documents,
        real=[Path(folder) for folder in tasks or ()],
        windows=window or (512, 8192),
        thetas=theta or (),
        seeds=seed or (0,),
        budget=budget,
    )
    folder = Path(out or "runs/ablate/theta")
    results = ablate_theta(
        recipe,
        folder,
        settings,
        overrides=changes or (),
        command=typed(context),
        console=console(sys.stderr),
    )
    write_theta_page(results, folder)
    if as_json:
        print_json(results.model_dump(mode="json"))
        return
    for text in verdicts(results):
        typer.echo(text)
    typer.echo(f"{folder / 'index.html'}, {folder / 'results.json'}")
