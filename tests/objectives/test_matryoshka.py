"""Prefixes of a vector: each renormalised, each with its own loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from limbeck.objectives.distillation import cosine_distillation
from limbeck.objectives.matryoshka import matryoshka, weighted


@pytest.fixture
def vectors() -> torch.Tensor:
    return torch.randn(5, 16, generator=torch.Generator().manual_seed(0))


def test_the_loss_sees_every_prefix_at_length_one_in_the_order_of_the_dims(vectors: torch.Tensor) -> None:
    seen: list[torch.Tensor] = []

    def keep(prefix: torch.Tensor) -> torch.Tensor:
        seen.append(prefix)
        return prefix.sum()

    terms = matryoshka(keep, vectors, dims=(4, 16, 8))
    assert list(terms) == [4, 16, 8]
    for dim, prefix in zip((4, 16, 8), seen, strict=True):
        cut = vectors[:, :dim]
        torch.testing.assert_close(prefix, cut / cut.norm(dim=-1, keepdim=True))
        torch.testing.assert_close(terms[dim], prefix.sum())


def test_the_scale_of_the_vectors_does_not_matter(vectors: torch.Tensor) -> None:
    def loss(prefix: torch.Tensor) -> torch.Tensor:
        return prefix.pow(3).sum()

    for dim, term in matryoshka(loss, vectors * 7, dims=(4, 16)).items():
        torch.testing.assert_close(term, matryoshka(loss, vectors, dims=(dim,))[dim])


def test_a_projection_from_each_width_composes_with_it(vectors: torch.Tensor) -> None:
    teacher = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
    heads = {d: torch.randn(12, d, generator=torch.Generator().manual_seed(d)) for d in (4, 16)}
    terms = matryoshka(lambda z: cosine_distillation(z @ heads[z.shape[-1]].T, teacher), vectors, dims=(4, 16))
    for dim, head in heads.items():
        expected = 1 - F.cosine_similarity(F.normalize(vectors[:, :dim], dim=-1) @ head.T, teacher).mean()
        torch.testing.assert_close(terms[dim], expected)


def test_prefixes_of_bf16_vectors_are_fp32(vectors: torch.Tensor) -> None:
    assert matryoshka(lambda z: z.sum(), vectors.bfloat16(), dims=(4,))[4].dtype == torch.float32


def test_the_first_dims_get_the_gradient_of_every_prefix(vectors: torch.Tensor) -> None:
    vectors.requires_grad_(True)
    weighted(matryoshka(lambda z: z[:, 0].sum(), vectors, dims=(4, 8))).backward()
    assert vectors.grad is not None
    assert vectors.grad[:, :8].abs().min() > 0
    assert not vectors.grad[:, 8:].any()


@pytest.mark.parametrize("dims", [(4, 17), (), (32,)])
def test_a_width_that_does_not_fit_is_an_error(vectors: torch.Tensor, dims: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit vectors of 16 dims"):
        matryoshka(lambda z: z.sum(), vectors, dims=dims)


def test_terms_are_averaged_by_their_weights() -> None:
    terms = {4: torch.tensor(1.0), 8: torch.tensor(4.0)}
    assert weighted(terms).item() == pytest.approx(2.5)
    assert weighted(terms, [1.0, 2.0]).item() == pytest.approx(3.0)
    assert weighted(terms, [10.0, 20.0]).item() == pytest.approx(3.0)


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0]])
def test_another_number_of_weights_than_terms_is_an_error(weights: list[float]) -> None:
    with pytest.raises(ValueError, match=f"2 terms need as many weights, got {len(weights)}"):
        weighted({4: torch.tensor(1.0), 8: torch.tensor(4.0)}, weights)
