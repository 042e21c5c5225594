"""A student as one ONNX graph: token ids in, unit vectors out, whatever runs it.

B: texts, T: tokens, D: dims, r: rank.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from limbeck.errors import ModelError
from limbeck.model import rope
from limbeck.model.adapters import Adapter, merged
from limbeck.model.student import StudentModel
from limbeck.model.tokenizer import first_line

IDS, MASK, TASK, EMBEDDING = "input_ids", "attention_mask", "task", "embedding"
TASKS = "tasks"  # key of the file's metadata: JSON list of the adapters' names, which `task` counts from 0

_OPSET = 20  # of 2023: known to every runtime in use, and its Gelu is one operator
_INLINE_BYTES = 2**31 - 2**24  # protobuf, and so one ONNX file, ends at 2 GiB; the graph itself takes some of it


def write_onnx(student: StudentModel, path: Path, *, adapters: Mapping[str, Adapter] | None = None) -> None:
    """Write a student with its pooling and L2 normalisation as one ONNX file, for texts of any number and length.

    Inputs: `input_ids` and `attention_mask`, [B, T] int64. Output: `embedding`, [B, D] fp32, at unit length. RoPE is as
    the student has it now.

    Args:
        student: on the CPU, with its adapter, if any, merged in; it is left as it is.
        path: file to write. Weights of more than 2 GiB go into `path` with ".data" behind it.
        adapters: to be kept apart, by task. They add an input `task`, [B] int64: for each text, the place of its task
            in the list that the file's metadata calls `tasks`. One batch may mix tasks.

    Raises ModelError: no such graph can be made of this architecture, or RoPE of dynamic scaling, whose frequencies
    depend on the longest text. ModuleNotFoundError: onnx or onnxscript.
    """
    import onnxscript  # noqa: F401  # what torch's exporter needs, named before it is started

    if rope.stretched_beyond(student.backbone) is not None:
        raise ModelError(
            "RoPE of dynamic scaling has other frequencies for every length, and a graph has one set: take yarn or "
            "linear scaling (student.rope.inference_scaling)"
        )
    graph = _Graph(student, adapters or {}).eval()
    # more than one text and one token: torch takes an axis of 1 for one that is always 1
    ids, mask = torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64)
    axes = {0: Dim("batch"), 1: Dim("tokens")}
    inputs, shapes, names = (ids, mask), (axes, axes), [IDS, MASK]
    if adapters:
        inputs, shapes, names = (*inputs, torch.zeros(2, dtype=torch.int64)), (*shapes, {0: axes[0]}), [*names, TASK]
    try:
        with torch.no_grad(), _quiet():
            program: Any = torch.onnx.export(
                graph,
                inputs,
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=names,
                opset_version=_OPSET,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        kind = type(student.backbone).__name__
        raise ModelError(f"{kind} cannot be written as one graph: {first_line(error)}") from error
    _name_output(program.model.graph)
    if adapters:
        program.model.metadata_props[TASKS] = json.dumps(list(adapters))
    tensors = chain(graph.parameters(), graph.buffers())
    program.save(path, external_data=sum(t.numel() * t.element_size() for t in tensors) > _INLINE_BYTES)


@dataclass
class _Chosen:
    """The tasks of the batch, for the layers to read; no module, so that a forward pass may set it."""

    task: Tensor | None = None  # [B] int64


class _Graph(nn.Module):
    """What is written: a copy of the student that shares its weights."""

    def __init__(self, student: StudentModel, adapters: Mapping[str, Adapter]) -> None:
        super().__init__()
        self.student: Any = merged(student, [])
        self.student.backbone.set_attn_implementation("sdpa")  # the others choose by values, or are kernels of a device
        self._chosen = _Chosen()
        for name in dict.fromkeys(name for adapter in adapters.values() for name in adapter.factors):
            _attach(self.student.backbone.get_submodule(name), name, list(adapters.values()), self._chosen)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, task: Tensor | None = None) -> Tensor:
        self._chosen.task = task
        return F.normalize(self.student(input_ids, attention_mask), dim=-1)


def _attach(linear: Any, name: str, adapters: list[Adapter], chosen: _Chosen) -> None:
    """Let a linear layer add, for each text, what the adapter of its task adds."""
    rank = max(adapter.rank for adapter in adapters)
    a = torch.zeros(len(adapters), linear.in_features, rank)  # an adapter of a lower rank, or none, adds zeros
    b = torch.zeros(len(adapters), rank, linear.out_features)
    for i, adapter in enumerate(adapters):
        if name in adapter.factors:
            down, up = adapter.factors[name]
            a[i, :, : adapter.rank] = down.T
            b[i, : adapter.rank] = (adapter.alpha / adapter.rank) * up.T
    linear.register_buffer("lora_a", a)
    linear.register_buffer("lora_b", b)

    def add(linear: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return output + inputs[0] @ linear.lora_a[chosen.task] @ linear.lora_b[chosen.task]

    linear.register_forward_hook(add)


def _name_output(graph: Any) -> None:
    """Call the output `embedding`. torch gives that name to the first look-up of a token's vector as well."""
    for node in graph:
        for value in node.outputs:
            if value.name == EMBEDDING:
                value.name = "token_embedding"
    graph.outputs[0].name = EMBEDDING


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what torch's exporter says about itself: packages that it does not need, and its own deprecated calls."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
