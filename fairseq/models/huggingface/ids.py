"""From ids here to what a model of transformers reads, its opening token included.

    here   </s> a b c      a b c d          ``</s>`` stands for the opening token (``BOS``, else ``EOS``)
    there  BOS  a b c ·    BOS a b c d      with BOS in front of each row: a row that begins with it has it already
    back   0 1 2 3         1 2 3 4          the columns that are here's

B rows, T time.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fairseq.data.dictionary import PAD
from fairseq.errors import ConfigError
from fairseq.text.model_tokenizer import SHIFT

_NO_OPENING = (
    "this model's tokenizer names no token that begins or ends a text, so that nothing can stand before the first one;"
    " begin with a token, name bos_token in tokenizer_config.json, or give --sample-break-mode isolated, whose blocks"
    " begin with a token"
)


@dataclass(frozen=True)
class Reader:
    """How ids are read.

    Attributes:
        opening_id: id here of what the model reads where a text has no token yet; None where it has no such token.
        adds_bos: whether it stands in front of each row.
    """

    opening_id: int | None
    adds_bos: bool = False

    @property
    def in_words(self) -> str:
        """What it does at the front of a row, for messages."""
        opens = "opens no text" if self.opening_id is None else f"opens a text with id {self.opening_id}"
        return f"{opens} and puts {'it' if self.adds_bos else 'nothing'} in front of each row"

    def model_ids(self, source_BT: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the ids that the model reads, and how many columns to leave out at each row's front, or None.

        Raises:
            ConfigError: a text has no beginning, and the model no token for it.
        """
        if not self.adds_bos:
            return self._shifted(source_BT), None
        has_it_B = source_BT[:, 0] < SHIFT
        opening_B1 = torch.zeros_like(source_BT[:, :1])
        longer_BT = self._shifted(torch.cat([opening_B1, source_BT], 1))
        if bool(has_it_B.any()):
            padded_BT = torch.cat([longer_BT[:, 1:], longer_BT[:, -1:]], 1)
            longer_BT = torch.where(has_it_B[:, None], padded_BT, longer_BT)
        return longer_BT, (~has_it_B).long()

    def _shifted(self, source_BT: Tensor) -> Tensor:
        if self.opening_id is None:
            if bool(((source_BT < SHIFT) & (source_BT != PAD)).any()):
                raise ConfigError(_NO_OPENING)
            return (source_BT - SHIFT).clamp(min=0)
        return torch.where(source_BT < SHIFT, self.opening_id, source_BT) - SHIFT


def columns_from(hidden_BTC: Tensor, skip_B: Tensor | None, first: int, num_columns: int) -> Tensor:
    """Returns the columns from ``first`` to ``num_columns`` of each row, counted behind ``skip_B``."""
    if skip_B is None:
        return hidden_BTC[:, first:num_columns]
    columns_BS = skip_B[:, None] + torch.arange(first, num_columns, device=skip_B.device)
    return hidden_BTC[torch.arange(len(hidden_BTC), device=skip_B.device)[:, None], columns_BS]
