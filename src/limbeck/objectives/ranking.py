"""Order pairs as their scores do.  P: pairs, D: dims."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.objectives._precision import in_fp32, unit


@in_fp32
def cosent(left: Tensor, right: Tensor, scores: Tensor, *, scale: float = 20.0) -> Tensor:
    """log(1 + Σ exp(scale · (cos_j − cos_i))) over all i, j with score i > score j.

    (CoSENT: Huang et al. 2024, doi 10.1109/TASLP.2024.3402087.)

    Args:
        left: [P, D], any norm.
        right: [P, D], any norm; row i of both is pair i.
        scores: [P], larger = more alike; only their order counts.
        scale: an inverse temperature.

    0 where no two scores differ. Raises ValueError: shapes that do not fit.
    """
    if left.shape != right.shape or left.ndim != 2 or scores.shape != left.shape[:1]:
        raise ValueError(
            f"expected left and right [P, D] and scores [P], got {list(left.shape)}, {list(right.shape)}, "
            f"{list(scores.shape)}"
        )
    cosines = scale * (unit(left) * unit(right)).sum(dim=-1)
    gaps = cosines[None, :] - cosines[:, None]  # [i, j] = cos_j − cos_i
    gaps = gaps.masked_fill(~(scores[:, None] > scores[None, :]), float("-inf"))
    return torch.logsumexp(torch.cat([gaps.new_zeros(1), gaps.flatten()]), dim=0)
