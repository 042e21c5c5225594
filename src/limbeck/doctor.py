"""What limbeck finds on this machine, and how a model would run on it."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from limbeck import machine

_MATMUL = [(2048, 384, 1536), (2048, 1536, 384)]  # rows, inner, columns: a small student's feed-forward part


@dataclass(frozen=True, slots=True)
class Part:
    """Something optional. `missing`: packages that it lacks; `why`: what it is for, or why it cannot be used here."""

    name: str
    usable: bool
    missing: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model, and how it runs here. Seconds of wall time."""

    name: str
    runtime: str
    dims: list[int]
    tasks: list[str]
    max_tokens: int
    fingerprint: str
    load_seconds: float
    first_vector_seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """All that `limbeck doctor` says."""

    machine: machine.Machine
    runtime: str  # of a model with texts of 8,192 tokens, if nothing else is asked for
    why: str
    matmul_gflops: dict[str, float]  # 10^9 operations per second, by precision
    backends: list[Part]
    extras: list[Part]
    model: Loaded | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The same for people."""
        here = self.machine
        speeds = ", ".join(f"{precision} {rate:,.0f}" for precision, rate in self.matmul_gflops.items())
        found = [
            f"machine   {here}",
            f"system    {here.os}, Python {here.python}",
            f"packages  {', '.join(f'{name} {number}' for name, number in here.packages.items())}",
            f"runtime   {self.runtime}",
            f"          {self.why}",
            f"matmul    {speeds} GFLOP/s",
            *(f"backend   {_line(part)}" for part in self.backends),
            *(f"extra     {_line(part)}" for part in self.extras),
        ]
        if model := self.model:
            found += [
                f"model     {model.name}: {model.dims[-1]} dims, {model.max_tokens:,} tokens, fingerprint "
                f"{model.fingerprint}",
                f"          tasks: {', '.join(model.tasks) or 'none'}",
                f"          {model.runtime}; loaded in {model.load_seconds:.1f} s, first vector after "
                f"{model.first_vector_seconds:.1f} s more",
            ]
        return found


def examine(model: str | None = None, *, backend: Any = "torch", compile: bool = False) -> Report:
    """Look at this machine, and load a model if one is named.

    Args:
        model: a bundle or published folder; None = none.
        backend: to load it in.
        compile: as in `limbeck.load`.

    Raises what `limbeck.load` does.
    """
    loaded = _loaded(model, backend, compile) if model else None  # first, while nothing is warm
    from limbeck.model import runtime

    device = runtime.device_of()
    precision = runtime.precision_of("auto", device)
    attention = runtime.attention_of("auto", device, 8192, precision)
    here = machine.describe()
    chosen = runtime.Runtime("torch", str(device), precision, attention, runtime.limit_threads(), compiled=False)
    bf16 = machine.computes_in_bf16(device.type)  # else it is emulated, and measuring that takes its time
    speeds: dict[str, float] = {
        name: machine.matmul_rate(_MATMUL, name, device=str(device), seconds=0.5) / 1e9
        for name in (("fp32", "bf16") if bf16 else ("fp32",))
    }
    return Report(
        machine=here,
        runtime=str(chosen),
        why=_why(device.type, precision, here),
        matmul_gflops={name: round(rate, 1) for name, rate in speeds.items()},
        backends=_backends(device.type),
        extras=[_extra(name) for name in _extra_names()],
        model=loaded,
    )


def _loaded(model: str, backend: Any, compile: bool) -> Loaded:
    start = time.perf_counter()
    import limbeck

    encoder = limbeck.load(model, backend=backend, compile=compile)
    ready = time.perf_counter()
    encoder.encode("A first text.", task=encoder.tasks[0] if encoder.tasks else None)
    return Loaded(
        name=encoder.spec.name,
        runtime=str(encoder.runtime),
        dims=encoder.dims,
        tasks=encoder.tasks,
        max_tokens=encoder.max_tokens,
        load_seconds=round(ready - start, 2),
        first_vector_seconds=round(time.perf_counter() - ready, 2),
        fingerprint=encoder.fingerprint,
    )


def _why(device: str, precision: str, here: machine.Machine) -> str:
    if device == "cuda":
        return f"a GPU is there ({here.gpu})" + (", and computes in bf16" if precision == "bf16" else ", without bf16")
    if device == "mps":
        return "Apple's GPU is there; bf16 is not used on it"
    if precision == "bf16":
        return f"no GPU; this CPU multiplies in bf16 by {here.cpu_bf16}"
    return "no GPU; this CPU has no bf16 instructions (AMX, AVX512-BF16), and to emulate them would be slower"


def _backends(device: str) -> list[Part]:
    from limbeck.model import openvino

    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    found = [
        Part("torch", usable=True, why="the default"),
        Part(
            "torch, compiled",
            usable=device != "cpu" or compiler is not None,
            why="" if device != "cpu" or compiler else "needs a C++ compiler, and none is on the path",
        ),
        Part("openvino", usable=openvino.installed(), missing=() if openvino.installed() else ("openvino",)),
    ]
    if device == "cuda":
        flash = _has("flash-attn")
        found.append(Part("flash-attn", flash, () if flash else ("flash-attn",), "long texts and packing on a GPU"))
    return found


def _extra_names() -> list[str]:
    from importlib.metadata import metadata

    found = metadata("limbeck").get_all("Provides-Extra") or []
    return [name for name in found if name not in ("all", "dev", "demo", "ablate")]


def _extra(name: str) -> Part:
    """What an extra needs that is not installed; versions are pip's business."""
    from packaging.requirements import Requirement

    needed = [Requirement(line) for line in requires("limbeck") or []]
    wanted = [r.name for r in needed if r.marker and "extra" in str(r.marker) and r.marker.evaluate({"extra": name})]
    missing = tuple(package for package in wanted if not _has(package))
    return Part(name, usable=not missing, missing=missing)


def _has(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _line(part: Part) -> str:
    lacks = f"lacks {', '.join(part.missing)}" if part.missing else ""
    said = ", ".join(text for text in (lacks, part.why) if text)
    return f"{'yes' if part.usable else 'no ':<3}  {part.name}{f': {said}' if said else ''}"
