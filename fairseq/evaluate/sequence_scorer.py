"""From a batch to the log-probability of each target, and to the context vectors that stand behind them.

    batches ─ model ─ ScoredTokens ─ memories, asked for each batch or for many at once ─ mixture ─ ScoredBatch

B batch, T time, S scored time, C width, N scored targets (row by row, padding left out), M memories.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairseq.arrays import Array, Float64s, Int64s
from fairseq.data.block_dataset import Batch
from fairseq.evaluate.mixture import Known, MemoryScores, Mixture, ScoredTokens, average_probabilities
from fairseq.models.protocol import LanguageModel
from fairseq.runtime.precision import Precision

# Most rows that the output layer takes at once, whatever the batch: its logits stay in the cache's reach.
SOFTMAX_ROWS = 2048
# Most positions that the model takes at once on a CPU, for the same reason; a GPU takes the whole batch.
CPU_POSITIONS = 2048
# Targets for which memories are asked at once, whatever the batch: neighbours of many queries are neighbours of each
# other, and what is read for one serves many.
TARGETS_AT_ONCE = 16384


@dataclass(frozen=True, kw_only=True)
class ScoredBatch:
    """N scored targets of a batch, row by row.

    Attributes:
        block_idx_N: int64, the block that each target belongs to.
        target_N: int64 ids.
        log_p_N: float64 natural-log probabilities of the mixture.
        model_log_p_N: the same of the models alone.
        memory_log_p_NM: float64, the same of each memory alone, in the mixture's order.
        columns: what else the memories tell of each target, by name.
    """

    block_idx_N: Int64s
    target_N: Int64s
    log_p_N: Float64s
    model_log_p_N: Float64s
    memory_log_p_NM: Float64s
    columns: Mapping[str, Array] = field(default_factory=dict)

    def blocks(self) -> Iterator[tuple[int, slice]]:
        """Yields each block's number, and which rows are its targets."""
        cuts = (np.flatnonzero(np.diff(self.block_idx_N)) + 1).tolist()
        for start, end in itertools.pairwise([0, *cuts, len(self.block_idx_N)]):
            yield int(self.block_idx_N[start]), slice(start, end)


