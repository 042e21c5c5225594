"""From which cosine two texts count as duplicates, and how often that will be right.

Three ways, of which the first says most about the texts at hand: pairs that people labelled; none, but copies of the
texts themselves, edited; or a threshold that is given, of which the other two say what to expect.

Legend: `S` sampled texts, `E` edited ones, `k` nearest neighbours, `D` dims, `P` labelled pairs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from limbeck.dedup import edits
from limbeck.dedup.corpus import Corpus, IntArray
from limbeck.encoding.reading import find_inputs, read_rows
from limbeck.encoding.vectors import Model, Task, vectors_of
from limbeck.errors import ConfigError, DataError
from limbeck.nearest import search_blocks

FloatArray = NDArray[np.float64]

LEAST_TEXTS = 200  # to calibrate by themselves
_SAMPLED = 2000  # texts whose neighbours are looked up
_EDITED = 500  # texts that are edited, each twice
_NEAREST, _SKIPPED = 20, 5  # neighbours a text; so many of the nearest, which may be duplicates, tell no density
_GRID = np.round(np.arange(0.5, 0.9995, 0.001), 3)
_DRAWS = 500  # of the bootstrap
_FOLDS = 10


@dataclass(frozen=True, slots=True)
class Expected:
    """What to expect of a threshold."""

    threshold: float  # cosine
    precision: float | None  # of near pairs, how many are duplicates; None = not known
    low: float | None  # 95% interval of it
    high: float | None
    recall: float | None  # of duplicates, as the sample has them, how many are near
    rests_on: Literal["labels", "edits", "nothing"]
    sample: int  # labelled pairs, or edited texts

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rounded = {name: round(v, 4) if isinstance(v, float) else v for name, v in asdict(self).items()}
        return {**rounded, "threshold": self.threshold}

    def __str__(self) -> str:
        """A sentence or two for people."""
        if self.precision is None or self.low is None or self.high is None or self.recall is None:
            return f"threshold {self.threshold:.3f}; what to expect of it is not known: too few texts, and no labels"
        said = (
            f"threshold {self.threshold:.3f}; expected precision {self.precision:.3f} "
            f"(95% interval {self.low:.3f} to {self.high:.3f}), recall {self.recall:.3f}, "
        )
        if self.rests_on == "labels":
            return said + f"of {self.sample:,} labelled pairs: as good for your texts as these pairs are like them"
        return said + (
            f"by {self.sample:,} of the texts, each edited lightly and with one word in {edits.CHANGED} replaced, as "
            "many of one as of the other, and by chance neighbours: a guess, which --labelled pairs would make better"
        )


# ---------------------------------------------------------------------------------------------- labels


@dataclass(frozen=True)
class Labelled:
    """Labelled pairs and their cosines."""

    cosines: FloatArray  # [P]
    labels: NDArray[np.bool_]  # [P]: whether they are duplicates

    def at(self, threshold: float) -> Expected:
        """What to expect of a threshold that was not chosen by these pairs; Wilson's interval. Needs scipy."""
        near = self.cosines >= threshold
        return self._expected(threshold, int((near & self.labels).sum()), int(near.sum()))

    def choose(self, precision: float, *, seed: int = 0) -> Expected:
        """The lowest threshold whose near pairs are duplicates this often. Needs scipy.

        What it promises is not counted by the pairs that chose it, which would flatter it: the pairs are cut in ten,
        and those of each tenth are counted by the threshold that the other nine choose. It is on the low side where
        pairs are few. Where nine tenths choose none, the last has no near pairs.

        Raises DataError: no threshold is that precise.
        """
        threshold = _lowest(self.cosines, self.labels, precision)
        if threshold is None:
            best = max(_precisions(self.cosines, self.labels)[1])
            raise DataError(
                f"no threshold has a precision of {precision:g} on the {len(self.labels):,} labelled pairs, the best "
                f"has {best:.3f}: ask for less (--precision), or give the threshold (--threshold)"
            )
        fold = np.random.default_rng(seed).permutation(len(self.labels)) % _FOLDS
        right = near_pairs = 0
        for out in range(_FOLDS):
            held = fold == out
            chosen = _lowest(self.cosines[~held], self.labels[~held], precision)
            if chosen is not None:
                near = self.cosines[held] >= chosen
                right += int((near & self.labels[held]).sum())
                near_pairs += int(near.sum())
        return self._expected(threshold, right, near_pairs)

    def _expected(self, threshold: float, right: int, near: int) -> Expected:
        from scipy.stats import binomtest

        found = self.labels & (self.cosines >= threshold)
        recall = float(found.sum() / self.labels.sum())
        if not near:
            return Expected(threshold, None, None, None, recall, "labels", len(self.labels))
        interval = binomtest(right, near).proportion_ci(method="wilson")
        return Expected(
            threshold, right / near, float(interval.low), float(interval.high), recall, "labels", len(self.labels)
        )


