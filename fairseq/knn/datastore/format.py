"""The files of a datastore: their names, their checksums, and their layout where nobody wrote it down.

    keys_bytes   = rows · dimension · (4 float32 | 2 float16)
    values_bytes = rows · (8 int64 | 4 int32 | 2 int16)

The older tools record rows, width and dtypes nowhere, and opening with a wrong guess raises nothing. So every layout
that fits both sizes and what the user said is tried against the values themselves: ids that are negative or beyond the
vocabulary are of another layout. One must remain.

There is a SHA-256 for every ``CHUNK_ROWS`` rows of a file, so that a check can name the damaged rows, and a writer that
was stopped reads only its last chunk again.

Beside a datastore lies what says how far unfinished work has come:

PREFIX.range-2-of-4.json       a range of the rows, which another process writes (range_record.py)
PREFIX.append.json             the manifest that the datastore will have; rows behind the old ones are its own
PREFIX.compact_keys.npy, …     the compacted datastore, a datastore itself until it takes the old one's place
INDEX.compact, INDEX.compact.json    its index, likewise
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np

from fairseq.config.kinds import stores_in
from fairseq.errors import DatastoreError, did_you_mean
from fairseq.runtime.progress import Progress
from fairseq.storage.file_kinds import is_instead

KeyDtype = Literal["float32", "float16"]
ValueDtype = Literal["int64", "int32", "int16"]
KEY_BYTES: dict[int, KeyDtype] = {4: "float32", 2: "float16"}
VALUE_BYTES: dict[int, ValueDtype] = {8: "int64", 4: "int32", 2: "int16"}
CHUNK_ROWS = 1 << 16
READ_BYTES = 1 << 24
_SAMPLE = 4096
_LARGEST_ID = 2**31 - 1


def keys_path(prefix: str | Path) -> Path:
    """Returns the file of the keys."""
    return Path(f"{prefix}_keys.npy")


def values_path(prefix: str | Path) -> Path:
    """Returns the file of the values."""
    return Path(f"{prefix}_vals.npy")


def append_path(prefix: str | Path) -> Path:
    """Returns where an append's progress is kept."""
    return Path(f"{prefix}.append.json")


def compact_prefix(prefix: str | Path) -> Path:
    """Returns the prefix of a compacted datastore (or the name of a compacted index) that is being written."""
    return Path(f"{prefix}.compact")


def has_unfinished_compaction(prefix: str | Path) -> bool:
    """Returns whether a compaction has written something that has not taken its place yet."""
    return Path(f"{compact_prefix(prefix)}.json").is_file()


def require_rows(prefix: Path, *, load_keys: bool) -> None:
    """Raises DatastoreError unless the files are there; says what the prefix is instead, or which datastores are near.

    Without ``load_keys`` there may be no keys.
    """
    missing = [path for path in (values_path(prefix), keys_path(prefix)) if not path.is_file()]
    if not missing or (not load_keys and missing == [keys_path(prefix)]):
        return
    there = stores_in(prefix.parent)
    if len(missing) == 1:
        advice = "; restore the file, or write the datastore again"
        if load_keys and missing == [keys_path(prefix)]:
            advice += " (distances of the index need no keys: --knn-sim-func do_not_recomp_l2)"
    elif other := is_instead(prefix, "a datastore"):
        advice = f"; {prefix}{other}: give a datastore's prefix"
    else:
        near = did_you_mean(str(prefix), there)
        others = f"; {prefix.parent} has {', '.join(there[:3])}" if there else ""
        advice = near or others or "; fairseq-eval-lm --save-knnlm-dstore writes a datastore"
    raise DatastoreError(f"there is no datastore {prefix}: {missing[0]} does not exist{advice}")


