"""A smoke run as a table on a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table

from limbeck.evaluation.formatting import NONE, duration, rate, short_count
from limbeck.plan.tables import bytes_of
from limbeck.smoke.run import Smoke


def show(smoke: Smoke, console: Console) -> None:
    """Print what each stage took, and what was planned."""
    console.print(f"[bold]{smoke.recipe}[/bold] → {smoke.out}/   on {smoke.machine}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage")
    for name in ("weights", "trained", "steps", "time", "tokens/s", "memory", "planned", "memory / planned"):
        table.add_column(name, justify="right")
    for s in smoke.stages:
        table.add_row(
            s.name,
            short_count(s.weights),
            short_count(s.trained),
            NONE if s.steps is None else str(s.steps),
            duration(s.seconds),
            rate(s.tokens_per_second),
            bytes_of(s.peak),
            bytes_of(s.planned),
            NONE if s.ratio is None else f"{s.ratio:.2f}",
        )
    console.print(table)
    where = "what tensors take on the device"
    if smoke.device == "cpu":
        where = (
            "resident, beyond what the process held before; `limbeck run` gives freed memory back later, and has more"
        )
    total = smoke.backbone + sum(smoke.adapters.values())
    lines = [
        f"memory: {where}",
        f"student: {smoke.backbone:,} weights, {total:,} with its adapters",
        f"{smoke.out}/model loads, and encodes by {', '.join(smoke.vectors)}: "
        f"{next(iter(smoke.vectors.values()))[1]:,} dims",
        *smoke.notes,
    ]
    for line in lines:
        console.print(f"• {line}", highlight=False, markup=False)