def read_labelled(path: str) -> tuple[list[tuple[str, str]], NDArray[np.bool_]]:
    """Labelled pairs: JSON lines or Parquet with text_a, text_b and label, 1 (duplicates) or 0.

    Raises DataError as `read_rows`, and for other labels, or one kind of labels alone; ConfigError for "-".
    """
    if path == "-":
        raise ConfigError("labelled pairs are read twice: write them to a file")
    left = list(read_rows(find_inputs([path], field="text_a", id="label", id_is="label")))
    right = list(read_rows(find_inputs([path], field="text_b")))
    for row in left:
        if row.id not in (0, 1):
            raise DataError(f"{path}, {row.place}: a label is 1 for duplicates or 0 for others, got {row.id!r}")
    labels = np.array([row.id == 1 for row in left])
    if labels.all() or not labels.any():
        raise DataError(f"{path} has pairs of label {int(labels[0])} alone: a threshold is chosen by both kinds")
    return [(a.text, b.text) for a, b in zip(left, right, strict=True)], labels


def scored(
    model: Model,
    pairs: Sequence[tuple[str, str]],
    labels: NDArray[np.bool_],
    *,
    task: Task,
    dim: int | None,
    progress: Callable[[int], None] | None = None,
) -> Labelled:
    """Labelled pairs with their cosines. Raises as `vectors_of`."""
    number: dict[str, int] = {}
    for text in (text for pair in pairs for text in pair):
        number.setdefault(text, len(number))
    places = [f"the labelled text {text!r:.60}" for text in number]
    vectors = vectors_of(model, list(number), places, task=task, dim=dim, progress=progress)
    sides = np.array([[number[a], number[b]] for a, b in pairs])
    cosines = np.einsum("pd,pd->p", vectors[sides[:, 0]], vectors[sides[:, 1]]).astype(np.float64)
    return Labelled(np.clip(cosines, -1, 1), labels)


