"""Which layouts files can have: against a loop over rows, widths and dtypes."""

import hashlib

import numpy as np
import pytest

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.format import (
    ChunkHasher,
    Layout,
    chunk_digests,
    holds_ids,
    infer_layout,
    possible_layouts,
    read_pieces,
    row_files,
)


def write(prefix, rows, width, key_dtype="float32", value_dtype="int64", values=None):
    np.zeros((rows, width), key_dtype).tofile(f"{prefix}_keys.npy")
    np.asarray(np.arange(rows) + 5 if values is None else values, value_dtype).tofile(f"{prefix}_vals.npy")


@pytest.mark.parametrize("rows, width", [(1, 1), (6, 4), (7, 8), (12, 16)])
@pytest.mark.parametrize("key_dtype", ["float32", "float16"])
@pytest.mark.parametrize("value_dtype", ["int64", "int32", "int16"])
def test_every_layout_of_these_sizes(tmp_path, rows, width, key_dtype, value_dtype):
    write(tmp_path / "d", rows, width, key_dtype, value_dtype)
    sizes = [path.stat().st_size for path, _ in row_files(tmp_path / "d", Layout(1, 1, "float32", "int64"))]
    wanted = {
        (n, d, keys, values)
        for n in range(1, 60)
        for d in range(1, 140)
        for keys, key_bytes in (("float32", 4), ("float16", 2))
        for values, value_bytes in (("int64", 8), ("int32", 4), ("int16", 2))
        if [n * d * key_bytes, n * value_bytes] == sizes
    }
    found = possible_layouts(tmp_path / "d")
    assert {(one.rows, one.dimension, one.key_dtype, one.value_dtype) for one in found} == wanted
    assert len(found) == len(wanted) and (rows, width, key_dtype, value_dtype) in wanted
    for layout in found:
        row_bytes = [row_bytes for _, row_bytes in row_files("d", layout)]
        assert [layout.rows * bytes_ for bytes_ in row_bytes] == sizes


@pytest.mark.parametrize(
    ("written", "read", "values", "expected"),
    [
        ("int64", "int64", [5, 6, 7, 8], True),
        ("int64", "int64", [5, 6, 7, -1], False),
        ("int64", "int32", [5, 6, 7, 8], False),  # zeros in between
        ("int32", "int64", [5, 6, 7, 8], False),  # huge
        ("int32", "int32", [5, 6, 0, 0], True),  # never filled
        ("int16", "int16", [5, -6, 7, 8], True),  # overflowed
        ("int32", "int16", [5, 6, 7, 8], False),
        ("int64", "int64", [5, 6, 7, 50], False),  # beyond the vocabulary
    ],
)
def test_values_that_can_be_ids(tmp_path, written, read, values, expected):
    write(tmp_path / "d", 4, 1, value_dtype=written, values=values)
    rows = 4 * np.dtype(written).itemsize // np.dtype(read).itemsize
    assert holds_ids(tmp_path / "d", Layout(rows, 1, "float32", read), 50) == expected


@pytest.mark.parametrize(
    ("value_dtype", "bad", "expected"),
    [("int64", None, True), ("int64", 0, False), ("int64", -1, False), ("int32", -1, False)],
)
def test_the_first_and_the_last_values_are_looked_at(tmp_path, value_dtype, bad, expected):
    """Those of a large file are not all read: one of either end that is no id tells."""
    values = np.arange(9000) % 40 + 4
    if bad is not None:
        values[bad] = 50
    write(tmp_path / "d", 9000, 1, value_dtype=value_dtype, values=values)
    assert holds_ids(tmp_path / "d", Layout(9000, 1, "float32", value_dtype), 50) == expected


def test_a_layout_among_several_must_be_named(tmp_path):
    write(tmp_path / "d", 8, 4, "float16", "int32", values=np.full(8, 1 << 20))
    known = dict(dimension=4, vocabulary_size=None)
    assert infer_layout(tmp_path / "d", rows=None, key_fp16=False, **known) == Layout(8, 4, "float16", "int32")
    write(tmp_path / "e", 4, 4, "float32", "int64", values=[1, 1, 1, 1])
    assert infer_layout(tmp_path / "e", rows=4, key_fp16=False, **known) == Layout(4, 4, "float32", "int64")
    with pytest.raises(DatastoreError, match="larger than the 8 rows"):
        infer_layout(tmp_path / "e", rows=9, key_fp16=False, **known)


@pytest.mark.parametrize("at_once", [1, 3, 8, 1000])
def test_pieces_of_a_file_are_bounded_and_end_where_they_should(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr("fairseq.knn.datastore.format.READ_BYTES", at_once)
    data = bytes(range(50))
    (tmp_path / "f").write_bytes(data)
    for start, count in ((0, 0), (0, 1), (7, 8), (0, 50), (40, 10), (45, 30), (60, 5)):
        pieces = list(read_pieces(tmp_path / "f", start, count))
        assert b"".join(pieces) == data[start : start + count]
        assert all(0 < len(piece) <= at_once for piece in pieces)


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("at_once", [1, 5, 12, 100])
def test_every_chunk_of_rows_has_the_sum_of_its_bytes(tmp_path, monkeypatch, rows, at_once):
    """Four rows of three bytes are a chunk, however many bytes come at a time, and wherever a run goes on."""
    monkeypatch.setattr("fairseq.knn.datastore.format.CHUNK_ROWS", 4)
    data = bytes(range(rows * 3))
    expected = [hashlib.sha256(data[start : start + 12]).hexdigest() for start in range(0, len(data), 12)]
    (tmp_path / "f").write_bytes(data + b"more")
    assert list(chunk_digests(tmp_path / "f", 3, rows)) == expected
    for done in range(0, rows // 4 + 1):
        hasher = ChunkHasher(3, expected[:done])
        for start in range(done * 12, len(data), at_once):
            hasher.update(data[start : start + at_once])
        assert hasher.digests() == expected and hasher.full == expected[: rows // 4]
