"""InfoNCE: its value, who counts as a negative, and both directions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import Tensor, nn

from limbeck.objectives.contrastive import candidate_cosines, info_nce, likely_matches, same_label, same_text

B, N, D = 5, 2, 12


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def queries() -> Tensor:
    return normal(B, D, seed=0)


@pytest.fixture
def documents() -> Tensor:
    return normal(B, D, seed=1)


@pytest.fixture
def negatives() -> Tensor:
    return normal(B, N, D, seed=2)


def by_hand(cosines: np.ndarray, temperature: float, out: np.ndarray) -> float:
    """Row by row: −log of the share of the row's own column (i) among the columns that are left."""
    total = 0.0
    for i, row in enumerate(cosines):
        weights = [math.exp(c / temperature) for j, c in enumerate(row) if j == i or not out[i, j]]
        total -= math.log(math.exp(row[i] / temperature) / sum(weights))
    return total / len(cosines)


def cosines_by_hand(queries: Tensor, candidates: Tensor) -> np.ndarray:
    q, c = queries.double().numpy(), candidates.double().numpy()
    return np.array([[x @ y / math.sqrt((x @ x) * (y @ y)) for y in c] for x in q])


def test_it_is_the_cross_entropy_of_a_query_s_own_document(queries: Tensor, documents: Tensor) -> None:
    expected = by_hand(cosines_by_hand(queries, documents), 0.05, np.zeros((B, B), bool))
    assert info_nce(queries, documents, temperature=0.05).item() == pytest.approx(expected, rel=1e-5)


def test_hard_negatives_of_every_row_are_candidates_of_every_query(
    queries: Tensor, documents: Tensor, negatives: Tensor
) -> None:
    candidates = torch.cat([documents, *negatives])
    cosines = cosines_by_hand(queries, candidates)
    np.testing.assert_allclose(candidate_cosines(queries, documents, negatives).numpy(), cosines, atol=1e-6)
    expected = by_hand(cosines, 0.1, np.zeros((B, B + B * N), bool))
    assert info_nce(queries, documents, negatives, temperature=0.1).item() == pytest.approx(expected, rel=1e-5)


def test_no_hard_negatives_are_as_none_given(queries: Tensor, documents: Tensor) -> None:
    found = info_nce(queries, documents, torch.empty(B, 0, D), temperature=0.1)
    assert torch.equal(found, info_nce(queries, documents, temperature=0.1))


@pytest.mark.parametrize("scale", [20.0, 50.0])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("hard", [0, 1, 2])
def test_value_and_gradient_are_those_of_sentence_transformers(
    queries: Tensor, documents: Tensor, negatives: Tensor, scale: float, both: bool, hard: int
) -> None:
    theirs = MultipleNegativesRankingLoss(
        nn.Identity(),  # pyright: ignore[reportArgumentType]
        scale=scale,
        directions=("query_to_doc", "doc_to_query") if both else ("query_to_doc",),
        partition_mode="per_direction",
    )
    queries.requires_grad_(True)
    columns = [queries, documents, *(negatives[:, n] for n in range(hard))]
    expected = theirs.compute_loss_from_embeddings(columns, torch.empty(0))
    (slope,) = torch.autograd.grad(expected, queries)
    found = info_nce(queries, documents, negatives[:, :hard], temperature=1 / scale, both_directions=both)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, queries)[0], slope, rtol=1e-4, atol=1e-5)


def test_the_other_direction_finds_the_query_of_a_document(queries: Tensor, documents: Tensor) -> None:
    out = torch.zeros(B, B, dtype=torch.bool)
    out[0, 3] = out[2, 1] = True  # these documents are no negatives of these queries, and the other way round
    cosines = cosines_by_hand(queries, documents)
    expected = (by_hand(cosines, 0.05, out.numpy()) + by_hand(cosines.T, 0.05, out.numpy().T)) / 2
    found = info_nce(queries, documents, temperature=0.05, excluded=out, both_directions=True)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    swapped = info_nce(documents, queries, temperature=0.05, excluded=out.T, both_directions=True)
    torch.testing.assert_close(found, swapped)


def test_an_excluded_candidate_is_as_good_as_absent(queries: Tensor, documents: Tensor, negatives: Tensor) -> None:
    out = torch.zeros(B, B + B * N, dtype=torch.bool)
    out[:, B + 1 :: N] = True  # the second negative of each row
    found = info_nce(queries, documents, negatives, temperature=0.05, excluded=out)
    torch.testing.assert_close(found, info_nce(queries, documents, negatives[:, :1], temperature=0.05))
    negatives.requires_grad_(True)
    info_nce(queries, documents, negatives, temperature=0.05, excluded=out).backward()
    assert negatives.grad is not None
    assert not negatives.grad[:, 1].any()
    assert negatives.grad[:, 0].any(dim=-1).all()


