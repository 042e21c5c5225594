"""A map of vectors: held-out texts laid out in the plane, and drawn with a colour and a shape for each label.

t-SNE (van der Maaten & Hinton 2008) keeps near neighbours near. It keeps no distances, and its axes mean nothing.
N: texts, D: dims.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from limbeck.compress import truncate
from limbeck.errors import DataError
from limbeck.evaluation.plots import KINDS, SHAPES
from limbeck.evaluation.scores import MapPoint, VectorMap

MOST_POINTS = 800  # more are a blot, and t-SNE of these takes seconds
_COMPONENTS = 50  # of the PCA before t-SNE: what is left out is mostly noise
_PERPLEXITY = 30.0  # neighbours that a point looks at; scikit-learn's default
_FEWEST = 8  # below this there are no neighbourhoods to keep: PCA alone
_SIZE = (640, 480)
_MARGIN = 14
_SHOWN_CHARS = 160


def project(vectors: np.ndarray, *, seed: int = 0) -> npt.NDArray[np.float64]:
    """Lay out vectors in the plane, by PCA and then t-SNE. vectors: [N, D], any norm. Returns [N, 2].

    The same vectors and seed give the same points. Raises DataError when a vector is NaN, infinite or all zeros, or
    when there are none.
    """
    if vectors.ndim != 2 or not len(vectors):
        raise DataError(f"a map needs a matrix of vectors, one row a text, got shape {vectors.shape}")
    from sklearn.decomposition import PCA  # in the `eval` extra
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    z = truncate(vectors, vectors.shape[1]).astype(np.float64)
    z -= z.mean(axis=0)
    if np.abs(z).max() < 1e-6:  # all alike, but for rounding
        return np.zeros((len(z), 2))
    kept = min(_COMPONENTS, *z.shape)
    with threadpool_limits(limits=1):  # threads add up in the order they end, and t-SNE magnifies a last bit
        flat = PCA(kept, svd_solver="full").fit_transform(z)
        if len(z) >= _FEWEST and kept > 1:
            perplexity = min(_PERPLEXITY, (len(z) - 1) / 3)
            flat = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(flat)
    points = np.zeros((len(z), 2))
    points[:, : min(2, kept)] = flat[:, :2]
    return points


def vector_map(
    texts: Sequence[str], labels: Sequence[str], vectors: np.ndarray, *, most: int = MOST_POINTS, seed: int = 0
) -> VectorMap:
    """Map texts by their vectors. texts, labels: N; vectors: [N, D]. Of more than `most`, a random sample is mapped.

    Raises DataError: lengths differ, or as `project`.
    """
    if not len(texts) == len(labels) == len(vectors):
        raise DataError(
            f"a map needs one label and one vector a text, got {len(texts)} texts, {len(labels)} labels and "
            f"{len(vectors)} vectors"
        )
    rows = np.arange(len(texts))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    points = project(vectors[rows], seed=seed)
    return VectorMap(
        points=[
            MapPoint(x=round(x, 3), y=round(y, 3), label=labels[row], text=_shortened(texts[row]))
            for row, (x, y) in zip(rows.tolist(), points.tolist(), strict=True)
        ],
        texts=len(texts),
    )


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARS else line[: _SHOWN_CHARS - 1].rstrip() + "…"


# -------------------------------------------------------------------------------------------- drawing


@dataclass(frozen=True)
class Dot:
    """A text at (x, y), in pixels."""

    x: float
    y: float
    hover: str


@dataclass(frozen=True)
class Group:
    """The texts of one label. css: class of the colour; shape: `d` of an SVG path, relative to the centre."""

    label: str
    css: str
    shape: str
    dots: list[Dot]


@dataclass(frozen=True)
class MapChart:
    """A map in pixels. `description` says in words what the picture shows."""

    width: int
    height: int
    description: str
    groups: list[Group]  # those behind come first


def map_chart(found: VectorMap) -> MapChart:
    """Lay out a map to be drawn. The most frequent labels have a colour and a shape each, the others share one."""
    counts = Counter(point.label for point in found.points)
    ranked = sorted(counts, key=lambda label: (-counts[label], label))
    named = {label: i for i, label in enumerate(ranked[: len(KINDS)])}
    dots: list[list[Dot]] = [[] for _ in range(len(named) + 1)]  # those of the other labels come last
    places = _placed(np.array([(point.x, point.y) for point in found.points]))
    for point, (x, y) in zip(found.points, places.tolist(), strict=True):
        hover = f"{point.label}: {point.text}"
        dots[named.get(point.label, len(named))].append(Dot(round(x, 1), round(y, 1), hover))
    groups = [
        Group(label, css, SHAPES[shape], dots[i])
        for (label, i), (css, shape) in zip(named.items(), KINDS, strict=False)
    ]
    said = [f"{label} {counts[label]}" for label in named]
    if dots[-1]:
        others = f"{len(ranked) - len(named)} other labels"
        groups.insert(0, Group(others, "other", SHAPES["circle"], dots[-1]))
        said.append(f"{others} {len(dots[-1])}")
    return MapChart(
        *_SIZE,
        f"{len(found.points)} texts as points, those with like vectors near each other: {', '.join(said)}.",
        groups,
    )


def _placed(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Points in pixels, [N, 2]: one scale for both axes, in the middle of the picture."""
    low, high = points.min(axis=0), points.max(axis=0)
    room = np.array(_SIZE) - 2 * _MARGIN
    spans = np.where(high > low, high - low, 1.0)
    return np.array(_SIZE) / 2 + (points - (low + high) / 2) * (room / spans).min()
