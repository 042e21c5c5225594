"""Steps of stage 2: rows drawn from one source, every text of theirs computed once.

B: rows of a step, n: hard negatives of a row, C = B + B·n: candidates (documents, then all negatives), M: distinct
texts of a step, N: texts of a source, D: teacher dims.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from limbeck.data.batching import SourceRows, StepPlan, micro_batches
from limbeck.data.tokens import TokenTable
from limbeck.data.triplets import shares_label
from limbeck.errors import TrainingError
from limbeck.model.tokenizer import pad
from limbeck.objectives.contrastive import likely_matches, same_text
from limbeck.training.loop import Batch


@dataclass(frozen=True)
class TaskSource:
    """A source as an adapter sees it: token ids of all its texts, and rows of places among them."""

    name: str
    weight: float
    batch_size: int | None  # rows of a step; None = as many as fill its budget of tokens
    tokens: TokenTable  # [N] every text that a row can name
    text_ids: np.ndarray  # [N] int64, equal for equal texts
    first: np.ndarray  # [R] int64: queries, anchors, or texts on their own
    second: np.ndarray | None = None  # [R] int64: documents, positives
    negatives: np.ndarray | None = None  # [R, k] int64, −1 = none: those that a row may draw from
    scores: np.ndarray | None = None  # [R] graded similarity
    labels: np.ndarray | None = None  # [N, K] int64, −1 = none: the labels of each text
    teacher_rows: np.ndarray | None = None  # [N] int64: rows of the teacher's store; None = no loss reads them

    @cached_property
    def rows(self) -> SourceRows:
        """What is drawn together; negatives are drawn after."""
        sides = [self.first] if self.second is None else [self.first, self.second]
        return SourceRows(self.name, self.weight, np.stack(sides, axis=1), self.tokens.lengths, self.batch_size)


@dataclass(frozen=True)
class Step:
    """One optimizer step. `passes` are this process's, everything else is of the whole step, on the device.

    Places are indices into the step's M distinct texts.
    """

    passes: list[tuple[Tensor, Tensor]]  # ids, mask [b, T] int64
    sizes: list[int]  # texts on each process
    order: Tensor  # [M]: where each distinct text is once the processes' vectors stand one after the other
    recompute: bool  # activations of all passes together are more than memory is for
    first: Tensor  # [B] places
    second: Tensor | None  # [B] places
    negatives: Tensor | None  # [B, n] places, −1 = absent
    documents: Tensor | None  # places of all documents and negatives, each text of the source once
    excluded: Tensor | None  # [B, C] bool: not a negative of this row
    text_ids: Tensor  # [M]
    scores: Tensor | None  # [B]
    teacher: Tensor | None  # [M, D] fp32


class TaskBatches:
    """Steps of one adapter for this process, as the loop wants them."""

    def __init__(
        self,
        sources: list[TaskSource],
        gather: Callable[[np.ndarray], np.ndarray],
        *,
        negatives: int,
        false_negative_margin: float | None,
        tokens_per_micro_batch: int,
        tokens_in_memory: int | None,
        pad_id: int,
        seed: int,
        accelerator: Accelerator,
        tokens_per_step: int = 1,
    ) -> None:
        """Take sources, and how steps are made of them.

        Args:
            sources: not empty.
            gather: store rows [B] → teacher vectors [B, D].
            negatives: n, drawn anew for a row whenever it comes up.
            false_negative_margin: see `likely_matches`; None = all candidates are negatives.
            tokens_per_micro_batch: padded tokens of one forward pass.
            tokens_in_memory: padded tokens of a step on one device above which it is recomputed; None = never.
            pad_id: of the tokenizer.
            seed: of every draw.
            accelerator: device and processes.
            tokens_per_step: real tokens of a step of a source without batch_size.

        Raises TrainingError: a source of one row, of which nothing can be told apart from anything.
        """
        for source in sources:
            if len(source.first) < 2 and source.second is not None:
                raise TrainingError(f"source {source.name!r} has {len(source.first)} row: a batch needs at least two")
        self._sources, self._gather, self._negatives, self._margin = sources, gather, negatives, false_negative_margin
        self._budget, self._memory, self._pad, self._seed = tokens_per_micro_batch, tokens_in_memory, pad_id, seed
        self._accelerator = accelerator
        self._plan = StepPlan([s.rows for s in sources], tokens_per_step=tokens_per_step, seed=seed)
        self.state, self.restore = self._plan.state, self._plan.restore

    def next(self) -> Batch[Step]:
        """Draw the global step, keep this process's forward passes."""
        number = self._plan.state()["step"]
        drawn = self._plan.next()
        source = self._sources[drawn.source]
        first = source.first[drawn.rows]
        second = None if source.second is None else source.second[drawn.rows]
        negatives = self._draw(source, drawn.rows, number)
        named = [
            first,
            *([] if second is None else [second]),
            *([] if negatives is None else [negatives[negatives >= 0]]),
        ]
        texts, places = np.unique(np.concatenate(named), return_inverse=True)
        lengths = source.tokens.lengths[texts]
        processes, rank = self._accelerator.num_processes, self._accelerator.process_index
        cuts = micro_batches(lengths, self._budget, processes=processes)
        if len(cuts) < processes:  # on every process alike: one that raised alone would leave the others waiting
            raise TrainingError(
                f"a step of {len(texts)} texts cannot be shared by {processes} processes: raise batch_size"
            )
        # of the process with most of them: all recompute a step or none, since split weights are sent each time
        shares = [cuts[r::processes] for r in range(processes)]
        padded = max(sum(len(c) * int(lengths[c].max()) for c in share) for share in shares)
        in_order = np.concatenate([c for share in shares for c in share])
        teacher = None
        if source.teacher_rows is not None:
            teacher = self._gather(source.teacher_rows[texts]).astype(np.float32)
        at = np.split(places, np.cumsum([len(n) for n in named])[:-1])
        if negatives is not None:
            negatives[negatives >= 0] = at[2]  # from texts of the source to places in the step
        step = Step(
            passes=[self._pass(source, texts[c]) for c in shares[rank]],
            sizes=[sum(map(len, share)) for share in shares],
            order=self._tensor(np.argsort(in_order)),
            recompute=self._memory is not None and padded > self._memory,
            first=self._tensor(at[0]),
            second=None if second is None else self._tensor(at[1]),
            negatives=None if negatives is None else self._tensor(negatives),
            documents=None if second is None else self._tensor(np.unique(np.concatenate(at[1:]))),
            excluded=None,
            text_ids=self._tensor(source.text_ids[texts]),
            scores=None if source.scores is None else self._tensor(source.scores[drawn.rows].astype(np.float32)),
            teacher=None if teacher is None else self._tensor(teacher),
        )
        if second is not None and source.scores is None:
            step = replace(step, excluded=self._excluded(source, step, texts))
        # every process reports the loss of the whole step, so each has its share of it
        return Batch([(step, 1 / processes)], int(lengths.sum()))

    def _draw(self, source: TaskSource, rows: np.ndarray, step: int) -> np.ndarray | None:
        """[B, n] texts of the source, −1 where a row has too few; None where no row has any."""
        if source.negatives is None or not self._negatives or not source.negatives.shape[1]:
            return None
        held = source.negatives[rows]
        ranks = np.random.default_rng([self._seed, 2, step]).random(held.shape)
        ranks[held < 0] = 2  # after all that are there
        chosen = np.argsort(ranks, axis=1, kind="stable")[:, : self._negatives]
        return np.take_along_axis(held, chosen, axis=1)

    def _excluded(self, source: TaskSource, step: Step, texts: np.ndarray) -> Tensor:
        """[B, C] candidates that are no negatives: absent, the same text, the same label, or near for the teacher."""
        assert step.second is not None
        hard = None if step.negatives is None else step.negatives.clamp(min=0)
        places = step.second if hard is None else torch.cat([step.second, hard.flatten()])
        queries, candidates, rows = step.text_ids[step.first], step.text_ids[places], len(step.first)
        excluded = same_text(step.text_ids[step.second], candidates) | (queries[:, None] == candidates[None, :])
        excluded[:, :rows] |= same_text(queries, queries)  # a query that stands there twice has two answers
        if step.negatives is not None:
            excluded[:, rows:] |= (step.negatives < 0).flatten()[None, :]
        if source.labels is not None:
            found = source.labels[texts]
            excluded |= self._tensor(shares_label(found[step.first.cpu().numpy()], found[places.cpu().numpy()]))
        elif self._margin is not None and step.teacher is not None:
            taught = step.teacher
            far = None if hard is None else taught[hard]
            excluded |= likely_matches(taught[step.first], taught[step.second], far, margin=self._margin)
        return excluded

    def _pass(self, source: TaskSource, texts: np.ndarray) -> tuple[Tensor, Tensor]:
        ids, mask = pad([source.tokens[t] for t in texts], self._pad)
        return self._tensor(ids), self._tensor(mask)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._accelerator.device, non_blocking=True)
