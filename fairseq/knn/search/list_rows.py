"""The rows of inverted lists, and their distances to queries: sums of squares, or number by number.

    ‖q − r‖² = ‖q‖² + ‖r‖² − 2 q·r        one product for all rows of a list and all its queries

In float32 the sum is off by some millionths of its largest term. With q and r relative to the list's centroid, that is
little beside a distance of any length as long as ‖r‖² is at most ``LARGEST_SQUARE``: where q is long and r is not, the
distance is long too. Rows that are longer, of which there may be a few in any list, are compared with each query number
by number instead. Which ones they are is known once a list has been read; what the codes say of a row, and its key, are
judged apart.

Legend: M queries · D key width · L lists · S rows of a few lists, each list's padded to whole blocks · F far ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairseq.arrays import Array, Int64s, UInt8s
from fairseq.knn.index.faiss_index import decoder, view
from fairseq.knn.search.list_blocks import BLOCK, Group

# Largest squared length of a row less its centroid: what sums of such squares lose, some 0.03, a distance has lost.
LARGEST_SQUARE = 1 << 15


@dataclass(frozen=True)
class GroupRows:
    """The rows of a group, as the codes or the keys have them.

    Attributes:
        row_SD: relative to their lists' centroids.
        norm_S: ‖r‖² of these; +inf for padding.
        far_F: which of them are far, ascending.
        far_FD: those, as they are stored.
        far_is_relative: they are stored relative to the centroid.
    """

    row_SD: Tensor
    norm_S: Tensor
    far_F: Int64s
    far_FD: Tensor
    far_is_relative: bool

    def distances(self, place: slice, given_MD: Tensor, query_MD: Tensor, norm_M1: Tensor, out_MS: Tensor) -> None:
        """Writes the distances of a list's rows; rounding may leave one below 0.

        Args:
            place: of the rows in the group.
            given_MD: the queries.
            query_MD: relative to the list's centroid.
            norm_M1: ‖q‖² of these.
            out_MS: takes them.
        """
        torch.add(norm_M1, self.norm_S[place], out=out_MS)
        torch.addmm(out_MS, query_MD, self.row_SD[place].t(), alpha=-2, out=out_MS)
        if len(self.far_F):
            first, stop = np.searchsorted(self.far_F, (place.start, place.stop))
            to_MD = query_MD if self.far_is_relative else given_MD
            exact = "donot_use_mm_for_euclid_dist"
            near_MF = torch.cdist(to_MD, self.far_FD[first:stop], compute_mode=exact).square_()
            out_MS[:, torch.from_numpy(self.far_F[first:stop] - place.start)] = near_MF


class ListRows:
    """The rows of an inverted file in memory.

    Attributes:
        blocks_L: blocks of each list.
        start_L: the first of them.
        centroid_LD: centroids.
    """

    def __init__(self, inverted: Any) -> None:
        self.lists, self.code_size = inverted.invlists, int(inverted.code_size)
        self.by_residual, self.decode = bool(inverted.by_residual), decoder(inverted)
        self.size_L = np.array([self.lists.list_size(number) for number in range(inverted.nlist)], np.int64)
        self.blocks_L = -(-self.size_L // BLOCK)
        self.start_L = np.cumsum(self.blocks_L) - self.blocks_L
        self.centroid_LD = torch.from_numpy(inverted.quantizer.reconstruct_n(0, inverted.nlist))
        self.keep_rows()

    def keep_rows(self) -> None:
        """Reads what is kept in memory of each row: its id, −1 for padding, and its norms once they are known."""
        self._codes = [self._codes_of(number) for number in range(len(self.size_L))]
        self._id_S = np.full(int(self.blocks_L.sum()) * BLOCK, -1, np.int64)
        for number, (start, size) in enumerate(zip((self.start_L * BLOCK).tolist(), self.size_L.tolist(), strict=True)):
            self._id_S[start : start + size] = view(self.lists.get_ids(number), size)
        # ‖r‖² of what the codes say and of the keys, NaN until a row has been read; padding is far away. And which rows
        # of a group are far, by its first row.
        norm_S = torch.from_numpy(np.where(self._id_S < 0, np.inf, np.nan)).float()
        self._norms_S = (norm_S, norm_S.clone())
        self._far: tuple[dict[int, Int64s], dict[int, Int64s]] = ({}, {})

    def codes(self, number: int) -> UInt8s:
        """Returns the codes of a list's rows, where they lie."""
        return self._codes[number]

    def _codes_of(self, number: int) -> UInt8s:
        size = int(self.size_L[number])
        return view(self.lists.get_codes(number), size * self.code_size).reshape(size, self.code_size)

    def ids(self, places: Int64s) -> Int64s:
        """Returns the ids of rows at some places of the lists' order; −1 for padding."""
        return self._id_S.take(places, mode="clip")

    def are_near(self, numbers: Int64s) -> bool:
        """Returns whether the middle row of each of these lists, as its code says, lies near its centroid."""
        if not len(numbers):
            return True
        row_SD = self.decode(np.stack([self.codes(number)[self.size_L[number] // 2] for number in numbers.tolist()]))
        if not self.by_residual:
            row_SD -= self.centroid_LD[torch.from_numpy(numbers)]
        return bool((row_SD * row_SD).sum(1).max() <= LARGEST_SQUARE)

    def read(self, group: Group, keys_ND: Array | None) -> list[GroupRows]:
        """Returns the rows of a group: what the codes say, then the keys if they are there."""
        code_SC = np.zeros((group.rows.stop - group.rows.start, self.code_size), np.uint8)
        for number, part, place in group.pieces:
            codes = self.codes(number)[part]
            code_SC[place.start : place.start + len(codes)] = codes
        kinds = [self._rows(0, group, lambda places_F: self.decode(code_SC[places_F]))]
        if keys_ND is not None:
            rows_S = np.maximum(self.ids(np.arange(group.rows.start, group.rows.stop)), 0)
            kinds.append(self._rows(1, group, lambda places_F: _widened(keys_ND, rows_S[places_F])))
        return kinds

    def _rows(self, kind: int, group: Group, stored: Callable[[slice | Int64s], Tensor]) -> GroupRows:
        """Returns the rows of a group; ``stored`` reads some of them."""
        is_relative, row_SD = kind == 0 and self.by_residual, stored(slice(None))
        for number, _, place in () if is_relative else group.pieces:
            row_SD[place] -= self.centroid_LD[number]
        norm_S, far_F = self.norms(kind, group, row_SD)
        return GroupRows(row_SD, norm_S, far_F, stored(far_F) if len(far_F) else row_SD[:0], is_relative)

    def norms(self, kind: int, group: Group, row_SD: Tensor) -> tuple[Tensor, Int64s]:
        """Returns ‖r‖² of a group's rows, +inf for padding, and which of them are far: computed once."""
        norm_S, far = self._norms_S[kind][group.rows], self._far[kind]
        if group.rows.start not in far:
            computed_S, far[group.rows.start] = norms_of(row_SD, norm_S.isinf())
            norm_S.copy_(computed_S)
        return norm_S, far[group.rows.start]


def norms_of(row_SD: Tensor, is_padding_S: Tensor) -> tuple[Tensor, Int64s]:
    """Returns ‖r‖² of rows, +inf for padding, and which of the others are far."""
    norm_S = (row_SD * row_SD).sum(1).masked_fill_(is_padding_S, torch.inf)
    return norm_S, np.flatnonzero(((norm_S > LARGEST_SQUARE) & ~is_padding_S).numpy())


def _widened(keys_ND: Array, rows: Int64s) -> Tensor:
    return torch.from_numpy(np.take(keys_ND, rows, axis=0)).float()
