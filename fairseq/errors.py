"""The errors a user can meet; every command turns one into a single line and exit code 2.

    FairseqError
    ├── ConfigError        a flag, or flags that do not go together
    ├── DataError          a text, dictionary or binarised file that is not what its format says
    ├── CheckpointError    a checkpoint that cannot be read, or does not fit
    └── DatastoreError     a datastore or an index that cannot be read
        └── MismatchError  two files that do not belong together

A message says what (flag or path), what was expected against what was found, and what to do. Our own invariants are
``assert`` statements, not these.
"""

import difflib
from collections.abc import Collection, Iterable


class FairseqError(Exception):
    """Something that the user can put right."""


class ConfigError(FairseqError, ValueError):
    """A flag, or flags that do not go together."""


class DataError(FairseqError, ValueError):
    """A text, dictionary or binarised file that is not what its format says."""


class CheckpointError(FairseqError):
    """A checkpoint that cannot be read, or does not fit."""


class DatastoreError(FairseqError):
    """A datastore or an index that cannot be read."""


class MismatchError(DatastoreError):
    """Two files that do not belong together."""


def shown(value: object, limit: int = 80) -> str:
    """Returns ``repr(value)`` for a message: cut at ``limit`` characters, since a broken file can hold anything."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ``'; did you mean X?'`` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def refuse_unknown(names: Iterable[str], known: Collection[str], owner: str) -> None:
    """Raises ConfigError for a name that is not among the known settings of ``owner``."""
    for name in names:
        if name not in known:
            raise ConfigError(f"{name} is not a setting of {owner}{did_you_mean(name, known)}")
