r"""Counts the words of a text file, or turns them into ids: in parallel, with the same bytes for any number of workers.

The file is cut into byte ranges that end at ``\n``, or in a very long line at a space, so that no word, no UTF-8
character and no ``\r\n`` is ever split, and a text of one line takes no more memory than another. Workers take ranges;
their results are used in the order of the file, and only a few are under way at a time.

A line ends at ``\n``, ``\r\n`` or ``\r``; its words are separated by runs of Unicode whitespace; ``</s>`` is appended
to each, so that an empty line is ``[2]``. In the text of a range each line end becomes a word that no UTF-8 file can
hold, a lone surrogate. One split, one pass of dictionary look-ups (both in C), and line ends say where sentences end:

    "a b\n\nc\n"  →  a b ␤ ␤ c ␤  →  ids 4 5 ␤ ␤ 6 ␤  →  ids 4 5 2 2 6 2, sizes 3 1 2
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from fairseq.arrays import Int64s, Integers
from fairseq.data.dictionary import BOS, EOS, PAD, SPECIALS, UNK, Dictionary
from fairseq.data.encoding import decoded
from fairseq.data.indexed_dataset import IndexedDatasetWriter
from fairseq.runtime.parallel import ordered_map
from fairseq.runtime.progress import Progress

CHUNK_BYTES = 4 << 20  # of text; its words take some fifteen times as much memory
LINE_END = "\ud800"
LINE_END_ID, UNKNOWN_ID = -1, -2
CHUNKS_PER_WORKER = 4  # fewer do not repay the start of a process


@dataclass(frozen=True)
class Chunk:
    """The bytes ``start`` to ``end`` of a text file: whole words, and whole lines unless the last one goes on."""

    path: Path
    start: int
    end: int
    ends_line: bool = True


@dataclass(frozen=True)
class EncodedChunk:
    """The ids of a range.

    Attributes:
        ids: of its words and line ends.
        ends: where each line ends, in tokens of the range.
        num_replaced: words that ``<unk>`` replaced.
        specials: words that equal a special other than ``<unk>``, and how often each stands there.
    """

    ids: Integers
    ends: Int64s
    num_replaced: int
    specials: Counter[str]


@dataclass(frozen=True)
class TextSummary:
    """Counts of a text: sentences, tokens with ``</s>``, words that ``<unk>`` replaced, and words that are specials."""

    num_sentences: int
    num_tokens: int
    num_replaced: int
    specials: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        percent = 100 * self.num_replaced / max(self.num_tokens, 1)
        return f"{self.num_sentences} sents, {self.num_tokens} tokens, {percent:.3}% replaced by <unk>"


def split_chunks(path: Path, chunk_bytes: int = CHUNK_BYTES) -> list[Chunk]:
    r"""Returns the ranges of a file: each ends after the first ``\n`` at or beyond ``chunk_bytes``.

    Where none follows within as many bytes again, it ends after the last space of these, if there is one.
    """
    chunks, start = [], 0
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        while start < size:
            file.seek(min(start + chunk_bytes, size) - 1)
            end, ends_line = _end_of_range(file, chunk_bytes)
            chunks.append(Chunk(path, start, end, ends_line or end == size))
            start = end
    return chunks


def _end_of_range(file: BinaryIO, most_bytes: int) -> tuple[int, bool]:
    """Returns the end of the range that has reached the file's position, and whether a line ends there."""
    while True:
        before = file.tell()
        data = file.readline(most_bytes)
        if data.endswith(b"\n") or len(data) < most_bytes:
            return before + len(data), True
        space = data.rfind(b" ")
        if space >= 0:
            return before + space + 1, False


