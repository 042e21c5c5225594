"""Stage 2: a LoRA adapter on the frozen base, with the objective of its task (2602.15547, stage 2).

All terms of a step are functions of the same vectors, from one forward pass over its distinct texts.

B: rows of a step, n: hard negatives of a row, M: distinct texts, H: dims of the student, d: a prefix of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from limbeck import config
from limbeck.config import ClassificationAdapter, ClusteringAdapter, Recipe, RetrievalAdapter, TextMatchingAdapter
from limbeck.errors import ConfigError, TrainingError
from limbeck.model import adapters, runtime
from limbeck.model.adapters import Adapter
from limbeck.model.backbone import Backbone
from limbeck.model.projection import Projection
from limbeck.model.student import StudentModel, compile_backbone
from limbeck.objectives.contrastive import info_nce
from limbeck.objectives.distillation import cosine_distillation
from limbeck.objectives.matryoshka import matryoshka, weighted
from limbeck.objectives.ranking import cosent
from limbeck.objectives.relational import relational_distances
from limbeck.objectives.spread import query_document_spread
from limbeck.training import checkpoint
from limbeck.training.average import averaged
from limbeck.training.distill import accelerator_of, compiles
from limbeck.training.loop import Run, train
from limbeck.training.task_batches import Step, TaskBatches, TaskSource

Project = Callable[[Tensor], Tensor]
Terms = Callable[[Tensor, Step, Project], dict[str, Tensor]]
"""(unit vectors [M, d] of a step's texts, the step, projection) → named terms, unweighted."""


class Passes(nn.Module):
    """A student over several forward passes, so that one loss can see all their vectors."""

    def __init__(self, student: StudentModel, projection: Projection) -> None:
        """Args: student: with the adapter attached; projection: into the teacher's space."""
        super().__init__()
        self.student, self.projection = student, projection

    def forward(self, passes: list[tuple[Tensor, Tensor]], recompute: bool) -> Tensor:
        """Ids and masks [b, T] → [Σb, H] fp32, pass after pass.

        With `recompute` no pass keeps its activations: each is computed again when its gradient is asked for, with the
        same dropout. That is gradient caching (Gao et al. 2021, arXiv 2101.06983), written as recomputation.
        """
        if recompute and torch.is_grad_enabled():
            return torch.cat([recomputed(self.student, *p, use_reentrant=False) for p in passes])
        return torch.cat([self.student(*p) for p in passes])


def retrieval_terms(settings: RetrievalAdapter) -> Terms:
    """InfoNCE with hard negatives, distillation, and the orthogonal regulariser."""

    def terms(z: Tensor, step: Step, project: Project) -> dict[str, Tensor]:
        found = {}
        if settings.nce_weight:
            found["info_nce"] = _contrast(z, step, settings.temperature, both_directions=settings.both_directions)
        if settings.distill_weight:
            found["distill"] = cosine_distillation(project(z), _taught(step))
        if settings.spread_weight:
            found["spread"] = query_document_spread(
                z[step.first],
                z[step.documents],
                query_groups=step.text_ids[step.second],
                document_groups=step.text_ids[step.documents],
            )
        return found

    return terms


def text_matching_terms(settings: TextMatchingAdapter) -> Terms:
    """CoSENT where the step's source has scores; else InfoNCE in both directions and distillation."""

    def terms(z: Tensor, step: Step, project: Project) -> dict[str, Tensor]:
        if step.scores is not None:
            return {"cosent": cosent(z[step.first], z[step.second], step.scores, scale=settings.cosent_scale)}
        found = {}
        if settings.nce_weight:
            found["info_nce"] = _contrast(z, step, settings.temperature, both_directions=True)
        if settings.distill_weight:
            found["distill"] = cosine_distillation(project(z), _taught(step))
        return found

    return terms


def clustering_terms(_settings: ClusteringAdapter) -> Terms:
    """Distillation."""
    return lambda z, step, project: {"distill": cosine_distillation(project(z), _taught(step))}


def classification_terms(settings: ClassificationAdapter) -> Terms:
    """InfoNCE in both directions without same-label negatives, and distances between texts as the teacher's."""

    def terms(z: Tensor, step: Step, project: Project) -> dict[str, Tensor]:
        found = {}
        if settings.nce_weight:
            found["info_nce"] = _contrast(z, step, settings.temperature, both_directions=True)
        if settings.relational_weight:
            found["relational"] = relational_distances(z, _taught(step))
        return found

    return terms


def terms_of(settings: config.Adapter) -> tuple[Terms, dict[str, float]]:
    """The terms of an adapter's block, and the weight of each by name."""
    if isinstance(settings, RetrievalAdapter):
        weights = {
            "info_nce": settings.nce_weight,
            "distill": settings.distill_weight,
            "spread": settings.spread_weight,
        }
        return retrieval_terms(settings), weights
    if isinstance(settings, TextMatchingAdapter):
        weights = {"cosent": 1.0, "info_nce": settings.nce_weight, "distill": settings.distill_weight}
        return text_matching_terms(settings), weights
    if isinstance(settings, ClassificationAdapter):
        weights = {"info_nce": settings.nce_weight, "relational": settings.relational_weight}
        return classification_terms(settings), weights
    if isinstance(settings, ClusteringAdapter):
        return clustering_terms(settings), {"distill": 1.0}
    raise ConfigError(f"no objective is known for {type(settings).__name__}")


def step_loss(
    terms: Terms, weights: dict[str, float], dims: list[int], matryoshka_weights: list[float] | None
) -> Callable[[nn.Module, Step], dict[str, Tensor]]:
    """Weighted sum of the terms, each a mean over the prefixes of the vectors; as the loop wants it.

    The vectors of all processes are brought together, so that every process sees every negative; a vector's gradient
    comes from the process that made it.
    """

    def loss(model: Any, step: Step) -> dict[str, Tensor]:
        plain: Passes = getattr(model, "module", model)
        vectors = gathered(model(step.passes, step.recompute), step.sizes)[step.order]
        by_prefix = matryoshka(lambda z: terms(z, step, plain.projection), vectors, dims)
        names = by_prefix[dims[-1]]
        found = {n: weighted({d: of[n] for d, of in by_prefix.items()}, matryoshka_weights) for n in names}
        if not found:
            raise TrainingError("every term of this adapter has weight 0: there is nothing to train")
        total = torch.stack([weights[n] * value for n, value in found.items()]).sum()
        if "distill" not in found and any(p.requires_grad for p in plain.projection.parameters()):
            # a step that does not read the projection gives it a gradient of 0: DDP waits for one
            one = vectors[:1].detach()
            total = total + 0 * torch.stack([plain.projection(one[:, :d]).sum() for d in dims]).sum()
        return {"loss": total, **found}

    return loss


def gathered(local: Tensor, sizes: list[int]) -> Tensor:
    """Vectors of all processes, one after the other: [m, H] of this one → [Σ sizes, H]. Those of others are constants.

    Every process computes the same loss of all vectors, and is the only one that sends a gradient into its own. DDP
    takes the mean of the processes' gradients where the sum is right, so what goes into them is scaled up.
    """
    if len(sizes) == 1:
        return local
    import torch.distributed as dist

    if local.requires_grad:
        local.register_hook(lambda gradient: gradient * len(sizes))
    room = torch.zeros(max(sizes), local.shape[1], dtype=local.dtype, device=local.device)
    room[: len(local)] = local.detach()
    everyone = [torch.empty_like(room) for _ in sizes]
    dist.all_gather(everyone, room)
    parts = [part[:size] for part, size in zip(everyone, sizes, strict=True)]
    parts[dist.get_rank()] = local
    return torch.cat(parts)


@dataclass(frozen=True)
class Adapted:
    """What a run gives: the last adapter, its average with an earlier one, and the projection where it was trained."""

    final: Adapter
    averaged: Adapter | None
    projection: Projection | None
    tokens: int


def adapt(
    recipe: Recipe,
    task: config.Task,
    settings: config.Adapter,
    base: Backbone,
    projection: Projection,
    sources: list[TaskSource],
    gather: Callable[[np.ndarray], np.ndarray],
    folder: Path,
    *,
    key: str,
    console: Console | None = None,
) -> Adapted:
    """Train, or go on training, one adapter.

    Args:
        recipe: the run.
        task: name of the adapter.
        settings: its block.
        base: the distilled student, with the training theta; it is changed (the adapter is attached, weights frozen).
        projection: of stage 1; trained along, as a copy for this adapter alone, if the block says so.
        sources: see TaskSource.
        gather: store rows [B] → teacher vectors [B, D].
        folder: checkpoints and metrics go here.
        key: digest of all that the weights depend on, so that a changed run never resumes.
        console: where the progress bar goes; None = nowhere.

    Raises TrainingError, ConfigError.
    """
    device = runtime.device_of()
    precision = runtime.precision_of(settings.precision, device)
    accelerator = accelerator_of(precision, device)
    max_tokens = settings.max_tokens or recipe.student.max_tokens
    backbone: Any = base.model
    digest = adapters.base_digest(backbone)
    adapters.attach(backbone, settings.lora, task, seed=recipe.seed)
    backbone.set_attn_implementation(
        runtime.attention_of(settings.attention, device, max_tokens, precision, trains=True)
    )
    if settings.gradient_checkpointing:
        runtime.checkpoint_activations(backbone)
        backbone.enable_input_require_grads()
    if precision == "bf16":
        adapters.halve_frozen(backbone)
    student = StudentModel(backbone, pooling=recipe.student.pooling)
    terms, weights = terms_of(settings)
    # where no loss reads it, weight decay alone would move it, and DDP would wait for its gradient
    read = weights.get("distill", 0) > 0 and any(source.scores is None for source in sources)
    model = Passes(student, projection.requires_grad_(settings.train_projection and read)).to(accelerator.device)
    batches = TaskBatches(
        sources,
        gather,
        negatives=getattr(settings, "negatives", 0),
        false_negative_margin=getattr(settings, "false_negative_margin", None),
        tokens_per_micro_batch=settings.tokens_per_micro_batch,
        tokens_in_memory=settings.tokens_in_memory,
        pad_id=base.tokenizer.pad_id,
        seed=recipe.seed,
        accelerator=accelerator,
    )
    tokens_per_step = settings.batch_size * float(np.mean([s.rows.row_tokens.mean() for s in sources]))
    if not recipe.shard and compiles(settings.compile, settings.steps * tokens_per_step, device):
        student.train()  # as the loop runs it: the kernels of an evaluated model are others
        with accelerator.autocast():
            compile_backbone(student, accelerator.device)
    earlier = _earlier_step(settings)
    kept = () if earlier is None else (earlier,)
    run = Run.of(recipe, settings, folder=folder, key=key, title=f"stage 2: {task}", kept_steps=kept)
    loss = step_loss(terms, weights, recipe.student.dims, settings.matryoshka_weights)
    tokens = train(model, loss, batches, run, accelerator, console=console)

    def named(tensors: dict[str, Tensor]) -> Adapter:
        inside = {n.removeprefix("student.backbone."): t for n, t in tensors.items()}
        return adapters.taken_from(inside, task, settings.lora, base=digest)

    final = {n: p.detach().cpu().clone() for n, p in model.named_parameters() if p.requires_grad}
    mean = None
    if settings.average is not None and earlier is not None:
        before = checkpoint.weights(folder / "checkpoints", earlier, key=key)
        mean = averaged(final, {n: before[n] for n in final}, settings.average.weight)
    return Adapted(
        named(final),
        None if mean is None else named(mean),
        model.projection.cpu() if settings.train_projection else None,
        tokens,
    )


def _earlier_step(settings: config.Adapter) -> int | None:
    """The step whose checkpoint the final adapter is averaged with."""
    if settings.average is None or settings.steps < 2:
        return None
    return min(settings.steps - 1, max(1, round(settings.average.earlier * settings.steps)))


def _contrast(z: Tensor, step: Step, temperature: float, *, both_directions: bool) -> Tensor:
    """InfoNCE of a step's rows. z: unit vectors [M, d]."""
    # an absent negative is any vector: its column is excluded
    hard = None if step.negatives is None else z[step.negatives.clamp(min=0)]
    return info_nce(
        z[step.first],
        z[step.second],
        hard,
        temperature=temperature,
        excluded=step.excluded,
        both_directions=both_directions,
    )


def _taught(step: Step) -> Tensor:
    assert step.teacher is not None
    return step.teacher
