"""The arms of an experiment: runs of one recipe that differ in a few of its lines.

An arm is a run like any other, so it resumes, and what is done is never done again. Stages that two arms have in common
are made once and linked.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from limbeck.config import load_recipe
from limbeck.training.pipeline import Pipeline


def arm(recipe: str | Path, out: Path, overrides: Sequence[str], console: Console) -> Pipeline:
    """The run of a recipe with overrides (as `--set` takes them) in `out`; only its recipe is written yet."""
    resolved = load_recipe(recipe, tuple(overrides)).model_copy(update={"out": str(out)})
    resolved.save(resolved.out_dir / "recipe.yaml")
    return Pipeline(resolved, console)


def borrow(stages: Sequence[str], of: Pipeline, by: Pipeline) -> None:
    """Link finished stages of another run that this one would make from the same inputs; others are left alone."""
    for name in stages:
        theirs, ours = of.stage(name), by.stage(name)
        if theirs.key == ours.key and theirs.manifest() and not ours.manifest() and not ours.folder.exists():
            ours.folder.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(os.path.relpath(theirs.folder, ours.folder.parent), ours.folder, target_is_directory=True)
