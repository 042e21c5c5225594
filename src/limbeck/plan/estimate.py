"""What a transformer costs, from its config alone: weights, arithmetic, activations, and a short measured probe.

Nothing here needs weights, a tokenizer or the network, and the largest thing ever allocated is a few layers.
"""

from __future__ import annotations

import copy
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from limbeck.machine import Precision, matmul_rate

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

# Share of the matmul rate that a forward and backward pass of a whole transformer reaches, where it is not measured.
ASSUMED_UTILISATION = 0.4
# A probe builds at most so many weights: 32 million take 0.3 GB with their gradients and a second or so a step on CPU.
PROBE_WEIGHTS = 32_000_000
PROBE_TOKENS = 512
_PROBE_VOCABULARY = 1024  # looking a token up costs the same in a small table


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a transformer; counts are numbers of weights."""

    embedding: int  # token (and position) tables
    layers: int  # everything that is computed for each token
    depth: int  # number of layers
    hidden: int  # width of the residual stream
    attention: int  # heads × head_dim
    linear: tuple[tuple[int, int], ...]  # (inputs, outputs) of the matrices of one layer

    @property
    def total(self) -> int:
        """All weights."""
        return self.embedding + self.layers

    def forward_flops(self, length: int) -> int:
        """Floating-point operations for one token of a text of `length` tokens, in products of matrices.

        That is 2 for each weight of a matrix, and 4 for each state and token that attention compares it with. Causal
        attention is not counted as half: dense kernels compute the masked half too.
        """
        return self.depth * (2 * sum(i * o for i, o in self.linear) + 4 * self.attention * length)


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a model runs here, and how that is known."""

    tokens_per_second: float
    flops: float  # floating-point operations per second
    how: str


