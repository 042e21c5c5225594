"""The machine a number was measured on, and how fast it multiplies matrices."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from limbeck import __version__

if TYPE_CHECKING:
    from torch import Tensor

Precision = Literal["fp32", "bf16"]

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # M_MMAP_THRESHOLD and M_ARENA_MAX of glibc's malloc.h
_PAGE_OUT = 21  # MADV_PAGEOUT of Linux 5.4's mman.h

# What can change a score or a speed; the rest of the environment is in the lock file of whoever wants it.
PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "accelerate", "numpy")


@dataclass(frozen=True, slots=True)
class Machine:
    """What a benchmark or a score file says about where it ran. Memory in GiB (2^30 bytes)."""

    cpu: str
    cores: int  # that this process may use
    ram_gib: float  # of the machine, or of the container where that is less
    cpu_bf16: str  # "amx", "avx512" or "arm": the instructions that compute in bfloat16; "none" = emulated, slower
    gpu: str | None
    gpu_ram_gib: float | None
    os: str
    python: str
    packages: dict[str, str]
    load_average: tuple[float, float, float] | None  # over 1, 5 and 15 minutes, at the time of asking

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """One line, for the head of a table."""
        gpu = f", {self.gpu} ({self.gpu_ram_gib:.0f} GiB)" if self.gpu else ""
        return f"{self.cpu}, {self.cores} cores, {self.ram_gib:.0f} GiB, bf16: {self.cpu_bf16}{gpu}"


def describe() -> Machine:
    """Describe this machine. Imports torch."""
    import torch

    gpu, gpu_ram = None, None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu, gpu_ram = properties.name, round(properties.total_memory / 2**30, 1)
    return Machine(
        cpu=_cpu_name(),
        cores=usable_cores(),
        ram_gib=round(usable_ram() / 2**30, 1),
        cpu_bf16=_cpu_bf16(),
        gpu=gpu,
        gpu_ram_gib=gpu_ram,
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        packages={"limbeck": __version__} | {name: found for name in PACKAGES if (found := _version(name))},
        load_average=load_average(),
    )


def load_average() -> tuple[float, float, float] | None:
    """Processes that wanted a core, on average over 1, 5 and 15 minutes; above `usable_cores`, timings mean little."""
    if not hasattr(os, "getloadavg"):
        return None
    one, five, fifteen = (round(x, 2) for x in os.getloadavg())
    return one, five, fifteen


def usable_cores() -> int:
    """CPU cores that this process may run on, or the container's quota of them where that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))  # rounded down: a thread too many stops all of them
    except (OSError, ValueError):  # no such container, or the word "max"
        return cores


