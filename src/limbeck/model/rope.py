"""Rotary position embedding: set theta where it works, and read back that it did.

Two ways that look right are silently ignored by transformers 5 (editing the config after load, and a `rope_theta`
keyword), so theta is written into the config before the weights are made, and `verify` reads `inv_freq` afterwards.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from limbeck.errors import ModelError


def theta_of(config: Any) -> float | None:
    """The RoPE theta of a transformers config (of its full-attention layers), or None when it has no RoPE."""
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        return None
    if "rope_theta" not in parameters:  # one set for each kind of layer, as in ModernBERT
        parameters = parameters.get("full_attention") or next(iter(parameters.values()))
    return float(parameters["rope_theta"])


def with_theta(config: Any, theta: float | None) -> Any:
    """A copy of a transformers config with another RoPE theta; None = unchanged. Raises ModelError without RoPE."""
    config = copy.deepcopy(config)
    if theta is None:
        return config
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        raise ModelError(
            f"rope theta {theta:g} was asked for, but {config.model_type} has no rotary position embedding: "
            "leave student.rope out"
        )
    parameters = copy.deepcopy(dict(parameters))
    if "rope_theta" in parameters:
        parameters["rope_theta"] = float(theta)
    elif "full_attention" in parameters:
        parameters["full_attention"]["rope_theta"] = float(theta)
    else:
        raise ModelError(f"no rope theta can be set in {config.model_type}, which has {sorted(parameters)}")
    config.rope_parameters = parameters
    return config


def verify(model: nn.Module, theta: float | None) -> None:
    """Check that the frequencies in a model are those of `theta`: inv_freq[i] = theta^(−2i / head_dim).

    Only the unscaled ("default") kind has that closed form; a scaled kind is not checked. Where kinds of layers have
    frequencies of their own, those of full attention are meant. Raises ModelError when the setting did not take effect.
    """
    if theta is None:
        return
    rotary = [m for m in model.modules() if any(n.endswith("inv_freq") for n, _ in m.named_buffers(recurse=False))]
    if not rotary:
        raise ModelError(f"rope theta {theta:g} did not take effect: {type(model).__name__} has no inv_freq buffer")
    for module in rotary:
        kind: Any = getattr(module, "rope_type", "default")
        if (kind.get("full_attention") if isinstance(kind, dict) else kind) not in ("default", None):
            continue
        buffers = {n: b for n, b in module.named_buffers(recurse=False) if n.endswith("inv_freq")}
        name = "full_attention_inv_freq" if "full_attention_inv_freq" in buffers else "inv_freq"
        actual = buffers[name].detach().float().cpu()
        n = actual.numel()
        wanted = float(theta) ** (-torch.arange(n, dtype=torch.float64) / n)
        if not torch.allclose(actual.double(), wanted, rtol=1e-3):
            got = float(actual[-1].double() ** (-n / (n - 1))) if n > 1 else float("nan")
            raise ModelError(f"rope theta {theta:g} did not take effect: the model computes with {got:g}")
