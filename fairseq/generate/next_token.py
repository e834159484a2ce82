"""The model's side of generating: the distribution of the next token behind each row of tokens.

``log_prob`` gives the distribution behind every row; ``read`` makes rows longer by a token, drops and doubles them. A
model that can ``extend`` reads each token once; another reads every row anew for each token.

B rows at first, R rows now, S tokens read at once, V words, C width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fairseq.arrays import Int64s
from fairseq.data.dictionary import EOS
from fairseq.errors import ConfigError
from fairseq.evaluate.mixture import NextTokenMixture
from fairseq.runtime.precision import Precision


class NextTokens:
    """Rows of tokens, and the probabilities of what follows them.

    Args:
        model: in evaluation mode, on the device of ``precision``.
        precision: device and number format.
        rows: int64 ids, at least one each.
        most_rows: that there will ever be.
        num_slots: most tokens that a row will ever have.
        mixture: memories to mix in.
    """

    def __init__(
        self,
        model: Any,
        precision: Precision,
        rows: Sequence[Int64s],
        most_rows: int,
        num_slots: int,
        mixture: NextTokenMixture,
    ) -> None:
        if not hasattr(model, "log_prob"):
            raise ConfigError(
                f"{type(model).__name__} cannot generate: a model needs log_prob(features_NC), which gives the"
                " log-probability of every word (docs/plugins.md)"
            )
        self.model, self.precision, self.mixture = model, precision, mixture
        self._rows = [row.tolist() for row in rows]
        self._cache = None
        if hasattr(model, "extend"):
            self._cache = model.new_cache(most_rows, num_slots, precision.dtype)
        if self._cache is not None:
            self._cache.reorder(list(range(len(rows))))
        self._vectors(self._rows)

    def log_prob(self) -> Tensor:
        """Returns ln p of every word behind each row, ``[R, V]``: float32, or float64 where memories are mixed in."""
        with self.precision.autocast():
            log_p_RV: Tensor = self.model.log_prob(self._features_RC)
        return self.mixture.mixed(log_p_RV, self._queries_RC)

    def read(self, parents: Sequence[int], tokens: Sequence[int]) -> None:
        """Makes row i a copy of row ``parents[i]``, followed by ``tokens[i]``."""
        self._rows = [[*self._rows[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        if self._cache is not None:
            self._cache.reorder(list(parents))
        self._vectors([[token] for token in tokens] if self._cache is not None else self._rows)

    def _vectors(self, new: Sequence[Sequence[int]]) -> None:
        """Computes the features and the context vector of each row's last token."""
        size_R = torch.tensor([len(row) for row in new])
        new_RS = torch.full((len(new), int(size_R.max())), EOS)  # <pad> would be a word
        for row, ids in enumerate(new):
            new_RS[row, : len(ids)] = torch.tensor(ids)
        new_RS, size_R = new_RS.to(self.precision.device), size_R.to(self.precision.device)
        with self.precision.autocast():
            out = self.model(new_RS, 0) if self._cache is None else self.model.extend(new_RS, size_R, self._cache)
        row_R = torch.arange(len(new), device=size_R.device)
        self._features_RC = out.features_BSC[row_R, size_R - 1]
        self._queries_RC = out.ffn_input_BSC[row_R, size_R - 1].float()
