"""What every objective does first: fp32, and unit vectors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_SHORTEST = 1e-6  # a vector below this length has no direction worth the gradient of 1 / length


def in_fp32(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Run a function of tensors in fp32, whatever comes in and under whatever autocast it is called.

    Floating tensors among the arguments are cast; integers and booleans stay. Autocast alone would compute the matrix
    products of fp32 vectors in bf16 again: a cosine is then off by up to 0.002, 0.1 in a logit at temperature 0.02.
    Call `backward` outside autocast, as torch asks: inside, it would round the same products of the gradient.
    """
    call: Callable[..., Result] = function

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Result:
        device = next(value.device for value in [*args, *kwargs.values()] if isinstance(value, Tensor))
        with torch.autocast(device.type, enabled=False):
            return call(*map(_fp32, args), **{name: _fp32(value) for name, value in kwargs.items()})

    return run


def unit(vectors: Tensor) -> Tensor:
    """[..., D] → the same directions at length 1. A zero vector stays zero, with a gradient of ordinary size.

    (Division by a tiny epsilon, as in `F.normalize`, gives it a gradient of 1e12: one such row is all that is left of
    a step after clipping.)
    """
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / lengths.where(lengths > _SHORTEST, 1.0)


def _fp32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
