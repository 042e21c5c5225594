from __future__ import annotations

import pytest
import torch

from limbeck.errors import TrainingError
from limbeck.training.average import averaged


def test_the_average_of_two_checkpoints_is_that_of_each_weight() -> None:
    final = {"a": torch.tensor([2.0, 4.0]), "b": torch.tensor([[1.0]])}
    earlier = {"a": torch.tensor([0.0, 8.0]), "b": torch.tensor([[3.0]])}
    equal = averaged(final, earlier, 0.5)
    assert equal["a"].tolist() == [1.0, 6.0]
    assert equal["b"].tolist() == [[2.0]]
    assert averaged(final, earlier, 0.25)["a"].tolist() == [1.5, 5.0]


def test_all_the_weight_on_one_side_gives_that_side() -> None:
    final, earlier = {"a": torch.randn(5)}, {"a": torch.randn(5)}
    assert torch.equal(averaged(final, earlier, 0.0)["a"], final["a"])
    assert torch.equal(averaged(final, earlier, 1.0)["a"], earlier["a"])


def test_bf16_checkpoints_are_averaged_in_fp32() -> None:
    one, other = torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([1.0078125], dtype=torch.bfloat16)
    assert averaged({"a": one}, {"a": other}, 0.5)["a"].item() == pytest.approx(1.00390625, abs=0)


@pytest.mark.parametrize("earlier", [{"b": torch.zeros(2)}, {"a": torch.zeros(3)}, {}])
def test_checkpoints_of_different_weights_are_refused(earlier: dict[str, torch.Tensor]) -> None:
    with pytest.raises(TrainingError, match=r"must hold the same weights, they differ in \['a'"):
        averaged({"a": torch.zeros(2)}, earlier, 0.5)
