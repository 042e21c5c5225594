"""LoRA adapters: attached for training (by PEFT), kept on disk in its layout, and merged into the weights to encode.

    W + share · (alpha / rank) · B A        (Hu et al. 2021, arXiv 2106.09685)

r: rank.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from limbeck.config import Lora
from limbeck.errors import ConfigError, ModelError
from limbeck.files import read_json, write_json
from limbeck.machine import let_go_of_pages
from limbeck.model.backbone import layers

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."  # of every name in a file that PEFT writes


@dataclass(frozen=True)
class Adapter:
    """One adapter's weights, apart from any model."""

    factors: Mapping[str, tuple[Tensor, Tensor]]  # linear layer's name in the backbone → A [r, in], B [out, r], fp32
    rank: int
    alpha: float
    dropout: float = 0.0
    base: str | None = None  # `base_digest` of the model that it was trained on; None = not known

    def delta(self, name: str) -> Tensor:
        """What merging adds to a linear layer's weight: [out, in]."""
        a, b = self.factors[name]
        return (self.alpha / self.rank) * (b @ a)

    def save(self, folder: Path, *, base_model: str = "") -> None:
        """Write the two files of a PEFT adapter."""
        folder.mkdir(parents=True, exist_ok=True)
        targets = sorted({name.rpartition(".")[2] for name in self.factors})
        write_json(
            folder / CONFIG,
            {
                "peft_type": "LORA",
                "task_type": "FEATURE_EXTRACTION",
                "base_model_name_or_path": base_model,
                "r": self.rank,
                "lora_alpha": self.alpha,
                "lora_dropout": self.dropout,
                "target_modules": targets,
                "bias": "none",
                "fan_in_fan_out": False,
                "use_rslora": False,
                "use_dora": False,
                "inference_mode": True,
            },
        )
        tensors = {}
        for name, (a, b) in self.factors.items():
            tensors[f"{_PREFIX}{name}.lora_A.weight"] = a.detach().cpu().contiguous()
            tensors[f"{_PREFIX}{name}.lora_B.weight"] = b.detach().cpu().contiguous()
        # one key: safetensors writes several in random order, and equal adapters shall be equal files
        save_file(tensors, str(folder / WEIGHTS), metadata={"base": self.base} if self.base else {"format": "pt"})

    @classmethod
    def load(cls, folder: Path) -> Adapter:
        """Read a PEFT adapter. Raises ModelError: absent, torn, or of a kind that merging `B A` would get wrong."""
        try:
            body = read_json(folder / CONFIG)
            with safe_open(str(folder / WEIGHTS), "pt") as file:
                found: dict[str, Tensor] = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
                base = (file.metadata() or {}).get("base")
        except (OSError, ValueError, SafetensorError) as error:
            raise ModelError(f"the adapter in {folder} cannot be read: {error}") from None
        body = body if isinstance(body, dict) else {}
        odd = [key for key, plain in _PLAIN.items() if body.get(key, plain) not in (plain, None, {}, [], False)]
        if body.get("peft_type") != "LORA" or odd:
            kind = ", ".join(f"{k}={body[k]!r}" for k in odd) or f"peft_type={body.get('peft_type')!r}"
            raise ModelError(f"{folder / CONFIG}: expected a plain LoRA without biases, got {kind}")
        factors: dict[str, tuple[Tensor, Tensor]] = {}
        for name in found:
            linear, is_a, _ = name.removeprefix(_PREFIX).partition(".lora_A.")
            if is_a:
                other = found.get(name.replace(".lora_A.", ".lora_B."))
                if other is None:
                    raise ModelError(f"{folder / WEIGHTS} has {name} and no lora_B beside it: it is torn")
                factors[linear] = (found[name], other)
        if not factors or len(found) != 2 * len(factors):
            raise ModelError(f"{folder / WEIGHTS} does not hold pairs of lora_A and lora_B: {sorted(found)[:3]} …")
        rank, alpha = body.get("r"), body.get("lora_alpha")
        if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
            raise ModelError(f"{folder / CONFIG} must say r and lora_alpha, got {rank!r} and {alpha!r}")
        if any(a.ndim != 2 or b.ndim != 2 or not rank == len(a) == b.shape[1] for a, b in factors.values()):
            raise ModelError(
                f"{folder}: {CONFIG} says rank {rank}, {WEIGHTS} holds another: they do not belong together"
            )
        return cls(factors, rank, float(alpha), float(body.get("lora_dropout") or 0.0), base)

    def check_fits(self, backbone: nn.Module, *, name: str, digest: str | None = None) -> None:
        """Raise ModelError unless it was trained on this backbone (`digest`: its `base_digest`) and its shapes fit."""
        if digest is not None and self.base is not None and self.base != digest:
            raise ModelError(
                f"adapter {name} was trained on another base ({self.base}, this one is {digest}): load it with the "
                "model it was trained on, or train it again"
            )
        linears = dict(_linears(backbone))
        for linear, (a, b) in self.factors.items():
            expected = linears[linear].weight.shape if linear in linears else None
            if expected != (b.shape[0], a.shape[1]):
                there = f"is {list(expected)} here" if expected else "is not a linear layer of this model"
                raise ModelError(f"adapter {name} changes {linear} [{b.shape[0]}, {a.shape[1]}], which {there}")


