"""Any objective over the prefixes of a vector, so that a truncated vector still works.  B: batch, D: dims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from limbeck.objectives._precision import in_fp32, unit

Terms = TypeVar("Terms")


@in_fp32
def matryoshka(loss: Callable[[Tensor], Terms], vectors: Tensor, dims: Sequence[int]) -> dict[int, Terms]:
    """`loss` of every prefix of `vectors`, cut and then renormalised (Kusupati et al. 2022, arXiv 2205.13147).

    Args:
        loss: a function of [B, d] unit vectors, called with autocast off; it sees the prefix width as its last
            dimension. It may return anything: one tensor, or several by name.
        vectors: [B, D], any norm.
        dims: prefix widths, each ≤ D.

    Returns:
        {width: loss of that prefix}, in the order of `dims`. Weighting is the caller's.

    Raises:
        ValueError: no width, or one over D or under 1.
    """
    if not dims or min(dims) < 1 or max(dims) > vectors.shape[-1]:
        raise ValueError(f"prefixes {list(dims)} do not fit vectors of {vectors.shape[-1]} dims")
    return {d: loss(unit(vectors[..., :d])) for d in dims}


def weighted(terms: dict[int, Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Weighted mean of the terms, in order; None = equal weights. Raises ValueError unless each term has a weight."""
    values = torch.stack(list(terms.values()))
    if weights is None:
        return values.mean()
    if len(weights) != len(terms):
        raise ValueError(f"{len(terms)} terms need as many weights, got {len(weights)}")
    scale = torch.tensor(weights, dtype=values.dtype, device=values.device)
    return (values * scale).sum() / scale.sum()
