"""The dictionary: which word has which id, and ``dict.txt``, the file that holds it.

    id 0 <s>   1 <pad>   2 </s>   3 <unk>   4 first line of the file   5 second line …

A line is ``<symbol> <count>``; the last space separates, so a symbol may hold spaces. The specials are not written. A
third field ``#fairseq:overwrite`` gives a symbol that is already there a second, later id, which then wins.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from fairseq.arrays import Int64s
from fairseq.data.encoding import MARK, decoded, warn_of_mark
from fairseq.errors import DataError, shown
from fairseq.storage.files import atomic_write

BOS, PAD, EOS, UNK = 0, 1, 2, 3
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
OVERWRITE = "#fairseq:overwrite"
MAX_COUNT_DIGITS = 18  # a larger number is no count, and would not fit 64 bits


class Dictionary:
    """Words with their ids and counts.

    Args:
        symbols: the words from id 4 on.
        counts: how often each was counted.

    Attributes:
        symbols: every symbol, by id; the specials first.
        counts: the count of each; 0 for the specials, whose counts no file holds.
        indices: id of each symbol.
    """

    def __init__(self, symbols: Iterable[str] = (), counts: Iterable[int] = ()) -> None:
        self.symbols: list[str] = [*SPECIALS, *symbols]
        self.counts: list[int] = [*(0 for _ in SPECIALS), *counts]
        assert len(self.symbols) == len(self.counts), f"{len(self.symbols)} symbols, {len(self.counts)} counts"
        self.indices: dict[str, int] = dict(zip(self.symbols, range(len(self.symbols)), strict=True))
        self._sha256: str | None = None

    def __len__(self) -> int:
        return len(self.symbols)

    def __getitem__(self, idx: int) -> str:
        return self.symbols[idx]

    def __contains__(self, symbol: object) -> bool:
        return symbol in self.indices

    def index(self, symbol: str) -> int:
        """Returns the id of a symbol, or of ``<unk>`` if it is not in the dictionary."""
        return self.indices.get(symbol, UNK)

    def bos(self) -> int:
        """Returns the id of ``<s>``."""
        return BOS

    def pad(self) -> int:
        """Returns the id of ``<pad>``."""
        return PAD

    def eos(self) -> int:
        """Returns the id of ``</s>``."""
        return EOS

    def unk(self) -> int:
        """Returns the id of ``<unk>``."""
        return UNK

    def string(self, ids: Iterable[int]) -> str:
        """Returns the words of ``ids``, joined by spaces, without ``<s>`` and ``</s>``."""
        return " ".join(self.symbols[idx] for idx in map(int, ids) if idx not in (BOS, EOS))

    def encode_line(self, line: str) -> Int64s:
        """Returns the ids of a line's words (int64), ``</s>`` last; an empty line is ``[2]``."""
        return np.array([*map(self.index, line.split()), EOS], dtype=np.int64)

    @classmethod
    def from_counts(
        cls, counts: Mapping[str, int], threshold: int = 0, nwords: int = -1, padding_factor: int = 8
    ) -> "Dictionary":
        """Returns the dictionary of counted words: most frequent first, ties by code point.

        Args:
            counts: how often each word occurs; the specials among them are left out.
            threshold: least count of a word that is kept.
            nwords: most ids, the specials included; none when not positive.
            padding_factor: fill up with ``madeupword0000``, … of count 0 to a multiple of this.
        """
        kept = [(-n, word) for word, n in counts.items() if n >= threshold and word not in SPECIALS]
        kept.sort()
        if nwords > 0:
            del kept[max(nwords - len(SPECIALS), 0) :]
        symbols = [word for _, word in kept]
        taken, number = set(symbols), 0
        while (len(SPECIALS) + len(symbols)) % padding_factor:
            filler = f"madeupword{number:04d}"
            if filler not in taken:
                symbols.append(filler)
            number += 1
        return cls(symbols, [*(-n for n, _ in kept), *([0] * (len(symbols) - len(kept)))])

    @classmethod
    def load(cls, path: str | Path) -> "Dictionary":
        """Returns the dictionary of a ``dict.txt``.

        Raises:
            DataError: there is no such file, or a line is not UTF-8, not ``<symbol> <count>``, or a duplicate.
        """
        text = _text(Path(path))
        clean = _read_clean(text)
        dictionary = cls(*clean) if clean is not None else None
        if dictionary is None or len(dictionary.indices) < len(dictionary):  # not clean, or a symbol twice
            dictionary = cls(*_read_checked(text, path))
        if len(dictionary) == len(SPECIALS):
            raise DataError(f"{path} must hold lines '<symbol> <count>', but is empty; make it with fairseq-preprocess")
        return dictionary

    def to_bytes(self) -> bytes:
        """Returns the bytes of ``dict.txt``."""
        lines, seen = [], set(SPECIALS)
        for symbol, count in zip(self.symbols[len(SPECIALS) :], self.counts[len(SPECIALS) :], strict=True):
            lines.append(f"{symbol} {count} {OVERWRITE}\n" if symbol in seen else f"{symbol} {count}\n")
            seen.add(symbol)
        text = "".join(lines)
        return (MARK + text if text.startswith(MARK) else text).encode()  # a first word's own mark is kept

    def sha256(self) -> str:
        """Returns the SHA-256 of the bytes that ``save`` writes, in hexadecimal; computed once."""
        if self._sha256 is None:
            self._sha256 = hashlib.sha256(self.to_bytes()).hexdigest()
        return self._sha256

    def save(self, path: str | Path) -> None:
        """Writes ``dict.txt``: whole, or not at all."""
        with atomic_write(path) as file:
            file.write(self.to_bytes())


