"""Scores of one arm: its own held-out queries at every width and at one bit, the tasks that were named, and more.

Q: queries, N: documents, D: dims.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.ablation.experiments import BIT_LOSS, BITS, HELD_OUT, RANK, TOPICS, after, at_dims, of_source
from limbeck.ablation.results import CurvePoint
from limbeck.compress import truncate
from limbeck.config import Recipe
from limbeck.errors import ConfigError
from limbeck.evaluation import heldout
from limbeck.evaluation.named_tasks import find_tasks
from limbeck.evaluation.retrieval import Relevant, SearchPrecision, evaluate_retrieval
from limbeck.evaluation.runner import evaluate
from limbeck.evaluation.scoring import UndefinedScore
from limbeck.evaluation.spectrum import effective_rank
from limbeck.evaluation.tasks import METRICS, heldout_tasks
from limbeck.evaluation.variants import BASE, Variant
from limbeck.model.adapters import Adapter
from limbeck.model.encoder import Encoder
from limbeck.model.loading import load
from limbeck.model.prefixes import Role
from limbeck.teacher.taught import Taught
from limbeck.training import checkpoint
from limbeck.training.measure import vectors_of
from limbeck.training.pipeline import Pipeline

WIDTHS = (32, 64, 128, 256, 512)  # that vectors are cut to, where they are wider
Vectors = heldout.Vectors
_Encoded = tuple[np.ndarray, np.ndarray, Relevant]
"""Query vectors [Q, D], document vectors [N, D], and what is relevant."""


@dataclass(frozen=True)
class Scored:
    """Scores by name; of those that are means over queries the queries' own; training texts found in tasks."""

    scores: dict[str, float]
    by_query: dict[str, list[float]]
    leaks: dict[str, int]


def score_heldout(run: Pipeline, vectors: Vectors, *, topics: bool = False) -> Scored:
    """Held-out queries of all sources of pairs, in one list, at every width and at one bit; and each source's alone.

    topics: of held-out labelled texts too.
    """
    sets = short_sets(run)
    encoded = _encoded(sets, vectors)
    width = encoded[0][0].shape[1]
    by_query: dict[str, list[float]] = {}
    for dims in [*(w for w in WIDTHS if w < width), width]:
        name = HELD_OUT if dims == width else at_dims(dims)
        by_query[name] = _ndcg(encoded, dims, "float32")
    if width % 8 == 0:
        by_query[BITS] = _ndcg(encoded, width, "binary")
    if len(sets) > 1:
        ends = np.cumsum([len(s.queries) for s in sets])
        for s, end in zip(sets, ends.tolist(), strict=True):
            by_query[of_source(s.source)] = by_query[HELD_OUT][end - len(s.queries) : end]
    scores = {name: float(np.mean(values)) for name, values in by_query.items()}
    if BITS in scores and scores[HELD_OUT]:
        scores[BIT_LOSS] = 1 - scores[BITS] / scores[HELD_OUT]
    scores[RANK] = effective_rank(np.concatenate([documents for _, documents, _ in encoded]))
    if topics:
        scores[TOPICS] = heldout_tasks(run.prepared, run.recipe.evaluate, part="test")["clustering"].score(vectors)
    return Scored(scores, by_query, {})


def short_sets(run: Pipeline) -> list[heldout.HeldOut]:
    """The held-out queries of the sources of stage 1's first phase."""
    sets = heldout.heldout_sets(run.prepared, run.recipe.evaluate.queries)
    return [s for s in sets if s.source in run.recipe.distill_sources] or sets


def score_tasks(
    run: Pipeline, tasks: Sequence[str], vectors: Vectors, key: str, dim: int, name: str, out: Path
) -> Scored:
    """Main score of each named task, by mteb; of those that search a corpus also at one bit.

    A task that has no score for such vectors is left out: a correlation, where all of them are the same.
    """
    if not tasks:
        return Scored({}, {}, {})
    subject = _Subject(name, vectors, key, dim, run.recipe.student.max_tokens)
    scores, by_query, leaks = {}, {}, {}
    for each in find_tasks(tasks).tasks:
        try:
            result = evaluate([Variant(subject, dim, adapter=BASE)], [each], out, training=run.out, curves=True)
        except UndefinedScore:
            continue
        [task] = result.models[0].tasks
        scores[task.task] = task.score
        if task.by_item:
            by_query[task.task] = [task.by_item[item] for item in sorted(task.by_item)]
        for point in task.curve:
            if (point.dim, point.precision, point.rescored_by) == (dim, "binary", None):
                scores[f"{task.task}, 1 bit"] = point.score
        leaks[task.task] = task.leak.exact + task.leak.near if task.leak else 0
    return Scored(scores, by_query, leaks)


