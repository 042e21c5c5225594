"""Stage 1: the student, projected up into the teacher's space, learns to point where the teacher points.

Wires the prepared texts, the teacher's stored vectors, the student and the objective to the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from rich.console import Console
from torch import Tensor, nn

from limbeck.config import Recipe, Stage1
from limbeck.data.batching import SourceRows, StepPlan, micro_batches
from limbeck.data.tables import ExampleTable
from limbeck.data.tokens import TokenTable
from limbeck.errors import TrainingError
from limbeck.model import runtime
from limbeck.model.backbone import Backbone
from limbeck.model.prefixes import prefix
from limbeck.model.projection import Projection
from limbeck.model.reduction import Meeting, Reduction
from limbeck.model.student import StudentModel, compile_backbone
from limbeck.model.tokenizer import Tokenizer, pad
from limbeck.objectives.distillation import cosine_distillation
from limbeck.objectives.matryoshka import matryoshka, weighted
from limbeck.training import checkpoint
from limbeck.training.loop import Batch, Run, train

ROLE_PREFIX = {"query": "query", "document": "document", "text": "document"}  # text without a role is a document
UNTAUGHT = -1  # in place of a row in the store of a teacher that does not teach the text's source
_FIT_TEXTS = 2048  # sample for the projection's first rotation: several times the widest student in use


@dataclass(frozen=True)
class TaughtSource:
    """A source as stage 1 sees it: token ids of all its texts, and each text's row in the teacher store."""

    name: str
    weight: float
    tokens: TokenTable  # texts of the first role, then of the second
    teacher_rows: np.ndarray  # [N] int64, or [N, K] of K teachers; UNTAUGHT where one does not teach this source
    roles: int  # 1 (texts) or 2 (pairs)

    @property
    def rows(self) -> SourceRows:
        """Both sides of a pair are drawn together."""
        texts = np.arange(len(self.tokens), dtype=np.int64).reshape(self.roles, -1).T
        return SourceRows(self.name, self.weight, texts, self.tokens.lengths)


@dataclass(frozen=True)
class TextBatch:
    """One forward pass: ids, mask [B, T] int64 and the teacher's vectors [B, D] fp32, on the device."""

    ids: Tensor
    mask: Tensor
    teacher: Tensor


def tokenise(table: ExampleTable, stem: Path, tokenizer: Tokenizer, *, max_tokens: int) -> TokenTable:
    """Token ids of every text of a table with its role's prefix, first role first; truncation counted in the table."""
    parts = [(table.texts(role), prefix(ROLE_PREFIX[role])) for role in table.roles]
    return TokenTable.write(stem, parts, tokenizer, max_tokens=max_tokens)


