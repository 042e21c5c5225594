"""Stage 1 by another signal than the teacher's vectors: its scores, or no teacher at all. There to be compared with.

The steps are those of `limbeck.training.distill`, text for text; here a loss sees all pairs of a step at once.

B: pairs of a step, M: texts of a step, d: a prefix of the student's dims.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from torch import Tensor

from limbeck.config import Distill, Recipe
from limbeck.errors import ConfigError
from limbeck.model.backbone import Backbone
from limbeck.model.projection import Projection
from limbeck.model.student import StudentModel
from limbeck.objectives.contrastive import candidate_cosines, info_nce
from limbeck.objectives.score_distillation import margin_mse, score_divergence
from limbeck.training.adapt import Passes, Project, Terms, step_loss
from limbeck.training.distill import TaughtSource, compile_if_long, ready, sample_of, seeded
from limbeck.training.loop import Run, train
from limbeck.training.task_batches import Step, TaskBatches, TaskSource


def score_terms(settings: Distill) -> Terms:
    """The one term of an objective that compares a query's candidates, which are the documents of its step."""

    def terms(z: Tensor, step: Step, project: Project) -> dict[str, Tensor]:
        assert step.second is not None
        queries, documents, temperature = z[step.first], z[step.second], settings.temperature
        if settings.objective == "info_nce":
            return {"info_nce": info_nce(queries, documents, temperature=temperature, excluded=step.excluded)}
        assert step.teacher is not None
        found = candidate_cosines(queries, documents)
        taught = candidate_cosines(step.teacher[step.first], step.teacher[step.second])
        if settings.objective == "margin":
            return {"margin": margin_mse(found, taught, excluded=step.excluded)}
        return {"kl": score_divergence(found, taught, temperature=temperature, excluded=step.excluded)}

    return terms


def learn_scores(
    recipe: Recipe,
    backbone: Backbone,
    sources: list[TaughtSource],
    text_ids: list[np.ndarray],
    gather: Callable[[np.ndarray], np.ndarray],
    folder: Path,
    *,
    key: str,
    console: Console | None = None,
) -> tuple[StudentModel, int]:
    """As `limbeck.training.distill.distill`, for a recipe whose distill.objective is another one.

    text_ids: of each source, a number [N] for each of its texts that equal texts share. The projection, which none of
    these objectives needs, is fitted to a sample when all is done.

    Raises TrainingError; ConfigError: a source without pairs.
    """
    settings = recipe.distill
    if without := [s.name for s in sources if s.roles != 2]:
        raise ConfigError(
            f"distill.objective {settings.objective} needs queries and documents, and {without} hold texts alone: name "
            "sources of pairs in distill.sources"
        )
    accelerator = ready(recipe, settings, backbone)
    student = StudentModel(backbone.model, pooling=recipe.student.pooling)
    with seeded(recipe.seed):
        projection = Projection(recipe.student.dims, recipe.teacher.dim)
    model = Passes(student, projection.requires_grad_(False)).to(accelerator.device)
    batches = TaskBatches(
        [_pairs(source, ids) for source, ids in zip(sources, text_ids, strict=True)],
        gather,
        negatives=0,
        false_negative_margin=None,  # the teacher would have a say in what is contrasted
        tokens_per_step=settings.tokens_per_step,
        tokens_per_micro_batch=settings.tokens_per_micro_batch,
        tokens_in_memory=settings.tokens_per_micro_batch,
        pad_id=backbone.tokenizer.pad_id,
        seed=recipe.seed,
        accelerator=accelerator,
    )
    compile_if_long(settings, student, accelerator, shard=recipe.shard)
    run = Run.of(recipe, settings, folder=folder, key=key, title=f"stage 1: {settings.objective}")
    loss = step_loss(score_terms(settings), {settings.objective: 1.0}, recipe.student.dims, settings.matryoshka_weights)
    tokens = train(model, loss, batches, run, accelerator, console=console)
    student.projection = projection.cpu()
    projection.rotate(*sample_of(recipe, settings, student, backbone, sources, gather))
    return student, tokens


def _pairs(source: TaughtSource, ids: np.ndarray) -> TaskSource:
    """Token budgets decide how many pairs a step has, as in distillation."""
    first, second = source.rows.texts_of_row.T
    return TaskSource(
        source.name, source.weight, None, source.tokens, ids, first, second, teacher_rows=source.teacher_rows
    )
