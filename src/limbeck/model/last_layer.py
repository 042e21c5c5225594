"""The last layer of a transformer, computed for the pooled token only.

Last-token pooling reads one state a text. In the last layer every token still gives a key and a value, but queries,
attention, output map and feed-forward part are needed at that one token: of a three-layer student more than a quarter
of all arithmetic is saved, in training and at inference, and the vectors stay the same.

B: texts, T: tokens, H: hidden.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.model.runtime import BY_TEXT, EAGER_OR_SDPA

# Layers whose parts are known. Post-norm: norms follow what they normalise; pre-norm: they stand in front of it.
_POST_NORM = ("JinaEmbeddingsV3Layer",)
_PRE_NORM = ("Qwen3DecoderLayer", "EuroBertDecoderLayer", "LlamaDecoderLayer")


def pool_in_last_layer(backbone: nn.Module) -> bool:
    """Let the backbone's last layer take `pooled`: [B] positions, whose states [B, 1, H] it then gives alone.

    Of N texts in one row (`cu_seq_lens_q`, see `limbeck.model.packing`): [N] positions, whose states are [1, N, H].

    `backbone(…, pooled=positions)` computes what is needed for them; without the argument it is what it was, as are its
    weights, their names and its class's name. (The layer is given a subclass of its class, as FSDP2 does it.) Returns
    False for an architecture that is not known here, which is left as it is.
    """
    stack = getattr(backbone, "layers", None)
    layer: Any = stack[-1] if isinstance(stack, nn.ModuleList) and len(stack) else None
    if isinstance(layer, _PooledLayer):
        return True
    kind = type(layer)
    if kind.__name__ not in _POST_NORM + _PRE_NORM:
        return False
    layer.__class__ = type(kind.__name__, (_PooledLayer, kind), {"__module__": kind.__module__})
    return True


def understands(backbone: nn.Module) -> bool:
    """Whether `pooled` may be passed, under the attention that the backbone is set to at present."""
    stack: Any = getattr(backbone, "layers", None)
    known = bool(stack) and isinstance(stack[-1], _PooledLayer)
    # FlashAttention aligns a causal query with the last key, padding or not
    return known and getattr(backbone.config, "_attn_implementation", None) in ("eager", "sdpa", EAGER_OR_SDPA, BY_TEXT)


class _PooledLayer(nn.Module):
    """Mixed into a transformers layer of one of the known kinds."""

    def forward(self, hidden_states: Tensor, *args: Any, pooled: Tensor | None = None, **kwargs: Any) -> Any:
        if pooled is None:
            return super().forward(hidden_states, *args, **kwargs)
        layer: Any = self
        if "cu_seq_lens_q" in kwargs:
            rows = torch.zeros_like(pooled)[None]
            pooled = pooled[None]
        else:
            # shape, not len: a traced graph would keep the number of texts that it was traced with
            rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)[:, None]
            pooled = pooled[:, None]
        residual = hidden_states[rows, pooled]
        if hasattr(layer, "input_layernorm"):
            states = layer.input_layernorm(hidden_states)
            residual = residual + _attend(layer.self_attn, states, rows, pooled, *args, **kwargs)
            return residual + layer.mlp(layer.post_attention_layernorm(residual))
        attended = _attend(layer.self_attn, hidden_states, rows, pooled, *args, **kwargs)
        residual = layer.post_attention_layernorm(residual + layer.post_attention_dropout(attended))
        return layer.post_mlp_layernorm(residual + layer.post_mlp_dropout(layer.mlp(residual)))


def _attend(
    attention: Any,
    states: Tensor,
    rows: Tensor,
    pooled: Tensor,
    attention_mask: Tensor | None = None,
    *,
    position_embeddings: tuple[Tensor, Tensor],
    **named: Any,
) -> Tensor:
    """One query a text against all its keys: states [B, T, H] → [B, 1, H], or of texts in one row → [1, N, H].

    rows, pooled: where the queries are, [B, 1] or [1, N].
    """
    texts, tokens, _width = states.shape
    source = sys.modules[type(attention).__module__]

    def heads(linear: Any, norm: str, inputs: Tensor) -> Tensor:
        split = linear(inputs).view(texts, -1, linear.out_features // attention.head_dim, attention.head_dim)
        return getattr(attention, norm, _same)(split).transpose(1, 2)

    query = heads(attention.q_proj, "q_norm", states[rows, pooled])
    key, value = heads(attention.k_proj, "k_norm", states), heads(attention.v_proj, "", states)
    everywhere = [part.expand(texts, tokens, -1) for part in position_embeddings]
    there = [part[rows, pooled] for part in everywhere]
    query, _none = source.apply_rotary_pos_emb(query, query[:, :0], *there)
    key, _none = source.apply_rotary_pos_emb(key, key[:, :0], *position_embeddings)
    mask = attention_mask
    if mask is not None and mask.shape[-2] != 1:
        mask = mask.expand(texts, -1, -1, -1)[rows[:, 0], :, pooled[:, 0]][:, :, None]
    attended, _weights = _interface(attention, source)(
        attention,
        query,
        key,
        value,
        mask,
        dropout=attention.attention_dropout if attention.training else 0.0,
        scaling=attention.scaling,
        **{name: named[name] for name in ("cu_seq_lens_q",) if name in named},
    )
    return attention.o_proj(attended.reshape(texts, pooled.shape[1], -1))


def _interface(attention: Any, source: Any) -> Callable[..., tuple[Tensor, Any]]:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, source.eager_attention_forward)


def _same(states: Tensor) -> Tensor:
    return states
