"""Relational distillation: how texts lie to each other, not where."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from limbeck.objectives.relational import relational_cosines, relational_distances

Loss = Callable[[Tensor, Tensor], Tensor]

B = 6
both_losses = pytest.mark.parametrize("loss", [relational_distances, relational_cosines])


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def student() -> Tensor:
    return normal(B, 8, seed=0)


@pytest.fixture
def teacher() -> Tensor:
    return normal(B, 12, seed=1)


def pairs_of(vectors: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    units = [v / math.sqrt(v @ v) for v in vectors.double().numpy()]
    return [(units[i], units[j]) for i in range(len(units)) for j in range(i + 1, len(units))]


def test_distances_are_compared_by_huber_after_division_by_their_mean(student: Tensor, teacher: Tensor) -> None:
    def relative(vectors: Tensor) -> np.ndarray:
        distances = np.array([math.sqrt(((a - b) ** 2).sum()) for a, b in pairs_of(vectors)])
        return distances / distances.mean()

    total = 0.0
    for s, t in zip(relative(student), relative(teacher), strict=True):
        total += 0.5 * (s - t) ** 2 if abs(s - t) < 1 else abs(s - t) - 0.5
    found = relational_distances(student, teacher)
    assert found.item() == pytest.approx(total / (B * (B - 1) / 2), rel=1e-4)


def test_the_huber_loss_is_linear_far_out() -> None:
    student = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])  # distances 0, 0, 2, 0, 2, 2: mean 1
    teacher = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])  # 2, 2, 2, 0, 0, 0: four differ by 2
    assert relational_distances(student, teacher).item() == pytest.approx((2 - 0.5) * 4 / 6)


def test_cosines_of_all_pairs_are_compared_by_squares(student: Tensor, teacher: Tensor) -> None:
    errors = [(a @ b - c @ d) ** 2 for (a, b), (c, d) in zip(pairs_of(student), pairs_of(teacher), strict=True)]
    assert relational_cosines(student, teacher).item() == pytest.approx(np.mean(errors), rel=1e-5)


@both_losses
def test_a_rotated_and_padded_copy_of_the_teacher_costs_nothing(loss: Loss, teacher: Tensor) -> None:
    rotation, _ = torch.linalg.qr(normal(20, 20, seed=3))
    rotated = torch.cat([teacher, torch.zeros(B, 8)], dim=-1) @ rotation
    assert loss(rotated, teacher).item() == pytest.approx(0, abs=1e-10)


@both_losses
def test_the_order_of_texts_and_the_length_of_vectors_do_not_matter(
    loss: Loss, student: Tensor, teacher: Tensor
) -> None:
    order = torch.randperm(B, generator=torch.Generator().manual_seed(0))
    found = loss(student[order] * 7, teacher[order] * torch.logspace(-2, 2, B)[:, None])
    torch.testing.assert_close(found, loss(student, teacher))


@both_losses
def test_no_gradient_reaches_the_teacher(loss: Loss, student: Tensor, teacher: Tensor) -> None:
    student.requires_grad_(True)
    teacher.requires_grad_(True)
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.any()


@both_losses
@pytest.mark.parametrize("rows", [0, 1])
def test_fewer_than_two_texts_have_no_relations(loss: Loss, rows: int, student: Tensor, teacher: Tensor) -> None:
    student.requires_grad_(True)
    found = loss(student[:rows], teacher[:rows])
    found.backward()
    assert found.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


@both_losses
def test_descent_brings_the_student_to_the_teacher_s_geometry(loss: Loss, teacher: Tensor) -> None:
    student = normal(B, 8, seed=0).requires_grad_(True)
    before = loss(student, teacher).item()
    optimizer = torch.optim.Adam([student], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        loss(student, teacher).backward()
        optimizer.step()
    assert loss(student, teacher).item() < 0.01 * before


@both_losses
def test_another_number_of_texts_is_an_error(loss: Loss, student: Tensor, teacher: Tensor) -> None:
    with pytest.raises(ValueError, match="student has 5 rows, teacher 6"):
        loss(student[1:], teacher)
