"""The last layer for the pooled token only: the same vectors, from a model that is otherwise what it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import FRESH, SHAPE, student
from torch import Tensor, nn

from limbeck.config import Lora
from limbeck.model import backbone as backbones
from limbeck.model.adapters import attach
from limbeck.model.last_layer import pool_in_last_layer, understands
from limbeck.model.pooling import last_position, last_token
from limbeck.model.student import StudentModel

KINDS = ["causal Qwen3", "bidirectional Qwen3", "pretrained Qwen3", "EuroBERT", "Llama", "rotary BERT"]


def backbone_of(kind: str, folders: dict[str, Path]) -> Any:
    if kind == "Llama":
        from transformers import LlamaConfig, LlamaModel

        torch.manual_seed(1)
        return LlamaModel(LlamaConfig(vocab_size=60, num_key_value_heads=1, **SHAPE)).eval()
    fresh = {"init": "fresh", "dims": [8, 24]}
    section, teacher = {
        "causal Qwen3": (student(**fresh, fresh=FRESH), "qwen3"),
        "bidirectional Qwen3": (student(**fresh, fresh=FRESH | {"causal": False}), "qwen3"),
        "pretrained Qwen3": (student(model=str(folders["qwen3"])), "qwen3"),
        "EuroBERT": (student(model=str(folders["eurobert"])), "eurobert"),
        "rotary BERT": (student(init="pruned", pruned={"layers": [0, 2]}), "bert"),
        "ModernBERT": (student(model=str(folders["modernbert"])), "modernbert"),
    }[kind]
    return backbones.build(section, folders[teacher], seed=1).model.eval()


@pytest.fixture
def folders(bert: Path, qwen3: Path, eurobert: Path, modernbert: Path) -> dict[str, Path]:
    return {"bert": bert, "qwen3": qwen3, "eurobert": eurobert, "modernbert": modernbert}


@pytest.fixture(params=KINDS)
def backbone(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Any:
    return backbone_of(request.param, folders)


def batch(padding: str) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([12, 12, 12] if padding == "none" else [7, 12, 1])
    places = torch.arange(12) if padding != "left" else torch.arange(11, -1, -1)
    mask = (places[None, :] < lengths[:, None]).long()
    return torch.arange(36).view(3, 12) % 40 + 6, mask


def pooled(backbone: Any, ids: Tensor, mask: Tensor) -> Tensor:
    found = backbone(input_ids=ids, attention_mask=mask, pooled=last_position(mask), use_cache=False)
    assert found.last_hidden_state.shape[:2] == (len(ids), 1)
    return found.last_hidden_state[:, 0]


def whole(backbone: Any, ids: Tensor, mask: Tensor) -> Tensor:
    return last_token(backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state, mask)


@pytest.mark.parametrize("padding", ["none", "right", "left"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_vectors_are_those_of_the_whole_layer(backbone: Any, attention: str, padding: str) -> None:
    backbone.set_attn_implementation(attention)
    ids, mask = batch(padding)
    expected = whole(backbone, ids, mask)
    assert pool_in_last_layer(backbone) and understands(backbone)
    torch.testing.assert_close(pooled(backbone, ids, mask), expected, atol=1e-5, rtol=0)
    # without the argument it is what it was
    assert torch.equal(whole(backbone, ids, mask), expected)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gradients_are_those_of_the_whole_layer(backbone: Any, attention: str) -> None:
    backbone.set_attn_implementation(attention)
    ids, mask = batch("right")
    pool_in_last_layer(backbone)
    gradients = []
    for forward in (whole, pooled):
        backbone.zero_grad(set_to_none=True)
        forward(backbone, ids, mask).square().sum().backward()
        gradients.append({n: p.grad for n, p in backbone.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gradients_are_the_same_where_activations_are_computed_again(backbone: Any, attention: str) -> None:
    backbone.set_attn_implementation(attention)
    model = StudentModel(backbone, pooling="last").train()
    seen: list[int] = []
    backbone.layers[-1].mlp.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].shape[1]))
    gradients = []
    for again in (False, True):
        if again:
            backbone.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad(set_to_none=True)
        model(*batch("right")).square().sum().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-5)
    assert seen == [1, 1, 1]  # of one token, and a second time on the way back


@torch.no_grad()
def test_an_attached_adapter_is_computed_too(backbone: Any) -> None:
    ids, mask = batch("right")
    plain = whole(backbone, ids, mask)
    attach(backbone, Lora(rank=2, dropout=0.0), "t", seed=0)
    for name, parameter in backbone.named_parameters():
        if ".lora_B." in name:
            parameter.fill_(0.1)
    expected = whole(backbone, ids, mask)
    pool_in_last_layer(backbone)
    torch.testing.assert_close(pooled(backbone, ids, mask), expected, atol=1e-5, rtol=0)
    assert (expected - plain).abs().max() > 1e-2


@torch.no_grad()
def test_the_model_keeps_its_names_weights_and_class(backbone: Any) -> None:
    names, classes = list(backbone.state_dict()), [type(m).__name__ for m in backbone.modules()]
    kind = type(backbone.layers[-1])
    assert pool_in_last_layer(backbone) and pool_in_last_layer(backbone)  # twice is as once
    assert list(backbone.state_dict()) == names
    assert [type(m).__name__ for m in backbone.modules()] == classes
    layer = backbone.layers[-1]
    assert isinstance(layer, kind) and type(layer).__module__ == kind.__module__
    assert [type(other) for other in backbone.layers[:-1]] == [kind] * (len(backbone.layers) - 1)


@torch.no_grad()
def test_a_copy_computes_by_itself(backbone: Any) -> None:
    ids, mask = batch("right")
    pool_in_last_layer(backbone)
    expected = pooled(backbone, ids, mask)
    other = copy.deepcopy(backbone)
    for parameter in backbone.parameters():
        parameter.zero_()
    assert understands(other)
    assert torch.equal(pooled(other, ids, mask), expected)


def test_a_saved_model_is_the_plain_one(backbone: Any, tmp_path: Path) -> None:
    ids, mask = batch("right")
    pool_in_last_layer(backbone)
    backbone.save_pretrained(tmp_path)
    again = type(backbone).from_pretrained(tmp_path).eval()
    assert not understands(again)
    with torch.no_grad():
        torch.testing.assert_close(whole(again, ids, mask), pooled(backbone, ids, mask), atol=1e-5, rtol=0)


def test_an_architecture_that_is_not_known_is_left_alone(folders: dict[str, Path]) -> None:
    for other in (backbone_of("ModernBERT", folders), nn.Linear(2, 2)):
        classes = [type(m) for m in other.modules()]
        assert not pool_in_last_layer(other) and not understands(other)
        assert [type(m) for m in other.modules()] == classes


def test_flash_attention_takes_the_whole_layer(backbone: Any) -> None:
    pool_in_last_layer(backbone)
    backbone.config._attn_implementation = "flash_attention_2"
    assert not understands(backbone)


@pytest.mark.parametrize("padding", ["none", "right", "left"])
@torch.no_grad()
def test_a_student_that_pools_the_last_token_gives_the_same_vectors(backbone: Any, padding: str) -> None:
    ids, mask = batch(padding)
    expected = whole(backbone, ids, mask)
    seen: list[tuple[int, ...]] = []
    backbone.layers[-1].mlp.register_forward_hook(lambda _m, inputs, _o: seen.append(tuple(inputs[0].shape[:2])))
    torch.testing.assert_close(StudentModel(backbone, pooling="last")(ids, mask), expected, atol=1e-5, rtol=0)
    assert seen == [(3, 1)]


@torch.no_grad()
def test_a_student_that_pools_otherwise_reads_every_token(backbone: Any) -> None:
    StudentModel(backbone, pooling="mean")(*batch("right"))
    assert not understands(backbone)
