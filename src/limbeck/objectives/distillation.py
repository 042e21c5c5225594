"""Point where the teacher points.  B: batch, D: dims."""

from __future__ import annotations

from torch import Tensor

from limbeck.objectives._precision import in_fp32, unit


@in_fp32
def cosine_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 − cos over rows (2602.15547, stage 1): 0 when directions agree, 2 when they oppose.

    Args:
        student: [B, D], any norm, already projected into the teacher's space.
        teacher: [B, D], any norm.

    In fp32: in bf16, 1 − cos near convergence is mostly rounding.
    """
    return (1 - (unit(student) * unit(teacher)).sum(dim=-1)).mean()
