"""From a batch to the log-probability of each target, and to the context vectors that stand behind them.

B batch, T time, S scored time, C width, N scored targets (row by row, padding left out).
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fairseq.arrays import Float64s, Int64s
from fairseq.data.block_dataset import PAD, Batch
from fairseq.evaluate.cache import ContinuousCache
from fairseq.evaluate.mixture import Interpolation, Known, WeighedInterpolation, average_probabilities, interpolate
from fairseq.runtime.precision import Precision

# Most rows that the output layer takes at once, whatever the batch: its logits stay in the cache's reach.
SOFTMAX_ROWS = 2048
# Most positions that the model takes at once on a CPU, for the same reason; a GPU takes the whole batch.
CPU_POSITIONS = 2048
# Targets for which a second source is asked at once, whatever the batch: neighbours of many queries are neighbours of
# each other, and what is read for one serves many.
OTHER_TARGETS = 16384


class LanguageModel(Protocol):
    """What the scorer asks of a model; see ``TransformerLanguageModel``."""

    def __call__(self, source_BT: Tensor, first: int) -> Any:
        """Returns features and feed-forward inputs of the columns from ``first`` on."""
        ...

    def target_log_prob(self, features_NC: Tensor, target_N: Tensor) -> Tensor:
        """Returns log p(target), natural, ``[N]``."""
        ...

    def certainty(self, features_NC: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the largest log-probability and the entropy over the vocabulary, nats, ``[N]`` each."""
        ...


@dataclass(frozen=True, kw_only=True)
class ScoredBatch:
    """N scored targets of a batch, row by row.

    Attributes:
        block_idx_N: int64, the block that each target belongs to.
        target_N: int64 ids.
        log_p_N: float64 natural-log probabilities.
        model_log_p_N: the same of the models alone, before a second source was mixed in.
        other_log_p_N: the same of the second source alone, where there is one.
        cache_log_p_NS: float64, those of the cache alone under each of its settings, where there is one.
        known: what was known of each before it was seen, where that was asked for.
    """

    block_idx_N: Int64s
    target_N: Int64s
    log_p_N: Float64s
    model_log_p_N: Float64s
    other_log_p_N: Float64s | None = None
    cache_log_p_NS: Float64s | None = None
    known: Known | None = None


@dataclass(frozen=True)
class _Judged:
    """A batch's N targets as the models see them; context vectors and the cache's opinion only where wanted."""

    block_idx_N: Int64s
    target_N: Tensor
    log_p_N: Tensor
    query_NC: Tensor | None
    cache_log_p_NS: Tensor | None
    known: Known | None

    def scored(self, log_p_N: Tensor, cache_weight: float, other_log_p_N: Tensor | None = None) -> ScoredBatch:
        if self.cache_log_p_NS is not None:
            log_p_N = interpolate(log_p_N, self.cache_log_p_NS[:, 0], cache_weight)
        return ScoredBatch(
            block_idx_N=self.block_idx_N,
            target_N=self.target_N.cpu().numpy(),
            log_p_N=log_p_N.cpu().numpy(),
            model_log_p_N=self.log_p_N.cpu().numpy(),
            other_log_p_N=other_log_p_N.double().cpu().numpy() if other_log_p_N is not None else None,
            cache_log_p_NS=self.cache_log_p_NS.cpu().numpy() if self.cache_log_p_NS is not None else None,
            known=self.known,
        )