def trained(run: Pipeline, stage: str) -> tuple[Vectors, int]:
    """Vectors by what an arm trained last, whatever is asked, and their width."""
    if stage == "distill":
        encoder, task = load(run.out / "distill" / "student"), None
    else:
        task = stage.removeprefix("adapt-")
        encoder = run.encoder_with({task: Adapter.load(run.out / "adapt" / task / "adapter")})
    return partial(vectors_of, encoder, task), encoder.dim


def learning_curve(run: Pipeline) -> Iterator[CurvePoint]:
    """Held-out nDCG@10 of the base after each kept checkpoint."""
    start = load(run.out / "distill" / "student")
    sets, key = short_sets(run), run.stage("distill").key
    folder = run.out / "distill" / "checkpoints"
    for step in curve_steps(run.recipe):
        weights = checkpoint.weights(folder, step, key=key)
        backbone = {
            name.removeprefix("student.").removeprefix("backbone."): tensor
            for name, tensor in weights.items()
            if name.removeprefix("student.").startswith("backbone.")
        }
        if not backbone:
            raise ConfigError(f"{folder} holds no weights of the backbone at step {step}")
        start.model.backbone.load_state_dict(backbone, strict=False)
        # a new one at each step: it keeps what it makes of weights
        encoder = Encoder(start.model, start.tokenizer, start.spec, device=start.device, precision=start.compute)
        encoded = _encoded(sets, partial(vectors_of, encoder, None))
        score = float(np.mean(_ndcg(encoded, encoder.dim, "float32")))
        yield CurvePoint(step=step, tokens=checkpoint.tokens(folder, step), score=score)


def curve_steps(recipe: Recipe) -> list[int]:
    """The steps of a learning curve's points, which are those of the checkpoints."""
    settings = recipe.distill
    every = range(settings.checkpoint_every, settings.steps + 1, settings.checkpoint_every)
    return sorted({*every, settings.steps})


def curve_scores(curve: Sequence[CurvePoint]) -> dict[str, float]:
    """The points of a learning curve by name."""
    return {after(i + 1, len(curve)): point.score for i, point in enumerate(curve)}


def teacher_scores(taught: Taught, run: Pipeline, *, topics: bool) -> dict[str, float]:
    """A teacher on the same held-out texts; its vectors are those of the store, or made now."""

    def vectors(role: str, texts: Sequence[str]) -> np.ndarray:
        return taught.store.gather(taught.rows(list(texts), taught.instruction(role))).astype(np.float32)

    return score_heldout(run, vectors, topics=topics).scores


def metric_of(name: str) -> str:
    """What a score of this module is measured in."""
    if name == TOPICS:
        return METRICS["clustering"]
    if name == BIT_LOSS:
        return "share of nDCG@10"
    return "dims" if name == RANK else "nDCG@10" if name.startswith(HELD_OUT) else "main score"


def _encoded(sets: Sequence[heldout.HeldOut], vectors: Vectors) -> list[_Encoded]:
    return [(vectors("query", s.queries), vectors("document", s.documents), s.relevant) for s in sets]


def _ndcg(encoded: Sequence[_Encoded], dims: int, precision: SearchPrecision) -> list[float]:
    """nDCG@10 of every query of all sets."""
    return [
        round(float(value), 6)
        for queries, documents, relevant in encoded
        for value in evaluate_retrieval(
            truncate(queries, dims), truncate(documents, dims), relevant, precision=precision
        ).ndcg
    ]


class _Subject:
    """An arm as `limbeck.evaluation` scores models."""

    kind: Any = "bundle"
    folder: Path | None = None
    parameters: int | None = None
    adapters: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __init__(self, name: str, vectors: Vectors, key: str, dim: int, max_tokens: int | None) -> None:
        self.name, self.dim, self.dims, self.max_tokens = name, dim, [dim], max_tokens
        self._vectors, self._key = vectors, key

    def fingerprint(self, adapter: str | None) -> str:
        """The key of its scores."""
        return self._key

    def encode(self, texts: Sequence[str], *, role: Role | None, adapter: str | None) -> np.ndarray:
        """Encode texts to float32 [N, D]."""
        return self._vectors(role or "document", list(texts))
