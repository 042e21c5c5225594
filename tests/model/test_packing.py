"""Packed texts: the vectors of padded ones, without a token of padding."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import backbone_of, student
from torch import Tensor, nn
from transformers import AttentionInterface

import limbeck.model.attention  # noqa: F401  # registers attention by text
from limbeck.model import passes
from limbeck.model.loading import load
from limbeck.model.packing import goes_by_text, pack, packs, unpack
from limbeck.model.runtime import BY_TEXT
from limbeck.model.student import StudentModel
from limbeck.model.tokenizer import pad

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ROWS = [np.arange(6, 6 + length, dtype=np.int32) for length in (5, 12, 1, 7, 12)]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor,
    **_: Any,
) -> tuple[Tensor, None]:
    """What FlashAttention computes of packed texts, text by text, from its definition."""
    assert attention_mask is None and len(query) == 1
    causal = module.is_causal and getattr(module.config, "is_causal", True)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    parts = []
    for begin, end in pairwise(cu_seq_lens_q.tolist()):
        scores = query[:, :, begin:end] @ key[:, :, begin:end].transpose(2, 3) * scaling
        apart = torch.arange(end - begin)[:, None] - torch.arange(end - begin)
        hidden = (apart < 0) if causal else torch.zeros_like(apart, dtype=torch.bool)
        if sliding_window is not None:
            hidden = hidden | (apart.abs() >= sliding_window)
        parts.append(scores.masked_fill(hidden, -torch.inf).softmax(dim=-1) @ value[:, :, begin:end])
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register("packed_by_definition", packed_attention)  # a name without masks, as a kernel's is


@pytest.fixture
def folders(bert: Path, qwen3: Path, eurobert: Path, modernbert: Path) -> dict[str, Path]:
    return {"bert": bert, "qwen3": qwen3, "eurobert": eurobert, "modernbert": modernbert}


def packed_backbone(kind: str, folders: dict[str, Path]) -> Any:
    if kind != "Llama":
        return backbone_of(kind, folders)
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(1)
    return LlamaModel(LlamaConfig(vocab_size=60, num_key_value_heads=1, hidden_size=32, num_attention_heads=2)).eval()


def padded(model: StudentModel) -> Tensor:
    ids, mask = map(torch.from_numpy, pad(ROWS, 0))
    return model(ids, mask)


def pooled(model: StudentModel, states: list[Tensor]) -> Tensor:
    return torch.cat([model.pool_ranges(s, np.array([[0, len(s)]])) for s in states])


@pytest.mark.parametrize("pooling", ["last", "mean", "cls"])
@pytest.mark.parametrize(
    "kind", ["causal Qwen3", "bidirectional Qwen3", "Llama", "EuroBERT", "ModernBERT", "rotary BERT", "BERT"]
)
@torch.no_grad()
def test_packed_texts_have_the_vectors_of_padded_ones(kind: str, pooling: str, folders: dict[str, Path]) -> None:
    model = StudentModel(packed_backbone(kind, folders), pooling=pooling)
    expected = padded(model)
    model.backbone.set_attn_implementation("packed_by_definition")
    inputs = pack(ROWS, CPU)
    assert inputs["input_ids"].shape == (1, sum(map(len, ROWS)))
    found = pooled(model, unpack(model.token_states(**inputs), ROWS))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_transformers_own_masks_keep_packed_texts_of_a_causal_model_apart(
    attention: str, folders: dict[str, Path]
) -> None:
    model = StudentModel(packed_backbone("causal Qwen3", folders), pooling="last")
    model.backbone.set_attn_implementation(attention)
    found = pooled(model, unpack(model.token_states(**pack(ROWS, CPU)), ROWS))
    torch.testing.assert_close(found, padded(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["last", "mean", "cls"])
@pytest.mark.parametrize("kind", ["causal Qwen3", "bidirectional Qwen3", "Llama", "EuroBERT", "rotary BERT", "BERT"])
@torch.no_grad()
def test_attention_by_text_gives_the_vectors_of_padded_texts(kind: str, pooling: str, folders: dict[str, Path]) -> None:
    model = StudentModel(packed_backbone(kind, folders), pooling=pooling)
    expected, alone = padded(model), model(torch.tensor([[6, 7, 8]]), torch.ones(1, 3, dtype=torch.int64))
    assert goes_by_text(model.backbone) and not packs(model.backbone, CPU)
    model.backbone.set_attn_implementation(BY_TEXT)
    assert packs(model.backbone, CPU)
    torch.testing.assert_close(model.packed(ROWS, None, CPU), expected, atol=1e-5, rtol=1e-5)
    in_order = sorted(range(len(ROWS)), key=lambda i: len(ROWS[i]))  # those of 12 tokens together
    found = model.packed([ROWS[i] for i in in_order], None, CPU)
    torch.testing.assert_close(found, expected[in_order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded(model), expected, atol=1e-5, rtol=1e-5)  # what is padded is masked
    found = model.packed([np.array([6, 7, 8], np.int32)], None, CPU)
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
    ones = model.packed([row[:1] for row in ROWS], None, CPU)  # as many texts as tokens
    torch.testing.assert_close(ones, expected[[2] * 5], atol=1e-5, rtol=1e-5)


def test_what_fills_a_row_up_has_no_position_that_no_text_has() -> None:
    rows = ROWS[2:4]  # 1 and 7 tokens
    inputs = pack(rows, CPU, multiple=64)
    assert inputs["input_ids"].shape == inputs["position_ids"].shape == (1, 64)
    assert inputs["cu_seq_lens_q"].tolist() == [0, 1, 8, 64] and inputs["max_length_q"] == 56
    assert inputs["position_ids"][0].tolist() == [0, *range(7), *[0] * 56]  # RoPE of dynamic scaling goes by the last
    full = pack(rows, CPU, multiple=8)
    assert full["cu_seq_lens_q"].tolist() == [0, 1, 8] == pack(rows, CPU)["cu_seq_lens_q"].tolist()


def test_windows_do_not_go_by_text(folders: dict[str, Path]) -> None:
    assert not goes_by_text(packed_backbone("ModernBERT", folders))


def test_texts_are_packed_under_flash_attention_on_a_gpu_and_nowhere_else(folders: dict[str, Path]) -> None:
    backbone = packed_backbone("rotary BERT", folders)
    for implementation in ("eager", "sdpa", "eager_or_sdpa"):
        backbone.config._attn_implementation = implementation
        assert not packs(backbone, CUDA)
    backbone.config._attn_implementation = "flash_attention_2"
    assert packs(backbone, CUDA)
    assert not packs(backbone, CPU)
    other: Any = nn.Linear(2, 2)
    other.config = backbone.config
    assert not packs(other, CUDA) and not packs(nn.Linear(2, 2), CUDA)


@pytest.mark.parametrize("pooling", ["last", "mean", "cls"])
def test_an_encoder_that_packs_gives_the_vectors_of_texts_and_spans(
    pooling: str, eurobert: Path, make_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_bundle(student(model=str(eurobert), pooling=pooling), eurobert)
    encoder = load(folder, device="cpu", precision="fp32")
    texts = ["join two tables", "a", "split the string at sep, and return", "new array " * 30]
    spans = [[(0, 4), (5, 15)], [(0, 1)], [], [(4, 9), (0, 3), (4, 9)]]
    expected, of_spans = encoder.encode(texts), encoder.encode(texts, spans=spans)
    encoder.model.backbone.set_attn_implementation("packed_by_definition")  # type: ignore[operator]
    monkeypatch.setattr(passes, "packs", lambda backbone, device: True)
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5, rtol=0)
    for found, wanted in zip(encoder.encode(texts, spans=spans), of_spans, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)
