"""The datastores of a source of neighbours, whose ids follow each other.

Legend: N rows · K neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import numpy as np

from fairseq.arrays import Integers
from fairseq.errors import ConfigError
from fairseq.knn.datastore.store import Datastore

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
