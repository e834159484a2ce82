r"""Binarised text: ``PREFIX.bin``, the token ids back to back, and ``PREFIX.idx``, where each sentence lies.

    .idx, little-endian    offset   size   content
                           0        9      "MMIDIDX\0\0"
                           9        8      uint64 version = 1
                           17       1      uint8 dtype code
                           18       8      uint64 N, the number of sentences
                           26       4N     int32 sizes, in tokens
                           26+4N    8N     int64 byte offsets into .bin

Sentences lie in .bin in order and without gaps, so that it is one stream of tokens. Opening checks all of this. A
sentence may have size 0: it adds no tokens, and nothing else follows from it (fairseq/data/blocks.py).
"""

import hashlib
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from fairseq.arrays import Int32s, Int64s, Integers
from fairseq.errors import DataError, MismatchError
from fairseq.storage.files import atomic_write
from fairseq.storage.inputs import missing_split

MAGIC = b"MMIDIDX\0\0"
OLD_MAGIC = b"TNTIDX\0\0"
VERSION = 1
HEADER = struct.Struct("<9sQBQ")
DTYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}
FLOAT_CODES = (6, 7)
UINT16_IDS = 65_500  # below this many ids, two bytes hold one, else four: the rule of the older tools
CHECK_BLOCK_TOKENS = 1 << 22
REMAKE = "make it again with fairseq-preprocess --overwrite"


