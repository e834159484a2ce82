"""The layout of a datastore that nobody wrote down: rows, width and dtypes from the sizes of two files.

    keys_bytes   = rows · dimension · (4 float32 | 2 float16)
    values_bytes = rows · (8 int64 | 4 int32 | 2 int16)

The older tools record neither, and opening with a wrong guess raises nothing. So every layout that fits both sizes and
what the user said is tried against the values themselves: ids that are negative or beyond the vocabulary are of
another layout. One must remain.

The names of what an unfinished append or compaction has written beside a datastore.

PREFIX.append.json             the manifest that the datastore will have; rows behind the old ones are its own
PREFIX.compact_keys.npy, …     the compacted datastore, a datastore itself until it takes the old one's place
INDEX.compact, INDEX.compact.json    its index, likewise
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from fairseq.errors import DatastoreError

_KEY_BYTES = {4: "float32", 2: "float16"}
_VALUE_BYTES = {8: "int64", 4: "int32", 2: "int16"}
_SAMPLE = 4096
_LARGEST_ID = 2**31 - 1


def keys_path(prefix: str | Path) -> Path:
    """Returns the file of the keys."""
    return Path(f"{prefix}_keys.npy")


def values_path(prefix: str | Path) -> Path:
    """Returns the file of the values."""
    return Path(f"{prefix}_vals.npy")


@dataclass(frozen=True)
class Layout:
    """Rows, width and dtypes of a datastore's files."""

    rows: int
    dimension: int
    key_dtype: str
    value_dtype: str


def infer_layout(
    prefix: Path,
    keys_bytes: int,
    values_path: Path,
    *,
    rows: int | None,
    dimension: int,
    key_fp16: bool,
    vocabulary_size: int | None,
) -> Layout:
    """Returns the one layout that the files can have.

    Args:
        prefix: of the datastore, for messages.
        keys_bytes: size of the keys' file.
        values_path: the values' file.
        rows: what the user said, or None.
        dimension: width of a key.
        key_fp16: whether the user said that keys are float16; without it, float32 is preferred.
        vocabulary_size: ids are below it, if known.

    Raises:
        DatastoreError: none fits, or several do.
    """
    values_bytes = values_path.stat().st_size
    fitting = _fitting(keys_bytes, values_bytes, dimension)
    sizes = f"{prefix}_keys.npy has {keys_bytes} bytes and {prefix}_vals.npy {values_bytes}"
    if not fitting:
        raise DatastoreError(f"{sizes}: not rows of {dimension}-wide keys and their values; check --dimension")
    largest = max(layout.rows for layout in fitting)
    if rows is not None and rows > largest:
        raise DatastoreError(f"--dstore-size {rows} is larger than the {largest} rows of {prefix}; leave the flag out")
    plausible = [layout for layout in fitting if _plausible(values_path, layout, vocabulary_size)]
    if not plausible:
        raise DatastoreError(f"{values_path} holds ids outside the vocabulary in every layout that fits; {sizes}")
    if len(plausible) > 1 and rows is None and not key_fp16:
        _refuse_ambiguous(sizes, plausible)
    exact = [layout for layout in plausible if layout.rows == rows]
    if len(exact) == 1 and not key_fp16:
        return exact[0]
    wanted = "float16" if key_fp16 else "float32"
    candidates = exact or [layout for layout in plausible if rows is None or layout.rows > rows]
    preferred = [layout for layout in candidates if layout.key_dtype == wanted]
    if key_fp16 and not preferred:
        raise DatastoreError(f"--dstore-fp16: {sizes}, so its keys are not float16; leave the flag out")
    chosen = preferred or candidates
    if len(chosen) != 1:
        _refuse_ambiguous(sizes, chosen)
    return chosen[0]


def possible_layouts(keys_bytes: int, values_bytes: int) -> list[Layout]:
    """Returns every layout that files of these sizes can have, of any width."""
    return [
        layout
        for value_bytes in _VALUE_BYTES
        for key_bytes in _KEY_BYTES
        if values_bytes
        and values_bytes % value_bytes == 0
        and keys_bytes
        and keys_bytes % (values_bytes // value_bytes * key_bytes) == 0
        for layout in _fitting(keys_bytes, values_bytes, keys_bytes // (values_bytes // value_bytes * key_bytes))
        if layout.value_dtype == _VALUE_BYTES[value_bytes] and layout.key_dtype == _KEY_BYTES[key_bytes]
    ]


def _refuse_ambiguous(sizes: str, layouts: list[Layout]) -> NoReturn:
    ways = "; ".join(f"{c.rows} rows of {c.key_dtype} and {c.value_dtype}" for c in layouts) or "none"
    raise DatastoreError(f"{sizes}, which fits these layouts: {ways}; give --dstore-size and --dimension")


def _fitting(keys_bytes: int, values_bytes: int, dimension: int) -> list[Layout]:
    return [
        Layout(keys_bytes // (dimension * key_bytes), dimension, key_dtype, value_dtype)
        for key_bytes, key_dtype in _KEY_BYTES.items()
        for value_bytes, value_dtype in _VALUE_BYTES.items()
        if keys_bytes > 0
        and keys_bytes % (dimension * key_bytes) == 0
        and keys_bytes // (dimension * key_bytes) * value_bytes == values_bytes
    ]


def _plausible(values_path: Path, layout: Layout, vocabulary_size: int | None) -> bool:
    """Returns whether the first and the last values can be ids; int16 may have overflowed, and is judged later."""
    dtype = np.dtype(layout.value_dtype)
    count = min(_SAMPLE, layout.rows)
    first = np.fromfile(values_path, dtype, count)
    if dtype != np.int64 and not first.all():
        return False  # wider ids, seen narrowly, are zeros in between; no text holds the id 0, <s>
    if dtype == np.int16:
        return True
    last = np.fromfile(values_path, dtype, count, offset=(layout.rows - count) * dtype.itemsize)
    limit = vocabulary_size or _LARGEST_ID
    return all(int(part.min()) >= 0 and int(part.max()) < limit for part in (first, last))


def append_path(prefix: str | Path) -> Path:
    """Returns where an append's progress is kept."""
    return Path(f"{prefix}.append.json")


def compact_prefix(prefix: str | Path) -> Path:
    """Returns the prefix of a compacted datastore (or the name of a compacted index) that is being written."""
    return Path(f"{prefix}.compact")


def compaction_begun(prefix: str | Path) -> bool:
    """Returns whether a compaction has written something that has not taken its place yet."""
    return Path(f"{compact_prefix(prefix)}.json").is_file()