def shape_of(config: PretrainedConfig) -> Shape:
    """Count the weights of the model that `config` describes, without allocating them."""
    import torch
    from torch import nn

    with torch.device("meta"):
        model = _model(config)
    embedding = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding))
    used = {n: p for n, p in model.named_parameters() if not n.startswith("pooler.")}  # BERT's pooler is never run
    linear = [
        (m.in_features, m.out_features)
        for n, m in model.named_modules()
        if isinstance(m, nn.Linear) and not n.startswith("pooler.")
    ]
    depth = int(config.num_hidden_layers)
    heads = int(config.num_attention_heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return Shape(
        embedding=embedding,
        layers=sum(p.numel() for p in used.values()) - embedding,
        depth=depth,
        hidden=int(config.hidden_size),
        attention=heads * head_dim,
        linear=tuple(linear[: len(linear) // depth]),
    )


def activation_bytes(
    config: PretrainedConfig, *, tokens: int, length: int, precision: Precision, attention: str, checkpointing: bool
) -> int:
    """Bytes that autograd keeps between the forward and the backward pass of one micro-batch.

    Counted exactly, by running the forward pass on fake tensors (shapes without data) and adding up what is saved;
    kernels' scratch space comes on top, and `torch.compile` saves less.

    Args:
        config: of the backbone.
        tokens: padded tokens of the micro-batch.
        length: tokens of each text in it; matters for "eager" attention, which keeps a length × length matrix.
        precision: of the matrix products; "bf16" = autocast.
        attention: as transformers names it: "sdpa" or "eager".
        checkpointing: gradient checkpointing keeps one tensor a layer, and recomputes one layer at a time.
    """
    full = _saved_bytes(config, tokens, length, precision, attention)
    if not checkpointing:
        return full
    return _saved_bytes(config, tokens, length, precision, attention, checkpointing=True) + full // _depth(config)


def _saved_bytes(
    config: PretrainedConfig,
    tokens: int,
    length: int,
    precision: Precision,
    attention: str,
    checkpointing: bool = False,
) -> int:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    saved: dict[int, torch.Tensor] = {}  # by storage: views of one tensor count once
    with FakeTensorMode():
        model = _model(config, attention).train()
        if checkpointing:
            # the name that transformers keeps; older releases of 5 have only the other
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        weights = {p.untyped_storage()._cdata for p in model.parameters()}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            key = tensor.untyped_storage()._cdata
            if key not in weights:
                saved[key] = tensor  # kept alive, so that no later tensor gets the same address
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), _autocast("cpu", precision):
            _forward(model, max(1, tokens // length), length, "cpu")
        return sum(t.untyped_storage().nbytes() for t in saved.values())


def measure(
    config: PretrainedConfig, *, length: int, precision: Precision, device: str, train: bool, attention: str = "sdpa"
) -> Rate:
    """Time the model with random weights here: two training steps (or forward passes) after one to warm up.

    A model of more than `PROBE_WEIGHTS` is measured with fewer of its layers and scaled; one whose single layer is
    larger than that is not built at all: the rate of its matrix products is measured, and `ASSUMED_UTILISATION` of it
    taken.

    Args:
        config: of the backbone; its vocabulary is cut for the probe, since a lookup costs the same in a small table.
        length: tokens of each text.
        precision: "bf16" = autocast.
        device: "cpu" or "cuda".
        train: forward, backward; else forward alone.
        attention: as transformers names it.
    """
    shape = shape_of(config)
    flops = shape.forward_flops(length) * (3 if train else 1)  # the backward pass multiplies each matrix twice
    layers = min(shape.depth, PROBE_WEIGHTS * shape.depth // shape.layers)
    if layers == 0:
        rate = matmul_rate([(PROBE_TOKENS, i, o) for i, o in shape.linear], precision, device=device)
        return assumed(flops, rate, precision)
    seconds = _step_seconds(_shrunk(config, layers), length, precision, device, train, attention)
    rows = max(1, PROBE_TOKENS // length)
    tokens_per_second = rows * length / (seconds * shape.depth / layers)
    part = "" if layers == shape.depth else f" of {layers} of its {shape.depth} layers, scaled"
    what = "training steps" if train else "forward passes"
    how = f"measured: {what}{part}, {rows} texts of {length} tokens, {precision}, uncompiled"
    return Rate(tokens_per_second, tokens_per_second * flops, how)


def assumed(flops_per_token: int, matmul_flops: float, precision: Precision) -> Rate:
    """The rate where nothing but matrix products was measured."""
    flops = matmul_flops * ASSUMED_UTILISATION
    how = f"assumed: {ASSUMED_UTILISATION:.0%} of the measured {precision} matmul rate"
    return Rate(flops / flops_per_token, flops, how)


def _step_seconds(
    config: PretrainedConfig, length: int, precision: Precision, device: str, train: bool, attention: str
) -> float:
    import torch

    model = _model(config, attention).to(device).train(train)
    rows, times = max(1, PROBE_TOKENS // length), []
    for _ in range(3):  # the first pays page faults and kernel choice
        start = time.perf_counter()
        with nullcontext() if train else torch.no_grad(), _autocast(device, precision):
            loss = _forward(model, rows, length, device).float().square().mean()
        if train:
            loss.backward()
            model.zero_grad(set_to_none=False)
        loss.item()  # waits for the device
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _model(config: PretrainedConfig, attention: str = "sdpa") -> Any:
    from transformers import AutoModel

    config = copy.deepcopy(config)
    config.use_cache = False  # keys and values of past tokens are for text generation
    return AutoModel.from_config(config, attn_implementation=attention)


def _forward(model: Any, rows: int, length: int, device: str) -> torch.Tensor:
    import torch

    ids = torch.zeros(rows, length, dtype=torch.long, device=device)
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


def _autocast(device: str, precision: Precision) -> Any:
    import torch

    return torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=precision == "bf16")


def _depth(config: PretrainedConfig) -> int:
    return int(config.num_hidden_layers)


def _shrunk(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    values = config.to_dict() | {"num_hidden_layers": layers, "vocab_size": _PROBE_VOCABULARY}
    values |= {name: 0 for name in values if name.endswith("_token_id")}  # ids inside the small table
    values.pop("layer_types", None)  # a list with one entry a layer; the config makes it anew
    return type(config).from_dict(values)
