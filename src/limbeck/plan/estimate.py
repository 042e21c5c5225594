"""What a transformer costs, from its config alone: weights, arithmetic, activations, and a short measured probe.

Nothing here needs weights, a tokenizer or the network, and the largest thing ever allocated is a few layers.
"""

from __future__ import annotations

import copy
import time
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from limbeck.config import Lora
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
    token_table: int  # the part of it that is looked up by token
    layers: int  # everything that is computed for each token
    depth: int  # number of layers
    hidden: int  # width of the residual stream
    attention: int  # heads × head_dim
    linear: tuple[tuple[str, int, int], ...]  # (name, inputs, outputs) of the matrices of one layer
    pooled: bool = False  # the last layer gives every token a key and a value, and all else to one token a text

    @property
    def total(self) -> int:
        """All weights."""
        return self.embedding + self.layers

    def forward_flops(self, length: int) -> int:
        """Floating-point operations for one token of a text of `length` tokens, in products of matrices.

        That is 2 for each weight of a matrix, and 4 for each state and token that attention compares it with. Causal
        attention is not counted as half: dense kernels compute the masked half too.
        """
        everywhere = sum(i * o for name, i, o in self.linear if name in ("k_proj", "v_proj"))
        matrices = sum(i * o for _, i, o in self.linear)
        layer = 2 * matrices + 4 * self.attention * length
        if not self.pooled:
            return self.depth * layer
        return (self.depth - 1) * layer + 2 * everywhere + (layer - 2 * everywhere) // length

    def lora_weights(self, lora: Lora) -> int:
        """Weights of an adapter: for each matrix that it changes, rank × (inputs + outputs)."""
        changed = (i + o for name, i, o in self.linear if lora.targets is None or name in lora.targets)
        return self.depth * lora.rank * sum(changed)

    def adapter_flops(self, lora: Lora, length: int, *, recomputed: bool = False) -> int:
        """Operations of training an adapter, for one token of a text of `length` tokens.

        Forward (twice where activations are recomputed) and backward, which multiplies the adapter's matrices twice and
        frozen ones once: they get no gradient.
        """
        forward, adapter = self.forward_flops(length), 2 * self.lora_weights(lora)
        return 2 * forward + 3 * adapter + (forward + adapter if recomputed else 0)

    def frozen_bytes(self, precision: Precision) -> int:
        """Bytes of all weights, the matrices of the layers in `precision`, the rest in fp32."""
        matrices = self.depth * sum(i * o for _, i, o in self.linear)
        return 4 * self.total - (2 * matrices if precision == "bf16" else 0)


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a model runs here, and how that is known."""

    tokens_per_second: float
    flops: float  # floating-point operations per second
    how: str


def shape_of(config: PretrainedConfig, *, pooled: bool = False) -> Shape:
    """Count the weights of the model that `config` describes, without allocating them.

    pooled: its last layer is computed for the pooled token only, if the architecture is known to `last_layer`.
    """
    import torch
    from torch import nn

    from limbeck.model.last_layer import pool_in_last_layer

    with torch.device("meta"):
        model = _backbone(config)
    embedding = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Embedding))
    used = {n: p for n, p in model.named_parameters() if not n.startswith("pooler.")}  # BERT's pooler is never run
    linear = [
        (n.rpartition(".")[2], m.in_features, m.out_features)
        for n, m in model.named_modules()
        if isinstance(m, nn.Linear) and not n.startswith("pooler.")
    ]
    depth = _depth(config)
    heads = int(config.num_attention_heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return Shape(
        embedding=embedding,
        token_table=model.get_input_embeddings().weight.numel(),
        layers=sum(p.numel() for p in used.values()) - embedding,
        depth=depth,
        hidden=int(config.hidden_size),
        attention=heads * head_dim,
        linear=tuple(linear[: len(linear) // depth]),
        pooled=pooled and pool_in_last_layer(model),
    )


def activation_bytes(
    config: PretrainedConfig,
    *,
    tokens: int,
    length: int,
    precision: Precision,
    attention: str,
    checkpointing: bool,
    pooled: bool = False,
    lora: Lora | None = None,
) -> int:
    """Bytes that autograd keeps between the forward and the backward pass of one micro-batch.

    Counted exactly, by running the forward pass on fake tensors (shapes without data) and adding up what the kernels of
    a CPU save, with two layers and with three: each further one saves as much. Scratch space comes on top, and
    `torch.compile` saves less.

    Args:
        config: of the backbone.
        tokens: padded tokens of the micro-batch.
        length: tokens of each text in it; matters for "eager" attention, which keeps a length × length matrix.
        precision: of the matrix products; "bf16" = autocast.
        attention: as transformers names it: "sdpa" or "eager".
        checkpointing: gradient checkpointing keeps one tensor a layer, and recomputes one layer at a time.
        pooled: see `shape_of`.
        lora: an adapter that is trained on the frozen backbone, which then keeps less, and its adapter more.

    Raises ConfigError when `lora` names layers that the backbone does not have.
    """
    from limbeck.model import runtime  # brings torch

    def saved(layers: int, checkpointing: bool) -> int:
        model = _student(_shrunk(config, layers), "meta", attention, pooled, lora, precision).train()
        if checkpointing:
            runtime.checkpoint_activations(model.backbone)
        return _saved_bytes(model, tokens, length, precision)

    def of_all(checkpointing: bool) -> int:
        depth = _depth(config)
        few = saved(min(2, depth), checkpointing)  # two: the first and the last may differ from those between
        return few if depth <= 2 else few + (depth - 2) * (saved(3, checkpointing) - few)

    return of_all(True) + of_all(False) // _depth(config) if checkpointing else of_all(False)


def _saved_bytes(model: Any, tokens: int, length: int, precision: Precision) -> int:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    saved: dict[int, torch.Tensor] = {}  # by storage: views of one tensor count once
    with FakeTensorMode():
        held = {
            name: torch.empty(t.shape, dtype=t.dtype, requires_grad=t.requires_grad)
            for name, t in chain(model.named_parameters(), model.named_buffers())
        }
        weights = {t.untyped_storage()._cdata for t in held.values()}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            key = tensor.untyped_storage()._cdata
            if key not in weights:
                saved[key] = tensor  # kept alive, so that no later tensor gets the same address
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), _autocast("cpu", precision):
            torch.func.functional_call(model, held, _texts(max(1, tokens // length), length, "cpu"))
        return sum(t.untyped_storage().nbytes() for t in saved.values())


def measure(
    config: PretrainedConfig,
    *,
    length: int,
    precision: Precision,
    device: str,
    train: bool,
    attention: str = "sdpa",
    pooled: bool = False,
    lora: Lora | None = None,
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
        pooled: see `shape_of`.
        lora: an adapter that is trained in place of the model.
    """

    def flops(shape: Shape) -> int:
        if lora:
            return shape.adapter_flops(lora, length)
        return shape.forward_flops(length) * (3 if train else 1)  # the backward pass multiplies each matrix twice

    shape = shape_of(config, pooled=pooled)
    layers = min(shape.depth, PROBE_WEIGHTS * shape.depth // shape.layers)
    if layers == 0:
        rate = matmul_rate([(PROBE_TOKENS, i, o) for _, i, o in shape.linear], precision, device=device)
        return assumed(flops(shape), rate, precision)
    probed = _shrunk(config, layers)
    model = _student(probed, device, attention, pooled, lora, precision).train(train)
    rows = max(1, PROBE_TOKENS // length)
    seconds = _step_seconds(model, rows, length, precision, device)
    achieved = rows * length * flops(shape_of(probed, pooled=pooled)) / seconds
    part = "" if layers == shape.depth else f" of {layers} of its {shape.depth} layers, scaled"
    what = "forward passes" if not train else "training steps" + (f" of a LoRA of rank {lora.rank}" if lora else "")
    how = f"measured: {what}{part}, {rows} texts of {length} tokens, {precision}, uncompiled"
    return Rate(achieved / flops(shape), achieved, how)


def assumed(flops_per_token: int, matmul_flops: float, precision: Precision) -> Rate:
    """The rate where nothing but matrix products was measured."""
    flops = matmul_flops * ASSUMED_UTILISATION
    how = f"assumed: {ASSUMED_UTILISATION:.0%} of the measured {precision} matmul rate"
    return Rate(flops / flops_per_token, flops, how)


def _step_seconds(model: Any, rows: int, length: int, precision: Precision, device: str) -> float:
    import torch

    times = []
    for _ in range(3):  # the first pays page faults and kernel choice
        start = time.perf_counter()
        with nullcontext() if model.training else torch.no_grad(), _autocast(device, precision):
            loss = model(*_texts(rows, length, device)).square().mean()
        if model.training:
            loss.backward()
            model.zero_grad(set_to_none=False)
        loss.item()  # waits for the device
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _student(
    config: PretrainedConfig, device: str, attention: str, pooled: bool, lora: Lora | None, precision: Precision
) -> Any:
    """The model as it is trained, with random weights: all of it, or an adapter on it."""
    import torch

    from limbeck.model.adapters import attach, halve_frozen
    from limbeck.model.student import StudentModel

    with torch.device(device):
        backbone = _backbone(config, attention)
        if lora:
            attach(backbone, lora, "adapter", seed=0)
    if lora and precision == "bf16":
        halve_frozen(backbone)
    return StudentModel(backbone, pooling="last" if pooled else "mean")


def _backbone(config: PretrainedConfig, attention: str = "sdpa") -> Any:
    from transformers import AutoModel

    return AutoModel.from_config(copy.deepcopy(config), attn_implementation=attention)


def _texts(rows: int, length: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    ids = torch.zeros(rows, length, dtype=torch.long, device=device)
    return ids, torch.ones_like(ids)


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
