"""Texts of a forward pass in one row without padding, where attention keeps them apart.

A batch of texts of different lengths pays for padding in every layer. FlashAttention on a GPU, and attention text by
text on a CPU, take the texts one after the other, as a row of tokens and the places where texts begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.model.runtime import BY_TEXT

# Models that hand what `pack` gives to every layer's attention, and mix tokens in no other way.
_KNOWN = ("Qwen3Model", "LlamaModel", "EuroBertModel", "JinaEmbeddingsV3Model", "ModernBertModel", "BertModel")


def packs(backbone: nn.Module, device: torch.device) -> bool:
    """Whether `pack` may be used: under FlashAttention on CUDA, and attention by text, of known architectures."""
    implementation = getattr(getattr(backbone, "config", None), "_attn_implementation", None)
    known = type(backbone).__name__ in _KNOWN
    return known and (implementation == BY_TEXT or (implementation == "flash_attention_2" and device.type == "cuda"))


def goes_by_text(backbone: nn.Module) -> bool:
    """Whether attention may go text by text: in a known architecture in which every token may see its whole text."""
    config: Any = backbone.config
    windows = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    kinds = set(getattr(config, "layer_types", None) or ())
    return type(backbone).__name__ in _KNOWN and not windows and kinds <= {"full_attention"}


def pack(rows: Sequence[np.ndarray], device: torch.device, *, multiple: int = 1) -> dict[str, Any]:
    """Inputs of a backbone: token ids of N texts, one after the other, as [1, ΣT], with positions that start anew.

    multiple: the row is filled up to a multiple of so many tokens. What fills it is a text to attention; its positions
    are all 0, as a longer one than those of the texts would change their frequencies under dynamic scaling of RoPE.
    """
    lengths = [len(row) for row in rows]
    positions = [torch.arange(length) for length in lengths]
    if rest := -sum(lengths) % multiple:
        rows, lengths = [*rows, np.zeros(rest, np.int32)], [*lengths, rest]
        positions.append(torch.zeros(rest, dtype=torch.int64))
    ends = torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32, device=device)  # [N + 1], or [N + 2] if filled up
    return {
        "input_ids": torch.from_numpy(np.concatenate(rows).astype(np.int64))[None].to(device),
        "position_ids": torch.cat(positions)[None].to(device),
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


def unpack(states: Tensor, rows: Sequence[np.ndarray]) -> list[Tensor]:
    """States [1, ΣT, H] of packed texts → those of each text, [T, H], without what the row was filled up with."""
    ends = np.cumsum([0, *(len(row) for row in rows)]).tolist()
    return [states[0, begin:end] for begin, end in pairwise(ends)]
