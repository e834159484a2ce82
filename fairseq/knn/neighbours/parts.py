"""The datastores of a source of neighbours, whose ids follow each other.

Legend: N rows · K neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn, TypeVar

import numpy as np

from fairseq.arrays import Array, Float32s, Int64s, Integers
from fairseq.errors import ConfigError
from fairseq.knn.datastore.format import keys_path
from fairseq.knn.datastore.store import Datastore, gather_rows

T = TypeVar("T")


class OpenFiles:
    """Base class of what holds open files: a copy is the object itself, and pickle has a message instead."""

    def __copy__(self: T) -> T:
        return self

    def __deepcopy__(self: T, memo: object) -> T:
        return self

    def __reduce__(self) -> NoReturn:
        raise ConfigError("a datastore with its index cannot be pickled; open it in each process, by the same names")


@dataclass(frozen=True)
class StorePart:
    """A datastore of a source: row r of it has the id ``offset + r``."""

    datastore: Datastore
    offset: int

    def values_of(self, rows: Integers) -> Integers:
        """Returns the values of rows, of any shape; anything for what is no row of it."""
        return np.asarray(np.take(self.datastore.values_N, rows, mode="clip"))

    def keys_of(self, rows: Int64s) -> Float32s:
        """Returns the stored keys of rows, those of the file where keys were not loaded.

        Args:
            rows: best ascending, so that the file is read forwards.

        Raises:
            ConfigError: there are no keys, or nothing says how they lie in their file.
        """
        return gather_rows(self._stored_keys, rows)

    @cached_property
    def _stored_keys(self) -> Array:
        store = self.datastore
        keys_ND, path = store.keys_ND, keys_path(store.prefix)
        if keys_ND is None and store.manifest is not None and path.is_file():
            keys_ND = Datastore.open(store.prefix).keys_ND
        if keys_ND is None:
            problem = "were not loaded, and no manifest says how they lie there" if path.is_file() else "are not there"
            raise ConfigError(f"--knn-temp auto reads rows, but the keys of {path} {problem}; give a number")
        return keys_ND


@dataclass(frozen=True)
class Values:
    """Values by id, of datastores whose ids follow each other.

    Attributes:
        offsets: id of the first row of each datastore, ascending from 0.
        values: of each.
    """

    offsets: Sequence[int]
    values: Sequence[Integers]

    def of(self, ids_NK: Integers) -> Integers:
        """Returns the rows' values, of the shape of ``ids_NK``; anything for −1."""
        found_NK: Integers = np.take(self.values[0], ids_NK, mode="clip")
        for offset, values_N in zip(self.offsets[1:], self.values[1:], strict=True):
            there_NK = ids_NK >= offset
            found_NK[there_NK] = np.take(values_N, ids_NK[there_NK] - offset, mode="clip")  # a later one has the rest
        return found_NK

    def __len__(self) -> int:
        return self.offsets[-1] + len(self.values[-1])