class MMapIndexedDataset:
    """The sentences of ``PREFIX.bin`` and ``PREFIX.idx``; S of them.

    Args:
        prefix: path without the suffix, as ``data-bin/train``.

    Attributes:
        sizes: int32 [S], tokens in each sentence.
        offsets: int64 [S + 1], where each sentence starts in ``tokens``; last, where the last one ends.
        tokens: every id, one-dimensional, read-only, mapped from the disk in the file's own dtype.

    Raises:
        DataError: a file is missing, or is not what the format says.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.index_path, self.tokens_path = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
        for path in (self.index_path, self.tokens_path):
            if not path.exists():
                raise missing_split(path)
        data = self.index_path.read_bytes()
        dtype, num_sentences = _parse_header(data, self.index_path)
        self.sizes: Int32s = np.frombuffer(data, "<i4", num_sentences, HEADER.size)
        starts_bytes = np.frombuffer(data, "<i8", num_sentences, HEADER.size + 4 * num_sentences)
        self.offsets = _token_offsets(self.sizes, starts_bytes, dtype.itemsize, self.index_path)
        self.tokens: Integers = _map_tokens(self.tokens_path, dtype, int(self.offsets[-1]))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, idx: int) -> Int64s:
        if not -len(self) <= idx < len(self):
            raise IndexError(f"sentence {idx} of {len(self)}")
        idx %= len(self)
        return self.tokens[self.offsets[idx] : self.offsets[idx + 1]].astype(np.int64)

    def check_ids(self, vocabulary_size: int, name: str) -> None:
        """Checks that every id is one of the dictionary ``name``, which has ``vocabulary_size`` ids.

        Raises:
            MismatchError: there is an id that the dictionary does not have.
        """
        for start in range(0, len(self.tokens), CHECK_BLOCK_TOKENS):
            block = self.tokens[start : start + CHECK_BLOCK_TOKENS]
            if int(block.max()) < vocabulary_size and int(block.min()) >= 0:
                continue
            position = int(np.flatnonzero((block >= vocabulary_size) | (block < 0))[0])
            sentence = int(np.searchsorted(self.offsets, start + position, side="right")) - 1
            raise MismatchError(
                f"{self.tokens_path} holds the id {block[position]} (sentence {sentence}, token {start + position}),"
                f" but {name} has {vocabulary_size} ids; give the dictionary that the text was binarised with, or"
                " binarise it again with fairseq-preprocess"
            )


def _parse_header(data: bytes, path: Path) -> tuple[np.dtype[np.integer], int]:
    """Returns the dtype of the ids and the number of sentences."""
    if data.startswith(OLD_MAGIC):
        raise DataError(
            f"{path} must be of the mmap format, but is of the old lazy/cached one (TNTIDX); binarise the text again"
            " with fairseq-preprocess --only-source"
        )
    if not data.startswith(MAGIC):
        raise DataError(f"{path} must start with {MAGIC!r}, but starts with {data[: len(MAGIC)]!r}; {REMAKE}")
    if len(data) < HEADER.size:
        raise DataError(f"{path} must have a header of {HEADER.size} bytes, but has {len(data)} in all; {REMAKE}")
    _, version, code, num_sentences = HEADER.unpack_from(data)
    if version != VERSION:
        raise DataError(f"{path} must be of version {VERSION}, but is of version {version}; {REMAKE}")
    if code not in DTYPES:
        kind = "floating-point numbers" if code in FLOAT_CODES else "unknown"
        known = ", ".join(map(str, DTYPES))
        raise DataError(f"{path}: the dtype code must be one of {known}, but is {code} ({kind}); {REMAKE}")
    expected = HEADER.size + 12 * num_sentences
    if len(data) != expected:
        raise DataError(
            f"{path} must have {expected} bytes for its {num_sentences} sentences, but has {len(data)}; {REMAKE}"
        )
    return np.dtype(DTYPES[code]), num_sentences


def _token_offsets(sizes: Int32s, starts_bytes: Int64s, itemsize: int, path: Path) -> Int64s:
    """Returns [S + 1] token offsets, after checking that the sentences lie back to back."""
    if len(sizes) and int(sizes.min()) < 0:
        bad = int(np.argmax(sizes < 0))
        raise DataError(f"{path}: sizes must not be negative, but sentence {bad} has size {sizes[bad]}; {REMAKE}")
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    wrong = starts_bytes != offsets[:-1] * itemsize
    if wrong.any():
        bad = int(np.argmax(wrong))
        raise DataError(
            f"{path}: sentences must lie back to back, so sentence {bad} must start at byte {offsets[bad] * itemsize},"
            f" but starts at byte {starts_bytes[bad]}; {REMAKE}"
        )
    return offsets


def _map_tokens(path: Path, dtype: np.dtype[np.integer], num_tokens: int) -> Integers:
    num_bytes = path.stat().st_size
    if num_bytes != num_tokens * dtype.itemsize:
        raise DataError(
            f"{path} must have {num_tokens * dtype.itemsize} bytes for the {num_tokens} tokens of {path.stem}.idx,"
            f" but has {num_bytes}; {REMAKE}"
        )
    if not num_tokens:  # an empty file cannot be mapped
        empty = np.empty(0, dtype)
        empty.flags.writeable = False
        return empty
    return np.memmap(path, dtype, mode="r")


class IndexedDatasetWriter:
    """Writes ``PREFIX.bin`` as ids come and ``PREFIX.idx`` at the end, as a context manager.

    Neither file is there before it is whole. Leaving by an exception leaves older files of the name as they were.

    Args:
        prefix: path without the suffix.
        vocabulary_size: number of ids, which decides the dtype.

    Attributes:
        dtype: in which ids are written.
        num_sentences: written so far.
        num_tokens: written so far.
    """

    def __init__(self, prefix: str | Path, vocabulary_size: int) -> None:
        self.index_path, self.tokens_path = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
        self.dtype: np.dtype[np.integer] = np.dtype("<u2" if vocabulary_size < UINT16_IDS else "<i4")
        self.num_sentences = self.num_tokens = 0
        self._sizes: list[Int32s] = []
        self._sha256 = hashlib.sha256()
        self._replacement: AbstractContextManager[IO[bytes]] = atomic_write(self.tokens_path)
        self._write: Callable[[bytes], object]

    def __enter__(self) -> "IndexedDatasetWriter":
        self._write = self._replacement.__enter__().write
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            # An old index beside new tokens would pass for a whole data set, should we be stopped between the renames.
            self.index_path.unlink(missing_ok=True)
        self._replacement.__exit__(kind, err, tb)
        if kind is None:
            with atomic_write(self.index_path) as file:
                file.write(self._index())

    def write(self, ids: Integers, sizes: Integers) -> None:
        """Appends ids and the sizes of the sentences that end in them; the last sentence may go on in the next call."""
        data = ids.astype(self.dtype, copy=False).tobytes()
        self._write(data)
        self._sha256.update(data)
        self._sizes.append(sizes.astype("<i4"))
        self.num_sentences += len(sizes)
        self.num_tokens += len(ids)

    def sha256(self) -> str:
        """Returns the SHA-256 of the ``.bin`` so far, in hexadecimal."""
        return self._sha256.hexdigest()

    def _index(self) -> bytes:
        code = next(code for code, name in DTYPES.items() if np.dtype(name) == self.dtype)
        sizes = np.concatenate([np.empty(0, "<i4"), *self._sizes]).astype("<i4")
        assert sizes.sum() == self.num_tokens, f"sizes add up to {sizes.sum()}, not {self.num_tokens} ids"
        starts_bytes = (np.cumsum(sizes, dtype="<i8") - sizes) * self.dtype.itemsize
        header = HEADER.pack(MAGIC, VERSION, code, len(sizes))
        return b"".join([header, sizes.tobytes(), starts_bytes.astype("<i8").tobytes()])
