"""Attention on a CPU by the length of the batch: a matrix of scores for short texts, none for long ones.

The choice is a function of shapes alone, and nothing is switched between two passes: a layer that gradient
checkpointing computes again, and passes in several threads, choose as the first time.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

from limbeck.model.runtime import EAGER_LIMIT, EAGER_OR_SDPA


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


AttentionInterface.register(EAGER_OR_SDPA, attend)
AttentionMaskInterface.register(EAGER_OR_SDPA, mask)
