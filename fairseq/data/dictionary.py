"""The dictionary: which word has which id, and ``dict.txt``, the file that holds it.

    id 0 <s>   1 <pad>   2 </s>   3 <unk>   4 first line of the file   5 second line …

A line is ``<symbol> <count>``; the last space separates, so a symbol may hold spaces. The specials are not written. A
third field ``#fairseq:overwrite`` gives a symbol that is already there a second, later id, which then wins.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from fairseq.arrays import Int64s
from fairseq.data.dictionary_file import OVERWRITE, Specials, check_specials, read_dictionary
from fairseq.data.dictionary_file import SPECIALS as SPECIALS
from fairseq.data.encoding import MARK
from fairseq.errors import ConfigError, shown
from fairseq.storage.files import atomic_write
from fairseq.text.post_process import joined

if TYPE_CHECKING:
    from torch import IntTensor

BOS, PAD, EOS, UNK = 0, 1, 2, 3


class Dictionary(Specials):
    """Words with their ids and counts; the calls are those of fairseq's dictionary.

    Args:
        symbols: the words from id 4 on.
        counts: how often each was counted.
        bos, pad, eos, unk, extra_special_symbols: as in fairseq; others than the four are refused.

    Attributes:
        symbols: every symbol, by id; the specials first.
        counts: the count of each; 0 for the specials, whose counts no file holds.
        indices: id of each symbol.
    """

    def __init__(
        self,
        symbols: Iterable[str] = (),
        counts: Iterable[int] = (),
        *,
        bos: str = SPECIALS[0],
        pad: str = SPECIALS[1],
        eos: str = SPECIALS[2],
        unk: str = SPECIALS[3],
        extra_special_symbols: Sequence[str] | None = None,
    ) -> None:
        check_specials(bos, pad, eos, unk, extra_special_symbols)
        self.symbols: list[str] = [*SPECIALS, *symbols]
        self.counts: list[int] = [*(0 for _ in SPECIALS), *counts]
        assert len(self.symbols) == len(self.counts), f"{len(self.symbols)} symbols, {len(self.counts)} counts"
        self.indices: dict[str, int] = dict(zip(self.symbols, range(len(self.symbols)), strict=True))
        self._sha256: str | None = None
        self._is_frozen = False

    def __len__(self) -> int:
        return len(self.symbols)

    def __getitem__(self, idx: int) -> str:
        return self.symbols[idx]

    def __contains__(self, symbol: object) -> bool:
        return symbol in self.indices

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dictionary) and self.symbols == other.symbols

    __hash__ = None  # type: ignore[assignment]  # words can be added

    def freeze(self) -> None:
        """Keeps the words and counts as they are from now on: a model has been made for them."""
        self._is_frozen = True

    @property
    def count(self) -> list[int]:
        """The count of each symbol."""
        return self.counts

    def index(self, symbol: str) -> int:
        """Returns the id of a symbol, or of ``<unk>`` if it is not in the dictionary."""
        return self.indices.get(symbol, UNK)

    def string(
        self,
        ids: Any,
        bpe_symbol: str | None = None,
        escape_unk: bool = False,
        extra_symbols_to_ignore: Iterable[int] = (),
        unk_string: str | None = None,
        include_eos: bool = False,
        separator: str = " ",
    ) -> str:
        """Returns the words of ids, joined by spaces, without ``<s>`` and ``</s>``; of rows of ids, a line each.

        Args:
            ids: numbers, an array or a tensor.
            bpe_symbol: join subwords: the mark that one ends in whose word goes on, or ``sentencepiece``.
            escape_unk: write ``<<unk>>`` for ``<unk>``.
            extra_symbols_to_ignore: ids that are left out as well.
            unk_string: what stands for ``<unk>``.
            include_eos: keep ``</s>``.
            separator: between words.
        """
        if getattr(ids, "ndim", 1) == 2:
            more = (bpe_symbol, escape_unk, extra_symbols_to_ignore, unk_string, include_eos, separator)
            return "\n".join(self.string(row, *more) for row in ids)
        left_out = {BOS, *(() if include_eos else (EOS,)), *extra_symbols_to_ignore}
        unknown = unk_string if unk_string is not None else self.unk_string(escape_unk)
        kept = (idx for idx in map(int, ids) if idx not in left_out)
        text = separator.join(unknown if idx == UNK else self.symbols[idx] for idx in kept)
        return joined(text, bpe_symbol)

    def ids_of(self, line: str) -> Int64s:
        """Returns the ids of a line's words (int64), ``</s>`` last; an empty line is ``[2]``."""
        return np.array([*map(self.index, line.split()), EOS], dtype=np.int64)

    def encode_line(
        self,
        line: str,
        line_tokenizer: Callable[[str], Sequence[str]] = str.split,
        add_if_not_exist: bool = True,
        consumer: Callable[[str, int], object] | None = None,
        append_eos: bool = True,
        reverse_order: bool = False,
    ) -> "IntTensor":
        """Returns the ids of a line's words, an int32 tensor, as fairseq's dictionary does.

        Args:
            line: the text.
            line_tokenizer: cuts it into words.
            add_if_not_exist: whether words that are not there are added, each with a count; else they are ``<unk>``. A
                model's dictionary stays as it is.
            consumer: is told each word and its id.
            append_eos: ``</s>`` comes last.
            reverse_order: the last word first.
        """
        import torch  # only this answer is a tensor

        words, adds = list(line_tokenizer(line)), add_if_not_exist and not self._is_frozen
        ids = []
        for word in reversed(words) if reverse_order else words:
            ids.append(self.add_symbol(word) if adds else self.index(word))
            if consumer is not None:
                consumer(word, ids[-1])
        return torch.IntTensor(ids + [EOS] * append_eos)

    def add_symbol(self, word: str, n: int = 1, overwrite: bool = False) -> int:
        """Returns the id of a word, which is added where it is not there yet; else its count grows by ``n``.

        With ``overwrite``, a word that is there gets another id, which counts from then on.

        Raises:
            ConfigError: the dictionary is a model's, which has weights for these words only.
        """
        self._check_can_change(f"add_symbol({shown(word)})")
        self._sha256 = None
        if word in self.indices and not overwrite:
            idx = self.indices[word]
            self.counts[idx] += n
            return idx
        self.indices[word] = len(self.symbols)
        self.symbols.append(word)
        self.counts.append(n)
        return self.indices[word]

    def add_from_file(self, path: str | Path | IO[str]) -> None:
        """Adds the words of a ``dict.txt``, or of one that is open; errors are those of ``load``, and a word twice."""
        for symbol, count in zip(*read_dictionary(path, self.indices), strict=True):
            self.add_symbol(symbol, count, overwrite=True)

    @staticmethod
    def add_file_to_dictionary(
        filename: str | Path, dict: "Dictionary", tokenize: Callable[[str], Sequence[str]], num_workers: int = 1
    ) -> None:
        """Counts the words of a text into a dictionary, and its lines as ``</s>``; one process does so."""
        counts: Counter[str] = Counter()
        with Path(filename).open(encoding="utf-8") as file:
            for line in file:
                counts.update([*tokenize(line), SPECIALS[EOS]])
        for word, count in sorted(counts.items()):
            dict.add_symbol(word, count)

    def update(self, other: "Dictionary") -> None:
        """Adds the words and counts of another dictionary."""
        for symbol, count in zip(other.symbols, other.counts, strict=True):
            self.add_symbol(symbol, count)

    def finalize(self, threshold: int = -1, nwords: int = -1, padding_factor: int = 8) -> None:
        """Sorts the words by their counts, drops rare ones and fills up; see ``from_counts``."""
        self._check_can_change("finalize()")
        first = len(SPECIALS)
        counts = dict(zip(self.symbols[first:], self.counts[first:], strict=True))
        made = Dictionary.from_counts(counts, threshold, nwords, max(padding_factor, 1))
        made.counts[:first] = self.counts[:first]
        self.symbols, self.counts, self.indices, self._sha256 = made.symbols, made.counts, made.indices, None

    def _check_can_change(self, call: str) -> None:
        if self._is_frozen:
            raise ConfigError(
                f"{call} would change a dictionary that a model was made for; change one of your own,"
                " Dictionary.load('dict.txt'), and binarise and train with that"
            )

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
    def load(cls, path: str | Path | IO[str]) -> "Dictionary":
        """Returns the dictionary of a ``dict.txt``, or of one that is open for reading text.

        Raises:
            DataError: there is no such file, or a line is not UTF-8, not ``<symbol> <count>``, or a duplicate.
        """
        return cls(*read_dictionary(path))

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

    def save(self, path: str | Path | IO[str]) -> None:
        """Writes ``dict.txt``: whole, or not at all; or into a file that is open for writing text."""
        if not isinstance(path, (str, Path)):
            path.write(self.to_bytes().decode())
            return
        with atomic_write(path) as file:
            file.write(self.to_bytes())
