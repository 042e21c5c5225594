"""Vectors → probabilities of labels: a linear layer and a temperature. NumPy only.

N: texts, D: dims, K: labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import ConfigError

Label: TypeAlias = str | int
"""What a text is classified as; the labels of one classifier are of one type."""


@dataclass(frozen=True, eq=False)
class Head:
    """softmax((W z + b) / T) for a vector z.

    Of a few-shot classifier, W and b are fitted (`few_shot.fit`); of a zero-shot one, the rows of W are the labels'
    vectors, b is 0 and T the inverse of the scale of cosines (`zero_shot.head_of`).
    """

    labels: tuple[Label, ...]  # K ≥ 2, all different
    weight: NDArray[np.float32]  # [K, D]
    bias: NDArray[np.float32]  # [K]
    temperature: float = 1.0  # > 0; never changes which label is first (Guo et al. 2017, arXiv 1706.04599)

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.weight.shape[1]

    def logits(self, vectors: np.ndarray) -> NDArray[np.float64]:
        """W z + b, before the temperature. vectors: [N, D] → [N, K]. Raises ConfigError: vectors of another width."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ConfigError(f"the classifier takes vectors [N, {self.dim}], got shape {list(vectors.shape)}")
        return vectors.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias

    def probabilities(self, vectors: np.ndarray) -> NDArray[np.float64]:
        """Of each label; rows sum to 1. vectors: [N, D] → [N, K]. Raises ConfigError as `logits`."""
        return softmax(self.logits(vectors) / self.temperature)

    def at(self, temperature: float) -> Head:
        """The same head at another temperature."""
        return replace(self, temperature=temperature)


def softmax(logits: np.ndarray) -> NDArray[np.float64]:
    """Of each row. [N, K] → [N, K]."""
    return np.exp(log_softmax(logits))


def log_softmax(logits: np.ndarray) -> NDArray[np.float64]:
    """Logarithm of the softmax of each row; finite for any finite logits. [N, K] → [N, K]."""
    shifted = np.asarray(logits, np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def targets_of(labels: Sequence[Label], known: Sequence[Label]) -> NDArray[np.intp]:
    """The place of each label among those known, [N]. Raises KeyError for one that is not among them."""
    place = {label: i for i, label in enumerate(known)}
    return np.array([place[label] for label in labels], np.intp)
