"""The values of rows that lie in several datastores, whose ids follow each other.

ids       0 … a−1 | a … a+b−1        one datastore of a rows, one of b
offset    0         a
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Values:
    """Values by id.

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
