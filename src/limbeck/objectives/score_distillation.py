"""Score candidates as the teacher does: what is matched is a query's scores, not its vector.

B: queries, C: candidates of a query. Scores are cosines (`contrastive.candidate_cosines` of either model) or any other
number of which more is better. Weighting is the caller's: neither loss is multiplied by temperature².
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.objectives._precision import in_fp32


@in_fp32
def score_divergence(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float,
    teacher_temperature: float | None = None,
    excluded: Tensor | None = None,
) -> Tensor:
    """KL(teacher ‖ student) of the softmax over a query's candidates, mean over queries, in nats.

    (Hinton et al. 2015, arXiv 1503.02531; for dense retrieval Lin et al. 2020, arXiv 2010.11386.)

    Args:
        student: [B, C] scores.
        teacher: [B, C] scores.
        temperature: scores are divided by it.
        teacher_temperature: the teacher's own, where its scores have another spread. None = the same.
        excluded: [B, C] bool, True = not a candidate of this query (padding, a duplicate).

    0 where the two agree, and for a query with one candidate or none. Raises ValueError: shapes that do not fit, or a
    temperature that is not positive.
    """
    _same_shape(student, teacher, excluded)
    teacher_temperature = temperature if teacher_temperature is None else teacher_temperature
    if not (temperature > 0 and teacher_temperature > 0):
        raise ValueError(f"temperatures must be positive, got {temperature} and {teacher_temperature}")
    s, t = student / temperature, teacher.detach() / teacher_temperature
    if excluded is not None:
        # finite, not -inf: the softmax of a row that is excluded as a whole would be nan
        lowest = torch.finfo(s.dtype).min
        s, t = s.masked_fill(excluded, lowest), t.masked_fill(excluded, lowest)
    return F.kl_div(s.log_softmax(dim=-1), t.log_softmax(dim=-1), reduction="batchmean", log_target=True)


@in_fp32
def margin_mse(
    student: Tensor, teacher: Tensor, *, positive: Tensor | None = None, excluded: Tensor | None = None
) -> Tensor:
    """Mean squared difference of the two sides' margins, positive − negative.

    (Margin-MSE: Hofstätter et al. 2020, arXiv 2010.02666.)

    Args:
        student: [B, C] scores.
        teacher: [B, C] scores, on the same scale.
        positive: [B] int64, the column of each query's positive. None = column i of row i, as in
            `contrastive.candidate_cosines`. All other columns are negatives.
        excluded: [B, C] bool, True = not a negative of this query.

    0 where no negative is left. Raises ValueError: shapes that do not fit.
    """
    _same_shape(student, teacher, excluded)
    rows, columns = student.shape
    if positive is None:
        if rows > columns:
            raise ValueError(f"{rows} queries and {columns} candidates: where is the positive of the last query?")
        positive = torch.arange(rows, device=student.device)
    if positive.shape != (rows,):
        raise ValueError(f"positive must be [{rows}], got {list(positive.shape)}")
    negative = F.one_hot(positive, columns) == 0
    if excluded is not None:
        negative &= ~excluded
    # (s⁺ − s⁻) − (t⁺ − t⁻) = (s − t)⁺ − (s − t)⁻
    gaps = student - teacher.detach()
    errors = gaps.gather(1, positive[:, None]) - gaps
    return errors.masked_fill(~negative, 0).square().sum() / negative.sum().clamp(min=1)


def _same_shape(student: Tensor, teacher: Tensor, excluded: Tensor | None) -> None:
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(f"student {list(student.shape)} and teacher {list(teacher.shape)} must be equal, [B, C]")
    if excluded is not None and excluded.shape != student.shape:
        raise ValueError(f"excluded must be {list(student.shape)} (B × C), got {list(excluded.shape)}")
