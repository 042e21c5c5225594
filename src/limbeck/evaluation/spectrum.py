"""How many directions vectors use: a collapse shows here before it shows in a score.  N: vectors, D: dims."""

from __future__ import annotations

import numpy as np

from limbeck.compress import truncate


def effective_rank(vectors: np.ndarray) -> float:
    """exp(H) of the singular values of the unit vectors [N, D], scaled to a sum of 1; H is their entropy in nats.

    1 when all point the same way, D when all directions are used alike. (Roy & Vetterli 2007, "The effective rank: a
    measure of effective dimensionality".) Not centred: cosines are measured from the origin.
    """
    values = np.linalg.svd(truncate(vectors, vectors.shape[1]).astype(np.float64), compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