def _text(path: Path) -> str:
    r"""Returns the text of a UTF-8 file, its lines ended by ``\n`` where they were by ``\r\n`` or ``\r``."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as err:
        raise DataError(f"dictionary {path} does not exist; give the directory that fairseq-preprocess wrote") from err
    text = decoded(data, str(path), lambda position: len((data[:position] + b"x").splitlines()), what="dictionary")
    warn_of_mark(data, str(path))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_clean(text: str) -> tuple[list[str], list[int]] | None:
    r"""Returns the symbols and counts if every line is as ``save`` writes it, else None.

    Every step is a call or two in C for all lines at once: ``a 5\nb 6\n`` is cut into ``a 5 \n b 6 \n`` and nothing.
    A symbol with a space in it, or one that stands twice, is for ``_read_checked`` to judge.
    """
    words = text.replace("\n", " \n ").split(" ")
    symbols, fields, ends = words[:-1:3], words[1::3], words[2::3]
    if len(words) != 3 * len(ends) + 1 or ends.count("\n") != len(ends) or not ends or words[-1]:
        return None
    digits = "".join(fields)
    if not (digits.isdigit() and digits.isascii() and all(fields)) or len(max(fields, key=len)) > MAX_COUNT_DIGITS:
        return None
    return symbols, list(map(int, fields))


def _read_checked(text: str, path: str | Path) -> tuple[list[str], list[int]]:
    """Returns the symbols and counts of lines, read one at a time; raises DataError for the first bad one."""
    lines = text.split("\n")
    if not lines[-1]:
        del lines[-1]
    symbols: list[str] = []
    counts: list[int] = []
    seen: dict[str, int] = dict.fromkeys(SPECIALS, 0)
    for number, line in enumerate(lines, 1):
        symbol, space, field = line.rstrip().rpartition(" ")
        overwrite = field == OVERWRITE
        if overwrite:
            symbol, space, field = symbol.rpartition(" ")
        if not (space and field.isascii() and field.isdigit() and len(field) <= MAX_COUNT_DIGITS):
            raise DataError(
                f"{path}:{number}: a line must be '<symbol> <count>', the count a whole number of at most"
                f" {MAX_COUNT_DIGITS} digits, but is {shown(line)}; mend the line, or make the dictionary again with"
                " fairseq-preprocess"
            )
        if symbol in seen and not overwrite:
            where = f"on line {seen[symbol]}" if seen[symbol] else "one of the four specials"
            raise DataError(
                f"{path}:{number}: each symbol must stand once, but {shown(symbol)} is already there ({where});"
                f" remove the line, or end it with ' {OVERWRITE}' if the later id is meant"
            )
        seen[symbol] = number
        symbols.append(symbol)
        counts.append(int(field))
    return symbols, counts
