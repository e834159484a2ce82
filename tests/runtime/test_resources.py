"""Memory that a process keeps, and what fits."""

import subprocess
import sys

import pytest

from fairseq.runtime import resources

ALLOCATE = """
import resource, sys
import numpy as np
from fairseq.runtime.resources import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def take_and_free():
    blocks = [np.ones(size << 17) for size in (3, 48, 40)]  # so many MiB
    del blocks

take_and_free()
before = faults()
for _ in range(5):
    take_and_free()
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_freed_memory_is_taken_again() -> None:
    def faults(mode: str) -> int:
        return int(subprocess.check_output([sys.executable, "-c", ALLOCATE, mode]))

    given_back = faults("leave")
    if given_back < 1000:
        pytest.skip("this system's allocator keeps freed memory anyway")
    assert faults("keep") < given_back / 10


def test_what_fits_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "free_memory_bytes", lambda: 1000)
    assert resources.fits_memory(1000) and not resources.fits_memory(1001)
    assert (resources.share_of_memory(4, 900), resources.share_of_memory(4, 90)) == (250, 90)
    monkeypatch.setattr(resources, "free_memory_bytes", lambda: None)
    assert resources.fits_memory(1001) and resources.share_of_memory(4, 900) == 900


FREE = """
import sys
import numpy as np
from fairseq.runtime.resources import give_freed_memory_back

if sys.argv[1] == "give":
    give_freed_memory_back()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 >> 20

np.ones(30 << 17)  # from now on glibc keeps blocks of up to 30 MiB
before = resident()
blocks, between = [], []
for _ in range(40):
    blocks.append(np.ones(3 << 17))
    between.append(np.ones(1 << 10))
del blocks
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_freed_memory_is_given_back() -> None:
    def kept(mode: str) -> int:
        return int(subprocess.check_output([sys.executable, "-c", FREE, mode]))

    if kept("leave") < 100:
        pytest.skip("this system's allocator gives freed memory back anyway")
    assert kept("give") < 10
