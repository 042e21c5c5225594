"""What holds for every objective: fp32 under autocast, right gradients, and sense at vectors without a direction."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from limbeck.objectives._precision import in_fp32, unit
from limbeck.objectives.contrastive import candidate_cosines, info_nce
from limbeck.objectives.distillation import cosine_distillation
from limbeck.objectives.matryoshka import matryoshka, weighted
from limbeck.objectives.ranking import cosent
from limbeck.objectives.relational import relational_cosines, relational_distances
from limbeck.objectives.score_distillation import margin_mse, score_divergence
from limbeck.objectives.spread import orthogonal_spread, query_document_spread

ROWS, DIMS = 6, 16


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


OTHER = normal(ROWS, DIMS, seed=1)
NEGATIVES = normal(ROWS, 2, DIMS, seed=2)
TEACHER = candidate_cosines(normal(ROWS, 24, seed=3), normal(ROWS, 24, seed=4))

# Each as a function of one side's vectors, [ROWS, DIMS].
OBJECTIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "info_nce": lambda x: info_nce(x, OTHER, NEGATIVES, temperature=0.05, both_directions=True),
    "cosent": lambda x: cosent(x, OTHER, torch.arange(float(ROWS))),
    "orthogonal_spread": lambda x: orthogonal_spread(x, x),
    "query_document_spread": lambda x: query_document_spread(x, OTHER),
    "cosine_distillation": lambda x: cosine_distillation(x, OTHER),
    "relational_distances": lambda x: relational_distances(x, normal(ROWS, 24, seed=5)),
    "relational_cosines": lambda x: relational_cosines(x, normal(ROWS, 24, seed=5)),
    "score_divergence": lambda x: score_divergence(candidate_cosines(x, OTHER), TEACHER, temperature=0.05),
    "margin_mse": lambda x: margin_mse(candidate_cosines(x, OTHER), TEACHER),
    "matryoshka": lambda x: weighted(matryoshka(lambda z: (z @ z.T).pow(3).mean(), x, dims=(4, 8))),
}
every_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())


def gradient(objective: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    at = at.clone().requires_grad_(True)
    objective(at).backward()
    assert at.grad is not None
    return at.grad


@every_objective
def test_under_bf16_autocast_value_and_gradient_are_those_of_fp32(objective: Callable[[Tensor], Tensor]) -> None:
    x = normal(ROWS, DIMS, seed=0).requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = objective(x)
    assert value.dtype == torch.float32
    assert torch.equal(value, objective(x))
    assert torch.equal(torch.autograd.grad(value, x)[0], gradient(objective, x.detach()))


@every_objective
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_vectors_are_computed_with_in_fp32(
    objective: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    x = normal(ROWS, DIMS, seed=0).to(dtype)
    assert torch.equal(objective(x), objective(x.float()))
    slope = gradient(objective, x)
    assert slope.dtype == dtype
    # a side that is used twice gets two halves of its gradient, each rounded
    torch.testing.assert_close(slope, gradient(objective, x.float()).to(dtype))


@every_objective
def test_the_length_of_a_vector_does_not_matter(objective: Callable[[Tensor], Tensor]) -> None:
    x = normal(ROWS, DIMS, seed=0)
    torch.testing.assert_close(objective(x * torch.logspace(-3, 3, ROWS)[:, None]), objective(x), rtol=1e-4, atol=1e-6)


@every_objective
def test_the_gradient_is_the_slope_of_the_value(objective: Callable[[Tensor], Tensor]) -> None:
    x, step = normal(ROWS, DIMS, seed=0), 2e-3
    slope = gradient(objective, x)
    for seed in range(10, 15):
        along = unit(normal(ROWS, DIMS, seed=seed))
        rise = (objective(x + step * along) - objective(x - step * along)) / (2 * step)
        assert rise.item() == pytest.approx((slope * along).sum().item(), rel=2e-2, abs=1e-3 * slope.norm().item())


@every_objective
@pytest.mark.parametrize("kind", ["zero row", "all zero", "two the same", "all the same", "bf16, all the same"])
def test_vectors_without_a_direction_of_their_own_give_ordinary_gradients(
    objective: Callable[[Tensor], Tensor], kind: str
) -> None:
    x = normal(ROWS, DIMS, seed=0)
    if kind == "zero row":
        x[2] = 0
    elif kind == "all zero":
        x.zero_()
    elif kind == "two the same":
        x[2] = x[3]
    else:
        x = x[:1].repeat(ROWS, 1).to(torch.bfloat16 if kind.startswith("bf16") else torch.float32)
    value, slope = objective(x), gradient(objective, x)
    assert value.isfinite()
    assert slope.isfinite().all()
    assert slope.float().norm() < 1000


def test_a_cast_reaches_named_arguments_and_spares_integers_and_booleans() -> None:
    @in_fp32
    def types(*values: Tensor, named: Tensor, flag: bool) -> list[torch.dtype]:
        assert flag
        return [value.dtype for value in (*values, named)]

    mask, ids = torch.ones(2, dtype=torch.bool), torch.arange(2)
    found = types(torch.ones(2).bfloat16(), mask, ids, named=torch.ones(2).double(), flag=True)
    assert found == [torch.float32, torch.bool, torch.int64, torch.float32]


def test_autocast_is_on_again_after_an_objective() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cosine_distillation(OTHER, OTHER)
        assert (OTHER @ OTHER.T).dtype == torch.bfloat16


def test_unit_vectors_have_length_one_and_zero_stays_zero() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [3e-5, -4e-5]])
    torch.testing.assert_close(unit(x), torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6, -0.8]]))
