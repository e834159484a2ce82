"""Texts scored: every token's probability by the model, by the neighbours, and by both."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fairseq.arrays import Float64s, Int64s
from fairseq.data.dictionary import Dictionary
from fairseq.evaluate.mixture import Mixture
from fairseq.evaluate.sequence_scorer import SequenceScorer
from fairseq.hub.protocol import RowSource
from fairseq.hub.records import Score
from fairseq.hub.text import Cut
from fairseq.runtime.precision import Precision


@dataclass(frozen=True)
class _Columns:
    """N scored tokens, in the order of the batches; natural log-probabilities."""

    block_idx_N: Int64s
    target_N: Int64s
    mixed_N: Float64s
    lm_N: Float64s
    knn_N: Float64s | None

    def score(self, rows: Int64s, dictionary: Dictionary, lmbda: float) -> Score:
        """Returns some of the tokens as a score."""
        target_N = self.target_N[rows]
        return Score(
            words=tuple(dictionary[idx] for idx in target_N.tolist()),
            tokens=torch.from_numpy(target_N),
            positional_scores=torch.from_numpy(self.mixed_N[rows]),
            lm_scores=torch.from_numpy(self.lm_N[rows]),
            knn_scores=torch.from_numpy(self.knn_N[rows]) if self.knn_N is not None else None,
            lmbda=lmbda,
        )


def score_cuts(
    cuts: Iterable[Cut],
    models: Sequence[Any],
    precision: Precision,
    dictionary: Dictionary,
    source: RowSource | None,
    lmbda: float,
    advance: Callable[[int], None],
) -> dict[int, Score]:
    """Returns the score of every text, by its number; ``advance`` is told how many tokens have been scored."""
    scores: dict[int, Score] = {}
    scorer = SequenceScorer(models, precision, Mixture([(source, lmbda)] if source is not None else []))
    for part in cuts:
        parts = []
        for scored in scorer.scored(part.batches()):
            knn_N = scored.memory_log_p_NM[:, 0] if source is not None else scored.model_log_p_N
            parts.append((scored.block_idx_N, scored.target_N, scored.log_p_N, scored.model_log_p_N, knn_N))
            advance(len(scored.target_N))
        block_idx_N, target_N, mixed_N, lm_N, knn_N = (np.concatenate(column) for column in zip(*parts, strict=True))
        columns = _Columns(block_idx_N, target_N, mixed_N, lm_N, knn_N if source is not None else None)
        order_N = np.argsort(block_idx_N, kind="stable")  # batches take blocks by length; a block's tokens are in order
        text_N = part.text_of(block_idx_N[order_N])
        for number, start, end in _runs(part.texts, text_N):
            scores[number] = columns.score(order_N[start:end], dictionary, lmbda)
    return scores


def _runs(texts: Sequence[int], text_N: Int64s) -> Iterable[tuple[int, int, int]]:
    """Yields each text's number and where it begins and ends in ``text_N``, which is sorted."""
    starts = np.searchsorted(text_N, texts, side="left").tolist()
    ends = np.searchsorted(text_N, texts, side="right").tolist()
    yield from zip(texts, starts, ends, strict=True)
