"""Keys and values of the tokens that a decoder has read, so that the next token does not read them again.

Token t of a row lies in slot t, whatever the lengths of the other rows. A row is padded on the right; what padding
leaves behind lies in slots that no token of the row sees, and that its next tokens write over (``·``):

    slot                0  1  2  3  4
    row of 5 tokens     a  b  c  d  e        the next token goes to slot 5, position 7
    row of 3 tokens     f  g  h  ·  ·        the next token goes to slot 3, position 5

The word ``<pad>`` has a slot, but no column sees it, and it counts as no position (``columns``).

The cache is passed to the model, which keeps nothing between two calls.

L layers, R rows, H heads, T slots, D width of a head, S new tokens of a row.
"""

import torch
from torch import Tensor

from fairseq.modules.positions import columns_of


class KeyValueCache:
    """Room for the keys and values of every layer, filled from the front.

    Args:
        shape: L layers, most rows R, heads H, most tokens T of a row, width D of a head.
        dtype: of keys and values, as the model's products give them.
        device: where the model is.

    Attributes:
        length_R: int64, tokens that each row has; R changes with ``reorder``.
    """

    def __init__(
        self, shape: tuple[int, int, int, int, int], dtype: torch.dtype, device: torch.device | None = None
    ) -> None:
        self._keys_LRHTD = torch.zeros(shape, dtype=dtype, device=device)  # zeros: a masked NaN would still spread
        self._values_LRHTD = torch.zeros(shape, dtype=dtype, device=device)
        self.length_R = torch.zeros(shape[1], dtype=torch.int64, device=device)
        self._even, self._longest = True, 0
        self._pad_RT: Tensor | None = None  # which slots hold <pad>; None while none does

    @property
    def num_slots(self) -> int:
        """Most tokens of a row."""
        return self._keys_LRHTD.shape[3]

    @property
    def is_causal(self) -> bool:
        """Whether the next tokens are the first ones, which see all before them."""
        return self._longest == 0 and self._pad_RT is None

    def slots(self, num_new: int) -> Tensor:
        """Returns int64 ``[R, S]``, the slots of the next ``num_new`` tokens of each row."""
        return self.length_R[:, None] + torch.arange(num_new, device=self.length_R.device)

    def hide(self, pad_RS: Tensor) -> None:
        """Says which of the next S tokens of each row are ``<pad>``."""
        if self._pad_RT is None:
            if not bool(pad_RS.any()):
                return
            self._pad_RT = torch.zeros(
                self._keys_LRHTD.shape[1], self.num_slots, dtype=torch.bool, device=pad_RS.device
            )
        rows_R1 = torch.arange(len(pad_RS), device=pad_RS.device)[:, None]
        slots_RS = self.slots(pad_RS.shape[1])
        self._pad_RT[rows_R1, slots_RS] = pad_RS

    def columns(self, num_new: int) -> Tensor:
        """Returns int64 ``[R, S]``, the number of words before each of the next tokens; −1 for ``<pad>``."""
        slots_RS = self.slots(num_new)
        if self._pad_RT is None:
            return slots_RS
        return columns_of(self._pad_RT[: len(slots_RS)]).gather(1, slots_RS)

    def append(self, layer: int, k_RHSD: Tensor, v_RHSD: Tensor) -> tuple[Tensor, Tensor]:
        """Writes the keys and values of S new tokens, and returns all of the layer's, ``[R, H, T, D]`` each.

        The lengths stay as they are until ``advance``: every layer writes to the same slots.
        """
        num_rows, _, num_new, _ = k_RHSD.shape
        stop = self._longest + num_new
        assert num_rows == len(self.length_R) and stop <= self.num_slots, (k_RHSD.shape, stop, self.num_slots)
        keys_RHTD = self._keys_LRHTD[layer, :num_rows, :, :stop]
        values_RHTD = self._values_LRHTD[layer, :num_rows, :, :stop]
        if self._even:
            keys_RHTD[:, :, self._longest :] = k_RHSD
            values_RHTD[:, :, self._longest :] = v_RHSD
        else:
            rows_R1 = torch.arange(num_rows, device=k_RHSD.device)[:, None]
            keys_RHTD.transpose(1, 2)[rows_R1, self.slots(num_new)] = k_RHSD.transpose(1, 2).to(keys_RHTD.dtype)
            values_RHTD.transpose(1, 2)[rows_R1, self.slots(num_new)] = v_RHSD.transpose(1, 2).to(values_RHTD.dtype)
        return keys_RHTD, values_RHTD

    def mask(self, num_new: int) -> Tensor | None:
        """Returns bool ``[R, 1, S, T]``, true at the slots that a new token may see; None if it may see all."""
        if self._even and num_new == 1 and self._pad_RT is None:
            return None
        slots_T = torch.arange(self._longest + num_new, device=self.length_R.device)
        slots_RS1 = self.slots(num_new)[:, :, None]
        seen_RST = slots_T <= slots_RS1
        if self._pad_RT is not None:
            seen_RST &= ~self._pad_RT[: len(seen_RST), None, : len(slots_T)]
            seen_RST |= ~seen_RST.any(2, keepdim=True) & (slots_T == slots_RS1)
        return seen_RST[:, None]

    def advance(self, size_R: Tensor) -> None:
        """Adds ``size_R`` to the rows' lengths; what was appended beyond is padding."""
        self.length_R = self.length_R + size_R
        lengths = self.length_R.tolist()
        self._longest = max(lengths, default=0)
        self._even = min(lengths, default=0) == self._longest

    def reorder(self, rows: list[int]) -> None:
        """Replaces row i by row ``rows[i]``; a row may be left out, or taken several times."""
        if rows == list(range(len(self.length_R))):
            return
        where = torch.tensor(rows, dtype=torch.int64, device=self.length_R.device)
        used = slice(0, self._longest)
        for part_LRHTD in (self._keys_LRHTD, self._values_LRHTD):
            part_LRHTD[:, : len(rows), :, used] = part_LRHTD[:, where, :, used]
        if self._pad_RT is not None:
            self._pad_RT[: len(rows)] = self._pad_RT[where]
        self.length_R = self.length_R[where]
        self.advance(torch.zeros_like(self.length_R))
