"""Queries to measure indexes with: the contexts of a text, or rows of the datastore.

A text's queries come from batches that are evenly spaced over it, and are evenly spaced in these: neighbouring contexts
find the same rows, and a sample of one place would say little of the others.

Legend: N queries · K neighbours · D key width.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairseq.arrays import Float32s, Float64s, Int64s
from fairseq.config.common import DeviceConfig
from fairseq.errors import ConfigError
from fairseq.evaluate.config import EvalConfig
from fairseq.evaluate.evaluation import prepare
from fairseq.evaluate.mixture import Memory, MemoryScores, Mixture, ScoredTokens
from fairseq.evaluate.sequence_scorer import SequenceScorer
from fairseq.knn.datastore.identity import require_model, use_keys
from fairseq.knn.datastore.ranges import evenly_spaced
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.inspect.config import QueriesConfig, RecallConfig
from fairseq.knn.neighbours.own_rows import own_text, own_text_warning
from fairseq.runtime.precision import Precision, select_device
from fairseq.runtime.progress import Progress

logger = logging.getLogger(__name__)

BATCH_TOKENS = 1024
LEAST_BATCHES = 16


@dataclass(frozen=True)
class Queries:
    """N queries.

    Attributes:
        source: where they come from.
        vectors_ND: float32.
        target_N: the tokens that came next; None for rows of the datastore.
        log_p_N: the language model's ln p of these, float64.
        row_ids_N: the rows that they are; None for a text's.
    """

    source: str
    vectors_ND: Float32s
    target_N: Int64s | None = None
    log_p_N: Float64s | None = None
    row_ids_N: Int64s | None = None

    def without_themselves(self, near_NK: Float32s, ids_NK: Int64s) -> tuple[Float32s, Int64s]:
        """Returns neighbours without the row that the query is, or where it was not found, without the farthest."""
        if self.row_ids_N is None:
            return near_NK, ids_NK
        n, k = ids_NK.shape
        kept_NK = ids_NK != self.row_ids_N[:, None]
        kept_NK[kept_NK.all(axis=1), -1] = False
        return near_NK[kept_NK].reshape(n, k - 1), ids_NK[kept_NK].reshape(n, k - 1)


class _Vectors(Memory):
    """Not a memory at all: it hands on the vectors that it is asked about."""

    def scores(self, tokens: ScoredTokens) -> MemoryScores:
        """Returns the vectors as a column."""
        return MemoryScores(tokens.log_p_N, columns={"vectors": tokens.query_ND.cpu().numpy()})


def text_queries(config: QueriesConfig, recall: RecallConfig, store: Datastore, device: DeviceConfig) -> Queries:
    """Returns queries of a text, after checking that its model belongs to the datastore.

    Raises:
        MismatchError: it does not.
    """
    assert config.path is not None
    settings = EvalConfig(
        path=config.path,
        gen_subset=config.gen_subset,
        context_window=config.context_window,
        model_overrides=config.model_overrides,
        max_tokens=BATCH_TOKENS,
    )
    text: dict[str, Any] = {"data": config.data, "sample_break_mode": config.sample_break_mode}
    if store.model.bos_in_front:
        text["add_bos_token"] = True
    evaluation = prepare(settings, text, Precision(device, select_device(device)))
    use_keys(evaluation.models[0], store.model.key_type)
    require_model(store.prefix, store.model, evaluation.identity, allow_mismatch=recall.allow_mismatch)
    if own := own_text([store], evaluation.dataset.sha256()):
        prefix = evaluation.task.split_prefix(config.gen_subset)
        logger.warning(own_text_warning(own, str(prefix), "Give --gen-subset another text"))
    sizes = [int(evaluation.dataset.lengths[block_idx].sum()) for block_idx in evaluation.batches]
    if not sizes:
        raise ConfigError(f"the split '{config.gen_subset}' holds no tokens; give --gen-subset another")
    count = max(LEAST_BATCHES, -(-recall.sample * len(sizes) // sum(sizes)))
    chosen = evenly_spaced(len(sizes), count).tolist()
    scorer = SequenceScorer(evaluation.models, evaluation.precision, Mixture([(_Vectors(), 0.0)]))
    batches = (evaluation.dataset.collate(evaluation.batches[number]) for number in chosen)
    parts = []
    with Progress("queries", sum(sizes[number] for number in chosen), "tokens") as progress:
        for scored in scorer.scored(batches):
            parts.append((scored.columns["vectors"], scored.target_N, scored.log_p_N))
            progress.advance(len(scored.target_N))
    vectors_ND, target_N, log_p_N = (np.concatenate(column) for column in zip(*parts, strict=True))
    keep = evenly_spaced(len(log_p_N), recall.sample)
    return Queries(
        f"{config.data}, {config.gen_subset}",
        vectors_ND[keep],
        target_N[keep],
        log_p_N[keep],
    )