class SequenceScorer:
    """Scores batches with one model, several averaged ones, or one mixed with memories.

    Args:
        models: in evaluation mode, on the device of ``precision``.
        precision: device and number format.
        mixture: the memories, which take the context vectors of the model.
        softmax_batch: most rows that the output layer takes at once, 2,048 at the most.
    """

    def __init__(
        self,
        models: Sequence[LanguageModel],
        precision: Precision,
        mixture: Mixture | None = None,
        *,
        softmax_batch: int | None = None,
    ) -> None:
        self.models, self.precision, self.softmax_batch = models, precision, softmax_batch
        self.mixture = mixture if mixture is not None else Mixture()
        assert len(models) == 1 or (models and not self.mixture.memories), len(models)

    def score(self, batch: Batch) -> ScoredBatch:
        """Returns the log-probabilities of a batch's targets."""
        return next(self.scored([batch]))

    def scored(self, batches: Iterable[Batch]) -> Iterator[ScoredBatch]:
        """Yields the log-probabilities of each batch's targets, in order. Each call is a text of its own."""
        return self.scored_in_groups(self._groups(batches))

    def scored_in_groups(self, groups: Iterable[Iterable[Batch]]) -> Iterator[ScoredBatch]:
        """Yields the same; memories that need no order are asked for all batches of a group at once.

        Where a GPU computes the model, that goes on with the next batches while memories are asked.
        """
        for memory in self.mixture.memories:
            memory.begin()
        by_models = (list(map(self._by_models, group)) for group in groups)
        if not self._overlaps:
            for group in by_models:
                yield from self._with_memories(group)
            return
        before: Future[list[ScoredBatch]] | None = None
        with ThreadPoolExecutor(1) as worker:
            for group in by_models:
                asked = worker.submit(self._with_memories, group)
                if before is not None:
                    yield from before.result()
                before = asked
            if before is not None:
                yield from before.result()

    @torch.inference_mode()
    def context_vectors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns the feed-forward inputs ``[N, C]`` of a batch's targets, and the targets; no output layer runs."""
        vectors, targets = [], []
        for part in self._parts(batch):
            source_BT, first, scored_BS, target_N = self._inputs(part)
            with self.precision.autocast():
                out = self.models[0](source_BT, first)
            vectors.append(out.ffn_input_BSC[scored_BS])
            targets.append(target_N)
        return torch.cat(vectors), torch.cat(targets)

    def _by_models(self, batch: Batch) -> ScoredTokens:
        """Returns a batch's targets as the models alone see them."""
        if any(memory.in_order for memory in self.mixture.memories):
            assert (np.diff(batch.block_idx_B) > 0).all(), batch.block_idx_B
        return ScoredTokens.joined([self._part_by_models(part) for part in self._parts(batch)])

    @torch.inference_mode()
    def _part_by_models(self, part: Batch) -> ScoredTokens:
        source_BT, first, scored_BS, target_N = self._inputs(part)
        known, log_p_MN = None, []
        needs_known = any(memory.needs_known for memory in self.mixture.memories)
        for model in self.models:
            with self.precision.autocast():
                out = model(source_BT, first)
                features_NC = out.features_BSC[scored_BS]
                if needs_known:
                    log_p_N, *certainty = self._with_certainty(model, features_NC, target_N)
                    given_N = source_BT[:, first:][scored_BS]
                    known = Known(*(found_N.cpu().numpy() for found_N in (given_N, *certainty)))
                else:
                    log_p_N = self._target_log_prob(model, features_NC, target_N)
                log_p_MN.append(log_p_N)
        # Memories come with one model only; without any, nobody needs the vectors.
        query_ND = out.ffn_input_BSC[scored_BS].float() if self.mixture.memories else torch.empty(len(target_N), 0)
        return ScoredTokens(
            block_idx_N=np.repeat(part.block_idx_B, scored_BS.sum(1).cpu().numpy()),
            query_ND=query_ND,
            target_N=target_N,
            log_p_N=average_probabilities(log_p_MN),
            known=known,
        )

    def _groups(self, batches: Iterable[Batch]) -> Iterator[list[Batch]]:
        """Yields batches in groups that have enough targets to ask memories for."""
        least = 0 if all(memory.in_order for memory in self.mixture.memories) else TARGETS_AT_ONCE
        group: list[Batch] = []
        count = 0
        for batch in batches:
            group.append(batch)
            count += int(batch.scored_BT.sum())
            if count >= least:
                yield group
                group, count = [], 0
        if group:
            yield group

    def _with_memories(self, group: list[ScoredTokens]) -> list[ScoredBatch]:
        """Returns batches with what the memories say, and mixed with it."""
        together, sizes = ScoredTokens.joined(group), [len(tokens.target_N) for tokens in group]
        scores_MB = [
            [memory.scores(tokens) for tokens in group] if memory.in_order else memory.scores(together).split(sizes)
            for memory in self.mixture.memories
        ]
        return [self._scored(tokens, [scores[i] for scores in scores_MB]) for i, tokens in enumerate(group)]

    def _scored(self, tokens: ScoredTokens, scores: Sequence[MemoryScores]) -> ScoredBatch:
        memory_log_p_NM = np.empty((len(tokens.target_N), len(scores)))
        columns: dict[str, Array] = {}
        for number, found in enumerate(scores):
            memory_log_p_NM[:, number] = found.log_p_N.cpu().numpy()
            assert not columns.keys() & found.columns.keys(), "two memories tell columns of one name"
            columns |= found.columns
        return ScoredBatch(
            block_idx_N=tokens.block_idx_N,
            target_N=tokens.target_N.cpu().numpy(),
            log_p_N=self.mixture.mixed(tokens.log_p_N, scores).cpu().numpy(),
            model_log_p_N=tokens.log_p_N.cpu().numpy(),
            memory_log_p_NM=memory_log_p_NM,
            columns=columns,
        )

    @property
    def _overlaps(self) -> bool:
        """Whether models and memories are busy on different devices."""
        return self.precision.device.type != "cpu" and bool(self.mixture.memories)

    def _parts(self, batch: Batch) -> list[Batch]:
        """Returns the batch in the parts that the model takes at once."""
        if self.precision.device.type != "cpu":
            return [batch]
        return batch.split(CPU_POSITIONS)

    def _inputs(self, part: Batch) -> tuple[Tensor, int, Tensor, Tensor]:
        """Returns the source; S as its first column; which columns are scored, bool ``[B, S]``; and their targets."""
        first = int(part.context_B.min())
        source_BT, target_BT, scored_BT = (
            torch.from_numpy(array).to(self.precision.device)
            for array in (part.input_BT, part.target_BT, part.scored_BT)
        )
        scored_BS = scored_BT[:, first:]
        return source_BT, first, scored_BS, target_BT[:, first:][scored_BS]

    def _with_certainty(self, model: Any, features_NC: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns ln p(target), the largest ln p and the entropy, in one pass where the model has one."""
        if hasattr(model, "target_and_certainty"):
            found: tuple[Tensor, Tensor, Tensor] = model.target_and_certainty(features_NC, target_N)
            return found
        return (self._target_log_prob(model, features_NC, target_N), *model.certainty(features_NC))

    def _target_log_prob(self, model: LanguageModel, features_NC: Tensor, target_N: Tensor) -> Tensor:
        rows = min(self.softmax_batch or SOFTMAX_ROWS, SOFTMAX_ROWS)
        pieces = [
            model.target_log_prob(features, target)
            for features, target in zip(torch.split(features_NC, rows), torch.split(target_N, rows), strict=True)
        ]
        return torch.cat(pieces)
