"""What a machine is asked to do, and does."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from limbeck import machine

MEASURE = """
import os
from limbeck.machine import return_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

held = [bytearray(20_000) for _ in range(10_000)]
last = held[-1]  # at the top of the heap: without a trim, nothing below it goes back
del held
before = resident()
return_freed_memory()
print(before, resident())
"""


MAPPED = """
import ctypes, sys
import numpy as np
from limbeck.machine import keep_freed_memory

class Held(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd u f uord ford keep".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Held
if sys.argv[1] == "keep":
    keep_freed_memory()
before = libc.mallinfo2().hblks
block = np.empty(20 * 2**20, np.uint8)
print(libc.mallinfo2().hblks - before)
"""

on_glibc = pytest.mark.skipif(
    sys.platform != "linux" or "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="how glibc keeps freed memory"
)


@on_glibc
@pytest.mark.skipif(sys.platform == "linux" and not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc 2.33 tells")
def test_blocks_as_large_as_a_pass_has_are_not_mapped_one_by_one() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}

    def mapped(how: str) -> int:
        command = [sys.executable, "-c", MAPPED, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)

    assert mapped("") == 1  # and would go back to the system when it is freed
    assert mapped("keep") == 0


ARENAS = """
import ctypes, sys, threading
from limbeck.machine import use_one_arena

if sys.argv[1] == "one":
    use_one_arena()
waiting = threading.Barrier(4)

def work():
    held = bytearray(100_000)
    waiting.wait()

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@on_glibc
@pytest.mark.skipif(machine.usable_cores() < 2, reason="one core has few arenas")
def test_threads_take_memory_from_one_place_where_that_is_asked_for() -> None:
    def arenas(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", ARENAS, how], capture_output=True, text=True, check=True)
        return done.stdout.count("<heap nr=")

    assert arenas("") > 1
    assert arenas("one") == 1


@on_glibc
def test_freed_memory_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before - after > 150_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak of a process cannot begin anew")
def test_the_peak_of_a_block_is_what_was_held_in_it_and_not_before_or_after() -> None:
    with machine.PeakMemory() as large:
        np.ones(40 * 2**20, dtype=np.float32)  # 160 MiB
    with machine.PeakMemory() as small:
        np.ones(2**20, dtype=np.float32)
    assert 150 * 2**20 < large.bytes < 240 * 2**20
    assert small.bytes < 80 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="a hint to Linux")
def test_pages_of_a_file_leave_memory_and_what_was_written_on_them_is_kept(tmp_path: Path) -> None:
    save_file({"large": torch.ones(16 * 2**20), "kept": torch.ones(2**20)}, tmp_path / "weights.safetensors")  # 64 MiB

    def resident() -> int:
        return machine._resident("RssFile")

    read = load_file(tmp_path / "weights.safetensors")
    before = resident()
    assert read["large"].sum() == 16 * 2**20
    if resident() - before < 60 * 2**20:
        pytest.skip("a file system in memory")
    read["large"][5] = 2.0
    machine.let_go_of_pages(read["large"])
    assert resident() - before < 8 * 2**20
    assert read["large"][5] == 2.0
    assert read["large"].sum() == 16 * 2**20 + 1


def test_tensors_that_are_no_pages_of_a_file_are_left_alone() -> None:
    for tensor in (torch.arange(10), torch.arange(2**20), torch.empty(0), torch.empty(5, device="meta")):
        before = tensor.tolist() if tensor.device.type == "cpu" else None
        machine.let_go_of_pages(tensor)
        assert before is None or tensor.tolist() == before
