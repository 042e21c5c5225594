"""Rotary position embedding: set theta and scaling where they work, and read back that they did.

Two ways that look right are silently ignored by transformers 5 (editing the config after load, and a `rope_theta`
keyword), so both are written into the config before the frequencies are made, and `verify` reads `inv_freq` afterwards.

Scaling stretches positions beyond the length that the weights know (`linear`, `dynamic`, `yarn`, as transformers names
them). Where kinds of layers have frequencies of their own, as in ModernBERT, those of full attention are meant: a
sliding window looks no further than it did.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, get_args

import torch
from torch import Tensor, nn

from limbeck.config import Scaling
from limbeck.errors import ModelError

_KINDS = get_args(Scaling.model_fields["type"].annotation)
_CONSTANTS = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate")  # of yarn


def theta_of(config: Any) -> float | None:
    """The RoPE theta of a transformers config (of its full-attention layers), or None when it has no RoPE."""
    parameters = _parameters(config)
    return float(parameters["rope_theta"]) if parameters else None


def scaling_of(config: Any) -> Scaling | None:
    """The scaling of a transformers config; None for none, or one that `Scaling` cannot say.

    Such are the kinds llama3 and longrope, and yarn with constants of its own.
    """
    parameters = _parameters(config) or {}
    kind: Any = parameters.get("rope_type")
    if kind not in _KINDS or any(parameters.get(name) is not None for name in _CONSTANTS):
        return None
    known = {"yarn": parameters.get("original_max_position_embeddings"), "dynamic": config.max_position_embeddings}
    return Scaling(type=kind, factor=parameters["factor"], original_max_tokens=known.get(kind))


def with_rope(config: Any, theta: float | None, scaling: Scaling | None = None) -> Any:
    """A copy of a transformers config with another RoPE theta or scaling; None = unchanged.

    Raises ModelError without RoPE.
    """
    config = copy.deepcopy(config)
    if theta is None and scaling is None:
        return config
    asked = _asked(theta, scaling)
    parameters = copy.deepcopy(dict(getattr(config, "rope_parameters", None) or {}))
    own = parameters if "rope_theta" in parameters else parameters.get("full_attention")
    if not parameters:
        raise ModelError(
            f"{asked} was asked for, but {config.model_type} has no rotary position embedding: leave student.rope out"
        )
    if own is None:
        raise ModelError(f"{asked} cannot be set in {config.model_type}, which has {sorted(parameters)}")
    if theta is not None:
        own["rope_theta"] = float(theta)
    if scaling is not None:
        known = scaling.original_max_tokens or _known_length(config)
        for name in set(own) - {"rope_theta", "partial_rotary_factor"}:
            del own[name]  # of a scaling that the backbone came with
        own |= {"rope_type": scaling.type, "factor": float(scaling.factor)}
        config.max_position_embeddings = known  # where transformers looks for it
        if scaling.type == "yarn":
            own["original_max_position_embeddings"] = known
            config.max_position_embeddings = round(known * scaling.factor)  # but of yarn wants the product
    config.rope_parameters = parameters
    return config


def set_rope(model: nn.Module, theta: float | None, scaling: Scaling | None = None) -> None:
    """Give a model that is in memory another theta or scaling; None = unchanged.

    Its config says so too, and is saved with it. Raises ModelError where it cannot be, or does not take effect.
    """
    if theta is None and scaling is None:
        return
    own: Any = model
    changed = with_rope(own.config, theta, scaling)
    for name in ("rope_parameters", "max_position_embeddings"):
        setattr(own.config, name, getattr(changed, name))
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if _is_rotary(child):
                device = next(child.buffers()).device
                try:
                    made: Any = type(child)(config=own.config)
                except TypeError:  # of an architecture from elsewhere
                    raise ModelError(
                        f"{_asked(theta, scaling)} cannot be set in a {type(model).__name__} once it is made: "
                        f"{type(child).__name__} takes no config"
                    ) from None
                setattr(parent, name, made.to(device))
    verify(model, theta, scaling)


def verify(model: nn.Module, theta: float | None, scaling: Scaling | None = None) -> None:
    """Check that the frequencies in a model are those of `theta` and `scaling`, where None = whatever its config says.

    Frequencies are worked out here, from the formulas. A scaling that a backbone came with, and that has none here
    (see `scaling_of`), is not checked. Raises ModelError when a setting did not take effect.
    """
    if theta is None and scaling is None:
        return
    own: Any = model
    config, asked = own.config, _asked(theta, scaling)
    rotary = list(_rotary(model))
    if not rotary:
        raise ModelError(f"{asked} did not take effect: {type(model).__name__} has no inv_freq buffer")
    theta = theta if theta is not None else theta_of(config)
    told = scaling or scaling_of(config)
    wanted_kind = told.type if told else (_parameters(config) or {}).get("rope_type", "default")
    for module in rotary:
        prefix = "full_attention_" if hasattr(module, "full_attention_inv_freq") else ""
        kinds: Any = getattr(module, "rope_type", None)
        kind = (kinds.get("full_attention") if isinstance(kinds, dict) else kinds) or "default"
        if kind != wanted_kind:
            raise ModelError(
                f"{asked} did not take effect: {type(model).__name__} computes with RoPE of the type {kind}"
            )
        if told is None and kind != "default":
            continue
        actual = getattr(module, f"{prefix}inv_freq").detach().double().cpu()
        wanted = frequencies(float(theta or 0), 2 * len(actual), _complete(told, config))
        factor = float(getattr(module, f"{prefix}attention_scaling", 1.0))
        if not torch.allclose(actual, wanted, rtol=1e-3, atol=0) or not math.isclose(factor, attention_factor(told)):
            n = len(actual)
            got = f"{float(actual[-1] ** (-n / (n - 1))):g}" if n > 1 and told is None else "other frequencies"
            raise ModelError(f"{asked} did not take effect: the model computes with {got}")


def frequencies(theta: float, head_dim: int, scaling: Scaling | None = None) -> Tensor:
    """inv_freq: [head_dim / 2] fp64, radians a position.

    default: theta^(−2i / head_dim); linear: that, divided by the factor; dynamic: the same as default up to the known
    length, beyond which transformers makes theta grow with the text; yarn (arXiv 2309.00071, section 3.2): linear for
    waves longer than the known length, default for those that fit in it 32 times, a ramp between.
    """
    plain = theta ** (-torch.arange(head_dim // 2, dtype=torch.float64) * 2 / head_dim)
    if scaling is None or scaling.type == "dynamic":
        return plain
    if scaling.type == "linear":
        return plain / scaling.factor
    assert scaling.original_max_tokens is not None

    def place(turns: float, length: int = scaling.original_max_tokens) -> float:
        """Of the frequency that turns so often within the known length."""
        return head_dim * math.log(length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(place(32)), 0), min(math.ceil(place(1)), head_dim - 1)
    ramp = (torch.arange(head_dim // 2, dtype=torch.float64) - low) / max(high - low, 0.001)
    share = ramp.clamp(0, 1)  # of the stretched frequency
    return plain / scaling.factor * share + plain * (1 - share)


def attention_factor(scaling: Scaling | None) -> float:
    """What cosines and sines are multiplied by: with yarn, 0.1 ln(factor) + 1 (arXiv 2309.00071, equation 22)."""
    return 0.1 * math.log(scaling.factor) + 1 if scaling is not None and scaling.type == "yarn" else 1.0


def forget_lengths(model: nn.Module) -> None:
    """Let no text's vector depend on those before it, under dynamic scaling.

    transformers keeps the frequencies of the longest text so far until a text shorter than the known length comes:
    a text in between would get the frequencies of another. After this, every forward pass starts from the first ones.
    """
    for module in _rotary(model):
        kinds: Any = getattr(module, "rope_type", "default")
        if "dynamic" in (kinds.values() if isinstance(kinds, dict) else [kinds]) and not module._forward_pre_hooks:
            module.register_forward_pre_hook(_restart)


def stretched_beyond(model: nn.Module) -> int | None:
    """Tokens beyond which frequencies depend on the length of a pass; None where they never do."""
    own: Any = model
    scaling = scaling_of(own.config)
    return scaling.original_max_tokens if scaling is not None and scaling.type == "dynamic" else None


def _restart(module: Any, _inputs: Any) -> None:
    for name in [n for n in vars(module) if n.endswith("max_seq_len_cached")]:
        setattr(module, name, module.original_max_seq_len)
    for name, buffer in list(module.named_buffers(recurse=False)):
        if name.endswith("original_inv_freq"):
            module.register_buffer(name.replace("original_", ""), buffer, persistent=False)


def _asked(theta: float | None, scaling: Scaling | None) -> str:
    parts = [] if theta is None else [f"rope theta {theta:g}"]
    return " and ".join([*parts, *([] if scaling is None else [f"{scaling.type} scaling by {scaling.factor:g}"])])


def _complete(scaling: Scaling | None, config: Any) -> Scaling | None:
    """With the known length in it."""
    if scaling is None or scaling.original_max_tokens is not None:
        return scaling
    return scaling.model_copy(update={"original_max_tokens": _known_length(config)})


def _known_length(config: Any) -> int:
    """Tokens that the weights know without scaling."""
    own = _parameters(config) or {}
    return own.get("original_max_position_embeddings") or config.max_position_embeddings


def _parameters(config: Any) -> dict[str, Any] | None:
    """Those of full attention; None without RoPE."""
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        return None
    if "rope_theta" in parameters:
        return parameters
    return parameters.get("full_attention") or next(iter(parameters.values()))  # one set for each kind of layer


def _is_rotary(module: nn.Module) -> bool:
    return any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))


def _rotary(model: nn.Module) -> Iterator[Any]:
    return (module for module in model.modules() if _is_rotary(module))
