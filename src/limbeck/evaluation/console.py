"""An evaluation on a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from limbeck.evaluation.comparison import score_table
from limbeck.evaluation.results import Evaluation

_SHOWN = 3  # examples of training texts in a task


def show(evaluation: Evaluation, console: Console) -> None:
    """Print scores and their means, then what a reader must know of them: training texts found, and warnings."""
    scores = score_table(evaluation)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(scores.head):
        table.add_column(name, justify="left" if i < 3 else "right", overflow="fold")
    for row in scores.rows:
        table.add_row(*row)
    console.print(table)
    for line in [*_leaks(evaluation), *_warnings(evaluation)]:
        console.print(line, highlight=False, markup=False)


def _leaks(evaluation: Evaluation) -> list[str]:
    """A line for each task and set of training texts, and a few of the texts."""
    lines: dict[str, None] = {}  # variants of a model share theirs
    for model in evaluation.models:
        for task in model.tasks:
            leak = task.leak
            if leak is None:
                continue
            lines[
                f"training texts in {task.task}: {leak.exact:,} equal and {leak.near:,} near, of {leak.texts:,} texts"
            ] = None
            lines |= {f'    "{theirs}" ~ "{ours}"': None for theirs, ours in leak.examples[:_SHOWN]}
    return list(lines)


def _warnings(evaluation: Evaluation) -> list[str]:
    """Each warning once, with the models and tasks that it is about."""
    of: dict[tuple[str, str], list[str]] = {}
    for model in evaluation.models:
        for task in model.tasks:
            for warning in task.warnings:
                of.setdefault((task.task, warning), []).append(model.model)
    lines = []
    for (task, warning), models in of.items():
        whose = "" if len(models) == len(evaluation.models) else f" ({', '.join(models)})"
        lines.append(f"warning: {task}{whose}: {warning}")
    return [*(f"warning: {warning}" for warning in evaluation.warnings), *lines]
