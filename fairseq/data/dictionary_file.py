"""The special symbols, and what ``dict.txt`` holds.

A file is read quickly where every line is as we write it, and line by line elsewhere.
"""

from collections.abc import Collection
from pathlib import Path
from typing import IO, TYPE_CHECKING

from fairseq.data.encoding import decoded, warn_of_mark
from fairseq.errors import ConfigError, DataError, shown

if TYPE_CHECKING:
    from torch import Tensor

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
OVERWRITE = "#fairseq:overwrite"
MAX_COUNT_DIGITS = 18  # a larger number is no count, and would not fit 64 bits


class Specials:
    """The special symbols under fairseq's names, and what is made of them."""

    bos_word, pad_word, eos_word, unk_word = SPECIALS
    bos_index, pad_index, eos_index, unk_index = range(len(SPECIALS))
    nspecial = len(SPECIALS)

    def __len__(self) -> int:
        raise NotImplementedError

    def bos(self) -> int:
        """Returns the id of ``<s>``."""
        return self.bos_index

    def pad(self) -> int:
        """Returns the id of ``<pad>``."""
        return self.pad_index

    def eos(self) -> int:
        """Returns the id of ``</s>``."""
        return self.eos_index

    def unk(self) -> int:
        """Returns the id of ``<unk>``."""
        return self.unk_index

    def unk_string(self, escape: bool = False) -> str:
        """Returns ``<unk>``; with ``escape``, ``<<unk>>``, which no text has."""
        return f"<{self.unk_word}>" if escape else self.unk_word

    def dummy_sentence(self, length: int) -> "Tensor":
        """Returns random words, ``</s>`` last: int64 ``[length]``."""
        import torch  # only this answer is a tensor

        ids = torch.randint(self.nspecial, len(self), (length,))
        ids[-1:] = self.eos_index
        return ids


def check_specials(bos: str, pad: str, eos: str, unk: str, extra_special_symbols: Collection[str] | None) -> None:
    """Raises ConfigError for special symbols other than the four, whose ids are fixed."""
    if (bos, pad, eos, unk) != SPECIALS or extra_special_symbols:
        found = [bos, pad, eos, unk, *(extra_special_symbols or ())]
        raise ConfigError(
            f"the special symbols must be {', '.join(SPECIALS)}, but are {', '.join(map(str, found))}; add other"
            " symbols as words: add_symbol"
        )


def read_dictionary(path: str | Path | IO[str], taken: Collection[str] = SPECIALS) -> tuple[list[str], list[int]]:
    """Returns the symbols and counts of a ``dict.txt``, without the specials.

    Args:
        path: the file, or one that is open for reading text.
        taken: symbols that are there already.

    Raises:
        DataError: there is no such file, or a line is not UTF-8, not ``<symbol> <count>``, or a duplicate.
    """
    if isinstance(path, (str, Path)):
        name, text = path, _text(Path(path))
    else:
        name, text = getattr(path, "name", "dictionary"), path.read()
    clean = _read_clean(text)
    if clean is None or len({*taken, *clean[0]}) < len(taken) + len(clean[0]):  # not clean, or a symbol twice
        clean = _read_checked(text, name, taken)
    if not clean[0]:
        raise DataError(f"{name} must hold lines '<symbol> <count>', but is empty; make it with fairseq-preprocess")
    return clean


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


def _read_checked(text: str, path: str | Path, taken: Collection[str]) -> tuple[list[str], list[int]]:
    """Returns the symbols and counts of lines, read one at a time; raises DataError for the first bad one."""
    lines = text.split("\n")
    if not lines[-1]:
        del lines[-1]
    symbols: list[str] = []
    counts: list[int] = []
    seen: dict[str, int] = dict.fromkeys(taken, 0)
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
            is_special = "one of the four specials" if symbol in SPECIALS else "in the dictionary"
            where = f"on line {seen[symbol]}" if seen[symbol] else is_special
            raise DataError(
                f"{path}:{number}: each symbol must stand once, but {shown(symbol)} is already there ({where});"
                f" remove the line, or end it with ' {OVERWRITE}' if the later id is meant"
            )
        seen[symbol] = number
        symbols.append(symbol)
        counts.append(int(field))
    return symbols, counts
