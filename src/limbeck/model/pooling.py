"""Token states → one vector per text.  B: batch, T: tokens, H: hidden."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def last_token(states: Tensor, mask: Tensor) -> Tensor:
    """State of each row's last real token. states: [B, T, H]; mask: [B, T], padding on either side → [B, H]."""
    return states[torch.arange(states.shape[0], device=states.device), last_position(mask)]


def last_position(mask: Tensor) -> Tensor:
    """Place of each row's last real token, the right-most 1: padding never moves it. mask: [B, T] → [B]."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return (mask.to(torch.long) * (positions + 1)).argmax(dim=1)


def mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over each row's real tokens. states: [B, T, H]; mask: [B, T] → [B, H], fp32: bf16 sums lose small terms."""
    weights = mask.unsqueeze(-1).float()
    return (states.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def first_token(states: Tensor, mask: Tensor) -> Tensor:
    """State of each row's first real token ([CLS]). states: [B, T, H]; mask: [B, T] → [B, H]."""
    return states[torch.arange(states.shape[0], device=states.device), mask.to(torch.long).argmax(dim=1)]


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"last": last_token, "mean": mean, "cls": first_token}
"""By the name used in recipes and bundles."""
