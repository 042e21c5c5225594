"""Attention on a CPU by the length of the batch: which is used, and that no vector depends on it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import KINDS, backbone_of

from limbeck.model import attention, runtime
from limbeck.model.last_layer import understands
from limbeck.model.student import StudentModel, compile_backbone

CPU = torch.device("cpu")
LIMIT = 16  # tokens; the real one takes tests that are slow


@pytest.fixture
def folders(bert: Path, qwen3: Path, eurobert: Path, modernbert: Path) -> dict[str, Path]:
    return {"bert": bert, "qwen3": qwen3, "eurobert": eurobert, "modernbert": modernbert}


@pytest.fixture(autouse=True)
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kind of each mask that is made, short or long, at a limit that is soon passed."""
    seen: list[str] = []

    def watching(name: str, make: Any) -> Any:
        return lambda **named: (seen.append(name), make(**named))[1]

    monkeypatch.setattr(attention, "EAGER_LIMIT", LIMIT)
    monkeypatch.setattr(attention, "eager_mask", watching("eager", attention.eager_mask))
    monkeypatch.setattr(attention, "sdpa_mask", watching("sdpa", attention.sdpa_mask))
    return seen


def batch(tokens: int, texts: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([tokens, tokens // 2, 1][:texts])
    return torch.arange(texts * tokens).view(texts, tokens) % 40 + 6, (torch.arange(tokens) < lengths[:, None]).long()


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_vectors_are_those_of_either_attention_and_each_batch_has_its_own(
    kind: str, pooling: str, folders: dict[str, Path], used: list[str]
) -> None:
    model = StudentModel(backbone_of(kind, folders), pooling=pooling)
    batches = [batch(tokens, texts) for tokens in (LIMIT, LIMIT + 1, 40) for texts in (1, 3)]
    expected = {}
    for name in ("eager", "sdpa"):
        model.backbone.set_attn_implementation(name)
        expected[name] = [model(*b) for b in batches]
    model.backbone.set_attn_implementation(runtime.EAGER_OR_SDPA)
    for i, asked in enumerate(batches):
        used.clear()
        found = model(*asked)
        assert set(used) == {"eager" if asked[0].shape[1] <= LIMIT else "sdpa"}
        for name in ("eager", "sdpa"):
            torch.testing.assert_close(found, expected[name][i], atol=1e-5, rtol=1e-5)
    assert understands(model.backbone) == (pooling == "last" and kind != "ModernBERT")


@pytest.mark.parametrize("kind", ["causal Qwen3", "rotary BERT"])
def test_gradients_are_the_same_where_layers_are_computed_again_after_another_length(
    kind: str, folders: dict[str, Path]
) -> None:
    """What a checkpointed layer chooses is the same both times, whatever came in between."""
    model = StudentModel(backbone_of(kind, folders), pooling="last").train()
    gradients = []
    for name, again in (("eager", False), (runtime.EAGER_OR_SDPA, True)):
        model.backbone.set_attn_implementation(name)
        if again:
            model.backbone.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad(set_to_none=True)
        (model(*batch(40)).square().mean() + model(*batch(LIMIT)).square().mean()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-3)


def test_a_compiled_backbone_keeps_to_one_attention_and_gives_the_same_vectors(
    folders: dict[str, Path], used: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = StudentModel(backbone_of("rotary BERT", folders), pooling="last")
    # attention is settled when the model is traced: kernels in C++ would only take their minute
    traced = partial(model.backbone.compile, backend="aot_eager")
    monkeypatch.setattr(model.backbone, "compile", traced)
    model.backbone.set_attn_implementation(runtime.EAGER_OR_SDPA)
    batches = [batch(8, 3), batch(40, 1)]
    with torch.no_grad():
        expected = [model(*b) for b in batches]
    used.clear()
    compile_backbone(model, CPU)
    for asked, wanted in zip(batches, expected, strict=True):
        torch.testing.assert_close(model(*asked), wanted, atol=1e-5, rtol=1e-5)
    assert "eager" not in used
