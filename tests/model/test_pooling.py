"""One vector a text: the value of each pooling, and that padding never changes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling

from limbeck.model.pooling import POOLINGS, RANGE_POOLINGS

STATES = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]], [[7.0, 8.0], [-1.0, 0.0], [99.0, 99.0]]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("last", [[5.0, 9.0], [-1.0, 0.0]]),
        ("mean", [[3.0, 5.0], [3.0, 4.0]]),
        ("cls", [[1.0, 2.0], [7.0, 8.0]]),
    ],
)
def test_a_pooling_gives_what_a_hand_computation_gives(name: str, expected: list[list[float]]) -> None:
    assert POOLINGS[name](STATES, MASK).tolist() == expected


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize(("left", "right"), [(0, 3), (2, 0), (1, 4)])
def test_padding_on_either_side_never_changes_a_vector(name: str, left: int, right: int) -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, 5, 7, generator=generator)
    junk = [torch.randn(1, n, 7, generator=generator) * 100 for n in (left, right)]
    mask = torch.tensor([[0] * left + [1] * 5 + [0] * right])
    padded = torch.cat([junk[0], states, junk[1]], dim=1)
    alone = POOLINGS[name](states, torch.ones(1, 5, dtype=torch.int64))
    torch.testing.assert_close(POOLINGS[name](padded, mask), alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("ours", "theirs"), [("last", "lasttoken"), ("mean", "mean"), ("cls", "cls")])
def test_a_pooling_agrees_with_sentence_transformers(ours: str, theirs: str) -> None:
    states = torch.randn(6, 9, 4, generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(9) < torch.tensor([1, 9, 3, 5, 8, 2])[:, None]).long()
    features = {"token_embeddings": states, "attention_mask": mask}
    expected = Pooling(4, pooling_mode=theirs)(features)["sentence_embedding"]
    torch.testing.assert_close(POOLINGS[ours](states, mask), expected, rtol=1e-6, atol=1e-6)


def test_a_mask_of_truth_values_will_do() -> None:
    for pool in POOLINGS.values():
        torch.testing.assert_close(pool(STATES, MASK.bool()), pool(STATES, MASK))


def test_the_mean_of_bf16_states_is_summed_in_fp32() -> None:
    states = torch.full((1, 4096, 1), 1.0).bfloat16()  # in bf16, 256 + 1 = 256
    assert POOLINGS["mean"](states, torch.ones(1, 4096)).tolist() == [[1.0]]
    half = torch.cat([states, torch.zeros(1, 4096, 1).bfloat16() + 1.0078125], dim=1)
    assert POOLINGS["mean"](half, torch.ones(1, 8192)).item() == pytest.approx(1.00390625, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("last", [[5.0, 9.0], [1.0, 2.0], [5.0, 9.0]]),
        ("mean", [[4.0, 6.5], [1.0, 2.0], [3.0, 5.0]]),
        ("cls", [[3.0, 4.0], [1.0, 2.0], [1.0, 2.0]]),
    ],
)
def test_ranges_of_tokens_are_pooled_as_by_hand(name: str, expected: list[list[float]]) -> None:
    ranges = np.array([[1, 3], [0, 1], [0, 3]])  # in any order, over each other
    assert RANGE_POOLINGS[name](STATES[0], ranges).tolist() == expected
    assert RANGE_POOLINGS[name](STATES[0], ranges[:0]).shape == (0, 2)


@pytest.mark.parametrize("name", POOLINGS)
def test_a_range_of_all_tokens_is_pooled_as_the_text(name: str) -> None:
    states = torch.randn(1, 9, 4, generator=torch.Generator().manual_seed(1))
    expected = POOLINGS[name](states, torch.ones(1, 9, dtype=torch.int64))
    torch.testing.assert_close(RANGE_POOLINGS[name](states[0], np.array([[0, 9]])), expected, rtol=1e-6, atol=1e-6)
