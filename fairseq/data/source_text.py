r"""The source text of tokens: what each of them was, byte by byte, as it stood in its file.

    NAME.text             the documents' UTF-8, one after another, as it was
    NAME.offsets          uint64 [N + 1, 2], little-endian: where each token begins in .text, and the words before it
    NAME.documents.json   of each document its name, its first line, its first token and its hash

Documents are those of NAME.idx. A token's bytes go from its own beginning to that of the next, so that those of
tokens [a, b) are one range. Words are what ``re.split(r"\s+", document)`` has, an empty first or last one included. A
word counts where the white space after it begins, the last one at the document's first token.

Legend: N tokens · D documents.
"""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fairseq.arrays import Int64s
from fairseq.errors import DataError
from fairseq.storage.records import Count, Record, read_record

REMAKE = "make it again with fairseq-preprocess --overwrite"
_ROW_BYTES = 16
BLOCK_TOKENS = 1 << 18  # at once
BLANKS = b" \t\n\r\f\v"  # what does not count as a token's first letter


class DocumentTable(Record, frozen=True):
    """What ``NAME.documents.json`` says.

    Attributes:
        num_tokens: of all documents.
        num_bytes: of ``NAME.text``.
        names: of each document: its file, and where a file has several that are no lines of it, their number.
        first_lines: 1-based, in its file.
        first_tokens: of the whole text.
        sha256: of its bytes.
    """

    num_tokens: Count
    num_bytes: Count
    names: list[str]
    first_lines: list[Count]
    first_tokens: list[Count]
    sha256: list[str]
    kind: Literal["documents"] = "documents"
    version: Literal[1] = 1


