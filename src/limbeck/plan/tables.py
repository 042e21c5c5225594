"""A plan as tables on a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from limbeck.evaluation.formatting import NONE, count, duration, percent, short_count
from limbeck.plan import REFERENCE_GPU, Plan, Stage
from limbeck.plan.estimate import ASSUMED_UTILISATION, Shape


def show(plan: Plan, console: Console) -> None:
    """Print everything that is known about a run before it starts."""
    console.print(f"[bold]{plan.recipe}[/bold] → {plan.out}/   on {plan.machine}")
    console.print(_models(plan))
    console.print(_texts(plan))
    console.print(_stages(plan))
    for line in _notes(plan):
        console.print(f"• {line}", highlight=False, markup=False)


def _table(title: str, *columns: str, left: int = 1) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < left else "right", overflow="fold")
    return table


def _models(plan: Plan) -> Table:
    table = _table("Models", "", "token table", "layers", "all weights", "operations a token")

    def row(name: str, shape: Shape) -> None:
        values = (shape.embedding, shape.layers, shape.total, shape.forward_flops(plan.length))
        table.add_row(name, *map(short_count, values))

    row("student", plan.student)
    if plan.teacher:
        row("teacher", plan.teacher)
    elif plan.teacher_layers:
        table.add_row("teacher", NONE, short_count(plan.teacher_layers), NONE, short_count(2 * plan.teacher_layers))
    if plan.compute_ratio:
        table.add_row("student / teacher", "", "", "", percent(plan.compute_ratio))
    return table


def _texts(plan: Plan) -> Table:
    table = _table("Texts", "source", "kind", "rows", "texts to teach", "tokens", left=2)
    table.add_column("")
    for d in plan.data:
        table.add_row(d.source, d.kind, count(d.rows), count(d.texts), short_count(d.tokens), d.note)
    return table


def _stages(plan: Plan) -> Table:
    table = _table("Stages", "stage", "tokens", "memory", "disk", "arithmetic", "time here")
    for s in plan.stages:
        what = Text.assemble((s.name, "bold"), f" → {s.writes}\n{s.does}")
        amounts = (
            short_count(s.tokens),
            bytes_of(sum(s.memory.values()) or None),
            bytes_of(s.disk),
            _operations(s.flops),
        )
        table.add_row(what, *amounts, long_duration(s.seconds))
    return table


def _notes(plan: Plan) -> list[str]:
    notes = [_memory(s) for s in plan.stages if len(s.memory) > 1]
    if plan.passes is not None:
        notes.append(f"stage 1 reads its texts {plan.passes:,.1f} times")
    per_million = (
        f"a million texts of {plan.length} tokens: {bytes_of(plan.per_million_texts['store_bytes'])} of teacher"
    )
    per_million += " vectors"
    if plan.per_million_texts["teach_seconds"] is not None:
        per_million += f", taught here in {long_duration(plan.per_million_texts['teach_seconds'])}"
    notes.append(per_million)
    notes += [
        f"{name}: {short_count(rate.tokens_per_second)} tokens/s ({rate.how})" for name, rate in plan.rates.items()
    ]
    if plan.device == "cpu" and (plan.reference_gpu_hours or 0) > 0.1:  # else nobody would rent one
        known = "training alone" if plan.stages[1].flops is None else "teaching and training"
        hours = f"{plan.reference_gpu_hours:,.1f} hours of one {REFERENCE_GPU}"
        notes.append(f"{known} takes {hours}, at {ASSUMED_UTILISATION:.0%} of its dense bf16 peak")
    return notes + plan.assumptions


def _memory(stage: Stage) -> str:
    parts = ", ".join(f"{name} {bytes_of(amount)}" for name, amount in stage.memory.items())
    return f"memory of {stage.name}: {parts}"


def bytes_of(amount: float | None) -> str:
    """An amount of memory or disk: "1.6 GiB", "825 MiB"."""
    if amount is None:
        return NONE
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if amount >= 0.95 * size:
            return f"{amount / size:,.1f} {unit}" if amount < 100 * size else f"{amount / size:,.0f} {unit}"
    return f"{amount / 2**10:,.0f} KiB"


def _operations(flops: float | None) -> str:
    if flops is None:
        return NONE
    for unit, size in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12)):
        if flops >= size:
            return f"{flops / size:.3g} {unit}"
    return f"{flops / 1e9:.3g} GFLOP"


def long_duration(seconds: float | None) -> str:
    """As `duration`, and in days or years where hours say little."""
    if seconds is None or seconds < 2 * 86400:
        return duration(seconds)
    days = seconds / 86400
    return f"{days:,.0f} days" if days < 730 else f"{days / 365:,.1f} years"
