"""From a batch to the log-probability of each target, and to the context vectors that stand behind them.

B batch, T time, S scored time, C width, N scored targets (row by row, padding left out).
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
# Most positions that the model takes at once on a CPU, for the same reason; a GPU takes the whole batch.
CPU_POSITIONS = 2048
# Targets for which a second source is asked at once, whatever the batch: neighbours of many queries are neighbours of
# each other, and what is read for one serves many.
OTHER_TARGETS = 8192


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
        model_log_p_N: the same of the models alone, before a second source was mixed in.
    """

    block_idx_N: npt.NDArray[np.int64]
    target_N: npt.NDArray[np.int64]
    log_p_N: npt.NDArray[np.float64]
    model_log_p_N: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Judged:
    """A batch's N targets as the models see them; the context vectors only where a second source wants them."""

    block_idx_N: npt.NDArray[np.int64]
    target_N: Tensor
    log_p_N: Tensor
    query_NC: Tensor | None

    def scored(self, log_p_N: Tensor) -> ScoredBatch:
        model_log_p_N = self.log_p_N.cpu().numpy()
        return ScoredBatch(self.block_idx_N, self.target_N.cpu().numpy(), log_p_N.cpu().numpy(), model_log_p_N)


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

    def score(self, batch: Batch) -> ScoredBatch:
        """Returns the log-probabilities of a batch's targets."""
        return next(self.scored([batch]))

    def scored(self, batches: Iterable[Batch]) -> Iterator[ScoredBatch]:
        """Yields the log-probabilities of each batch's targets, in order.

        A second source is asked once for several batches; where a GPU computes the model, while that goes on with the
        next ones.
        """
        if self.other is None:
            for batch in batches:
                judged = self._judge(batch)
                yield judged.scored(judged.log_p_N)
            return
        before: tuple[list[_Judged], Future[Tensor]] | None = None
        with ThreadPoolExecutor(1) as worker:
            for group in self._groups(batches):
                asked = self._ask(group, worker if self._overlaps else None)
                if before is not None:
                    yield from self._mix(*before)
                before = group, asked
            if before is not None:
                yield from self._mix(*before)

    @torch.inference_mode()
    def context_vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns the feed-forward inputs ``[N, C]`` of a batch's targets, and the targets; no output layer runs."""
        vectors, targets = [], []
        for part in self._parts(batch):
            scored_BS, target_N = self._targets(part)
            with self.precision.autocast():
                out = self.models[0](*self._inputs(part))
            vectors.append(out.ffn_input_BSC[scored_BS])
            targets.append(target_N)
        return torch.cat(vectors), torch.cat(targets)

    @torch.inference_mode()
    def _judge(self, batch: Batch) -> _Judged:
        counts, targets, log_ps, queries = [], [], [], []
        for part in self._parts(batch):
            scored_BS, target_N = self._targets(part)
            log_p_MN = []
            for model in self.models:
                with self.precision.autocast():
                    out = model(*self._inputs(part))
                    log_p_MN.append(self._target_log_prob(model, out.features_BSC[scored_BS], target_N))
                if self.other is not None:
                    queries.append(out.ffn_input_BSC[scored_BS].float())
            counts.append(scored_BS.sum(1))
            targets.append(target_N)
            log_ps.append(average_probabilities(log_p_MN))
        block_idx_N = np.repeat(batch.block_idx_B, torch.cat(counts).cpu().numpy())
        return _Judged(block_idx_N, torch.cat(targets), torch.cat(log_ps), torch.cat(queries) if queries else None)

    def _groups(self, batches: Iterable[Batch]) -> Iterator[list[_Judged]]:
        """Yields judged batches in groups that have enough targets to ask a second source for."""
        group: list[_Judged] = []
        for batch in batches:
            group.append(self._judge(batch))
            if sum(len(judged.target_N) for judged in group) >= OTHER_TARGETS:
                yield group
                group = []
        if group:
            yield group

    def _ask(self, group: list[_Judged], worker: ThreadPoolExecutor | None) -> "Future[Tensor]":
        """Returns the second source's log-probabilities of a group's targets, there or under way."""
        assert self.other is not None
        query_NC = torch.cat([judged.query_NC for judged in group if judged.query_NC is not None])
        target_N = torch.cat([judged.target_N for judged in group])
        if worker is not None:
            return worker.submit(self.other.source.log_prob, query_NC, target_N)
        there: Future[Tensor] = Future()
        there.set_result(self.other.source.log_prob(query_NC, target_N))
        return there

    def _mix(self, group: list[_Judged], asked: "Future[Tensor]") -> Iterator[ScoredBatch]:
        assert self.other is not None
        others = torch.split(asked.result(), [len(judged.target_N) for judged in group])
        for judged, other_N in zip(group, others, strict=True):
            yield judged.scored(interpolate(judged.log_p_N, other_N, self.other.weight))

    @property
    def _overlaps(self) -> bool:
        """Whether the models and the second source are busy on different devices."""
        return self.precision.device.type != "cpu"

    def _parts(self, batch: Batch) -> list[Batch]:
        """Returns the batch in the parts that the model takes at once."""
        if self.precision.device.type != "cpu":
            return [batch]
        return batch.split(max(CPU_POSITIONS // batch.source_BT.shape[1], 1))

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
