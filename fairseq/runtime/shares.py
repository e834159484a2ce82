"""A contiguous share of some work for each of several workers, the same whoever asks.

    work       5 3 8 2 6 6 4 …          in order, each piece with its size
    worker 0   5 3 8
    worker 1         2 6 6              about as much for each
    …

Shares depend on the sizes and on the number of workers alone. A worker may get nothing where pieces are few.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fairseq.arrays import Int64s


def shares(sizes: Sequence[int] | Int64s, workers: int) -> list[range]:
    """Returns which pieces each worker has: consecutive ones, of about the same size in all.

    Args:
        sizes: of the pieces, in order, none below 0.
        workers: at least 1.
    """
    end_N = np.cumsum(np.asarray(sizes, np.int64))
    total = int(end_N[-1]) if len(end_N) else 0
    # A piece belongs to the worker in whose share of the sum its middle lies.
    middle_N = end_N - np.asarray(sizes, np.int64) / 2
    cuts = [int(np.searchsorted(middle_N, total * worker / workers)) for worker in range(workers)]
    return [range(start, stop) for start, stop in zip(cuts, [*cuts[1:], len(end_N)], strict=True)]


@dataclass(frozen=True)
class Share:
    """One of several shares: a process's, or that of a job of an array.

    Attributes:
        number: from 0.
        count: how many there are.
    """

    number: int = 0
    count: int = 1

    def of(self, sizes: Sequence[int] | Int64s) -> range:
        """Returns which of some pieces are its own, by their sizes."""
        return shares(sizes, self.count)[self.number]