def split_words(chunk: Chunk) -> list[str]:
    """Returns the words of a range, with ``LINE_END`` after each line that ends in it.

    Raises:
        DataError: the text is not UTF-8.
    """
    with chunk.path.open("rb") as file:
        file.seek(chunk.start)
        data = file.read(chunk.end - chunk.start)
    text = decoded(data, str(chunk.path), partial(_line_number, chunk.path), start=chunk.start)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if chunk.ends_line and text and not text.endswith("\n"):  # empty: a byte-order mark was all
        text += "\n"
    return text.replace("\n", f" {LINE_END} ").split()


def _line_number(path: Path, position: int) -> int:
    """Returns the number of the line, from 1, in which the byte at ``position`` stands."""
    number, left = 1, position
    with path.open("rb") as file:
        for line in file:  # ends at \n; bytes.splitlines finds every kind of end
            if len(line) > left:
                return number + len((line[:left] + b"x").splitlines()) - 1
            number += len(line.splitlines())
            left -= len(line)
    return number


def count_chunk(chunk: Chunk) -> Counter[str]:
    """Returns how often each word stands in a range."""
    counts = Counter(split_words(chunk))
    del counts[LINE_END]
    return counts


def encode_chunk(indices: Mapping[str, int], dtype: npt.DTypeLike, chunk: Chunk) -> EncodedChunk:
    """Returns the ids of a range, given those of the words and of ``LINE_END``, in a dtype."""
    words = split_words(chunk)
    ids = np.fromiter(map(indices.get, words, repeat(UNKNOWN_ID)), dtype=np.int32, count=len(words))
    ends = np.flatnonzero(ids == LINE_END_ID)
    replaced = ids == UNKNOWN_ID
    specials = Counter({SPECIALS[idx]: int(np.count_nonzero(ids == idx)) for idx in (BOS, PAD, EOS)})
    ids[ends] = EOS
    ids[replaced] = UNK
    return EncodedChunk(ids.astype(dtype), ends + 1, int(np.count_nonzero(replaced)), +specials)


def count_words(path: Path, workers: int = 1, *, chunk_bytes: int = CHUNK_BYTES) -> Counter[str]:
    """Returns how often each word stands in a text file.

    Raises:
        DataError: the text is not UTF-8.
    """
    chunks = split_chunks(path, chunk_bytes)
    counts: Counter[str] = Counter()
    with Progress(f"count {path.name}", path.stat().st_size, "bytes") as progress:
        for chunk, found in zip(chunks, ordered_map(count_chunk, chunks, _useful(workers, chunks)), strict=True):
            counts.update(found)
            progress.advance(chunk.end - chunk.start, types=len(counts))
    return counts


def binarize(
    path: Path,
    dictionary: Dictionary,
    writer: IndexedDatasetWriter,
    workers: int = 1,
    *,
    chunk_bytes: int = CHUNK_BYTES,
) -> TextSummary:
    """Writes the ids of a text file to ``writer`` and returns counts.

    Raises:
        DataError: the text is not UTF-8.
    """
    chunks = split_chunks(path, chunk_bytes)
    encode = partial(encode_chunk, {**dictionary.indices, LINE_END: LINE_END_ID}, writer.dtype)
    last_end, num_replaced, specials = 0, 0, Counter[str]()
    with Progress(f"binarise {path.name}", path.stat().st_size, "bytes") as progress:
        for chunk, encoded in zip(chunks, ordered_map(encode, chunks, _useful(workers, chunks)), strict=True):
            ends = writer.num_tokens + encoded.ends
            writer.write(encoded.ids, np.diff(ends, prepend=last_end))
            last_end = int(ends[-1]) if len(ends) else last_end
            num_replaced += encoded.num_replaced
            specials += encoded.specials
            lines_per_s = writer.num_sentences / max(progress.elapsed_s, 1e-9)
            progress.advance(chunk.end - chunk.start, **{"lines/s": lines_per_s})
    return TextSummary(writer.num_sentences, writer.num_tokens, num_replaced, dict(specials))


def _useful(workers: int, chunks: Sequence[Chunk]) -> int:
    """Returns how many processes repay their start."""
    return min(workers, len(chunks) // CHUNKS_PER_WORKER)
