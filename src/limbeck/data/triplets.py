"""Labelled texts → single-label triplets, balanced over labels, with negatives from labels that are easily confused.

N: texts, L: usable labels, R: triplets, K: most labels of a text, D: dims of the teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from limbeck.errors import DataError
from limbeck.nearest import top_k

_VECTORS = 8192  # gathered together: 80 MiB in float32 at 2,560 dims
_BLOCK = 65_536  # triplets that are looked at together
_NEAR_TRIES = 20  # draws from the confusable labels before any text will do
_FAR_TRIES = 100  # draws from all texts before those that will do are listed, which is slow


@dataclass(frozen=True)
class LabelTriplets:
    """Triplets as indices into the texts."""

    anchor: np.ndarray  # [R] int32
    positive: np.ndarray  # [R] int32: another text of the same label
    negatives: np.ndarray  # [R, n] int32: texts that share no label with the anchor, −1 = there is no other
    label: np.ndarray  # [R] int32, into `labels`
    labels: list[str]
    label_sets: np.ndarray  # [N, K] int32: labels of each text, −1 = none
    counts: dict[str, int]

    @classmethod
    def make(
        cls,
        labels: Sequence[tuple[str, ...]],
        rows: np.ndarray,
        gather: Callable[[np.ndarray], np.ndarray],
        texts: np.ndarray,
        *,
        negatives: int,
        confusable: int,
        count: int,
        seed: int,
    ) -> LabelTriplets:
        """Draw triplets: a label (each as often), the next of its texts, another of them, and texts of nearby labels.

        Args:
            labels: [N] labels of each text.
            rows: [N] rows of the teacher's store, by which labels are near or far.
            gather: rows [n] → vectors [n, D].
            texts: [N] a number for each text, equal for equal texts: these count as one that has the labels of all.
            negatives: n.
            confusable: labels nearest to a triplet's own that negatives come from.
            count: R, each label to within one as often as the others, and each of its texts as an anchor likewise.
            seed: of the draw.

        A label with a single text makes no pair and is left out, and counted. Raises DataError: fewer than two labels
        are left.
        """
        names = sorted({label for own in labels for label in own})
        number = {name: i for i, name in enumerate(names)}
        lengths = np.fromiter(map(len, labels), np.int64, len(labels))
        flat = np.fromiter((number[label] for own in labels for label in own), np.int64, lengths.sum())
        _, first, same = np.unique(texts, return_index=True, return_inverse=True)
        text, label = np.divmod(np.unique(np.repeat(same, lengths) * len(names) + flat), max(1, len(names)))
        sets = _sets(text, label, len(first))[same]
        members = _members(first[text], label, len(names))
        usable = np.array([i for i, of in enumerate(members) if len(of) > 1], dtype=np.int64)
        counts = {
            "labels": len(usable),
            "labels_seen_once": len(names) - len(usable),
            "texts_left_out": int((~np.isin(sets, usable).any(axis=1)).sum()),
        }
        if len(usable) < 2:
            raise DataError(
                f"classification needs at least two labels with two different texts each, and there are {len(usable)} "
                f"(of {len(names)} labels on {len(labels)} texts): add labelled texts, or leave the adapter out"
            )
        draw = np.random.default_rng(seed)
        label = usable[_evenly(len(usable), count, draw)]
        anchor, positive = np.empty(count, np.int32), np.empty(count, np.int32)
        order = np.argsort(label, kind="stable")
        for own, at in zip(usable, np.split(order, np.searchsorted(label[order], usable[1:])), strict=True):
            of = members[own]
            passes = np.tile(np.arange(len(of)), (-(-len(at) // len(of)), 1))
            places = draw.permuted(passes, axis=1).ravel()[: len(at)]
            anchor[at] = of[places]
            positive[at] = of[(places + draw.integers(1, len(of), len(at))) % len(of)]
        near = _nearest_labels(members, usable, rows, gather, confusable)
        hard = _negatives(anchor, label, near, members, sets, np.unique(first[text]), negatives, draw)
        counts["negatives_not_found"] = int((hard < 0).sum())
        return cls(anchor, positive, hard, label.astype(np.int32), names, sets, counts)


def shares_label(rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Which texts have a label in common. rows: [B, K], candidates: [C, K] label sets, −1 = none → [B, C] bool."""
    common = np.zeros((len(rows), len(candidates)), bool)
    for column in rows.T:
        for other in candidates.T:
            common |= (column[:, None] == other[None, :]) & (column[:, None] >= 0)
    return common


