"""Which texts make up an optimizer step, and how they are cut into forward passes.

A step is drawn at random from one source until it holds a budget of *real* tokens (or of rows). Only then are its
texts sorted by length and cut into micro-batches of a budget of *padded* tokens. So lengths are bucketed, hardly a
token is padding, memory is flat, and yet what a step averages over is a plain random sample: bucketing never decides
which texts meet.

The plan is a function of (seed, step): a resumed run draws what the interrupted one would have, and any number of
processes draws the same global steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_ROUND = 8  # padded lengths are multiples of this, as `limbeck.model.tokenizer.pad` makes them


@dataclass(frozen=True)
class SourceRows:
    """What the plan needs to know of a source: a row is what is drawn together (both sides of a pair)."""

    name: str
    weight: float  # times that each row is drawn in one pass over all sources
    texts_of_row: np.ndarray  # [R, S] indices into the token table: row → its texts
    lengths: np.ndarray  # [N] tokens of each text
    rows_per_step: int | None = None  # None = as many as fill the plan's budget of tokens

    @property
    def row_tokens(self) -> np.ndarray:
        """[R] tokens of each row."""
        return self.lengths[self.texts_of_row].sum(axis=1)


@dataclass(frozen=True)
class Step:
    """One optimizer step: its source, the rows drawn, their texts (indices into the token table) and tokens."""

    source: int
    rows: np.ndarray
    texts: np.ndarray
    tokens: int


class StepPlan:
    """Endless steps over weighted sources, one source a step. `state()` and `restore()` carry the position."""

    def __init__(self, sources: Sequence[SourceRows], *, tokens_per_step: int, seed: int) -> None:
        """Args: sources, none empty.

        tokens_per_step: real tokens of one step, over all devices, of a source without `rows_per_step`.
        seed: of the draw.
        """
        self.sources, self.budget, self.seed = list(sources), tokens_per_step, seed
        self._tokens = [s.row_tokens for s in self.sources]
        # a source gets as many steps as its rows fill, times its weight: then each row is drawn as often as that says
        shares = np.array(
            [
                s.weight * (len(t) / s.rows_per_step if s.rows_per_step else t.sum() / tokens_per_step)
                for s, t in zip(self.sources, self._tokens, strict=True)
            ]
        )
        self.shares = shares / shares.sum()  # of steps
        self._step = 0
        self._cursors = [0] * len(self.sources)  # rows drawn so far
        self._orders: dict[int, tuple[int, np.ndarray]] = {}  # source → (pass, order of its rows)

    def next(self) -> Step:
        """Draw a step. It ends with the row that fills the budget, and holds at least one row.

        Of a source with `rows_per_step`, it holds so many, or all rows that there are.
        """
        draw = np.random.default_rng([self.seed, 0, self._step])
        self._step += 1
        source = int(draw.choice(len(self.sources), p=self.shares)) if len(self.sources) > 1 else 0
        drawn = self.sources[source]
        wanted = drawn.rows_per_step and min(drawn.rows_per_step, len(drawn.texts_of_row))
        rows, tokens = [], 0
        while len(rows) < wanted if wanted else tokens < self.budget:
            row = self._next_row(source)
            rows.append(row)
            tokens += int(self._tokens[source][row])
        return Step(source, np.array(rows), drawn.texts_of_row[rows].reshape(-1), tokens)

    def state(self) -> dict[str, Any]:
        """The position, for a checkpoint."""
        return {"step": self._step, "cursors": list(self._cursors)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a position. Raises ValueError when it belongs to other sources."""
        if len(state["cursors"]) != len(self.sources):
            raise ValueError(f"the position is for {len(state['cursors'])} sources, the run has {len(self.sources)}")
        self._step, self._cursors = int(state["step"]), [int(c) for c in state["cursors"]]

    def _next_row(self, source: int) -> int:
        count = len(self.sources[source].texts_of_row)
        turn, place = divmod(self._cursors[source], count)
        if self._orders.get(source, (-1,))[0] != turn:
            self._orders[source] = (turn, np.random.default_rng([self.seed, 1, source, turn]).permutation(count))
        self._cursors[source] += 1
        return int(self._orders[source][1][place])


def micro_batches(lengths: np.ndarray, budget: int, *, processes: int = 1, overhead: int = 128) -> list[np.ndarray]:
    """Cut texts into forward passes so that the whole costs as little as possible.

    Of all ways to cut the texts, sorted by length, into passes within the budget, the one with the fewest padded
    tokens, where starting a pass counts as `overhead` tokens. (A dynamic programme over the sorted lengths: filling
    each pass to the budget instead would put short and long texts together wherever a step holds few texts.)

    Args:
        lengths: [N] tokens of each text.
        budget: padded tokens of one forward pass; a single text may exceed it.
        processes: the number of passes is a multiple of this (where there are texts enough), so that all devices work.
        overhead: tokens whose computing takes as long as a pass takes on top of its tokens.

    Returns:
        Index arrays into `lengths`, shortest texts first; together they hold every index once.
    """
    order = np.argsort(lengths, kind="stable")
    widths = -(-np.maximum(lengths[order], 1) // _ROUND) * _ROUND
    cuts = _cheapest_cuts(widths, budget, overhead)
    while len(cuts) % processes and len(cuts) < len(order):
        widest = max(range(len(cuts)), key=lambda i: (len(cuts[i]) > 1, len(cuts[i]) * int(widths[cuts[i][-1]])))
        cuts[widest : widest + 1] = np.array_split(cuts[widest], 2)
    return [order[c] for c in cuts]


def _cheapest_cuts(widths: np.ndarray, budget: int, overhead: int) -> list[np.ndarray]:
    """widths: [N] padded lengths, ascending → ranges of places that follow each other."""
    count = len(widths)
    cheapest = np.zeros(count + 1)  # of the first n texts
    start_of_last = np.zeros(count + 1, dtype=np.int64)
    for end in range(1, count + 1):
        width = int(widths[end - 1])
        starts = np.arange(max(0, end - max(1, budget // width)), end)
        costs = cheapest[starts] + (end - starts) * width
        best = int(costs.argmin())
        cheapest[end], start_of_last[end] = costs[best] + overhead, starts[best]
    cuts = []
    end = count
    while end:
        cuts.append(np.arange(start_of_last[end], end))
        end = int(start_of_last[end])
    return cuts[::-1]
