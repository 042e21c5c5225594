"""Vectors that stand in for a teacher's where there is none, in `limbeck run --smoke`. They mean nothing.

Legend: N texts, D dims.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

from limbeck.config import Teacher
from limbeck.teacher.checks import Progress, utf8


class RandomTeacher:
    """A unit vector for each text, drawn by a hash of the text and the instruction: the same in every process.

    Texts with the same first word share half of theirs (their cosine is about 0.5, that of others about 0), so that
    mining finds answers nearer than other documents, and labels something to tell apart.
    """

    max_tokens: int | None = None
    truncated: int | None = 0
    chunked = 0

    def __init__(self, teacher: Teacher) -> None:
        """Take the width of the vectors from the recipe's section."""
        self.dim = teacher.dim

    @property
    def fingerprint(self) -> str:
        """Names the kind of vector."""
        return f"random-vectors@1;dim={self.dim}"

    def encode(self, texts: Sequence[str], *, instruction: str = "", progress: Progress | None = None) -> np.ndarray:
        """Draw the vectors of texts.

        Args:
            texts: [N].
            instruction: another one gives other vectors.
            progress: called once, with N.

        Returns:
            float32 [N, D], each row of L2 norm 1, in the order of `texts`.

        Raises:
            DataError: a text is not valid Unicode.
        """
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        for i, text in enumerate(texts):
            first, _, _ = text.partition(" ")
            vectors[i] = self._drawn(utf8(first, i)) + self._drawn(f"{instruction}\n".encode() + utf8(text, i))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        if progress is not None:
            progress(len(texts))
        return vectors

    def _drawn(self, of: bytes) -> np.ndarray:
        seed = int.from_bytes(blake2b(of, digest_size=8).digest(), "little")
        drawn = np.random.default_rng(seed).standard_normal(self.dim, dtype=np.float32)
        return drawn / np.linalg.norm(drawn)
