"""GOR: 0 on an even sphere, large in a cone, and blind to matching pairs."""

from __future__ import annotations

import math

import pytest
import torch
from sentence_transformers.sentence_transformer.losses import GlobalOrthogonalRegularizationLoss
from torch import Tensor, nn

from limbeck.objectives.spread import orthogonal_spread, query_document_spread

B, D = 6, 4


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def queries() -> Tensor:
    return normal(B, D, seed=0) + 0.5


@pytest.fixture
def documents() -> Tensor:
    return normal(B, D, seed=1) + 0.5


def by_hand(left: Tensor, right: Tensor, matching: Tensor) -> float:
    cosines = []
    for i, x in enumerate(left.double().tolist()):
        for j, y in enumerate(right.double().tolist()):
            if not matching[i, j]:
                cosines.append(sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y))
    mean = sum(cosines) / len(cosines)
    second = sum(c * c for c in cosines) / len(cosines)
    return mean**2 + max(0.0, second - 1 / left.shape[1])


def test_it_is_the_squared_mean_and_the_excess_second_moment_off_the_diagonal(
    queries: Tensor, documents: Tensor
) -> None:
    expected = by_hand(queries, documents, torch.eye(B))
    assert orthogonal_spread(queries, documents).item() == pytest.approx(expected, rel=1e-5)
    wide = by_hand(queries[:3], documents, torch.eye(3, B))
    assert orthogonal_spread(queries[:3], documents).item() == pytest.approx(wide, rel=1e-5)


def test_matching_pairs_are_left_out(queries: Tensor, documents: Tensor) -> None:
    matching = normal(B, B, seed=2) > 0
    found = orthogonal_spread(queries, documents, matching)
    assert found.item() == pytest.approx(by_hand(queries, documents, matching), rel=1e-5)
    only = torch.ones(B, B, dtype=torch.bool)
    only[2, 4] = False
    documents.requires_grad_(True)
    orthogonal_spread(queries, documents, only).backward()
    assert documents.grad is not None
    assert documents.grad.any(dim=-1).nonzero().tolist() == [[4]]


def test_one_side_against_itself_is_what_sentence_transformers_has(queries: Tensor, documents: Tensor) -> None:
    queries.requires_grad_(True)
    theirs = GlobalOrthogonalRegularizationLoss(nn.Identity())  # pyright: ignore[reportArgumentType]
    expected = sum(theirs.compute_loss_from_embeddings([queries, documents]).values(), torch.tensor(0.0))
    (slope,) = torch.autograd.grad(expected, queries)
    found = (orthogonal_spread(queries, queries) + orthogonal_spread(documents, documents)) / 2
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, queries)[0], slope, rtol=1e-4, atol=1e-6)


def test_random_directions_in_many_dims_are_spread_and_a_cone_or_a_point_is_not() -> None:
    random = normal(256, 512, seed=0)
    assert orthogonal_spread(random, random).item() < 1e-4
    cone = random + 2
    assert orthogonal_spread(cone, cone).item() == pytest.approx(0.8**2 + 0.8**2, rel=0.05)  # cosines of 4 / (4 + 1)
    point = random[:1].repeat(256, 1)
    assert orthogonal_spread(point, point).item() == pytest.approx(2 - 1 / 512, rel=1e-5)


def test_a_side_split_into_two_opposite_points_has_mean_zero_but_not_its_second_moment() -> None:
    poles = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    # of 12 ordered pairs, 4 at +1 and 8 at −1
    assert orthogonal_spread(poles, poles).item() == pytest.approx((1 / 3) ** 2 + 1 - 1 / 2)


def test_descent_spreads_a_cone() -> None:
    cone = (normal(32, 64, seed=0) + 2).requires_grad_(True)
    before = orthogonal_spread(cone, cone).item()
    optimizer = torch.optim.Adam([cone], lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        orthogonal_spread(cone, cone).backward()
        optimizer.step()
    assert orthogonal_spread(cone, cone).item() < 0.01 * before


def test_the_order_of_rows_does_not_matter(queries: Tensor, documents: Tensor) -> None:
    order = torch.randperm(B, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        query_document_spread(queries[order], documents[order]), query_document_spread(queries, documents)
    )


@pytest.mark.parametrize("rows", [0, 1])
def test_where_no_pair_is_left_there_is_no_loss_and_no_gradient(rows: int) -> None:
    x = normal(rows, D, seed=0).requires_grad_(True)
    found = orthogonal_spread(x, x) + query_document_spread(x, x)
    found.backward()
    assert found.item() == 0
    assert x.grad is not None
    assert not x.grad.any()


def test_queries_and_documents_are_spread_each_in_itself_and_against_the_other(
    queries: Tensor, documents: Tensor
) -> None:
    own = torch.eye(B)
    expected = by_hand(queries, queries, own) + by_hand(documents, documents, own) + by_hand(queries, documents, own)
    assert query_document_spread(queries, documents).item() == pytest.approx(expected / 3, rel=1e-5)


def test_crowded_queries_cannot_hide_behind_documents_that_point_away() -> None:
    north = torch.eye(1, 8).repeat(4, 1)
    expected = 2 - 1 / 8  # on each side and between them, although the mean over all pairs is near 0
    assert query_document_spread(north, -north).item() == pytest.approx(expected)


def test_hard_negatives_are_further_documents_that_match_no_query(queries: Tensor, documents: Tensor) -> None:
    q, own = queries[:2], torch.eye(B)
    expected = by_hand(q, q, own) + by_hand(documents, documents, own) + by_hand(q, documents, own)
    assert query_document_spread(q, documents).item() == pytest.approx(expected / 3, rel=1e-5)


def test_rows_of_one_group_match_on_both_sides(queries: Tensor, documents: Tensor) -> None:
    q, d = torch.tensor([7, 7, 8, 9, 9, 9]), torch.tensor([7, 7, 8, 9, 9, 9])
    same = q[:, None] == d[None, :]
    expected = by_hand(queries, queries, same) + by_hand(documents, documents, same) + by_hand(queries, documents, same)
    found = query_document_spread(queries, documents, query_groups=q, document_groups=d)
    assert found.item() == pytest.approx(expected / 3, rel=1e-5)


def test_masks_and_groups_that_do_not_fit_are_errors(queries: Tensor, documents: Tensor) -> None:
    with pytest.raises(ValueError, match=r"matching must be \[6, 5\], got \[6, 6\]"):
        orthogonal_spread(queries, documents[1:], torch.eye(B, dtype=torch.bool))
    with pytest.raises(ValueError, match="both or neither"):
        query_document_spread(queries, documents, query_groups=torch.arange(B))
    with pytest.raises(ValueError, match=r"matching must be \[6, 6\], got \[5, 5\]"):
        query_document_spread(queries, documents, query_groups=torch.arange(5), document_groups=torch.arange(B))