@dataclass(frozen=True)
class Layout:
    """Rows, width and dtypes of a datastore's files."""

    rows: int
    dimension: int
    key_dtype: KeyDtype
    value_dtype: ValueDtype

    @property
    def key_bytes(self) -> int:
        """Bytes of a row's key."""
        return self.dimension * np.dtype(self.key_dtype).itemsize

    @property
    def value_bytes(self) -> int:
        """Bytes of a row's value."""
        return np.dtype(self.value_dtype).itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of a row, key and value."""
        return self.key_bytes + self.value_bytes

    def __str__(self) -> str:
        return f"{self.rows} rows of {self.dimension}-wide {self.key_dtype} keys and {self.value_dtype} values"


def row_files(prefix: str | Path, layout: Layout) -> tuple[tuple[Path, int], tuple[Path, int]]:
    """Returns the file of the keys and the file of the values, each with the bytes of a row in it."""
    return (keys_path(prefix), layout.key_bytes), (values_path(prefix), layout.value_bytes)


def read_pieces(path: Path, start: int, num_bytes: int) -> Iterator[bytes]:
    """Yields bytes of a file, a few MiB at a time; fewer than ``num_bytes`` where it ends before."""
    with path.open("rb") as file:
        file.seek(start)
        while num_bytes and (data := file.read(min(READ_BYTES, num_bytes))):
            yield data
            num_bytes -= len(data)


class ChunkHasher:
    """Hashes the chunks of a file as it is written.

    Args:
        row_bytes: bytes of a row.
        full: checksums of the first chunks, if they are known already.
        first_row: where the writing begins; of the chunk in which that is, only the rows from there on are hashed.

    Attributes:
        full: checksums of the chunks that are full, in order.
        next_row: the first row that is not hashed yet, as ``full`` was given.
    """

    def __init__(self, row_bytes: int, full: Sequence[str] = (), first_row: int = 0) -> None:
        self.full = list(full)
        self.next_row = (first_row // CHUNK_ROWS + len(full)) * CHUNK_ROWS if full else first_row
        self._chunk_bytes = CHUNK_ROWS * row_bytes
        self._left = self._chunk_bytes - self.next_row % CHUNK_ROWS * row_bytes  # up to the end of the chunk
        self._running, self._hashed = hashlib.sha256(), 0

    def update(self, data: bytes | memoryview) -> None:
        """Adds the bytes that come next."""
        left = memoryview(data).cast("B")
        while left:
            piece = left[: self._left]
            left = left[len(piece) :]
            self._running.update(piece)
            self._hashed += len(piece)
            self._left -= len(piece)
            if not self._left:
                self.full.append(self._running.hexdigest())
                self._running, self._hashed, self._left = hashlib.sha256(), 0, self._chunk_bytes

    def digests(self) -> list[str]:
        """Returns the checksums of everything so far, a last chunk that is not full included."""
        return [*self.full, self._running.hexdigest()] if self._hashed else list(self.full)


def pieces_of(rows: range) -> list[range]:
    """Returns rows cut where chunks begin: of which a ``ChunkHasher`` has a checksum each."""
    first_border = rows.start - rows.start % CHUNK_ROWS + CHUNK_ROWS
    cuts = [rows.start, *range(first_border, rows.stop, CHUNK_ROWS), rows.stop]
    return [range(start, stop) for start, stop in pairwise(cuts) if start < stop]


def num_full(rows: range) -> int:
    """Returns in how many chunks rows reach the end."""
    return rows.stop // CHUNK_ROWS - rows.start // CHUNK_ROWS


def chunk_digests(path: Path, row_bytes: int, rows: int) -> Iterator[str]:
    """Yields the checksum of each chunk of a file, and tells the progress."""
    with Progress(f"checksums of {path.name}", rows, "rows") as progress:
        for start in range(0, rows, CHUNK_ROWS):
            digest, count = hashlib.sha256(), min(CHUNK_ROWS, rows - start)
            for data in read_pieces(path, start * row_bytes, count * row_bytes):
                digest.update(data)
            progress.advance(count)
            yield digest.hexdigest()


def possible_layouts(prefix: Path) -> list[Layout]:
    """Returns every layout, of any width, that a datastore's files can have by their sizes."""
    keys_bytes, values_bytes = keys_path(prefix).stat().st_size, values_path(prefix).stat().st_size
    layouts = []
    for value_bytes, value_dtype in VALUE_BYTES.items():
        rows, rest = divmod(values_bytes, value_bytes)
        for key_bytes, key_dtype in KEY_BYTES.items():
            if rows and not rest and keys_bytes and keys_bytes % (rows * key_bytes) == 0:
                layouts.append(Layout(rows, keys_bytes // (rows * key_bytes), key_dtype, value_dtype))
    return layouts


def holds_ids(prefix: Path, layout: Layout, vocabulary_size: int | None = None) -> bool:
    """Returns whether the first and the last values, read in this layout, can be ids.

    Wider ids, seen narrowly, are zeros in between, and no text holds the id 0, ``<s>``; narrow ids, seen widely, are
    huge. int16 may be negative, having overflowed. Zeros at the end are rows that were never filled.
    """
    path, count = values_path(prefix), min(_SAMPLE, layout.rows)
    first = np.trim_zeros(np.fromfile(path, layout.value_dtype, count), "b")
    if layout.value_dtype != "int64" and not first.all():
        return False
    last = np.fromfile(path, layout.value_dtype, count, offset=(layout.rows - count) * layout.value_bytes)
    ids = np.concatenate([first, last])
    return layout.value_dtype == "int16" or bool((ids >= 0).all() and (ids < (vocabulary_size or _LARGEST_ID)).all())


def infer_layout(
    prefix: Path, *, rows: int | None, dimension: int, key_fp16: bool, vocabulary_size: int | None
) -> Layout:
    """Returns the one layout that the files can have.

    Args:
        prefix: of the datastore's files; there may be no keys.
        rows: what the user said, or None; there may be more.
        dimension: width of a key.
        key_fp16: whether the user said that keys are float16; without it, float32 is preferred.
        vocabulary_size: ids are below it, if known.

    Raises:
        DatastoreError: none fits, or several do.
    """
    keys, values = keys_path(prefix), values_path(prefix)
    if not keys.is_file():
        return _layout_of_values(values, rows, dimension)
    sizes = f"{keys} has {keys.stat().st_size} bytes and {values} {values.stat().st_size}"
    fitting = [layout for layout in possible_layouts(prefix) if layout.dimension == dimension]
    if not fitting:
        raise DatastoreError(f"{sizes}: not rows of {dimension}-wide keys and their values; check --dimension")
    largest = max(layout.rows for layout in fitting)
    if rows is not None and rows > largest:
        raise DatastoreError(f"--dstore-size {rows} is larger than the {largest} rows of {prefix}; leave the flag out")
    plausible = [layout for layout in fitting if holds_ids(prefix, layout, vocabulary_size)]
    if not plausible:
        raise DatastoreError(f"{values} holds ids outside the vocabulary in every layout that fits; {sizes}")
    candidates = [layout for layout in plausible if layout.rows == rows]
    candidates = candidates or [layout for layout in plausible if rows is None or layout.rows > rows]
    if key_fp16 or rows is not None:  # else nothing was said by which to prefer one
        preferred = [layout for layout in candidates if layout.key_dtype == ("float16" if key_fp16 else "float32")]
        if key_fp16 and not preferred:
            raise DatastoreError(f"--dstore-fp16: {sizes}, so its keys are not float16; leave the flag out")
        candidates = preferred or candidates
    if len(candidates) != 1:
        refuse_layouts(sizes, candidates)
    return candidates[0]


def _layout_of_values(path: Path, rows: int | None, dimension: int) -> Layout:
    """Returns a layout of values alone: int64 ones, unless ``rows`` says otherwise."""
    size = path.stat().st_size
    for value_bytes, value_dtype in VALUE_BYTES.items():
        if size == (rows if rows is not None else size // 8) * value_bytes:
            return Layout(size // value_bytes, dimension, "float32", value_dtype)
    raise DatastoreError(f"{path} has {size} bytes, which is not --dstore-size {rows} values; give the right size")


def refuse_layouts(sizes: str, layouts: list[Layout]) -> NoReturn:
    """Raises DatastoreError for files of such sizes, which fit several layouts."""
    ways = "; ".join(map(str, layouts)) or "none"
    raise DatastoreError(f"{sizes}, which fits several layouts: {ways}; give --dimension, --dstore-size, --dstore-fp16")