def _sets(text: np.ndarray, label: np.ndarray, texts: int) -> np.ndarray:
    """[texts, K] from pairs that are sorted by text, −1 = none."""
    many = np.bincount(text, minlength=texts)
    sets = np.full((texts, many.max(initial=0)), -1, dtype=np.int32)
    sets[text, np.arange(len(text)) - np.repeat(np.cumsum(many) - many, many)] = label
    return sets


def _members(text: np.ndarray, label: np.ndarray, labels: int) -> list[np.ndarray]:
    """Texts of each label, ascending."""
    order = np.lexsort((text, label))
    return np.split(text[order], np.searchsorted(label[order], np.arange(1, labels)))


def _evenly(kinds: int, count: int, draw: np.random.Generator) -> np.ndarray:
    """[count] numbers under `kinds`, each as often as the others (to within one), shuffled."""
    whole = np.tile(np.arange(kinds), count // kinds)
    rest = draw.permutation(kinds)[: count % kinds]
    return draw.permutation(np.concatenate([whole, rest]))


def _nearest_labels(
    members: list[np.ndarray],
    usable: np.ndarray,
    rows: np.ndarray,
    gather: Callable[[np.ndarray], np.ndarray],
    confusable: int,
) -> np.ndarray:
    """[all labels, c]: for each usable label the others whose texts' mean direction is nearest to its own."""
    centroids = []
    for label in usable:
        total: np.ndarray | float = 0.0
        for start in range(0, len(members[label]), _VECTORS):
            vectors = gather(rows[members[label][start : start + _VECTORS]]).astype(np.float32)
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
            total = total + vectors.sum(axis=0)
        centroids.append(total)
    unit = np.stack(centroids)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), np.float32(1e-12))
    width = min(confusable, len(usable) - 1)
    hits = top_k(unit, unit, width + 1).indices
    itself = hits == np.arange(len(usable))[:, None]
    others = np.argsort(itself, axis=1, kind="stable")[:, :width]  # a label moves behind the others, if it is there
    near = np.full((len(members), width), -1, dtype=np.int64)
    near[usable] = usable[np.take_along_axis(hits, others, axis=1)]
    return near


def _negatives(
    anchor: np.ndarray,
    label: np.ndarray,
    near: np.ndarray,
    members: list[np.ndarray],
    sets: np.ndarray,
    everything: np.ndarray,
    negatives: int,
    draw: np.random.Generator,
) -> np.ndarray:
    """[R, n] texts that share no label with the anchor; the same text only once in a row, −1 = there is no other."""
    chosen = np.full((len(anchor), negatives), -1, dtype=np.int32)
    flat, sizes = np.concatenate(members), np.array([len(of) for of in members])
    starts = np.cumsum(sizes) - sizes
    # where a label is on every text, nothing need be tried
    free = np.flatnonzero(~((sizes[sets[anchor]] == len(everything)) & (sets[anchor] >= 0)).any(axis=1))
    for start in range(0, len(free), _BLOCK):
        for turn in range(negatives):
            left = free[start : start + _BLOCK]
            for attempt in range(_NEAR_TRIES + _FAR_TRIES):
                if attempt < _NEAR_TRIES:  # a label first, then a text of it: a large label does not drown a small one
                    of = near[label[left], draw.integers(0, near.shape[1], len(left))]
                    drawn = flat[starts[of] + (draw.random(len(left)) * sizes[of]).astype(np.int64)]
                else:
                    drawn = everything[draw.integers(0, len(everything), len(left))]
                theirs = sets[drawn]
                taken = (chosen[left, :turn] == drawn[:, None]).any(axis=1)
                for own in sets[anchor[left]].T:
                    taken |= (theirs == own[:, None]).any(axis=1) & (own >= 0)
                chosen[left[~taken], turn] = drawn[~taken]
                left = left[taken]
                if not len(left):
                    break
    _complete(chosen, anchor, free[(chosen[free] < 0).any(axis=1)], members, sets, everything, draw)
    return chosen


def _complete(
    chosen: np.ndarray,
    anchor: np.ndarray,
    left: np.ndarray,
    members: list[np.ndarray],
    sets: np.ndarray,
    everything: np.ndarray,
    draw: np.random.Generator,
) -> None:
    """Fill the gaps of the few rows `left` that had no luck, from all texts that share no label with the anchor."""
    kinds, kind = np.unique(sets[anchor[left]], axis=0, return_inverse=True)
    for place, own in enumerate(kinds):
        fits = np.ones(len(sets), bool)
        for label in own[own >= 0]:
            fits[members[label]] = False
        texts = everything[fits[everything]]
        for row in left[kind == place] if len(texts) else ():
            rest = np.setdiff1d(texts, chosen[row])
            gaps = np.flatnonzero(chosen[row] < 0)[: len(rest)]
            chosen[row, gaps] = draw.choice(rest, len(gaps), replace=False)
