"""How a transformer runs on this device: precision, attention, compilation. One place, so that it can be said."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch

from limbeck.errors import ConfigError
from limbeck.machine import computes_in_bf16, usable_cores

Precision = Literal["auto", "fp32", "bf16"]
Backend = Literal["torch", "openvino"]

# Below this many tokens, batched matrix products with the full attention matrix are faster on a CPU with AVX2 than its
# flash-attention kernel; above, the matrix no longer fits the caches and costs memory quadratic in the length. With
# AVX512 that kernel is level for the shortest texts and ahead from some tens of tokens on (both in fp32); but its
# backward pass in bf16 takes so long that with the matrix a step of training is half as fast again.
EAGER_LIMIT = 512
EAGER_OR_SDPA = "eager_or_sdpa"  # the attention that chooses so for each batch, see limbeck.model.attention
BY_TEXT = "sdpa_by_text"  # the one that takes texts which stand in one row one after the other, likewise


@dataclass(frozen=True, slots=True)
class Runtime:
    """How a model runs here, as `limbeck doctor` says it."""

    backend: Backend
    device: str  # as torch names it
    precision: Literal["fp32", "bf16"]  # of matrix products
    attention: str  # as transformers names it
    threads: int  # on the CPU
    compiled: bool

    def __str__(self) -> str:
        """One line for people."""
        how = "openvino" if self.backend == "openvino" else f"torch, {self.attention} attention"
        threads = f", {self.threads} threads" if self.device == "cpu" else ""
        return f"{how}, {self.precision} on {self.device}{threads}{', compiled' if self.compiled else ''}"


def check_backend(backend: str, device: torch.device, *, compiled: bool) -> None:
    """Raise ConfigError: an unknown backend, or one that does not go with the rest."""
    if backend not in ("torch", "openvino"):
        raise ConfigError(f"backend must be one of torch, openvino; got {backend!r}")
    if backend == "openvino" and device.type != "cpu":
        raise ConfigError(f'the OpenVINO backend computes on the CPU: load with device="cpu", got {device.type}')
    if backend == "openvino" and compiled:
        raise ConfigError("compile=True is for the torch backend; OpenVINO compiles by itself: leave one of them out")


def limit_threads() -> int:
    """Keep torch from starting more threads than this process has cores. Returns how many it uses.

    In a container with a quota torch counts the machine's cores, and threads that wait for a core stop the others. Who
    asked for fewer keeps what was asked for.
    """
    if torch.get_num_threads() > (cores := usable_cores()):
        torch.set_num_threads(cores)
    return torch.get_num_threads()


def use_threads(count: int) -> None:
    """Let what this thread computes on a CPU take so many threads; other threads keep theirs (OpenMP, MKL)."""
    if torch.get_num_threads() != count:  # setting it empties oneDNN's cache
        torch.set_num_threads(count)


def device_of(name: str | None = None) -> torch.device:
    """The device asked for, or the best there is: CUDA, then MPS, then CPU."""
    if name:
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def precision_of(asked: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """`auto` is bf16 where the device computes in it natively, fp32 elsewhere."""
    if asked != "auto":
        return asked
    return "bf16" if computes_in_bf16(device.type) else "fp32"


def attention_of(
    asked: str, device: torch.device, max_tokens: int, precision: str = "bf16", *, trains: bool = False
) -> str:
    """What `auto` means, where the longest that a batch can be is `max_tokens`.

    On a CPU with AVX512 sdpa, but for training in bf16; there, and on other CPUs, eager for short batches, sdpa for
    long; on CUDA FlashAttention in bf16, if installed; else sdpa.
    """
    if asked != "auto":
        return asked
    slow_backward = trains and precision == "bf16"
    if device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512" and not slow_backward:
        return "sdpa"
    if device.type == "cpu" and max_tokens <= EAGER_LIMIT:
        return "eager"
    if device.type == "cpu":
        import limbeck.model.attention  # noqa: F401  # makes its name known to transformers, which is slow to import

        return EAGER_OR_SDPA
    if device.type == "cuda" and precision == "bf16" and find_spec("flash_attn"):
        return "flash_attention_2"
    return "sdpa"


def autocast(precision: Literal["fp32", "bf16"], device: torch.device) -> AbstractContextManager[object]:
    """bf16 matrix products with fp32 weights and sums, or nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def checkpoint_activations(backbone: Any) -> None:
    """Let a transformers model keep no activations of its layers: they are computed again in the backward pass."""
    # the name that transformers keeps; older releases of 5 have only the other
    enable = getattr(backbone, "activation_checkpointing_enable", None) or backbone.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def encode_tokens(device: torch.device) -> int:
    """Padded tokens of one forward pass at inference: on a CPU what its caches hold, on a GPU what keeps it busy."""
    return 2_048 if device.type == "cpu" else 65_536