def test_excluded_negatives_that_point_away_do_not_come_back_as_zeros() -> None:
    away = -torch.eye(2, 4)
    out = torch.tensor([[False, True], [True, False]])
    found = info_nce(torch.eye(2, 4), away, temperature=0.05, excluded=out)
    assert found.item() == 0


def test_where_all_is_excluded_the_own_document_stays_and_the_loss_is_zero(queries: Tensor, documents: Tensor) -> None:
    queries.requires_grad_(True)
    out = torch.ones(B, B, dtype=torch.bool)
    found = info_nce(queries, documents, temperature=0.02, excluded=out, both_directions=True)
    found.backward()
    assert found.item() == 0
    assert queries.grad is not None
    assert not queries.grad.any()


def test_a_single_pair_has_nothing_to_tell_apart(queries: Tensor, documents: Tensor, negatives: Tensor) -> None:
    assert info_nce(queries[:1], documents[:1], temperature=0.02, both_directions=True).item() == 0
    assert info_nce(queries[:1], documents[:1], negatives[:1], temperature=0.5).item() > 0.1


def test_the_order_of_the_pairs_does_not_matter(queries: Tensor, documents: Tensor, negatives: Tensor) -> None:
    order = torch.randperm(B, generator=torch.Generator().manual_seed(0))
    found = info_nce(queries[order], documents[order], negatives[order], temperature=0.05, both_directions=True)
    torch.testing.assert_close(found, info_nce(queries, documents, negatives, temperature=0.05, both_directions=True))


def test_copies_of_the_own_document_cost_log_of_their_number_until_they_are_excluded() -> None:
    queries = documents = torch.ones(4, D)
    assert info_nce(queries, documents, temperature=0.02).item() == pytest.approx(math.log(4))
    hashes = torch.full((4,), 7)
    assert info_nce(queries, documents, temperature=0.02, excluded=same_text(hashes, hashes)).item() == 0


def test_the_same_text_is_found_among_documents_and_negatives_but_for_the_own_place() -> None:
    documents, negatives = torch.tensor([11, 22, 11]), torch.tensor([33, 22, 11])
    assert same_text(documents, torch.cat([documents, negatives])).tolist() == [
        [False, False, True, False, False, True],
        [False, False, False, False, True, False],
        [True, False, False, False, False, True],
    ]


def test_the_same_label_is_found_as_the_same_text_is() -> None:
    found = same_label(torch.tensor([0, 1, 0]), torch.tensor([0, 1, 0, 1, 1, 0]))
    assert found.tolist() == [
        [False, False, True, False, False, True],
        [False, False, False, True, True, False],
        [True, False, False, False, False, True],
    ]


@pytest.mark.parametrize("margin", [0.0, 0.1, -0.1])
def test_likely_matches_are_as_close_to_the_query_as_its_document_less_the_margin(
    queries: Tensor, documents: Tensor, negatives: Tensor, margin: float
) -> None:
    cosines = cosines_by_hand(queries, torch.cat([documents, *negatives]))
    expected = [[j != i and c >= row[i] - margin for j, c in enumerate(row)] for i, row in enumerate(cosines)]
    assert likely_matches(queries, documents, negatives, margin=margin).tolist() == expected
    assert likely_matches(queries, documents, margin=margin).tolist() == [row[:B] for row in expected]


def test_a_copy_of_the_document_is_a_likely_match_whatever_rounding_says() -> None:
    rows, dims = 37, 1000  # odd sizes, so that blocks of the matrix product end in the midst of a copy
    lengths = torch.linspace(0.1, 3, rows)[:, None]
    queries, documents = normal(rows, dims, seed=0), normal(1, dims, seed=1) * lengths
    found = likely_matches(queries.half(), documents, documents[:, None])
    assert found.sum() == rows * (2 * rows - 1)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_an_error(queries: Tensor, documents: Tensor, temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        info_nce(queries, documents, temperature=temperature)


def test_shapes_that_do_not_fit_are_errors_that_say_which(
    queries: Tensor, documents: Tensor, negatives: Tensor
) -> None:
    with pytest.raises(ValueError, match=r"queries \[5, 12\] and documents \[4, 12\] must be equal"):
        info_nce(queries, documents[1:], temperature=1)
    with pytest.raises(ValueError, match=r"negatives must be \[5, N, 12\].*got \[5, 12\]"):
        info_nce(queries, documents, negatives[:, 0], temperature=1)
    with pytest.raises(ValueError, match=r"negatives must be \[5, N, 12\].*got \[4, 2, 12\]"):
        info_nce(queries, documents, negatives[1:], temperature=1)
    with pytest.raises(ValueError, match=r"excluded must be \[5, 15\].*got \[5, 5\]"):
        info_nce(queries, documents, negatives, temperature=1, excluded=torch.zeros(5, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least one query"):
        info_nce(queries[:0], documents[:0], temperature=1)