class SourceText:
    """The text that tokens were made of.

    Args:
        prefix: of the files.
        table: of the documents.

    Attributes:
        words_before_N: int64 ``[N + 1]``, words before each token, in all.
        bytes_before_N: int64 ``[N + 1]``, where each token begins.
        first_token_D: int64, of each document.
        utf8: uint8, every byte of the text.

    Raises:
        DataError: files that do not belong together.
    """

    def __init__(self, prefix: str | Path, table: DocumentTable) -> None:
        self.prefix, self.table = str(prefix), table
        sizes = {".text": table.num_bytes, ".offsets": _ROW_BYTES * (table.num_tokens + 1)}
        for suffix, size in sizes.items():
            path = Path(f"{prefix}{suffix}")
            found = path.stat().st_size if path.is_file() else -1
            if found != size:
                is_there = f"has {found}" if found >= 0 else "is not there"
                raise DataError(f"{path} must have {size} bytes by {prefix}.documents.json, but {is_there}; {REMAKE}")
        first_D, number = np.array(table.first_tokens, np.int64), table.num_tokens
        columns = {len(table.names), len(table.first_lines), len(table.first_tokens), len(table.sha256)}
        if len(columns) > 1 or (np.diff(first_D, prepend=-1, append=number) <= 0).any() or (first_D[:1] > 0).any():
            raise DataError(f"{prefix}.documents.json must name documents in order, with tokens each; {REMAKE}")
        self.utf8 = _mapped(Path(f"{prefix}.text"), "u1")
        self._pairs_N2: Int64s = _mapped(Path(f"{prefix}.offsets"), "<i8").reshape(-1, 2)
        self.bytes_before_N: Int64s = self._pairs_N2[:, 0]
        self.words_before_N: Int64s = self._pairs_N2[:, 1]
        self.first_token_D = first_D
        if self.bytes_before_N[0] or self.bytes_before_N[-1] != len(self.utf8):
            raise DataError(f"{prefix}.offsets must lead from 0 to the end of {prefix}.text, but does not; {REMAKE}")

    @classmethod
    def open(cls, prefix: str | Path) -> "SourceText | None":
        """Returns the source text of a split, None where it has none.

        Args:
            prefix: path without the suffix, as ``data-bin/train``.

        Raises:
            DataError: a file is missing or cannot be read, or they do not belong together.
        """
        if not cls.is_beside(prefix):
            return None
        path = Path(f"{prefix}.documents.json")
        if not path.is_file():
            raise DataError(f"{path} must be beside the source text of {prefix}, but is not there; {REMAKE}")
        return cls(prefix, read_record(path, DocumentTable, DataError, REMAKE))

    @staticmethod
    def is_beside(prefix: str | Path) -> bool:
        """Returns whether a split has source text, whole or not: it is tokenized data."""
        return any(Path(f"{prefix}{suffix}").is_file() for suffix in (".documents.json", ".offsets"))

    def check(self, offsets: Int64s) -> None:
        """Checks the documents against those of the ids, and every document's hash, which reads all of the text.

        Args:
            offsets: where each sentence of the ids begins, and the end.

        Raises:
            DataError: it is not the text of these ids, or is damaged.
        """
        self.check_order()
        own = np.append(self.first_token_D, self.num_tokens)
        if not np.array_equal(own, offsets):
            raise DataError(
                f"{self.prefix}.documents.json must name the documents of {self.prefix}.idx, but has"
                f" {self.num_documents} of {self.num_tokens} tokens for {len(offsets) - 1} of {offsets[-1]}; {REMAKE}"
            )
        for document, sha256 in enumerate(self.table.sha256):
            data = self._bytes(self.first_token(document), self.first_token(document + 1))
            if hashlib.sha256(data).hexdigest() != sha256:
                raise DataError(
                    f"{self.prefix}.text is damaged in the document {self.name_of(document)}, as its recorded checksum"
                    f" says; {REMAKE}"
                )

    def check_order(self) -> None:
        """Checks that no token begins before the one in front of it, nor has fewer words before it.

        Raises:
            DataError: one does, or there are more words than the text has room for.
        """
        most = np.array([self.table.num_bytes, self.table.num_bytes + self.num_documents])
        before = np.zeros((1, 2), np.int64)
        for first in range(0, len(self._pairs_N2), BLOCK_TOKENS):
            pairs_N2 = np.concatenate([before, self._pairs_N2[first : first + BLOCK_TOKENS]])
            wrong_N2 = (pairs_N2[1:] < pairs_N2[:-1]) | (pairs_N2[1:] > most)
            if wrong_N2.any():
                raise DataError(
                    f"{self.prefix}.offsets must rise from token to token, but does not at token"
                    f" {first + int(wrong_N2.any(axis=1).argmax())}: it is damaged; {REMAKE}"
                )
            before = pairs_N2[-1:]

    @property
    def num_documents(self) -> int:
        """Documents; none of them is empty."""
        return len(self.first_token_D)

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents."""
        return len(self.bytes_before_N) - 1

    def document_of(self, position: int) -> int:
        """Returns the number of the document that a token is in."""
        return int(np.searchsorted(self.first_token_D, position, side="right")) - 1

    def name_of(self, document: int) -> str:
        """Returns a document's name: of its file, within the directory that was given."""
        return self.table.names[document]

    def first_token(self, document: int) -> int:
        """Returns a document's first token; for the number after the last, the end of the text."""
        return int(self.first_token_D[document]) if document < self.num_documents else self.num_tokens

    def text(self, first: int, last: int) -> str:
        """Returns the text of tokens [first, last), as it was; a character that is cut is U+FFFD."""
        return self._bytes(first, last).decode(errors="replace")

    def bytes_of(self, first: int, last: int) -> int:
        """Returns how many bytes of text tokens [first, last) are."""
        return int(self.bytes_before_N[last]) - int(self.bytes_before_N[first])

    def words(self, first: int, last: int) -> int:
        """Returns how many words of text tokens [first, last) are."""
        return int(self.words_before_N[last]) - int(self.words_before_N[first])

    def line_of(self, position: int) -> int:
        """Returns the line that a token is on, 1-based, in its document's file: that of its first letter."""
        document = self.document_of(position)
        start = int(self.bytes_before_N[self.first_token(document)])
        before = np.searchsorted(self.line_ends, [start, self._letter(position)])
        return self.table.first_lines[document] + int(before[1] - before[0])

    def line_range(self, position: int) -> tuple[int, int]:
        """Returns the tokens [first, last) of the line that a token is on, within its document."""
        document = self.document_of(position)
        first, last = self.first_token(document), self.first_token(document + 1)
        line = int(np.searchsorted(self.line_ends, self._letter(position)))
        if line and self.line_ends[line - 1] >= self.bytes_before_N[first]:
            first = self._first_at(int(self.line_ends[line - 1]) + 1, first)
        if line < len(self.line_ends) and self.line_ends[line] < self.bytes_before_N[last]:
            last = self._first_at(int(self.line_ends[line]) + 1, position + 1)
        return first, last

    def _first_at(self, byte: int, least: int) -> int:
        """Returns the first token from ``least`` on whose first letter is at a byte or after it."""
        token = max(int(np.searchsorted(self.bytes_before_N, byte)), least)
        while token > least and self._letter(token - 1) >= byte:
            token -= 1
        return token

    def _letter(self, position: int) -> int:
        """Returns the byte of a token's first letter; its first byte where it is all white space."""
        start, data = int(self.bytes_before_N[position]), self._bytes(position, position + 1)
        blank = len(data) - len(data.lstrip(BLANKS))
        return start + (blank if blank < len(data) else 0)

    def _bytes(self, first: int, last: int) -> bytes:
        return bytes(self.utf8[int(self.bytes_before_N[first]) : int(self.bytes_before_N[last])])

    @cached_property
    def line_ends(self) -> Int64s:
        """Which bytes of the text end a line."""
        return np.flatnonzero(self.utf8 == ord("\n"))


def _mapped(path: Path, dtype: str) -> Any:
    """Returns a file's numbers, mapped; an empty file cannot be."""
    return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)
