"""The output layer at some places, a few rows at a time: logits of all places would be the largest array there is.

U places in rows, P pairs of a place and a target, N places at once, C width, V words.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairseq.arrays import Bools, Float64s, Int64s
from fairseq.runtime.precision import Precision

ROWS_OF_TARGETS, ROWS_OF_WORDS = 2048, 128


class Head:
    """A model's probabilities of targets, and of every word.

    Args:
        model: with ``target_log_prob`` and ``log_prob``.
        precision: device and number format.
    """

    def __init__(self, model: Any, precision: Precision) -> None:
        self._model, self._precision = model, precision

    def log_prob(self, features_NC: Tensor) -> Tensor:
        """Returns ln p of every word, ``[N, V]``."""
        with self._precision.autocast():
            log_p_NV: Tensor = self._model.log_prob(features_NC)
        return log_p_NV

    def targets(
        self, features_UC: Tensor, place_P: Int64s, target_P: Int64s, *, greedy: bool
    ) -> tuple[Float64s, Float64s, Bools]:
        """Returns ln p of each pair's target, the largest ln p there, and whether the target has it.

        Without ``greedy``, the second is +inf and the third False.
        """
        if greedy:
            return self.of_every_word(features_UC, place_P, target_P, lambda features_NC, _: self.log_prob(features_NC))
        place, target = (torch.from_numpy(array).to(features_UC.device) for array in (place_P, target_P))
        pieces = []
        for place_N, target_N in zip(*(torch.split(ids, ROWS_OF_TARGETS) for ids in (place, target)), strict=True):
            with self._precision.autocast():
                pieces.append(self._model.target_log_prob(features_UC[place_N], target_N))
        log_p_P = torch.cat(pieces).double().cpu().numpy()
        return log_p_P, np.full(len(log_p_P), np.inf), np.zeros(len(log_p_P), bool)

    def of_every_word(
        self,
        features_UC: Tensor,
        place_P: Int64s,
        target_P: Int64s,
        log_prob: Callable[[Tensor, Tensor], Tensor],
    ) -> tuple[Float64s, Float64s, Bools]:
        """Returns the same by ``log_prob(features_NC, place_N)``, ``[N, V]``, which is asked once for each place."""
        found_P, largest_P, best_P = np.empty(len(place_P)), np.empty(len(place_P)), np.empty(len(place_P), bool)
        order_P = np.argsort(place_P, kind="stable")
        used_U, which_P = np.unique(place_P[order_P], return_inverse=True)
        for start in range(0, len(used_U), ROWS_OF_WORDS):
            place_N = torch.from_numpy(used_U[start : start + ROWS_OF_WORDS]).to(features_UC.device)
            log_p_NV = log_prob(features_UC[place_N], place_N)
            largest_N, best_N = log_p_NV.max(1)
            edges = np.searchsorted(which_P, (start, start + len(place_N)))
            pair_A = order_P[slice(*edges)]
            row_A = torch.from_numpy(which_P[slice(*edges)] - start).to(features_UC.device)
            target_A = torch.from_numpy(target_P[pair_A]).to(features_UC.device)
            found_P[pair_A] = log_p_NV[row_A, target_A].double().cpu().numpy()
            largest_P[pair_A] = largest_N[row_A].double().cpu().numpy()
            best_P[pair_A] = (best_N[row_A] == target_A).cpu().numpy()
        return found_P, largest_P, best_P