def _precisions(cosines: FloatArray, labels: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Each different cosine, from the highest, and the precision if it were the threshold."""
    order = np.argsort(-cosines, kind="stable")
    ordered = cosines[order]
    last = np.append(ordered[1:] != ordered[:-1], True)  # of those with the same cosine
    precision = np.cumsum(labels[order]) / np.arange(1, len(order) + 1)
    return ordered[last], precision[last]


def _lowest(cosines: FloatArray, labels: NDArray[np.bool_], precision: float) -> float | None:
    thresholds, reached = _precisions(cosines, labels)
    enough = np.flatnonzero(reached >= precision)
    return float(thresholds[enough[-1]]) if len(enough) else None


# --------------------------------------------------------------------------------------- without labels


@dataclass(frozen=True)
class Sample:
    """Some of the texts: how near their neighbours are, and their copies."""

    nearest: FloatArray  # [S, k] cosines of the nearest other texts, the highest first; exact
    light: FloatArray  # [E] cosines of texts to lightly edited copies
    changed: FloatArray  # [E] cosines of the same texts to copies that say something else
    seed: int = 0

    def choose(self, precision: float) -> Expected:
        """The lowest threshold that is expected to be this precise. Raises DataError: none is."""
        curve = self._precision(self.light, self.changed)
        enough = np.flatnonzero(curve >= precision)
        if not len(enough):
            raise DataError(
                f"no threshold is expected to have a precision of {precision:g}, the best {curve.max():.3f} (at "
                f"{_GRID[curve.argmax()]:.3f}): ask for less (--precision), give the threshold (--threshold), or pairs "
                "that you labelled (--labelled)"
            )
        return self.at(float(_GRID[enough[0]]))

    def at(self, threshold: float) -> Expected:
        """What to expect of a threshold; the interval is a bootstrap over the edited texts."""
        draw = np.random.default_rng(self.seed)
        grid = np.array([threshold])
        drawn = draw.integers(0, len(self.light), (_DRAWS, len(self.light)))
        values = [self._precision(self.light[rows], self.changed[rows], grid)[0] for rows in drawn]
        low, high = np.quantile(values, [0.025, 0.975])
        return Expected(
            threshold=threshold,
            precision=float(self._precision(self.light, self.changed, grid)[0]),
            low=float(low),
            high=float(high),
            recall=float((self.light >= threshold).mean()),
            rests_on="edits",
            sample=len(self.light),
        )

    def _precision(self, light: FloatArray, other: FloatArray, grid: FloatArray = _GRID) -> FloatArray:
        """At each threshold, near copies that say the same among all near copies, less what is near by chance."""
        same, different = ((values[None, :] >= grid[:, None]).sum(axis=1) for values in (light, other))
        # half a text is added to either side, so that the last copy that is left does not make a threshold sure
        return (same + 0.5) / (same + different + 1) * (1 - chance(self.nearest, grid))


def chance(nearest: FloatArray, thresholds: FloatArray) -> FloatArray:
    """Of the texts whose nearest other text reaches a threshold, how many would have one there by chance.

    Around each text, others are taken to lie as if thrown at random, as densely as its 6th to 20th neighbours do: the
    number within a distance grows with a power of it, the dimension of the data, which is the likeliest by all sampled
    texts (Levina and Bickel 2004, equation 8, with the nearest five left out as in a censored sample, since duplicates
    have their place there). Texts on one theme are often nearer than by chance without being duplicates, which this
    does not see; groups of more than six duplicates make it too high.

    Args:
        nearest: [S, k] cosines, the highest first.
        thresholds: [t] cosines.

    Returns: [t], 0 … 1; 0 where no text is as near.
    """
    distances = np.sqrt(np.maximum(2 - 2 * nearest, 1e-6))
    k, first = nearest.shape[1], _SKIPPED
    farthest = distances[:, -1]
    logs = np.log(farthest[:, None] / distances[:, first:-1])
    total = float(logs.sum() + first * logs[:, 0].sum())
    power = logs.size / max(total, 1e-9)
    expected = np.empty(len(thresholds))
    for place, threshold in enumerate(thresholds):
        inside = np.minimum(np.sqrt(max(2 - 2 * threshold, 0)) / farthest, 1) ** power
        by_chance = float((1 - (1 - inside) ** (k - 1)).mean())
        observed = float((nearest[:, 0] >= threshold).mean())
        expected[place] = min(1.0, by_chance / observed) if observed else 0.0
    return expected


def sample_of(
    model: Model,
    corpus: Corpus,
    *,
    dim: int | None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Sample:
    """Look up neighbours of 2,000 texts and edit 500 of them, or all there are.

    Raises ConfigError: fewer than 200 different texts, or than 50 of four words or characters.
    """
    if len(corpus) < LEAST_TEXTS:
        raise ConfigError(
            f"{len(corpus):,} different texts are too few to choose a threshold by, {LEAST_TEXTS} are needed: give it "
            "(--threshold 0.9), or pairs that you labelled (--labelled)"
        )
    rows = np.sort(np.random.default_rng(seed).permutation(len(corpus))[:_SAMPLED])
    draw = random.Random(seed)
    texts = [corpus.text(row) for row in rows]
    usable = [i for i, text in enumerate(texts) if len(edits.pieces(text)[0]) >= edits.LEAST]
    if len(usable) < 50:
        raise ConfigError(
            f"{len(usable)} of {len(texts):,} sampled texts have {edits.LEAST} characters or more, too few to choose a "
            "threshold by: give it (--threshold 0.9), or pairs that you labelled (--labelled)"
        )
    chosen = sorted(draw.sample(usable, min(_EDITED, len(usable))))
    copies = [edits.light_edit(texts[i], draw) for i in chosen] + [edits.changed(texts[i], texts, draw) for i in chosen]
    places = [f"an edited copy of {texts[i]!r:.60}" for i in chosen] * 2
    vectors = vectors_of(model, copies, places, task=corpus.task, dim=dim, progress=progress)
    originals = corpus.vectors[rows[chosen]].astype(np.float32)
    cosines = np.einsum("ced,ed->ce", vectors.reshape(2, len(chosen), -1), originals).astype(np.float64)
    light, changed = np.clip(cosines, -1, 1)
    return Sample(nearest_of(corpus, rows).astype(np.float64), light, changed, seed)


def nearest_of(corpus: Corpus, rows: IntArray) -> NDArray[np.float32]:
    """Cosines of some texts to their 20 nearest others, without bits. [S] → [S, k], the highest first."""
    queries = corpus.vectors[rows].astype(np.float32)

    def score(q: slice, d: slice) -> NDArray[np.float32]:
        scores = queries[q] @ corpus.vectors[d].astype(np.float32).T
        own = rows[q] - d.start
        inside = np.flatnonzero((own >= 0) & (own < scores.shape[1]))
        scores[inside, own[inside]] = -2
        return scores

    found = search_blocks(len(rows), len(corpus), min(_NEAREST, len(corpus) - 1), score, query_block=500)
    return np.clip(found.scores, -1, 1)
