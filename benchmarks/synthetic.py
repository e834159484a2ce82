"""Datastores of synthetic keys in the public format, for sizes that no golden artefact has.

    key = z W + 0.05 ε,    z ~ N(0, diag(σ²)), σ_i = i^(−½) for i = 1 … RANK,    ε ~ N(0, 1)^D

W has orthogonal directions of length 3, near the norm of the golden model's keys: a spectrum that falls off as a power,
as those of trained models do, above a white floor. Real keys also cluster around frequent words; these do not, so
inverted lists are more even and recall is lower than on text. Queries are drawn like keys. Seeded block by block.

    python benchmarks/synthetic.py PREFIX ROWS WIDTH        writes float16 keys
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq.arrays import Float32s

RANK, NOISE, LENGTH = 64, 0.05, 3.0
BLOCK = 65536
VOCABULARY = 50_000


@dataclass(frozen=True)
class Store:
    """A datastore without a manifest, as other tools leave them: raw float16 keys and int64 values."""

    prefix: Path
    rows: int
    width: int

    @property
    def keys_path(self) -> Path:
        """Returns the file of the keys."""
        return Path(f"{self.prefix}_keys.npy")

    @property
    def num_bytes(self) -> int:
        """Returns the size of the keys."""
        return self.rows * self.width * 2

    def build_flags(self) -> list[str]:
        """Returns the flags of build_dstore.py for these files."""
        sizes = ["--dstore_size", str(self.rows), "--dimension", str(self.width)]
        return ["--dstore_mmap", str(self.prefix), *sizes, "--dstore_fp16"]


def draw(count: int, width: int, seed: int) -> Float32s:
    """Returns keys or queries, ``[count, width]``."""
    rank = min(RANK, width)
    basis_DD = np.linalg.qr(np.random.default_rng(0).standard_normal((width, rank)))[0]
    deviations_R = LENGTH * np.arange(1, rank + 1) ** -0.5
    rng = np.random.default_rng([seed, 1])
    low_NR = rng.standard_normal((count, rank), dtype=np.float32) * deviations_R.astype(np.float32)
    noise_ND = rng.standard_normal((count, width), dtype=np.float32)
    noise_ND *= NOISE
    noise_ND += low_NR @ basis_DD.T.astype(np.float32)
    return noise_ND


def blocks(rows: int, width: int) -> Iterator[Float32s]:
    """Yields the keys of a store; those of a smaller store are the first of a larger one."""
    for start in range(0, rows, BLOCK):
        yield draw(BLOCK, width, 1 + start // BLOCK)[: rows - start]


def make_store(store: Store) -> None:
    """Writes a store in a process of its own, unless one of that size is there."""
    if store.keys_path.exists() and store.keys_path.stat().st_size == store.num_bytes:
        return
    free = shutil.disk_usage(store.prefix.parent).free
    if free < store.num_bytes + 2**30:
        raise SystemExit(f"{store.keys_path} needs {store.num_bytes / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free")
    subprocess.run([sys.executable, __file__, store.prefix, str(store.rows), str(store.width)], check=True)


def write_store(store: Store) -> None:
    """Writes keys and values."""
    with store.keys_path.open("wb") as file:
        for keys_ND in blocks(store.rows, store.width):
            file.write(keys_ND.astype(np.float16).tobytes())
    values_N = np.random.default_rng(2).zipf(1.3, store.rows) % VOCABULARY
    values_N.astype(np.int64).tofile(f"{store.prefix}_vals.npy")


if __name__ == "__main__":
    write_store(Store(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
