"""Writes the source text of documents that are tokenized; ``source_text.py`` says what the files hold."""

import hashlib
import re
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
import numpy.typing as npt

from fairseq.arrays import Int64s
from fairseq.data.source_text import BLANKS, BLOCK_TOKENS, DocumentTable
from fairseq.storage.files import atomic_write
from fairseq.storage.records import write_record

_WHITE = np.zeros(256, bool)
_WHITE[[*BLANKS, *b"\x1c\x1d\x1e\x1f"]] = True
# The other characters that are white space in Unicode's sense, in UTF-8.
_WIDE_WHITE = re.compile(rb"\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80")


class SourceTextWriter:
    """Writes the source text of documents as they come, as a context manager; no file is there before it is whole.

    Args:
        prefix: of the files.
    """

    def __init__(self, prefix: str | Path) -> None:
        self._prefix = str(prefix)
        self._names: list[str] = []
        self._first_lines: list[int] = []
        self._first_tokens: list[int] = []
        self._hashes: list[str] = []
        self._sha256 = hashlib.sha256()
        self.num_tokens = self.num_bytes = self.num_words = 0
        self._stack = ExitStack()
        self._text: IO[bytes]
        self._offsets: IO[bytes]

    def __enter__(self) -> "SourceTextWriter":
        with ExitStack() as stack:
            self._text = stack.enter_context(atomic_write(f"{self._prefix}.text"))
            self._offsets = stack.enter_context(atomic_write(f"{self._prefix}.offsets"))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self._write(np.array([[self.num_bytes, self.num_words]], "<u8"))
        self._stack.__exit__(kind, err, tb)
        if kind is None:
            columns = (self._names, self._first_lines, self._first_tokens, self._hashes)
            table = DocumentTable(self.num_tokens, self.num_bytes, *columns)
            write_record(Path(f"{self._prefix}.documents.json"), table)

    def write(self, name: str, first_line: int, data: bytes, starts: Int64s) -> None:
        """Appends a document.

        Args:
            name: of it.
            first_line: of its file that is its first.
            data: its text, UTF-8.
            starts: where each of its n tokens begins in it, and its end: int64 ``[n + 1]``.
        """
        self._names.append(name)
        self._first_lines.append(first_line)
        self._first_tokens.append(self.num_tokens)
        self._hashes.append(hashlib.sha256(data).hexdigest())
        self._text.write(data)
        words = words_before(data, starts)
        for first in range(0, len(starts) - 1, BLOCK_TOKENS):
            block = slice(first, min(first + BLOCK_TOKENS, len(starts) - 1))
            self._write(np.stack([starts[block] + self.num_bytes, words[block] + self.num_words], 1))
        self.num_tokens += len(starts) - 1
        self.num_bytes += len(data)
        self.num_words += int(words[-1])

    def sha256(self) -> str:
        """Returns the SHA-256 of ``NAME.offsets`` so far, in hexadecimal."""
        return self._sha256.hexdigest()

    def _write(self, rows: npt.NDArray[np.integer]) -> None:
        data = rows.astype("<u8").tobytes()
        self._sha256.update(data)
        self._offsets.write(data)


def words_before(data: bytes, starts: Int64s) -> Int64s:
    """Returns how many of a document's words come before each of its tokens, int64 ``[n + 1]``."""
    blank = _WIDE_WHITE.sub(lambda found: b" " * len(found[0]), data)
    white = _WHITE[np.frombuffer(blank, np.uint8)]
    white[1:] &= ~white[:-1].copy()  # where each run begins
    words: Int64s = 1 + np.searchsorted(np.flatnonzero(white), starts)
    words[0] = 0
    return words
