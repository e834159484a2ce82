"""Where the rows of inverted lists, and their distances to the queries that visit them, lie: in whole blocks.

Legend: N queries · P lists visited by each · V visits, pairs of a query and a list · L lists · B blocks.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fairseq.arrays import Int64s

# Distances that are moved together, 64 bytes; a list has a whole number of blocks, the last filled up with +inf.
BLOCK = 16


@dataclass(frozen=True)
class Visits:
    """Which queries visit which lists, and where their distances lie: one after the other, ordered by list."""

    probe_NP: Int64s  # lists of each query
    list_V: Tensor  # lists of all visits, in order
    query_V: Tensor  # and their queries
    first_L: list[int]  # first visit of each list, and one more entry: all visits
    place_L: list[int]  # first block of distances of each list, and one more entry: all of them
    start_NP: Int64s  # first block of distances of each query's visit

    @classmethod
    def of(cls, probe_NP: Int64s, blocks_L: Int64s) -> "Visits":
        """Returns the visits of queries to lists ``probe_NP``, which have so many blocks each."""
        lists_V = probe_NP.ravel()
        order_V = np.argsort(lists_V.astype(np.uint16) if len(blocks_L) < 1 << 16 else lists_V, kind="stable")
        lists_V = lists_V[order_V]
        ends_V = np.cumsum(blocks_L[lists_V])
        start_NP = np.empty_like(probe_NP)
        start_NP.ravel()[order_V] = ends_V - blocks_L[lists_V]
        first_L = np.searchsorted(lists_V, np.arange(len(blocks_L) + 1))
        place_L = np.concatenate([[0], ends_V])[first_L]
        return cls(
            probe_NP,
            torch.from_numpy(lists_V),
            torch.from_numpy(order_V // probe_NP.shape[1]),
            first_L.tolist(),
            place_L.tolist(),
            start_NP,
        )


@dataclass(frozen=True)
class Group:
    """Rows that are decoded together: of lists that follow each other, or a part of one.

    Attributes:
        lists: whose rows they are.
        rows: which of all rows, in the lists' order, padded.
        pieces: of each list, which of its rows, padded, and where they are in the group.
    """

    lists: range
    rows: slice
    pieces: list[tuple[int, slice, slice]]


def groups_of(blocks_L: Int64s, most: int) -> list[Group]:
    """Returns the rows of lists of so many blocks, in groups of ``most`` blocks or fewer."""
    groups: list[list[tuple[int, slice, slice]]] = []
    filled = 0
    for number, blocks in enumerate(blocks_L.tolist()):
        for part in slices(blocks, most) or [slice(0, 0)]:
            count = part.stop - part.start
            if not groups or filled + count > most:
                groups.append([])
                filled = 0
            groups[-1].append((number, _whole(part), _whole(slice(filled, filled + count))))
            filled += count
    result, start = [], 0
    for pieces in groups:
        stop = start + pieces[-1][2].stop
        result.append(Group(range(pieces[0][0], pieces[-1][0] + 1), slice(start, stop), pieces))
        start = stop
    return result


def _whole(blocks: slice) -> slice:
    """Returns what blocks hold."""
    return slice(blocks.start * BLOCK, blocks.stop * BLOCK)


def ranges(start_V: Int64s, count_V: Int64s) -> Int64s:
    """Returns ``start, start + 1, …`` of each, as many as counted, one after the other."""
    end_V = np.cumsum(count_V)
    return np.repeat(start_V - (end_V - count_V), count_V) + np.arange(end_V[-1] if len(end_V) else 0)


def slices(count: int, step: int) -> list[slice]:
    """Returns slices of so many steps, the last of what is left."""
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]
