"""CoSENT: its value, and that only the order of the scores counts."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from sentence_transformers.sentence_transformer.losses import CoSENTLoss
from torch import Tensor, nn

from limbeck.objectives.ranking import cosent

P, D = 7, 12
SCORES = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.0, 1.0, 0.9])


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def left() -> Tensor:
    return normal(P, D, seed=0)


@pytest.fixture
def right() -> Tensor:
    return normal(P, D, seed=1)


def test_it_is_log_of_one_plus_a_term_for_each_two_pairs_of_different_score(left: Tensor, right: Tensor) -> None:
    cosines = F.cosine_similarity(left.double(), right.double()).tolist()
    total = 1.0
    for i in range(P):
        for j in range(P):
            if SCORES[i] > SCORES[j]:
                total += math.exp(20 * (cosines[j] - cosines[i]))
    assert cosent(left, right, SCORES).item() == pytest.approx(math.log(total), rel=1e-5)


@pytest.mark.parametrize("scale", [20.0, 5.0])
@pytest.mark.parametrize("scores", [SCORES, torch.arange(7), torch.ones(7)], ids=["ties", "all differ", "all equal"])
def test_value_and_gradient_are_those_of_sentence_transformers(
    left: Tensor, right: Tensor, scores: Tensor, scale: float
) -> None:
    left.requires_grad_(True)
    theirs = CoSENTLoss(nn.Identity(), scale=scale)  # pyright: ignore[reportArgumentType]
    expected = theirs.compute_loss_from_embeddings([left, right], scores)
    (slope,) = torch.autograd.grad(expected, left)
    found = cosent(left, right, scores, scale=scale)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, left)[0], slope, rtol=1e-4, atol=1e-6)


def test_only_the_order_of_the_scores_counts(left: Tensor, right: Tensor) -> None:
    assert torch.equal(cosent(left, right, SCORES.exp() * 3 - 1), cosent(left, right, SCORES))


def test_neither_the_order_of_the_pairs_nor_the_sides_matter(left: Tensor, right: Tensor) -> None:
    order = torch.randperm(P, generator=torch.Generator().manual_seed(0))
    expected = cosent(left, right, SCORES)
    torch.testing.assert_close(cosent(left[order], right[order], SCORES[order]), expected)
    torch.testing.assert_close(cosent(right, left, SCORES), expected)


def test_pairs_in_the_right_order_cost_little_and_in_the_wrong_order_much() -> None:
    angles = torch.linspace(0, math.pi, 6)
    left, right = torch.eye(1, 2).repeat(6, 1), torch.stack([angles.cos(), angles.sin()], dim=-1)
    assert cosent(left, right, -angles).item() < 0.05
    assert cosent(left, right, angles).item() == pytest.approx(40, rel=0.01)  # 20 · (1 − (−1)), the worst two pairs


@pytest.mark.parametrize("pairs", [0, 1, 3])
def test_where_no_two_scores_differ_there_is_no_loss_and_no_gradient(pairs: int) -> None:
    left = normal(pairs, D, seed=0).requires_grad_(True)
    found = cosent(left, normal(pairs, D, seed=1), torch.full((pairs,), 0.5))
    found.backward()
    assert found.item() == 0
    assert left.grad is not None
    assert not left.grad.any()


def test_a_very_wrong_order_does_not_overflow(left: Tensor) -> None:
    found = cosent(left[:2], torch.stack([left[0], -left[1]]), torch.tensor([0.0, 1.0]), scale=1000)
    assert found.item() == pytest.approx(2000)


def test_shapes_that_do_not_fit_are_errors(left: Tensor, right: Tensor) -> None:
    with pytest.raises(ValueError, match=r"\[7, 12\], \[6, 12\], \[7\]"):
        cosent(left, right[1:], SCORES)
    with pytest.raises(ValueError, match=r"\[7, 12\], \[7, 12\], \[6\]"):
        cosent(left, right, SCORES[1:])
    with pytest.raises(ValueError, match="scores"):
        cosent(left, right, SCORES[:, None])