# What each key must be (or be absent) for W + (alpha / rank) · B A to be what the adapter means.
_PLAIN: dict[str, Any] = {
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "lora_bias": False,
}


def base_digest(backbone: nn.Module) -> str:
    """16 hex digits over names, shapes and bytes of a backbone's weights: what an adapter belongs to."""
    digest = hashlib.sha256()
    for name, tensor in sorted(backbone.named_parameters()):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def attach(backbone: nn.Module, settings: Lora, task: str, *, seed: int) -> None:
    """Put a fresh adapter named `task` into the linear layers and freeze everything else, in place.

    B starts at 0, so the vectors are the base's at first. Raises ConfigError: no linear layer has such a name.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    linears = [name for name, _ in _linears(backbone)]
    names = {name.rpartition(".")[2] for name in linears}
    targets = sorted(names if settings.targets is None else settings.targets)
    if unknown := [t for t in targets if t not in names]:
        raise ConfigError(f"lora.targets names {unknown}; the layers of this backbone have {sorted(names)}")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # PEFT only divides by the rank
        lora_dropout=settings.dropout,
        # by full names: a pooler may have a part of the same name
        target_modules="|".join(re.escape(name) for name in linears if name.rpartition(".")[2] in targets),
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        inject_adapter_in_model(config, backbone, adapter_name=task)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(f".{task}." in name and ".lora_" in name)
    for module in backbone.modules():
        if isinstance(module, LoraLayer):
            # PEFT casts inputs to the adapter's fp32; under autocast they would be cast back for the product
            module.cast_input_dtype_enabled = False


def halve_frozen(backbone: nn.Module) -> None:
    """Keep the frozen weights of linear layers in bf16: what autocast would make of them for every single product.

    Where the backbone's weights are pages of its file, those of the layers are let go.
    """
    for module in backbone.modules():
        if isinstance(module, nn.Linear) and not module.weight.requires_grad:
            read = module.weight.data
            module.to(torch.bfloat16)
            let_go_of_pages(read)


def halve(backbone: nn.Module) -> None:
    """Put bf16 weights in place of those of linear layers: the old ones, which others may share, stay what they are."""
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            for name, weight in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(weight.detach().to(torch.bfloat16), requires_grad=False))


def taken_from(tensors: Mapping[str, Tensor], task: str, settings: Lora, *, base: str | None) -> Adapter:
    """The adapter `task` among named weights of a backbone that it is attached to (other names are passed over)."""
    end_a, end_b = f".lora_A.{task}.weight", f".lora_B.{task}.weight"
    factors = {
        name.removesuffix(end_a): (tensor.detach().float(), tensors[name.removesuffix(end_a) + end_b].detach().float())
        for name, tensor in tensors.items()
        if name.endswith(end_a)
    }
    return Adapter(factors, settings.rank, settings.alpha, settings.dropout, base)


@torch.no_grad()
def merged(backbone: nn.Module, shares: Sequence[tuple[Adapter, float]]) -> nn.Module:
    """A copy of the backbone with adapters merged in, each by its share; what no adapter changes is shared with it."""
    tensors = chain(backbone.parameters(), backbone.buffers())
    result = copy.deepcopy(backbone, {id(t): t for t in tensors})
    for name in dict.fromkeys(name for adapter, _ in shares for name in adapter.factors):
        linear: Any = result.get_submodule(name)
        # in one fixed order and from the base's own weights: the same call always gives the same bits
        weight = linear.weight.detach().clone()
        for adapter, share in shares:
            if name in adapter.factors:
                weight += share * adapter.delta(name).to(weight.device)
        # as the weight it replaces: autocast keeps the bf16 copy of a weight only where it requires a gradient
        linear.weight = nn.Parameter(weight, requires_grad=linear.weight.requires_grad)
    return result


def _linears(backbone: nn.Module) -> list[tuple[str, nn.Linear]]:
    """Linear layers of the stack, by their names in the backbone."""
    inside = {id(module) for module in layers(backbone).modules()}
    return [(n, m) for n, m in backbone.named_modules() if isinstance(m, nn.Linear) and id(m) in inside]
