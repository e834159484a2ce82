"""Keys and values of rows that are read in parts, in transformers' own cache.

That cache has a slot for every column that was ever read, padding included. Which slots are a row's own is kept here,
and told to the model as a mask; so are the positions of its tokens:

    slot                0  1  2  3  4    5
    row of 5 tokens     a  b  c  d  e    f      position of f: 5
    row of 3 tokens     a  b  c  ·  ·    d      position of d: 3, and it sees slots 0, 1, 2, 5

R rows, T slots, S new columns.
"""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

# Settings that are lengths of windows, and those that only sound so.
_NAMES, _NO_NAMES = re.compile("window|attention_chunk_size"), re.compile("layers|pattern")


class RowCache:
    """What a model has read of R rows.

    Args:
        num_rows: R, which changes with ``reorder``.
        device: where the model is.

    Attributes:
        keys_and_values: transformers' cache.
        length_R: int64, tokens of each row.
    """

    def __init__(self, num_rows: int, device: torch.device) -> None:
        from transformers import DynamicCache

        self.keys_and_values: Any = DynamicCache()
        self.length_R = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self._own_RT = torch.zeros(num_rows, 0, dtype=torch.bool, device=device)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was read yet."""
        return self._own_RT.shape[1] == 0

    def inputs(self, num_new: int, size_R: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
        """Returns mask and positions for the next columns, of which each row has ``size_R``.

        The mask is added to the scores of attention: ``[R, 1, S, T + S]``, of type ``dtype``.
        """
        columns_S = torch.arange(num_new, device=size_R.device)
        before_RST = self._own_RT[:, None].expand(-1, num_new, -1)
        among_RSS = (columns_S <= columns_S[:, None]).expand(len(size_R), -1, -1)
        seen_RST = torch.cat([before_RST, among_RSS], 2)
        mask_RST = torch.zeros(seen_RST.shape, dtype=dtype, device=seen_RST.device)
        mask_RST.masked_fill_(~seen_RST, torch.finfo(dtype).min)
        # Padding takes the position of the last token: tables of positions may have no more.
        last_R1 = (self.length_R + size_R - 1)[:, None]
        return {
            "attention_mask": mask_RST[:, None],
            "position_ids": torch.minimum(self.length_R[:, None] + columns_S, last_R1),
        }

    def advance(self, size_R: Tensor) -> None:
        """Says that columns were read, of which each row has ``size_R``."""
        num_new = self.keys_and_values.get_seq_length() - self._own_RT.shape[1]
        new_RS = torch.arange(num_new, device=size_R.device) < size_R[:, None]
        self._own_RT = torch.cat([self._own_RT, new_RS], 1)
        self.length_R = self.length_R + size_R

    def reorder(self, rows: list[int]) -> None:
        """Replaces row i by row ``rows[i]``; a row may be left out, or taken several times."""
        if rows == list(range(len(self.length_R))):
            return
        where = torch.tensor(rows, dtype=torch.int64, device=self.length_R.device)
        self.length_R, self._own_RT = self.length_R[where], self._own_RT[where]
        if not self.is_empty:
            self.keys_and_values.reorder_cache(where)


def window_fits(model: Any, num_slots: int) -> bool:
    """Returns whether a token's key stays the same, and is seen, in rows of ``num_slots`` tokens.

    The settings tell: windows of attention, and positions that turn otherwise in longer rows.
    """
    config = model.config.get_text_config()
    return all(window >= num_slots for window in _windows(config.to_dict()))


def _windows(settings: dict[str, Any]) -> Iterable[int]:
    if "longrope" in (settings.get("rope_type"), settings.get("type")):
        yield settings.get("original_max_position_embeddings") or 0
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _windows(value)
        elif type(value) is int and value > 0 and _NAMES.search(name) and not _NO_NAMES.search(name):
            yield value
