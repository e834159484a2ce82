"""The machine under the figures: what it is, and how fast it multiplies, copies, reads and writes.

torch is imported where it is used: a process that starts others must stay small, for the system counts the memory that
it holds when it starts them as theirs.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from floors import Rates

NO_BF16 = "no bf16 instructions on this CPU"
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16")
_REPEATS = 5


def has_bf16() -> bool:
    """Returns whether the CPU has instructions for bfloat16; without them ``--bf16`` computes in float32."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def facts() -> dict[str, Any]:
    """Returns CPU, instructions, threads, memory and versions."""
    import torch

    cpu, flags = platform.processor() or platform.machine(), set[str]()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = dict(line.split("\t: ", 1) for line in cpuinfo.read_text().splitlines() if "\t: " in line)
        found = {name.strip(): value for name, value in found.items()}
        cpu = f"{found.get('model name', cpu)} (family {found.get('cpu family')}, model {found.get('model')})"
        flags = set(found.get("flags", "").split())
    return {
        "cpu": cpu,
        "flags": [name for name in _FLAGS if name in flags],
        "bf16": has_bf16(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "faiss": version("faiss-cpu"),
        "load": round(os.getloadavg()[0], 2),
    }


def describe(machine: dict[str, Any]) -> str:
    """Returns the facts on two lines."""
    bf16 = "bf16" if machine["bf16"] else NO_BF16
    return (
        f"{machine['cpu']}; {' '.join(machine['flags']) or 'no vector flags known'}; {bf16}\n"
        f"{machine['cpus']} CPUs, {machine['threads']} threads, {machine['memory_gib']} GiB;"
        f" Python {machine['python']}, torch {machine['torch']}, numpy {machine['numpy']},"
        f" faiss {machine['faiss']}; load {machine['load']}"
    )


def measure_rates(work: Path, disk_bytes: int = 2**30) -> Rates:
    """Returns the rates that floors are divided by: the best of five, for a floor must not be crossed.

    Args:
        work: a directory on the disk that data lies on.
        disk_bytes: size of the file that is written and, once the page cache has let go of it, read.
    """
    import torch

    shapes = ((4096, 1024, 1024), (1024, 256, 1024))
    gemm = max(_gemm(*shape) for shape in shapes)
    big = np.ones(2**26, np.float32)
    tensor = torch.from_numpy(big)
    memory = big.nbytes / _best(lambda: tensor.sum())
    write, read = disk_rates(work / "disk.bin", disk_bytes)
    return Rates(gemm, memory, read, write)


def _gemm(rows: int, inner: int, columns: int) -> float:
    import torch

    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    times = max(1, round(2e10 / (2 * rows * inner * columns)))
    return times * 2 * rows * inner * columns / _best(lambda: [a @ b for _ in range(times)])


def _best(work: Callable[[], object]) -> float:
    work()
    return min(_timed(work) for _ in range(_REPEATS))


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def disk_rates(path: Path, num_bytes: int) -> tuple[float, float]:
    """Returns bytes a second of writing (flushed) and of reading a file in order, without the page cache."""
    block = np.random.default_rng(0).integers(0, 256, 2**24, np.uint8).tobytes()
    blocks = max(1, num_bytes // len(block))
    try:
        start = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            for _ in range(blocks):
                file.write(block)
            os.fsync(file.fileno())
        write = blocks * len(block) / (time.perf_counter() - start)
        reads = [timed_read(path) for _ in range(3)]
        return write, blocks * len(block) / statistics.median(reads)
    finally:
        path.unlink(missing_ok=True)


def forget(path: Path) -> None:
    """Asks the page cache to let go of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed_read(path: Path) -> float:
    """Returns the seconds of reading a file in order, from the disk."""
    forget(path)
    buffer = bytearray(2**24)
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - start