class DistillBatches:
    """Steps of stage 1 for this process, as the loop wants them."""

    def __init__(
        self,
        sources: list[TaughtSource],
        gather: Callable[[np.ndarray], np.ndarray],
        settings: Stage1,
        *,
        pad_id: int,
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        """Args: sources; gather: store rows [B] → vectors [B, D]; settings; pad_id; seed; accelerator."""
        self._sources, self._gather, self._settings, self._pad = sources, gather, settings, pad_id
        self._accelerator = accelerator
        self._plan = StepPlan([s.rows for s in sources], tokens_per_step=settings.tokens_per_step, seed=seed)
        self.state, self.restore = self._plan.state, self._plan.restore

    def next(self) -> Batch[TextBatch]:
        """Draw the global step, keep this process's forward passes."""
        step = self._plan.next()
        source = self._sources[step.source]
        processes, rank = self._accelerator.num_processes, self._accelerator.process_index
        cuts = micro_batches(
            source.tokens.lengths[step.texts], self._settings.tokens_per_micro_batch, processes=processes
        )
        if len(cuts) < processes:  # on every process alike: one that raised alone would leave the others waiting
            raise TrainingError(
                f"a step of {len(step.texts)} texts cannot be shared by {processes} processes: raise tokens_per_step"
            )
        mine = [(self._pass(source, step.texts[c]), len(c) / len(step.texts)) for c in cuts[rank::processes]]
        return Batch(mine, step.tokens)

    def _pass(self, source: TaughtSource, texts: np.ndarray) -> TextBatch:
        device = self._accelerator.device
        ids, mask = pad([source.tokens[t] for t in texts], self._pad)
        teacher = self._gather(source.teacher_rows[texts]).astype(np.float32)
        tensors = (torch.from_numpy(a).to(device, non_blocking=True) for a in (ids, mask, teacher))
        return TextBatch(*tensors)

    @property
    def texts(self) -> int:
        """Texts of all sources."""
        return sum(len(source.tokens) for source in self._sources)

    def sample(self, texts: int) -> Iterator[TextBatch]:
        """Forward passes over about so many texts, the first that training will see; the position is not moved.

        Every process gets all of them.
        """
        position, seen = self.state(), 0
        while seen < texts:
            step = self._plan.next()
            source = self._sources[step.source]
            for cut in micro_batches(source.tokens.lengths[step.texts], self._settings.tokens_per_micro_batch):
                seen += len(cut)
                yield self._pass(source, step.texts[cut])
        self.restore(position)


def distill_loss(
    dims: list[int],
    weights: list[float] | None,
    *,
    teachers: Sequence[int] | None = None,
    teacher_weights: list[float] | None = None,
) -> Callable[[nn.Module, TextBatch], dict[str, Tensor]]:
    """1 − cos between projected student and teacher over every prefix of the student's vector (2602.15547, stage 1).

    Args:
        dims: the prefixes.
        weights: of the prefixes; None = equal.
        teachers: dims of each teacher, where there are several side by side; each has a term of its own on the texts
            that it teaches.
        teacher_weights: of their terms; None = equal.
    """

    def compared(projected: Tensor, taught: Tensor) -> Tensor:
        if teachers is None or len(teachers) == 1:
            return cosine_distillation(projected, taught)
        parts = zip(projected.split(list(teachers), -1), taught.split(list(teachers), -1), strict=True)
        # a teacher that does not teach the texts' source has zeros for vectors, of all of them or of none
        blocks = {i: block for i, block in enumerate(parts) if block[1].any()}
        weights = None if teacher_weights is None else [teacher_weights[i] for i in blocks]
        return weighted({i: cosine_distillation(*block) for i, block in blocks.items()}, weights)

    def loss(model: Any, batch: TextBatch) -> dict[str, Tensor]:
        vectors = model(batch.ids, batch.mask)
        meet = getattr(model, "module", model).projection.meet
        terms = matryoshka(lambda z: compared(*meet(z, batch.teacher)), vectors, dims)
        return {"loss": weighted(terms, weights)} | {f"loss/dim{d}": term for d, term in terms.items()}

    return loss


def distill(
    recipe: Recipe,
    backbone: Backbone,
    sources: list[TaughtSource],
    gather: Callable[[np.ndarray], np.ndarray],
    folder: Path,
    *,
    key: str,
    console: Console | None = None,
) -> tuple[StudentModel, int]:
    """Train, or go on training. Returns the student with its projection, and the real tokens trained on.

    Args:
        recipe: the run; distill.objective is embedding.
        backbone: from `limbeck.model.backbone.build`; trained in place.
        sources: see TaughtSource.
        gather: store rows [B], or [B, K] of K teachers → their vectors [B, D], side by side.
        folder: checkpoints and metrics go here.
        key: digest of all that the weights depend on, so that a changed run never resumes.
        console: where the progress bar goes; None = nowhere.

    Raises TrainingError.
    """
    settings = recipe.distill
    run = Run.of(recipe, settings, folder=folder, key=key, title="stage 1: distil")
    with seeded(recipe.seed):
        meeting = _meeting(recipe)
    model = StudentModel(backbone.model, pooling=recipe.student.pooling, projection=meeting)
    fit = _start if settings.projection_init == "rotation" or isinstance(meeting, Meeting) else None
    tokens = train_student(recipe, settings, model, backbone, sources, gather, run, fit=fit, console=console)
    if isinstance(meeting, Meeting):  # what a bundle keeps leads into the teacher's space
        with seeded(recipe.seed):
            model.projection = Projection(recipe.student.dims, recipe.teacher.dim)
        sample = sample_of(recipe, settings, model, backbone, sources, gather)
        model.projection.rotate(*sample)
        if meeting.up is not None:
            model.projection.load_state_dict(meeting.up.state_dict(), strict=False)
    return model, tokens


def train_student(
    recipe: Recipe,
    settings: Stage1,
    model: StudentModel,
    backbone: Backbone,
    sources: list[TaughtSource],
    gather: Callable[[np.ndarray], np.ndarray],
    run: Run,
    *,
    fit: Fit | None = None,
    console: Console | None = None,
) -> int:
    """A phase of stage 1. Returns the real tokens trained on.

    `model` holds the backbone and the projection, which are trained in place; `fit` is told a sample of texts before
    the first step, see Fit. The rest is as in `distill`. Raises TrainingError.
    """
    accelerator = ready(recipe, settings, backbone)
    model.to(accelerator.device)
    batches = _batches(recipe, settings, backbone, sources, gather, accelerator)
    compile_if_long(settings, model, accelerator, shard=recipe.shard)
    if fit is not None and not checkpoint.latest(run.folder / "checkpoints"):
        fit(recipe, model, *_sample(model, batches, accelerator))
    loss = distill_loss(
        recipe.student.dims,
        settings.matryoshka_weights,
        teachers=teacher_dims(recipe),
        teacher_weights=recipe.distill.teacher_weights,
    )
    return train(model, loss, batches, run, accelerator, console=console)


def teacher_dims(recipe: Recipe) -> list[int]:
    """Dims of each teacher that stage 1 learns from, in the order in which their vectors stand side by side."""
    return [recipe.teacher.dim, *(teacher.dim for teacher in recipe.further_teachers)]


def ready(recipe: Recipe, settings: Stage1, backbone: Backbone) -> Accelerator:
    """Set a backbone up for a phase of stage 1; returns the Accelerator to train it with."""
    device = runtime.device_of()
    precision = runtime.precision_of(settings.precision, device)
    max_tokens = settings.max_tokens or recipe.student.max_tokens
    backbone.model.set_attn_implementation(  # type: ignore[operator]
        runtime.attention_of(settings.attention, device, max_tokens, precision, trains=True)
    )
    if settings.gradient_checkpointing:
        runtime.checkpoint_activations(backbone.model)
    if not settings.train_token_embeddings:
        backbone.model.get_input_embeddings().requires_grad_(False)  # type: ignore[operator]
    if (pooler := getattr(backbone.model, "pooler", None)) is not None:
        pooler.requires_grad_(False)  # never read: as `build` does, for a backbone that was loaded
    return accelerator_of(precision, device)


def compile_if_long(settings: Stage1, student: StudentModel, accelerator: Accelerator, *, shard: bool) -> None:
    """Compile the student where the recipe asks for it, or the run is long enough to repay it; never if split."""
    if not shard and compiles(settings.compile, settings.steps * settings.tokens_per_step, accelerator.device):
        student.train()  # as the loop runs it: the kernels of an evaluated model are others
        with accelerator.autocast():
            compile_backbone(student, accelerator.device)


def accelerator_of(precision: Literal["fp32", "bf16"], device: torch.device) -> Accelerator:
    """The Accelerator of a stage."""
    AcceleratorState._reset_state()  # an earlier stage of this process may have had another precision
    return Accelerator(mixed_precision="bf16" if precision == "bf16" else "no", cpu=device.type == "cpu")


def compiles(asked: str, tokens: float, device: torch.device) -> bool:
    """`auto`: where a run has so many tokens that faster steps repay the minute that compilation takes."""
    if asked != "auto":
        return asked == "on"
    return device.type in ("cpu", "cuda") and tokens > 20_000_000


Fit = Callable[[Recipe, StudentModel, Tensor, Tensor], None]
"""(the run, student, its vectors [N, H] of a sample, the teacher's [N, D]) → nothing; sets the projection."""


def sample_of(
    recipe: Recipe,
    settings: Stage1,
    model: StudentModel,
    backbone: Backbone,
    sources: list[TaughtSource],
    gather: Callable[[np.ndarray], np.ndarray],
) -> tuple[Tensor, Tensor]:
    """The student's vectors [N, H] and the teacher's [N, D] of the first texts that training sees, on the CPU."""
    accelerator = ready(recipe, settings, backbone)
    batches = _batches(recipe, settings, backbone, sources, gather, accelerator)
    return _sample(model.to(accelerator.device), batches, accelerator)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from torch's generator as seeded, and leave it afterwards as it was."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    yield
    torch.random.set_rng_state(state)


def _meeting(recipe: Recipe) -> Projection | Meeting:
    settings, dims = recipe.distill, recipe.student.dims
    below = settings.pca_below or 0
    up = [d for d in dims if settings.projection == "student-up" and d >= below]
    down = [d for d in dims if d not in up]
    projection = Projection(up, sum(teacher_dims(recipe))) if up else None
    if not down:
        assert projection is not None
        return projection
    return Meeting(projection, Reduction(down, recipe.teacher.dim, trained=settings.projection == "teacher-down"))


def _start(recipe: Recipe, model: StudentModel, vectors: Tensor, taught: Tensor) -> None:
    settings, meeting = recipe.distill, model.projection
    fits = settings.projection_init == "rotation"
    up = meeting.up if isinstance(meeting, Meeting) else meeting
    if fits and isinstance(up, Projection):
        up.rotate(vectors, taught, teachers=teacher_dims(recipe))
    if not isinstance(meeting, Meeting):
        return
    if settings.projection == "none":
        meeting.down.to_cut()
    elif fits or not meeting.down.trained:
        meeting.down.to_components(taught, vectors if fits else None)


def _batches(
    recipe: Recipe,
    settings: Stage1,
    backbone: Backbone,
    sources: list[TaughtSource],
    gather: Callable[[np.ndarray], np.ndarray],
    accelerator: Accelerator,
) -> DistillBatches:
    return DistillBatches(
        sources, gather, settings, pad_id=backbone.tokenizer.pad_id, seed=recipe.seed, accelerator=accelerator
    )


@torch.no_grad()
def _sample(model: StudentModel, batches: DistillBatches, accelerator: Accelerator) -> tuple[Tensor, Tensor]:
    model.eval()  # no dropout in the sample; the loop sets it training
    vectors, targets = [], []
    backbone: Any = model.backbone
    # to see a text twice tells nothing, but a map needs as many vectors as they have dims
    enough = min(_FIT_TEXTS, max(batches.texts, backbone.config.hidden_size))
    with accelerator.autocast():
        for micro in batches.sample(enough):
            vectors.append(model(micro.ids, micro.mask).cpu())
            targets.append(micro.teacher.cpu())
    return torch.cat(vectors), torch.cat(targets)
