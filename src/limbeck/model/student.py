"""The module that is trained: backbone, pooling, and the projection that training needs and inference keeps.

B: texts, T: tokens, H: hidden, D: teacher dims.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from limbeck.model.last_layer import pool_in_last_layer, understands
from limbeck.model.packing import pack, unpack
from limbeck.model.pooling import POOLINGS, RANGE_POOLINGS, last_position
from limbeck.model.projection import Projection
from limbeck.model.reduction import Meeting

# Tokens of a pass in one row are a multiple of this: oneDNN keeps what it made for each number of rows, which took
# hundreds of MiB where every pass had another.
_ROUND = 64


class StudentModel(nn.Module):
    """Token ids → one vector a text, in fp32 and of any norm."""

    def __init__(self, backbone: nn.Module, *, pooling: str, projection: Projection | Meeting | None = None) -> None:
        """Args: backbone: a transformers model; pooling: a name of POOLINGS; projection: trained along, if any."""
        super().__init__()
        self.backbone, self.projection = backbone, projection
        self._pool, self._pool_ranges = POOLINGS[pooling], RANGE_POOLINGS[pooling]
        self._arguments: dict[str, Any] = {}
        if hasattr(getattr(backbone, "config", None), "use_cache"):
            self._arguments["use_cache"] = False  # a decoder would otherwise keep keys and values that nobody reads
        self._pools_in_last_layer = pooling == "last" and pool_in_last_layer(backbone)
        if hasattr(backbone, "get_input_embeddings"):
            embeddings: Any = getattr(backbone, "embeddings", None) or backbone.get_input_embeddings()  # type: ignore[operator]
            embeddings.register_forward_hook(_in_autocast_dtype)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: [B, T] int64 → [B, H] fp32."""
        # of a text alone nothing is masked; a compiled backbone cannot see that, and would make a mask of T × T
        shown = None if mask.shape[0] == 1 and _is_full(mask) else mask
        if self._pools_in_last_layer and understands(self.backbone):
            pooled = last_position(mask)
            return self.token_states(input_ids=ids, attention_mask=shown, pooled=pooled)[:, 0].float()
        return self._pool(self.token_states(input_ids=ids, attention_mask=shown), mask).float()

    def packed(self, rows: Sequence[np.ndarray], ranges: Sequence[np.ndarray] | None, device: torch.device) -> Tensor:
        """One pass over texts in one row, where `limbeck.model.packing.packs`; on a CPU a few tokens are padding.

        Args:
            rows: token ids of N texts, each [T] int32.
            ranges: of each text, [S, 2], begins and ends of tokens that get a vector each; None = whole texts.
            device: of the backbone.

        Returns fp32 [N, H], or [ΣS, H] text after text.
        """
        inputs = pack(rows, device, multiple=_ROUND if device.type == "cpu" else 1)
        if ranges is None and self._pools_in_last_layer and understands(self.backbone):
            last = inputs["cu_seq_lens_q"][1:].long() - 1
            return self.token_states(**inputs, pooled=last)[0, : len(rows)].float()
        if ranges is None:
            ranges = [np.array([[0, len(row)]]) for row in rows]
        states = unpack(self.token_states(**inputs), rows)
        return torch.cat([self.pool_ranges(*of_text) for of_text in zip(states, ranges, strict=True)])

    def token_states(self, **inputs: Any) -> Tensor:
        """States [B, T, H] after the last layer, of a backbone's `inputs`: input_ids [B, T] and what goes with them."""
        return self.backbone(**inputs, **self._arguments).last_hidden_state

    def pool_ranges(self, states: Tensor, ranges: np.ndarray) -> Tensor:
        """Pool ranges of one text's tokens. states: [T, H]; ranges: [R, 2], begin and end, none empty → [R, H] fp32."""
        return self._pool_ranges(states, ranges).float()


def _is_full(mask: Tensor) -> bool:
    # a tensor without data, as `limbeck plan` works with, stands for a text of that length
    return isinstance(mask, FakeTensor) or bool(mask.all())


def _in_autocast_dtype(module: nn.Module, _inputs: Any, states: Tensor) -> Tensor:
    """In training under bf16 autocast, let activations be bf16 from the first on, as in a model loaded in bf16.

    Autocast alone leaves the states between layers in fp32 and converts them for every matrix product, forward and
    backward: a tenth of a small student's step. Weights, norms' statistics, pooled vectors and losses stay fp32.
    """
    device = states.device.type
    if module.training and torch.is_autocast_enabled(device):
        return states.to(torch.get_autocast_dtype(device))
    return states


def compile_backbone(model: StudentModel, device: torch.device) -> None:
    """Compile the backbone in place, for texts of any number and length.

    A first pass over a fixed shape settles the kernels: without it they would depend on the shape of whatever batch
    happens to come first, and a resumed run, whose first batch is another, would differ in the last bits.
    """
    model.backbone.compile(dynamic=True)
    ids = torch.ones(24, 40, dtype=torch.int64, device=device)
    model(ids, torch.ones_like(ids)).sum().backward()
    model.zero_grad(set_to_none=True)
