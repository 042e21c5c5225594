"""Match how the teacher's vectors lie to each other; the two sides may have different dims.  B: texts, D: dims."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from limbeck.objectives._precision import in_fp32, unit


@in_fp32
def relational_distances(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between the pairwise distances of both sides, each divided by its own mean distance.

    (Relational knowledge distillation, the distance-wise loss of Park et al. 2019, arXiv 1904.05068.)

    Args:
        student: [B, D], any norm; directions count.
        teacher: [B, D'], any norm.

    0 for a single text. Where all student vectors are the same, the gradient is 0: this loss alone cannot undo a
    collapse. Raises ValueError: another number of rows.
    """
    _same_rows(student, teacher)
    if len(student) < 2:
        return student.sum() * 0
    return F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher).detach())


@in_fp32
def relational_cosines(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the cosines of all pairs of texts. student: [B, D]; teacher: [B, D'], any norm.

    0 for a single text. Raises ValueError: another number of rows.
    """
    _same_rows(student, teacher)
    s, t = unit(student), unit(teacher).detach()
    pairs = len(s) * (len(s) - 1) // 2
    return (s @ s.T - t @ t.T).triu(diagonal=1).square().sum() / max(pairs, 1)


def _relative_distances(vectors: Tensor) -> Tensor:
    """[B, D] → the B·(B − 1)/2 distances between unit vectors, divided by their mean."""
    distances = F.pdist(unit(vectors))
    return distances / distances.mean().clamp(min=1e-6)


def _same_rows(student: Tensor, teacher: Tensor) -> None:
    if len(student) != len(teacher):
        raise ValueError(f"student has {len(student)} rows, teacher {len(teacher)}: they must be the same texts")
