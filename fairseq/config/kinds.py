"""What the value of a text flag is: the word that stands for it in ``--help``, and what can be checked of it at once.

    path: File = flag(dataclasses.MISSING, "the checkpoint to evaluate")       # --path FILE

To a type checker each is ``str``. A tuple of them is a comma-separated list.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fairseq.config.path_lists import join_paths, split_paths
from fairseq.errors import ConfigError

_OF_A_STORE = re.compile(r"(?s)(.+)(_keys\.npy|_vals\.npy|\.json)")


@dataclass(frozen=True)
class Kind:
    """What a value is.

    Attributes:
        metavar: the word for it in ``--help``.
        check: is given the flag and the value, and raises ConfigError for a value that cannot be meant.
    """

    metavar: str
    check: Callable[[str, str], None] | None = None


def check_not_directory(what: str, value: str) -> None:
    """Raises ConfigError for a directory where a datastore's prefix must stand."""
    if value and Path(value).is_dir() and not _has_rows(value.rstrip("/")):
        there = stores_in(Path(value))
        raise ConfigError(
            f"{what} takes a datastore's prefix, the start of its files' names, but {value} is a directory; give a"
            f" prefix such as {there[0] if there else Path(value) / 'dstore'}"
        )


def check_prefix(what: str, value: str) -> None:
    """Raises ConfigError for a file of a datastore, or a directory, where a datastore's prefix must stand.

    Args:
        what: the flag.
        value: a prefix, or several with colons between them.
    """
    names = split_paths(value)
    prefixes = [_prefix_of(name) for name in names]
    if prefixes != names:
        raise ConfigError(
            f"{what} takes a datastore's prefix, the name without _keys.npy and _vals.npy, but is {value}; give"
            f" {join_paths(prefixes)}"
        )
    for name in names:
        check_not_directory(what, name)


def _prefix_of(name: str) -> str:
    match = _OF_A_STORE.fullmatch(name)
    if match is None or _has_rows(name):
        return name
    return match[1] if match[2] != ".json" or _has_rows(match[1]) else name


def _has_rows(prefix: str) -> bool:
    return any(Path(f"{prefix}_{rows}.npy").exists() for rows in ("keys", "vals"))


def stores_in(directory: Path) -> list[str]:
    """Returns the prefixes of the datastores in a directory, sorted."""
    try:
        names = [path.name.removesuffix("_vals.npy") for path in directory.glob("*_vals.npy")]
    except OSError:
        return []
    return [str(directory / name) for name in sorted(names)]


File = Annotated[str, Kind("FILE")]
Dir = Annotated[str, Kind("DIR")]
Place = Annotated[str, Kind("PATH")]  # a file or a directory
FileList = Annotated[str, Kind("FILE,…")]
Places = Annotated[str, Kind("PATH[:PATH…]")]
Files = Annotated[str, Kind("FILE[:FILE…]")]
Dirs = Annotated[str, Kind("DIR[:DIR…]")]
Prefix = Annotated[str, Kind("PREFIX", check_prefix)]
Prefixes = Annotated[str, Kind("PREFIX[:PREFIX…]", check_prefix)]
KeyType = Annotated[str, Kind("TYPE[:LAYER]")]  # a vector of a model (fairseq/models/key_types.py)
AnyStoreFile = Annotated[str, Kind("PREFIX", check_not_directory)]  # a prefix, or a file of the datastore
Split = Annotated[str, Kind("SPLIT")]
Splits = Annotated[str, Kind("SPLIT,…")]
Name = Annotated[str, Kind("NAME")]
Settings = Annotated[str, Kind("DICT")]
Values = Annotated[str, Kind("VALUES")]
Rows = Annotated[str, Kind("FIRST:STOP")]
Regex = Annotated[str, Kind("REGEX")]
Spec = Annotated[str, Kind("SPEC")]
Mark = Annotated[str, Kind("MARK")]
Title = Annotated[str, Kind("TITLE")]
Address = Annotated[str, Kind("HOST:PORT")]


def kind_of(annotation: object) -> Kind | None:
    """Returns what the values of an annotated type are: ``File | None`` and ``tuple[File, ...]`` are files as well."""
    for part in getattr(annotation, "__metadata__", ()):
        if isinstance(part, Kind):
            return part
    found = (kind_of(part) for part in getattr(annotation, "__args__", ()))
    return next((kind for kind in found if kind is not None), None)