class SequenceScorer:
    """Scores batches with one model, several averaged ones, or one mixed with another source.

    Args:
        models: in evaluation mode, on the device of ``precision``.
        precision: device and number format.
        softmax_batch: most rows that the output layer takes at once, 2,048 at the most.
        other: a second source to mix in; it takes the context vectors of the first model.
        cache: mixed into what comes out of the others, at its own weight; batches must come in stream order.
        keep_known: whether batches are to come with what was known of their targets, by the first model.
    """

    def __init__(
        self,
        models: Sequence[LanguageModel],
        precision: Precision,
        softmax_batch: int | None = None,
        other: Interpolation | WeighedInterpolation | None = None,
        cache: ContinuousCache | None = None,
        keep_known: bool = False,
    ) -> None:
        assert models and ((other is None and cache is None) or len(models) == 1), len(models)
        self.models = models
        self.precision = precision
        self.softmax_batch = softmax_batch
        self.other = other
        self.cache = cache
        self.keep_known = keep_known or isinstance(other, WeighedInterpolation)

    def score(self, batch: Batch) -> ScoredBatch:
        """Returns the log-probabilities of a batch's targets."""
        return next(self.scored([batch]))

    def scored(self, batches: Iterable[Batch]) -> Iterator[ScoredBatch]:
        """Yields the log-probabilities of each batch's targets, in order.

        A second source is asked once for several batches; where a GPU computes the model, while that goes on with the
        next ones. Each call is a stream of its own: it begins with an empty cache.
        """
        if self.cache is not None:
            self.cache.clear()
        if self.other is None:
            for batch in batches:
                judged = self._judge(batch)
                yield judged.scored(judged.log_p_N, self._cache_weight)
            return
        before: tuple[list[_Judged], Future[tuple[Tensor, Tensor]]] | None = None
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
        counts, targets, log_ps, queries, known = [], [], [], [], []
        for part in self._parts(batch):
            scored_BS, target_N = self._targets(part)
            log_p_MN = []
            for model in self.models:
                with self.precision.autocast():
                    out = model(*self._inputs(part))
                    features_NC = out.features_BSC[scored_BS]
                    log_p_MN.append(self._target_log_prob(model, features_NC, target_N))
                    if self.keep_known and model is self.models[0]:
                        known.append((self._last_tokens(part, scored_BS), *model.certainty(features_NC)))
                if self.other is not None or self.cache is not None:
                    queries.append(out.ffn_input_BSC[scored_BS].float())
            counts.append(scored_BS.sum(1))
            targets.append(target_N)
            log_ps.append(average_probabilities(log_p_MN))
        block_idx_N = np.repeat(batch.block_idx_B, torch.cat(counts).cpu().numpy())
        target_N, log_p_N, query_NC = torch.cat(targets), torch.cat(log_ps), torch.cat(queries) if queries else None
        cache_log_p_NS = None
        if self.cache is not None and query_NC is not None:
            assert (np.diff(batch.block_idx_B) > 0).all(), batch.block_idx_B
            cache_log_p_NS = self.cache.log_prob(query_NC, target_N, log_p_N)
        return _Judged(block_idx_N, target_N, log_p_N, query_NC, cache_log_p_NS, _joined(known))

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

    def _ask(self, group: list[_Judged], worker: ThreadPoolExecutor | None) -> "Future[tuple[Tensor, Tensor]]":
        """Returns the second source's log-probabilities of a group's targets and their weights, there or under way."""
        assert self.other is not None
        query_NC = torch.cat([judged.query_NC for judged in group if judged.query_NC is not None])
        target_N = torch.cat([judged.target_N for judged in group])
        known = _all_known([judged.known for judged in group if judged.known is not None])
        if worker is not None:
            return worker.submit(self.other.ask, query_NC, target_N, known)
        there: Future[tuple[Tensor, Tensor]] = Future()
        there.set_result(self.other.ask(query_NC, target_N, known))
        return there

    def _mix(self, group: list[_Judged], asked: "Future[tuple[Tensor, Tensor]]") -> Iterator[ScoredBatch]:
        sizes = [len(judged.target_N) for judged in group]
        others, weights = (torch.split(answer_N, sizes) for answer_N in asked.result())
        for judged, other_N, weight_N in zip(group, others, weights, strict=True):
            yield judged.scored(interpolate(judged.log_p_N, other_N, weight_N), self._cache_weight, other_N)

    @property
    def _cache_weight(self) -> float:
        return self.cache.weight if self.cache is not None else 0.0

    @property
    def _overlaps(self) -> bool:
        """Whether the models and the second source are busy on different devices."""
        return self.precision.device.type != "cpu"

    def _parts(self, batch: Batch) -> list[Batch]:
        """Returns the batch in the parts that the model takes at once."""
        if self.precision.device.type != "cpu":
            return [batch]
        return batch.split(CPU_POSITIONS)

    def _inputs(self, batch: Batch) -> tuple[Tensor, int]:
        return torch.from_numpy(batch.source_BT).to(self.precision.device), int(batch.context_B.min())

    def _targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns which columns are scored, bool ``[B, S]``, and their targets ``[N]``."""
        target_BS = torch.from_numpy(batch.target_BT[:, int(batch.context_B.min()) :]).to(self.precision.device)
        scored_BS = target_BS != PAD
        return scored_BS, target_BS[scored_BS]

    def _last_tokens(self, batch: Batch, scored_BS: Tensor) -> Tensor:
        """Returns the last token of each scored target's context, ``[N]``: the input of its column."""
        source_BS = torch.from_numpy(batch.source_BT[:, int(batch.context_B.min()) :])
        return source_BS[scored_BS.cpu()]

    def _target_log_prob(self, model: LanguageModel, features_NC: Tensor, target_N: Tensor) -> Tensor:
        rows = min(self.softmax_batch or SOFTMAX_ROWS, SOFTMAX_ROWS)
        pieces = [
            model.target_log_prob(features, target)
            for features, target in zip(torch.split(features_NC, rows), torch.split(target_N, rows), strict=True)
        ]
        return torch.cat(pieces)


def _joined(parts: list[tuple[Tensor, Tensor, Tensor]]) -> Known | None:
    """Returns what is known of a batch, from last tokens, largest log-probabilities and entropies of its parts."""
    if not parts:
        return None
    return Known(*(torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)))


def _all_known(parts: list[Known]) -> Known | None:
    """Returns what is known of several batches."""
    if not parts:
        return None
    names = ("last_token_N", "max_log_p_N", "entropy_N")
    return Known(*(np.concatenate([getattr(known, name) for known in parts]) for name in names))
