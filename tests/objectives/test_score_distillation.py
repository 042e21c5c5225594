"""Score distillation: the teacher's distribution over candidates, or its margins."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss, MarginMSELoss
from sentence_transformers.util import pairwise_cos_sim
from torch import Tensor, nn

from limbeck.objectives.contrastive import candidate_cosines
from limbeck.objectives.score_distillation import margin_mse, score_divergence

B, C, D = 4, 5, 12


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def student() -> Tensor:
    return normal(B, C, seed=0)


@pytest.fixture
def teacher() -> Tensor:
    return normal(B, C, seed=1)


def divergence_by_hand(student: Tensor, teacher: Tensor, temperature: float, teacher_temperature: float) -> float:
    total = 0.0
    for s, t in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        sum_s = sum(math.exp(x / temperature) for x in s)
        sum_t = sum(math.exp(x / teacher_temperature) for x in t)
        for x, y in zip(s, t, strict=True):
            p, q = math.exp(y / teacher_temperature) / sum_t, math.exp(x / temperature) / sum_s
            total += p * math.log(p / q)
    return total / len(student)


def test_the_divergence_is_that_of_the_two_softmaxes(student: Tensor, teacher: Tensor) -> None:
    found = score_divergence(student, teacher, temperature=0.5)
    assert found.item() == pytest.approx(divergence_by_hand(student, teacher, 0.5, 0.5), rel=1e-5)
    found = score_divergence(student, teacher, temperature=0.5, teacher_temperature=2)
    assert found.item() == pytest.approx(divergence_by_hand(student, teacher, 0.5, 2), rel=1e-5)


@pytest.mark.parametrize(("temperature", "teacher_temperature"), [(1.0, 1.0), (2.0, 2.0), (0.05, 0.1)])
def test_the_divergence_is_that_of_sentence_transformers_less_its_temperature_squared(
    temperature: float, teacher_temperature: float
) -> None:
    queries, columns = normal(B, D, seed=2).requires_grad_(True), [normal(B, D, seed=3 + n) for n in range(C)]
    targets = normal(B, C, seed=9).tanh()
    theirs = DistillKLDivLoss(
        nn.Identity(),  # pyright: ignore[reportArgumentType]
        similarity_fct=pairwise_cos_sim,
        student_temperature=temperature,
        teacher_temperature=teacher_temperature,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs.compute_loss_from_embeddings([queries, *columns], targets)
    (slope,) = torch.autograd.grad(expected, queries)
    scores = torch.stack([pairwise_cos_sim(queries, column) for column in columns], dim=1)
    found = temperature**2 * score_divergence(
        scores, targets, temperature=temperature, teacher_temperature=teacher_temperature
    )
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, queries)[0], slope, rtol=1e-4, atol=1e-6)


def test_a_constant_added_to_a_query_s_scores_does_not_change_its_divergence(student: Tensor, teacher: Tensor) -> None:
    shift = normal(B, 1, seed=2)
    found = score_divergence(student + shift, teacher - shift, temperature=0.5)
    torch.testing.assert_close(found, score_divergence(student, teacher, temperature=0.5))


@pytest.mark.parametrize("loss", [lambda s, t: score_divergence(s, t, temperature=0.02), margin_mse])
def test_agreement_costs_nothing_and_has_no_gradient(loss, teacher: Tensor) -> None:
    student = teacher.clone().requires_grad_(True)
    found = loss(student, teacher)
    found.backward()
    assert found.item() == pytest.approx(0, abs=1e-6)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-5


@pytest.mark.parametrize("loss", [lambda s, t: score_divergence(s, t, temperature=1), margin_mse])
def test_no_gradient_reaches_the_teacher(loss, student: Tensor, teacher: Tensor) -> None:
    student.requires_grad_(True)
    teacher.requires_grad_(True)
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_an_excluded_candidate_is_as_good_as_absent(student: Tensor, teacher: Tensor) -> None:
    out = torch.zeros(B, C, dtype=torch.bool)
    out[:, C - 1] = True
    found = score_divergence(student, teacher, temperature=0.1, excluded=out)
    torch.testing.assert_close(found, score_divergence(student[:, :-1], teacher[:, :-1], temperature=0.1))
    found = margin_mse(student, teacher, excluded=out)
    torch.testing.assert_close(found, margin_mse(student[:, :-1], teacher[:, :-1]))


def test_a_query_with_all_candidates_excluded_adds_neither_loss_nor_gradient(student: Tensor, teacher: Tensor) -> None:
    out = torch.zeros(B, C, dtype=torch.bool)
    out[1] = True
    student.requires_grad_(True)
    kl = score_divergence(student, teacher, temperature=0.02, excluded=out)
    kept = [0, 2, 3]
    torch.testing.assert_close(kl, score_divergence(student[kept], teacher[kept], temperature=0.02) * 3 / 4)
    (kl + margin_mse(student, teacher, excluded=out)).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert not student.grad[1].any()
    assert margin_mse(student, teacher, excluded=torch.ones_like(out)).item() == 0


def test_a_teacher_that_is_certain_gives_finite_losses() -> None:
    student = torch.tensor([[-1.0, 1.0]], requires_grad=True)
    found = score_divergence(student, torch.tensor([[1.0, -1.0]]), temperature=0.001)
    found.backward()
    assert found.item() == pytest.approx(2000)
    assert student.grad is not None
    assert student.grad.tolist() == [[pytest.approx(-1000), pytest.approx(1000)]]


def test_margins_are_compared_by_squares_over_all_negatives(student: Tensor, teacher: Tensor) -> None:
    s, t = student.double(), teacher.double()
    errors = [((s[i, i] - s[i, j]) - (t[i, i] - t[i, j])).item() ** 2 for i in range(B) for j in range(C) if j != i]
    assert margin_mse(student, teacher).item() == pytest.approx(sum(errors) / len(errors), rel=1e-5)


@pytest.mark.parametrize("negatives", [1, 3])
def test_with_the_positive_first_it_is_the_margin_mse_of_sentence_transformers(negatives: int) -> None:
    queries, columns = (
        normal(B, D, seed=2).requires_grad_(True),
        [normal(B, D, seed=3 + n) for n in range(1 + negatives)],
    )
    targets = normal(B, 1 + negatives, seed=9)
    theirs = MarginMSELoss(nn.Identity(), similarity_fct=pairwise_cos_sim)  # pyright: ignore[reportArgumentType]
    expected = theirs.compute_loss_from_embeddings([queries, *columns], targets)
    (slope,) = torch.autograd.grad(expected, queries)
    scores = torch.stack([pairwise_cos_sim(queries, column) for column in columns], dim=1)
    found = margin_mse(scores, targets, positive=torch.zeros(B, dtype=torch.int64))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, queries)[0], slope, rtol=1e-4, atol=1e-6)


def test_both_take_the_candidate_table_of_a_batch_as_it_is() -> None:
    student = candidate_cosines(normal(B, D, seed=2), normal(B, D, seed=3), normal(B, 2, D, seed=4))
    teacher = candidate_cosines(normal(B, 20, seed=5), normal(B, 20, seed=6), normal(B, 2, 20, seed=7))
    assert score_divergence(student, teacher, temperature=0.05).item() > 0
    assert margin_mse(student, teacher).item() > 0


def test_a_constant_added_to_a_query_s_scores_does_not_change_its_margins(student: Tensor, teacher: Tensor) -> None:
    torch.testing.assert_close(margin_mse(student + normal(B, 1, seed=2), teacher), margin_mse(student, teacher))


def test_what_does_not_fit_is_an_error(student: Tensor, teacher: Tensor) -> None:
    with pytest.raises(ValueError, match=r"student \[4, 5\] and teacher \[4, 4\] must be equal"):
        score_divergence(student, teacher[:, 1:], temperature=1)
    with pytest.raises(ValueError, match=r"excluded must be \[4, 5\].*got \[4, 4\]"):
        score_divergence(student, teacher, temperature=1, excluded=torch.zeros(4, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="temperatures must be positive, got 1 and 0"):
        score_divergence(student, teacher, temperature=1, teacher_temperature=0)
    with pytest.raises(ValueError, match=r"positive must be \[4\], got \[5\]"):
        margin_mse(student, teacher, positive=torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match="5 queries and 4 candidates"):
        margin_mse(student.T, teacher.T)
