"""Vectors of a model's texts, kept on disk at full width, and what becomes of them at a width and precision.

A text is encoded once for each adapter and role; dims, precisions and repeats share its vector. The teacher store keeps
the vectors: checked sums, several processes, nothing lost by a kill. It holds halves, and one half of a number is too
coarse to score with (nDCG@10 moved by 2e-4 where vectors were cut to 64 dims), so a number is kept as two halves.

Legend: N vectors, D full width, E width after truncation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from limbeck.compress import FloatArray, Int8Grid, from_bits, to_bits, truncate
from limbeck.errors import ModelError
from limbeck.evaluation.results import VectorPrecision
from limbeck.evaluation.subjects import Subject
from limbeck.model.prefixes import Role
from limbeck.teacher.checks import Progress
from limbeck.teacher.store import TeacherStore

_LOW = 2**11  # the low half is what the high one's 11 bits leave, brought to the same size
_CHUNK, _CHUNK_CHARS = 4096, 1_000_000  # texts, characters: what a kill costs is a few minutes of the slowest model
_SHOWN = 60  # characters of a text in a message


@dataclass
class Spent:
    """Texts that a model was made to encode, and for how long."""

    texts: int = 0
    seconds: float = 0.0


@dataclass
class VectorCache:
    """Vectors of any number of models, in stores under one folder."""

    folder: Path
    tell: Callable[[int], None] = lambda _: None  # called with the number of further texts done
    spent: dict[str, Spent] = field(default_factory=dict)  # by the model's fingerprint without an adapter

    def vectors(self, subject: Subject, texts: Sequence[str], *, role: Role | None, adapter: str | None) -> FloatArray:
        """Unit vectors of texts at full width, those that are not known yet encoded now. float32 [N, D].

        Raises ModelError: the model answers with another shape, NaN, infinity or zeros. StoreError: the disk is full,
        or the cache is damaged.
        """
        spent = self.spent.setdefault(subject.fingerprint(None), Spent())

        def encode(texts: Sequence[str], *, instruction: str, progress: Progress | None) -> np.ndarray:
            start = time.perf_counter()
            found = subject.encode(texts, role=role, adapter=adapter)
            spent.texts += len(texts)
            spent.seconds += time.perf_counter() - start
            if progress:
                progress(len(texts))
            return _two_halves(_unit(found, texts, subject))

        store = TeacherStore.open(self.folder, fingerprint=subject.fingerprint(adapter), dim=2 * subject.dim)
        rows = store.teach(texts, role or "", encode, chunk=_CHUNK, chunk_chars=_CHUNK_CHARS, progress=self.tell)
        return _whole(store.gather(rows))


class Compressor:
    """Full vectors → what a search in them sees, as float32 of length 1 (in int8 nearly 1).

    int8 has one grid for all that is compared, fitted to the first vectors that are stored, those of the documents:
    grids that were estimated anew for each side would not agree.
    """

    def __init__(self, dim: int, precision: VectorPrecision) -> None:
        """Compress to E = `dim` dims at this precision."""
        self.dim, self.precision = dim, precision
        self._grid: Int8Grid | None = None

    def __call__(self, vectors: FloatArray, *, stored: bool = True) -> FloatArray:
        """[N, D] → [N, E].

        A binary vector is ±1/√E, so that a dot product is 1 − 2 · Hamming distance / E. In int8, what is not `stored`,
        a query, stays float: nothing is saved by rounding it.
        """
        cut = truncate(vectors, self.dim)
        if self.precision == "binary":
            return from_bits(to_bits(cut)) / np.float32(np.sqrt(self.dim))
        if self.precision == "int8" and stored:
            self._grid = self._grid or Int8Grid.fit(cut)
            return self._grid.decode(self._grid.encode(cut))
        return cut


def _unit(vectors: np.ndarray, texts: Sequence[str], subject: Subject) -> FloatArray:
    """A model's answer at unit length. Raises ModelError that names the first text without a direction."""
    if vectors.shape != (len(texts), subject.dim):
        raise ModelError(f"{subject.name} gives vectors of shape {vectors.shape}, expected {(len(texts), subject.dim)}")
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    sound = np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)
    if not sound.all():
        bad = int(np.argmin(sound))
        kind = "zeros" if norms[bad] == 0 else "NaN or infinity"
        raise ModelError(
            f"{subject.name} gives {int((~sound).sum())} of {len(texts)} texts a vector of {kind}, the first of them "
            f"{ascii(texts[bad][:_SHOWN])}: it cannot be scored; look at the model, and at that text"
        )
    return (vectors / norms).astype(np.float32)


def _two_halves(vectors: FloatArray) -> np.ndarray:
    """float32 [N, D] in −1 … 1 → float16 [N, 2D]: the high halves, then the low ones. Wrong by at most 2^-24."""
    high = vectors.astype(np.float16)
    low = (vectors - high) * _LOW
    return np.concatenate([high, low.astype(np.float16)], axis=1)


def _whole(halves: np.ndarray) -> FloatArray:
    """What `_two_halves` was made of. float16 [N, 2D] → float32 [N, D]."""
    width = halves.shape[1] // 2
    found = halves[:, width:].astype(np.float32)
    found /= _LOW
    found += halves[:, :width]
    return found
