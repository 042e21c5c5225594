"""The arms of an experiment: runs of one recipe that differ in a few of its lines.

An arm is a run like any other, so it resumes, and what is done is never done again. Stages that arms have in common, of
one experiment or of several, are made once and linked.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from limbeck.config import load_recipe
from limbeck.training.pipeline import Pipeline
from limbeck.training.stages import Stage

STAGES = "stages"  # folder of finished stages that arms share


def arm(recipe: str | Path, out: Path, overrides: Sequence[str], console: Console) -> Pipeline:
    """The run of a recipe with overrides (as `--set` takes them) in `out`; only its recipe is written yet."""
    resolved = load_recipe(recipe, tuple(overrides)).model_copy(update={"out": str(out)})
    resolved.save(resolved.out_dir / "recipe.yaml")
    return Pipeline(resolved, console)


def do_shared(run: Pipeline, name: str, shared: Path) -> None:
    """Complete a stage: link it where one with the same key was made before, else make it and leave it for others.

    shared: folder of the stages of all arms, each under its name and key.
    """
    stage = run.stage(name)
    place = shared / f"{name}-{stage.key}"
    if stage.folder.is_symlink() and not stage.manifest():  # made from something else since, or removed
        stage.folder.unlink()
    if not stage.manifest() and Stage(name, place, stage.key).manifest():
        shutil.rmtree(stage.folder, ignore_errors=True)  # begun here, and finished elsewhere meanwhile
        _link(stage.folder, place)
    run.do(name)
    if not stage.folder.is_symlink():
        shared.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # another has put it there first: this one keeps its own
            os.rename(stage.folder, place)
            _link(stage.folder, place)


def unfinished(run: Pipeline, stages: Sequence[str], shared: Path) -> set[str]:
    """Names and keys of the stages that `do_shared` would make, of those whose key can be told yet."""
    left = set()
    for name in stages:
        stage = run.stage(name)
        if not stage.manifest() and not Stage(name, shared / f"{name}-{stage.key}", stage.key).manifest():
            left.add(f"{name}-{stage.key}")
    return left


def _link(folder: Path, to: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(os.path.relpath(to.resolve(), folder.parent.resolve()), folder, target_is_directory=True)
