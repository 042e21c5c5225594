"""What a machine is asked to do, and does."""

import os
import subprocess
import sys

import numpy as np
import pytest

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


@pytest.mark.skipif(
    sys.platform != "linux" or "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="glibc keeps freed memory"
)
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
