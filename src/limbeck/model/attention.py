"""Attention on a CPU: by the length of the batch, or text by text.

By length, there is a matrix of scores for short texts and none for long ones. The choice is a function of shapes alone,
and nothing is switched between two passes: a layer that gradient checkpointing computes again, and passes in several
threads, choose as the first time.

Text by text, no layer computes with padding: the texts of a pass stand in one row, see `limbeck.model.packing`.
"""

from __future__ import annotations

import sys
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from limbeck.model.runtime import BY_TEXT, EAGER_LIMIT, EAGER_OR_SDPA


def attend(module: nn.Module, query: Tensor, key: Tensor, *rest: Any, **named: Any) -> tuple[Tensor, Tensor | None]:
    """One of transformers' two functions, by the keys. query: [B, heads, T or 1, H]; key: [B, heads, T, H]."""
    source = sys.modules[type(module).__module__]  # eager attention is a function of each architecture's own
    chosen = getattr(source, "eager_attention_forward", None) if _is_short(key.shape[-2]) else None
    return (chosen or sdpa_attention_forward)(module, query, key, *rest, **named)


def mask(**named: Any) -> Tensor | None:
    """The mask that `attend` will want: added to the scores of eager attention, of truth values for sdpa."""
    return (eager_mask if _is_short(named["kv_length"]) else sdpa_mask)(**named)


def _is_short(tokens: int) -> bool:
    # one graph for all lengths: with two, the kernels of the second would depend on the batch that comes to it first
    return not torch.compiler.is_compiling() and tokens <= EAGER_LIMIT


def attend_by_text(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **named: Any
) -> tuple[Tensor, Tensor | None]:
    """Transformers' SDPA: over a batch as ever, and over N texts in one row text by text.

    Args:
        module: the attention layer.
        query: [B, heads, T, H]; of texts in one row [1, heads, ΣT, H], or [1, heads, N, H], one query a text.
        key: [B, heads, T, H]; of texts in one row [1, heads, ΣT, H].
        value: as key.
        attention_mask: None in one row.
        named: as of any attention; with `cu_seq_lens_q`, [0, T1, T1 + T2, …], the texts stand in one row.
    """
    ends: Tensor | None = named.pop("cu_seq_lens_q", None)
    if ends is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **named)
    one_each = query.shape[2] == len(ends) - 1 != key.shape[2]
    found, at, asked = [], 0, 0
    for length, alike in groupby(ends.diff().tolist()):  # sorted by length, texts of one length stand together
        texts = len(list(alike))
        queries = 1 if one_each else length

        def together(states: Tensor, begin: int, each: int, texts: int = texts) -> Tensor:
            """[1, heads, ΣT, H] → [texts, heads, T, H]."""
            return states[0, :, begin : begin + texts * each].unflatten(1, (texts, each)).transpose(0, 1)

        parts = together(query, asked, queries), together(key, at, length), together(value, at, length)
        states, _weights = sdpa_attention_forward(module, *parts, None, **named)  # [texts, T, heads, H]
        found.append(states.flatten(0, 1))
        at, asked = at + texts * length, asked + texts * queries
    return torch.cat(found)[None], None


def mask_by_text(**named: Any) -> Tensor | None:
    """Sdpa's mask of a batch; texts in one row need none, nor does a text alone."""
    return None if named.get("attention_mask") is None else sdpa_mask(**named)


AttentionInterface.register(BY_TEXT, attend_by_text)
AttentionMaskInterface.register(BY_TEXT, mask_by_text)
AttentionInterface.register(EAGER_OR_SDPA, attend)
AttentionMaskInterface.register(EAGER_OR_SDPA, mask)
