"""Position embeddings: a sinusoidal table, or a learned one. The first token has position 2; row 1 is padding.

Rows are filled on the right only, so that the position of column t is t + 2; but the word ``<pad>`` in a text has the
padding's row, and counts as no position, as in fairseq.
"""

import math

import torch
from torch import Tensor, nn

FIRST_POSITION = 2
LONGEST_FIRST_TABLE = 4096  # rows; the number of positions is a setting, which may say anything


def sinusoidal_table(num_rows: int, width: int) -> Tensor:
    """Returns float32 ``[num_rows, width]``: ``[sin | cos]`` halves with frequencies exp(−i·ln(10000)/(width/2 − 1)).

    The padding row (1) is zero, and so is the last column of an odd width.
    """
    table = torch.zeros(num_rows, width)
    if table.is_meta:  # a model without memory, made for its shapes alone
        return table
    half = width // 2
    frequency = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000) / (half - 1)))
    angle = torch.arange(num_rows, dtype=torch.float32)[:, None] * frequency[None, :]
    table[:, :half] = torch.sin(angle)
    table[:, half : 2 * half] = torch.cos(angle)
    table[1] = 0
    return table


def columns_of(pad_BT: Tensor) -> Tensor:
    """Returns int64 ``[B, T]``, the number of words before each one; −1 for ``<pad>``, which counts as none."""
    word_BT = (~pad_BT).long()
    return (word_BT.cumsum(1) * word_BT) - 1


class Positions(nn.Module):
    """Base class of both kinds of position embeddings."""

    def table_of(self, length: int) -> Tensor:
        """Returns the table, with rows for ``length`` columns at least."""
        raise NotImplementedError

    def forward(self, length: int) -> Tensor:
        """Returns ``[length, width]``, the rows of columns 0 to ``length`` − 1."""
        return self.table_of(length)[FIRST_POSITION : length + FIRST_POSITION]

    def at(self, column_BS: Tensor, length: int) -> Tensor:
        """Returns ``[B, S, width]``, the rows of columns that are below ``length``; column −1 has the padding's."""
        return self.table_of(length)[column_BS + FIRST_POSITION]


class SinusoidalPositions(Positions):
    """Fixed positions; the table is not a weight and grows as longer rows arrive."""

    table: Tensor

    def __init__(self, width: int, num_positions: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("_float_tensor", torch.zeros(1))  # a name that checkpoints of this layout hold
        num_rows = min(num_positions, LONGEST_FIRST_TABLE) + FIRST_POSITION
        self.register_buffer("table", sinusoidal_table(num_rows, width), persistent=False)

    def table_of(self, length: int) -> Tensor:
        """Returns the table, made anew if it is too short."""
        if length + FIRST_POSITION > len(self.table):
            self.table = sinusoidal_table(2 * length + FIRST_POSITION, self.width).to(self.table)
        return self.table


class LearnedPositions(Positions):
    """One weight row per position."""

    def __init__(self, width: int, num_positions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_positions + FIRST_POSITION, width))
        nn.init.normal_(self.weight, std=width**-0.5)
        nn.init.zeros_(self.weight[1])

    def table_of(self, length: int) -> Tensor:
        """Returns the weights; the caller keeps ``length`` within the positions that there are."""
        assert length + FIRST_POSITION <= len(self.weight), (length, self.weight.shape)
        return self.weight
