"""A fingerprint sees an exchange, a missing tail and another size."""

from pathlib import Path

import numpy as np
import pytest

from fairseq.storage.fingerprint import fingerprint

SIZES = [0, 1, 4096, 5000, 262_144, 262_145, 3_000_001]


def noise(path: Path, size: int, seed: int) -> Path:
    path.write_bytes(np.random.default_rng(seed).bytes(size))
    return path


@pytest.mark.parametrize("size", SIZES)
def test_the_same_bytes_have_the_same_and_others_another(tmp_path: Path, size: int) -> None:
    one, same = noise(tmp_path / "a", size, 1), noise(tmp_path / "b", size, 1)
    assert fingerprint(one) == fingerprint(same)
    data = bytearray(one.read_bytes())
    for changed in (data[:-1], data + b"\0", noise(tmp_path / "d", size, 2).read_bytes()):
        (tmp_path / "c").write_bytes(changed)
        assert (fingerprint(tmp_path / "c") == fingerprint(one)) == (bytes(changed) == bytes(data))


@pytest.mark.parametrize("size", SIZES[1:])
def test_first_and_last_byte_are_seen_and_every_byte_of_a_small_file(tmp_path: Path, size: int) -> None:
    path = noise(tmp_path / "a", size, 1)
    before, data = fingerprint(path), bytearray(path.read_bytes())
    small = range(0, size, 4095 * 3) if size <= 64 * 4096 else ()
    for place in {0, size - 1, *small}:
        changed = data.copy()
        changed[place] ^= 1
        path.write_bytes(changed)
        assert fingerprint(path) != before


def test_no_stretch_of_a_large_file_is_without_a_block(tmp_path: Path) -> None:
    """64 blocks of 4 KiB in 8 MiB: 129 KiB lie between two of them, so 134 KiB that change are seen anywhere."""
    path, size = tmp_path / "a", 1 << 23
    path.write_bytes(bytes(size))
    before, step = fingerprint(path), 134 << 10
    for start in range(0, size, step):
        with path.open("r+b") as file:
            file.seek(start)
            file.write(b"\1" * min(step, size - start))
        assert fingerprint(path) != before
        with path.open("r+b") as file:
            file.seek(start)
            file.write(bytes(min(step, size - start)))
    assert fingerprint(path) == before


def test_of_the_first_bytes_what_follows_is_not_seen(tmp_path: Path) -> None:
    whole, start = noise(tmp_path / "a", 500_000, 1), tmp_path / "b"
    start.write_bytes(whole.read_bytes()[:300_000])
    assert fingerprint(whole, 300_000) == fingerprint(start)
    assert fingerprint(start, 500_000) == fingerprint(start)
