"""The module that is trained: backbone, pooling, and the projection that training needs and inference keeps.

B: texts, T: tokens, H: hidden, D: teacher dims.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from limbeck.model.pooling import POOLINGS
from limbeck.model.projection import Projection


class StudentModel(nn.Module):
    """Token ids → one vector a text, in fp32 and of any norm."""

    def __init__(self, backbone: nn.Module, *, pooling: str, projection: Projection | None = None) -> None:
        """Args: backbone: a transformers model; pooling: a name of POOLINGS; projection: trained along, if any."""
        super().__init__()
        self.backbone, self.projection, self._pool = backbone, projection, POOLINGS[pooling]
        self._arguments: dict[str, Any] = {}
        if hasattr(getattr(backbone, "config", None), "use_cache"):
            self._arguments["use_cache"] = False  # a decoder would otherwise keep keys and values that nobody reads

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: [B, T] int64 → [B, H] fp32."""
        states = self.backbone(input_ids=ids, attention_mask=mask, **self._arguments).last_hidden_state
        return self._pool(states, mask).float()


def compile_backbone(model: StudentModel, device: torch.device) -> None:
    """Compile the backbone in place, for texts of any number and length.

    A first pass over a fixed shape settles the kernels: without it they would depend on the shape of whatever batch
    happens to come first, and a resumed run, whose first batch is another, would differ in the last bits.
    """
    model.backbone.compile(dynamic=True)
    ids = torch.ones(24, 40, dtype=torch.int64, device=device)
    model(ids, torch.ones_like(ids)).sum().backward()
    model.zero_grad(set_to_none=True)
