"""Merged copies: how many are kept, and what they share with their base."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from tiny_adapters import adapters_of
from tiny_models import student
from torch import nn

from limbeck.errors import ConfigError
from limbeck.model import backbone as backbones
from limbeck.model import copies
from limbeck.model.adapters import merged
from limbeck.model.copies import MergedCopies, Place
from limbeck.model.student import StudentModel


@pytest.fixture
def backbone(eurobert: Path) -> Any:
    return backbones.build(student(model=str(eurobert)), eurobert, seed=1).model


def held(backbone: Any, hold: int | None = None, compute: Literal["fp32", "bf16"] = "fp32") -> MergedCopies:
    place = Place(torch.device("cpu"), compute, "torch", compile=False, threads=1)
    base = StudentModel(backbone, pooling="mean")
    return MergedCopies(base, adapters_of(backbone), place, pooling="mean", hold=hold)


def test_no_more_are_held_than_asked_and_the_one_used_last_goes_last(backbone: Any, monkeypatch: Any) -> None:
    made: list[str] = []

    def counting(base: nn.Module, shares: Any) -> nn.Module:
        made.append("merged")
        return merged(base, shares)

    monkeypatch.setattr(copies, "merged", counting)
    kept = held(backbone, hold=2)
    for task in ("retrieval", "clustering", "retrieval", "classification", "retrieval", "clustering"):
        kept.student(((task, 1.0),))
        assert len(kept.held) <= 2
    assert len(made) == 4  # retrieval, used often, stayed


def test_as_many_are_held_as_fit_in_a_gibibyte_and_at_least_one(backbone: Any, monkeypatch: Any) -> None:
    changed = adapters_of(backbone, ["retrieval"])["retrieval"].factors
    weights = sum(backbone.get_parameter(f"{name}.weight").numel() for name in changed)
    assert held(backbone).hold == 2**30 // (4 * weights)
    monkeypatch.setattr(copies, "HELD_BYTES", 1)
    assert held(backbone).hold == 1
    with pytest.raises(ConfigError, match="hold must be at least 1"):
        held(backbone, hold=0)


def test_a_copy_shares_the_token_embeddings(backbone: Any) -> None:
    copy: Any = held(backbone).student((("retrieval", 1.0),)).backbone
    assert copy.get_input_embeddings().weight.data_ptr() == backbone.get_input_embeddings().weight.data_ptr()
    assert not copy.training


@pytest.mark.parametrize("shares", [(), (("retrieval", 1.0),), (("retrieval", 0.25), ("clustering", 0.75))])
def test_in_bf16_linear_layers_are_halved_once_to_the_vectors_that_autocast_gives(backbone: Any, shares: Any) -> None:
    before = {name: weight.clone() for name, weight in backbone.state_dict().items()}
    kept, whole = held(backbone, compute="bf16"), held(backbone)
    whole.adapters = kept.adapters  # which are drawn
    student, expected = kept.student(shares), whole.student(shares)
    assert kept.student(shares) is student and not student.training
    linears = [module for module in student.modules() if isinstance(module, nn.Linear)]
    assert linears and all(p.dtype == torch.bfloat16 for linear in linears for p in linear.parameters())
    others = [p for name, p in student.named_parameters() if "embed" in name or "norm" in name]
    assert others and all(p.dtype == torch.float32 for p in others)
    ids = torch.randint(5, 200, (3, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(student(ids, mask), expected(ids, mask))
    assert all(torch.equal(weight, before[name]) for name, weight in kept.base.backbone.state_dict().items())


def test_another_backend_converts_whole_weights(backbone: Any) -> None:
    place = Place(torch.device("cpu"), "bf16", "openvino", compile=False, threads=1)
    kept = MergedCopies(StudentModel(backbone, pooling="mean"), {}, place, pooling="mean", hold=None)
    assert kept.student(()) is kept.base


def test_without_adapters_it_is_the_base_and_torch_needs_no_other_pass(backbone: Any) -> None:
    kept = held(backbone)
    assert kept.student(()) is kept.base
    assert kept.forward((), lambda shares: "unused") is None
