"""A model that is split over the processes (FSDP2): each holds a part of every weight, of its gradient and moments.

Every layer's weights are brought together when it is computed, and let go again. The arithmetic is that of one process.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.model.backbone import layers


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is split, brought together: a call that all processes make. Any other as it is."""
    parts: Any = tensor
    return parts.full_tensor() if _is_split(tensor) else tensor


def brought_together(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """All of them whole and contiguous, those that were split on the CPU: a call that all processes make.

    keep: False = this process only sends its parts, and gets nothing.
    """
    found = {}
    for name, tensor in tensors.items():
        one = whole(tensor)
        if keep:
            found[name] = (one.cpu() if _is_split(tensor) else one).contiguous()
    return found


def parts_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor, the same on all processes, split as `reference` is; nothing is sent. On its device."""
    if not _is_split(reference):
        return tensor.to(reference.device)
    from torch.distributed.tensor import distribute_tensor

    like: Any = reference
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def split(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy of a model on the device, each process with its part of the weights; `model` itself goes to the CPU.

    There it waits for `join`, so that no device ever holds all of it in training.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    copied = copy.deepcopy(model.cpu())
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    student: Any = getattr(copied, "student", copied)
    for layer in layers(student.backbone):
        fully_shard(layer, mesh=mesh)
    projection: Any = getattr(copied, "projection", None)
    if projection is not None and list(projection.parameters()):
        # losses call it once the vectors are there, when the rest of the model is split again
        fully_shard(projection, mesh=mesh)
        register_fsdp_forward_method(projection, "meet")
    fully_shard(copied, mesh=mesh)
    return copied.to(device)  # buffers; the weights are there


@torch.no_grad()
def join(model: nn.Module, parts: nn.Module) -> None:
    """Copy the weights and buffers of `split` back into the model it was made of: a call that all processes make."""
    own = model.state_dict()
    for name, tensor in parts.state_dict().items():
        own[name].copy_(whole(tensor))


def is_split(model: nn.Module) -> bool:
    """Whether `split` made it."""
    return any(_is_split(p) for p in model.parameters())


def _is_split(tensor: Any) -> bool:
    return hasattr(tensor, "full_tensor")  # a DTensor; to import its type takes long, and one process needs none
