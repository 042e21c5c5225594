"""1 − cos: its value, what it does not see, and its precision."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss
from torch import nn

from limbeck.objectives.distillation import cosine_distillation


def test_it_is_the_mean_of_one_minus_the_cosine() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    teacher = torch.tensor([[1.0, 1.0], [0.0, -5.0], [2.0, 2.0]])
    assert cosine_distillation(student, teacher).item() == pytest.approx((1 - 1 / math.sqrt(2) + 2 + 0) / 3, abs=1e-6)


def test_it_is_zero_in_the_same_direction_and_two_in_the_opposite() -> None:
    rows = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    assert cosine_distillation(rows, rows * 3).item() == pytest.approx(0, abs=1e-6)
    assert cosine_distillation(rows, -rows).item() == pytest.approx(2, abs=1e-6)


def test_it_does_not_see_the_scale_of_a_row() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(8, 16, generator=generator), torch.randn(8, 16, generator=generator)
    scales = torch.logspace(-3, 3, 8)[:, None]
    torch.testing.assert_close(cosine_distillation(student * scales, teacher), cosine_distillation(student, teacher))


def test_its_gradient_has_no_part_along_the_student() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(8, 16, generator=generator, requires_grad=True)
    cosine_distillation(student, torch.randn(8, 16, generator=generator)).backward()
    assert student.grad is not None
    torch.testing.assert_close((student.grad * student).sum(dim=-1), torch.zeros(8), atol=1e-6, rtol=0)


@pytest.mark.parametrize("autocast", [False, True])
def test_it_is_computed_in_fp32_whatever_comes_in(autocast: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(64, 384, generator=generator)
    student = (teacher + 0.1 * torch.randn(64, 384, generator=generator)).bfloat16()
    exact = 1 - F.cosine_similarity(student.double(), teacher.double(), dim=-1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found = cosine_distillation(student, teacher)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.mean().item(), rel=1e-4)
    # In the student's type, as some trainers have it, the same loss is far off.
    rounded = 1 - F.cosine_similarity(student, teacher.bfloat16(), dim=-1)
    assert abs(rounded.float().mean().item() - exact.mean().item()) > 100 * abs(found.item() - exact.mean().item())


def test_in_fp32_it_is_the_cosine_distillation_of_sentence_transformers() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(8, 16, generator=generator), torch.randn(8, 16, generator=generator)
    theirs = EmbedDistillLoss(nn.Identity(), distance_metric="cosine")  # pyright: ignore[reportArgumentType]
    expected = theirs.compute_loss_from_embeddings([student], [teacher])
    torch.testing.assert_close(cosine_distillation(student, teacher), expected)
