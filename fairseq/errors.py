"""The errors a user can meet; every command turns one into a single line and exit code 2.

    FairseqError
    ├── ConfigError        a flag, or flags that do not go together
    │   └── UnknownFlagError  a flag that a command does not have, nor one like it
    ├── DataError          a text, dictionary or binarised file that is not what its format says
    ├── CheckpointError    a checkpoint that cannot be read, or does not fit
    └── DatastoreError     a datastore or an index that cannot be read
        └── MismatchError  two files that do not belong together

A message says what (flag or path), what was expected against what was found, and what to do. Our own invariants are
``assert`` statements, not these.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import SequenceMatcher

_MOST_LISTED = 30  # settings, in an error of one line
_MOST_NAMES, _FEW = 12, 8  # names that a flag takes, in an error of one line


class FairseqError(Exception):
    """Something that the user can put right."""

    exit_code = 2


class ConfigError(FairseqError, ValueError):
    """A flag, or flags that do not go together."""


class UnknownFlagError(ConfigError):
    """A flag that a command does not have, nor one like it."""

    def __init__(self, message: str, flag: str) -> None:
        super().__init__(message)
        self.flag = flag


class DataError(FairseqError, ValueError):
    """A text, dictionary or binarised file that is not what its format says."""


class CheckpointError(FairseqError):
    """A checkpoint that cannot be read, or does not fit."""


class DatastoreError(FairseqError):
    """A datastore or an index that cannot be read."""


class MismatchError(DatastoreError):
    """Two files that do not belong together."""


def shown(value: object, limit: int = 80) -> str:
    """Returns ``repr(value)`` for a message: in a line, cut at ``limit`` characters, for there can be anything."""
    text = " ".join(line.strip() for line in repr(value).split("\n"))  # rows of an array are lines
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def some_of(names: Collection[str]) -> str:
    """Returns names for a message; of many, the first few."""
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(list(names)[:_FEW])} and {len(names) - _FEW} more, which --help lists"


def counted(number: int, noun: str) -> str:
    """Returns ``1 row``, ``2 rows``: a number and a noun whose plural ends in s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ``'; did you mean X?'`` for the nearest known name, if one is near, or an empty string.

    Near is a name of which every part (``--max-tokens`` has two) differs by a letter or so, or whose parts are joined
    or cut otherwise; or, if it is the only one, that goes on where the word ends. Names that mean something else often
    have parts in common.
    """
    names = list(known)
    near = [name for name in names if _is_near(_parts(word), _parts(name))]
    longer = [name for name in names if len(word) > len("--x") and re.match(re.escape(word) + "[a-z0-9]", name)]
    if not near and len(longer) == 1:
        near = longer
    return f"; did you mean {max(near, key=lambda name: _likeness(word, name))}?" if near else ""


def _parts(name: str) -> list[str]:
    return re.split(r"[-_.\s]+", name.lower().lstrip("-"))


def _is_near(parts: list[str], others: list[str]) -> bool:
    if len(parts) != len(others):
        return "".join(parts) == "".join(others)
    return all(part == other or _is_slip(part, other) for part, other in zip(parts, others, strict=True))


def _is_slip(word: str, other: str) -> bool:
    """Whether a letter is another, too many or missing: in long words two, in short ones not the first."""
    length = max(len(word), len(other))
    if length < 3 or (length < 5 and word[:1] != other[:1]):
        return False
    slips = 1 if length < 8 else 2
    return _likeness(word, other) * length > length - slips - 0.01  # two words of n letters, s other: 1 - s / n


def _likeness(word: str, other: str) -> float:
    return SequenceMatcher(None, word, other, autojunk=False).ratio()


def refuse_unknown(
    names: Iterable[str], known: Collection[str], owner: str, other_words: Mapping[str, str] | None = None
) -> None:
    """Raises ConfigError for a name that is not among the known settings of ``owner``, and lists those, if not many.

    Args:
        names: that were given.
        known: settings that there are.
        owner: what they are settings of.
        other_words: what other programs call some of them.
    """
    for name in names:
        if name not in known:
            other = (other_words or {}).get(name)
            hint = f"; did you mean {other}?" if other else did_you_mean(name, known)
            listed = f" (settings: {', '.join(sorted(known))})" if len(known) <= _MOST_LISTED else ""
            raise ConfigError(f"{shown(name)} is not a setting of {owner}{hint}{listed}")
