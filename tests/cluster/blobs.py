"""Vectors and texts with clusters that are known."""

from __future__ import annotations

import numpy as np

WORDS = ["otter", "bridge", "violin", "glacier", "saffron", "tractor", "cathedral"]


def blobs(k: int, each: int = 20, *, dims: int = 16, spread: float = 0.05, seed: int = 0):
    """k clusters of `each` vectors about axes of the space, in turns: vectors [k · each, dims], labels, texts."""
    random = np.random.default_rng(seed)
    labels = np.tile(np.arange(k), each)
    vectors = np.eye(dims)[labels] + random.normal(0, spread, (len(labels), dims))
    texts = [f"the {WORDS[label % len(WORDS)]} and the number {i}" for i, label in enumerate(labels)]
    return vectors.astype(np.float32), labels, texts


def same_groups(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two labellings group alike, whatever the labels are."""
    pairs = set(zip(found.tolist(), expected.tolist(), strict=True))
    return len(pairs) == len(set(found.tolist())) == len(set(expected.tolist()))
