"""Token states → one vector per text, or per range of its tokens.  B: batch, T: tokens, H: hidden, R: ranges."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
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


def last_of_range(states: Tensor, ranges: np.ndarray) -> Tensor:
    """State of each range's last token. states: [T, H]; ranges: [R, 2], begin and end, none empty → [R, H]."""
    return states[torch.from_numpy(ranges[:, 1] - 1).to(states.device)]


def mean_of_range(states: Tensor, ranges: np.ndarray) -> Tensor:
    """Mean over each range's tokens. states: [T, H]; ranges: [R, 2] → [R, H], fp32."""
    means = [states[begin:end].float().mean(dim=0) for begin, end in ranges.tolist()]
    return torch.stack(means) if means else states[:0].float()


def first_of_range(states: Tensor, ranges: np.ndarray) -> Tensor:
    """State of each range's first token. states: [T, H]; ranges: [R, 2] → [R, H]."""
    return states[torch.from_numpy(ranges[:, 0]).to(states.device)]


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"last": last_token, "mean": mean, "cls": first_token}
"""By the name used in recipes and bundles."""

RANGE_POOLINGS: dict[str, Callable[[Tensor, np.ndarray], Tensor]] = {
    "last": last_of_range,
    "mean": mean_of_range,
    "cls": first_of_range,
}
"""The same for ranges of one text's tokens; over all of them, each gives what its namesake gives."""