def usable_ram() -> int:
    """Bytes of memory of the machine, or the container's limit where that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):  # not in a container of that kind, or the word "max"
            continue
    return total


def peak_rss_mib() -> float:
    """Most memory that this process has held so far, in MiB (2^20 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # macOS counts bytes, Linux kibibytes


class PeakMemory:
    """Most memory held while a `with` block ran, beyond what was held when it began.

    On CUDA it is what tensors took on the device. Elsewhere it is the resident memory of the process, which Linux lets
    begin anew; where that is refused, or there is no Linux, it is the most that the process has ever held.
    """

    def __init__(self, device: str = "cpu") -> None:
        """Args: device: as torch names it."""
        self._cuda = device.startswith("cuda")
        self.held = 0  # bytes when it began
        self.bytes = 0  # once the block has ended

    def __enter__(self) -> PeakMemory:
        """Begin."""
        return_freed_memory()
        if self._cuda:
            import torch

            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.held = torch.cuda.memory_allocated()
            return self
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak from now on
        self.held = _resident("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        """Take the peak."""
        if self._cuda:
            import torch

            peak = torch.cuda.max_memory_allocated()
        else:
            peak = _resident("VmHWM")
        self.bytes = max(0, peak - self.held)


def _resident(field: str) -> int:
    """Bytes by a field of /proc/self/status; where there is no such file, the most that the process has held."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return round(peak_rss_mib() * 2**20)
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


@contextmanager
def without_holes() -> Iterator[None]:
    """Have every freed tensor go back to the system at once, where the C library is glibc.

    By itself glibc keeps freed memory between what is still held, since to ask for it anew costs a fifth of a training
    step. Without these holes a process holds what its tensors are.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        yield
        return
    mallopt(_MMAP_THRESHOLD, 64 * 2**10)  # pieces from this size on are mapped one by one
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, 32 * 2**20)  # what it comes to by itself where tensors are large


def keep_freed_memory() -> None:
    """Let glibc keep up to 64 MiB that passes free, instead of giving it back and getting it anew page by page.

    It does so by itself once a block of some 30 MiB has been freed; until then passes at inference pay for fresh pages,
    up to a tenth of their time. Nobody writes to the block that is freed here, so it takes no memory.
    """
    import torch

    torch.empty(31 * 2**20, dtype=torch.uint8)  # blocks of 32 MiB and more do not count


def return_freed_memory() -> None:
    """Give memory that was freed back to the system, where the C library is glibc.

    Tensors of many shapes leave holes between what is still held, and glibc keeps those: each stage of a run would
    start on top of what the largest tensors of the stage before it took.
    """
    gc.collect()
    if trim := _of_glibc("malloc_trim"):
        trim(0)


def let_go_of_pages(tensor: Tensor) -> None:
    """Take the pages of a tensor out of memory, where it was read as part of a file and nobody needs it any more.

    Weights that are read from a safetensors file are its pages, and all of the file counts as held by the process while
    any of its tensors is in use. Linux only; a tensor that is used after all is read again.
    """
    madvise = _of_glibc("madvise")
    if madvise is None or tensor.device.type != "cpu":
        return
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    size = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - start
    if size > 0:
        # a hint, which old kernels refuse: nothing is lost with it, as would be with MADV_DONTNEED
        madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _PAGE_OUT)


def use_one_arena() -> None:
    """Let all threads take memory from one place, where the C library is glibc. For a process of our own, at its start.

    By itself glibc gives threads arenas of their own, of heaps of 64 MiB each: threads that compute in turn keep what
    each of them once needed, and heaps that come and go cost fresh pages.
    """
    if mallopt := _of_glibc("mallopt"):
        mallopt(_ARENA_MAX, 1)


def _of_glibc(name: str) -> Any:
    """A function of the C library, None where that is another one."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None  # musl has none of these


def computes_in_bf16(device: str = "cpu") -> bool:
    """True if `device` ("cpu", "cuda", …) has bfloat16 instructions: there bf16 is faster than fp32, else slower."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8
    if device.startswith("cpu"):
        return _cpu_bf16() != "none"
    return False


def matmul_rate(
    shapes: list[tuple[int, int, int]], precision: Precision, *, device: str = "cpu", seconds: float = 1.0
) -> float:
    """Measure matrix products at the given shapes.

    Args:
        shapes: (rows, inner, columns) of each product of one pass, e.g. the linear layers of a model at so many tokens.
        precision: what the matrices hold; the time of converting to it is not counted.
        device: where to multiply.
        seconds: how long to go on after one warm-up pass; at least three passes are made.

    Returns:
        Floating-point operations per second (2·rows·inner·columns each) of the fastest pass: other processes only
        ever slow a pass down, so the fastest is the closest to the machine's own rate.
    """
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    pairs = [
        (torch.randn(m, k, dtype=dtype, device=device), torch.randn(k, n, dtype=dtype, device=device))
        for m, k, n in shapes
    ]

    def one_pass() -> float:
        start = time.perf_counter()
        for a, b in pairs:
            torch.matmul(a, b)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter() - start

    one_pass()  # page faults and kernel choice
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        times.append(one_pass())
    return sum(2 * m * k * n for m, k, n in shapes) / min(times)


def _cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpu_bf16() -> str:
    flags = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    if "amx_bf16" in flags:
        return "amx"
    if "avx512_bf16" in flags:
        return "avx512"
    return "arm" if "bf16" in flags else "none"


@cache
def _cpuinfo(field: str) -> str:
    """First value of a field of /proc/cpuinfo; empty where there is no such file or field."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
