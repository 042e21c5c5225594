"""The long-context phase of stage 1: on with distillation, on long texts, with short ones among them (2602.15547).

Wires what `distill` does to a student that is distilled already, under the theta of this phase.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from limbeck.config import Recipe
from limbeck.errors import ConfigError
from limbeck.model import rope
from limbeck.model.backbone import Backbone
from limbeck.model.projection import Projection
from limbeck.model.student import StudentModel
from limbeck.training.distill import TaughtSource, train_student
from limbeck.training.loop import Run


def extend(
    recipe: Recipe,
    base: Backbone,
    projection: Projection,
    sources: list[TaughtSource],
    gather: Callable[[np.ndarray], np.ndarray],
    folder: Path,
    *,
    key: str,
    console: Console | None = None,
) -> tuple[StudentModel, int]:
    """Train, or go on training, on long texts. Returns the student with its projection, and the real tokens.

    Args:
        recipe: the run; it has an `extend` section.
        base: the distilled student; it gets the theta and the scaling of this phase, and is trained in place.
        projection: of stage 1, trained on.
        sources: long and short ones.
        gather: as in `distill`.
        folder: as in `distill`.
        key: as in `distill`.
        console: as in `distill`.

    Raises TrainingError; ModelError: a theta or scaling that the backbone does not take.
    """
    settings = recipe.extend
    if settings is None:
        raise ConfigError(f"recipe {recipe.name} has no long-context phase: give it an `extend:` section")
    rope.set_rope(base.model, settings.theta, settings.scaling)
    mixed = with_short_share(sources, recipe.short_sources, settings.short_share)
    run = Run.of(recipe, settings, folder=folder, key=key, title="stage 1: long texts")
    model = StudentModel(base.model, pooling=recipe.student.pooling, projection=projection)
    return model, train_student(recipe, settings, model, base, mixed, gather, run, console=console)


def with_short_share(sources: list[TaughtSource], short: Collection[str], share: float) -> list[TaughtSource]:
    """The sources with weights such that those named by `short` give this share of the tokens, 0 ≤ share < 1.

    Among the short ones, and among the others, the weights keep their proportions.
    """
    drawn = {source.name: source.weight * source.tokens.tokens for source in sources}
    of_short = sum(tokens for name, tokens in drawn.items() if name in short)
    if not of_short:
        return sources
    factor = share / (1 - share) * (sum(drawn.values()) - of_short) / of_short
    return [replace(s, weight=s.weight * factor) if s.name in short else s for s in sources]
