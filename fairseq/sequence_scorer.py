"""From a batch to the log-probability of each target, and to the context vectors that stand behind them.

B batch, T time, S scored time, C width, N scored targets (row by row, padding left out).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairseq.data.block_dataset import PAD, Batch
from fairseq.precision import Precision
from fairseq.scoring import Interpolation, average_probabilities, interpolate

# Most rows that the output layer takes at once, whatever the batch: its logits stay in the cache's reach.
SOFTMAX_ROWS = 2048


class LanguageModel(Protocol):
    """What the scorer asks of a model; see ``TransformerLanguageModel``."""

    def __call__(self, source_BT: Tensor, first: int) -> Any:
        """Returns features and feed-forward inputs of the columns from ``first`` on."""
        ...

    def target_log_prob(self, features_NC: Tensor, target_N: Tensor) -> Tensor:
        """Returns log p(target), natural, ``[N]``."""
        ...


@dataclass(frozen=True)
class ScoredBatch:
    """N scored targets of a batch, row by row.

    Attributes:
        block_idx_N: int64, the block that each target belongs to.
        target_N: int64 ids.
        log_p_N: float64 natural-log probabilities.
    """

    block_idx_N: npt.NDArray[np.int64]
    target_N: npt.NDArray[np.int64]
    log_p_N: npt.NDArray[np.float64]


class SequenceScorer:
    """Scores batches with one model, several averaged ones, or one mixed with another source.

    Args:
        models: in evaluation mode, on the device of ``precision``.
        precision: device and number format.
        softmax_batch: most rows that the output layer takes at once, 2,048 at the most.
        other: a second source to mix in; it takes the context vectors of the first model.
    """

    def __init__(
        self,
        models: Sequence[LanguageModel],
        precision: Precision,
        softmax_batch: int | None = None,
        other: Interpolation | None = None,
    ) -> None:
        assert models and (other is None or len(models) == 1), len(models)
        self.models = models
        self.precision = precision
        self.softmax_batch = softmax_batch
        self.other = other

    @torch.inference_mode()
    def score(self, batch: Batch) -> ScoredBatch:
        """Returns the log-probabilities of a batch's targets."""
        scored_BS, target_N = self._targets(batch)
        log_p_MN = []
        queries_NC: Tensor | None = None
        for model in self.models:
            with self.precision.autocast():
                out = model(*self._inputs(batch))
                log_p_MN.append(self._target_log_prob(model, out.features_BSC[scored_BS], target_N))
            if self.other is not None:
                queries_NC = out.ffn_input_BSC[scored_BS]
        log_p_N = average_probabilities(log_p_MN)
        if self.other is not None:
            assert queries_NC is not None
            other_N = self.other.source.log_prob(queries_NC.float(), target_N)
            log_p_N = interpolate(log_p_N, other_N, self.other.weight)
        block_idx_N = np.repeat(batch.block_idx_B, scored_BS.sum(1).cpu().numpy())
        return ScoredBatch(block_idx_N, target_N.cpu().numpy(), log_p_N.cpu().numpy())

    @torch.inference_mode()
    def context_vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns the feed-forward inputs ``[N, C]`` of a batch's targets, and the targets; no output layer runs."""
        scored_BS, target_N = self._targets(batch)
        with self.precision.autocast():
            out = self.models[0](*self._inputs(batch))
        return out.ffn_input_BSC[scored_BS], target_N

    def _inputs(self, batch: Batch) -> tuple[Tensor, int]:
        return torch.from_numpy(batch.source_BT).to(self.precision.device), int(batch.context_B.min())

    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns which columns are scored, bool ``[B, S]``, and their targets ``[N]``."""
        target_BS = torch.from_numpy(batch.target_BT[:, int(batch.context_B.min()) :]).to(self.precision.device)
        scored_BS = target_BS != PAD
        return scored_BS, target_BS[scored_BS]

    def _target_log_prob(self, model: LanguageModel, features_NC: Tensor, target_N: Tensor) -> Tensor:
        rows = min(self.softmax_batch or SOFTMAX_ROWS, SOFTMAX_ROWS)
        pieces = [
            model.target_log_prob(features, target)
            for features, target in zip(torch.split(features_NC, rows), torch.split(target_N, rows), strict=True)
        ]
        return torch.cat(pieces)
