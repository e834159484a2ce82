"""Keeping what every token's neighbours are while a split is evaluated: ``--save-retrieval``.

``RetrievalRecorder`` stands between the scorer and the datastore, as the second source of probabilities that it passes
on, and writes what went by. The scorer asks for targets in the order of its batches; each belongs into a row that its
place in the token stream decides:

    stream            a b c d | e f g | h i          three blocks
    rows              0 1 2 3 | 4 5 6 | 7 8
    batches           [block 2, block 1], [block 0]  sorted by length, say
    order of asking   7 8 4 5 6 | 0 1 2 3

Legend: N scored tokens · K neighbours.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np
import torch
from torch import Tensor

from fairseq.arrays import Array, Int64s
from fairseq.criterions.perplexity import perplexity_of
from fairseq.data.block_dataset import PAD, BlockDataset
from fairseq.errors import ConfigError
from fairseq.evaluate.config import CacheConfig, EvalConfig
from fairseq.evaluate.evaluation import Evaluation
from fairseq.evaluate.sequence_scorer import ScoredBatch
from fairseq.knn.config import RetrievalConfig
from fairseq.knn.neighbours.distribution import log_prob_of
from fairseq.knn.neighbours.neighbour_source import NeighbourSource
from fairseq.knn.retrieval.datastores import datastore_record
from fairseq.knn.retrieval.format import (
    CACHE_COLUMN,
    CacheRecord,
    CacheSetting,
    Column,
    Identity,
    Loss,
    RetrievalManifest,
    Settings,
    columns_of,
)
from fairseq.knn.retrieval.retrieval import RetrievalWriter
from fairseq.knn.retrieval.writer import is_saved
from fairseq.runtime.files import locked

logger = logging.getLogger(__name__)

# Tokens that are ordered and written together: what is computed from them stays in the cache.
AT_ONCE = 512


class RetrievalRecorder:
    """A second source of probabilities that writes down what it is asked; satisfies ``scoring.TargetScorer``.

    Args:
        neighbours: the source.
        evaluation: the order of the batches and where their targets are in the stream.
        writer: of as many rows as there are targets.
    """

    def __init__(self, neighbours: NeighbourSource, evaluation: Evaluation, writer: RetrievalWriter) -> None:
        self.neighbours, self.writer = neighbours, writer
        self._order_N, position_N = rows_in_order(evaluation.dataset, evaluation.batches)
        self._tokens = evaluation.dataset.tokens
        self._position_N = position_N
        self._num_asked = self._num_scored = 0
        self._lm_sum = self._mixture_sum = 0.0

    def log_prob(self, queries_ND: Tensor, target_N: Tensor) -> Tensor:
        """Returns ln p_kNN(target), float32 ``[N]``, of the next targets in the order of the batches."""
        votes = self.neighbours.votes(queries_ND, target_N)
        rows_N = self._order_N[self._num_asked : self._num_asked + len(target_N)]
        self._num_asked += len(target_N)
        targets = target_N.cpu().numpy()
        assert np.array_equal(self._tokens[self._position_N[rows_N]], targets), "not the order of the batches"
        log_p_N = np.empty(len(targets), np.float32)
        for start in range(0, len(targets), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            found, rows = votes.rows(part), rows_N[part]
            log_p_N[part] = log_prob_of(found, self.neighbours.config.knn_temp)
            nearest = found.nearest_first()
            self.writer.write(
                rows,
                targets=targets[part],
                positions=self._position_N[rows],
                ids=nearest.ids_NK,
                distances=nearest.distances_NK,
                hits=np.packbits(nearest.hits_NK, axis=1, bitorder="little"),
            )
        return torch.from_numpy(log_p_N).to(queries_ND.device)

    def add(self, scored: ScoredBatch, **columns: Array) -> None:
        """Writes what the language model said of the next batch, and further columns of its tokens."""
        count = len(scored.target_N)
        rows_N = self._order_N[self._num_scored : self._num_scored + count]
        self._num_scored += count
        self.writer.write(rows_N, blocks=scored.block_idx_N, lm_log_prob=scored.model_log_p_N, **columns)
        self._lm_sum += float(scored.model_log_p_N.sum())
        self._mixture_sum += float(scored.log_p_N.sum())

    def __enter__(self) -> "RetrievalRecorder":
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        self.writer.__exit__(kind, err, tb)

    def finish(self) -> None:
        """Marks the retrieval as done."""
        losses = (total / -len(self._order_N) / math.log(2) for total in (self._lm_sum, self._mixture_sum))
        lm, mixture = (Loss(loss, perplexity_of(loss)) for loss in losses)
        self.writer.finish(lm, mixture)


def open_recorder(
    neighbours: NeighbourSource,
    evaluation: Evaluation,
    config: EvalConfig,
    where: RetrievalConfig,
    further: Sequence[Column] = (),
    *,
    cache: CacheConfig | None = None,
) -> RetrievalRecorder | None:
    """Returns a recorder of an evaluation's neighbours, to be used as a context.

    None where the same retrieval is there already, and need not be replaced.

    Args:
        neighbours: the source.
        evaluation: what is scored.
        config: its flags.
        where: the directory.
        further: columns that ``add`` is given besides.
        cache: the caches whose column it is given, if any.

    Raises:
        ConfigError: nothing is scored, or the disk is too small.
        DatastoreError: something is there.
    """
    assert where.save_retrieval is not None
    num_tokens = len(rows_in_order(evaluation.dataset, evaluation.batches)[0])
    if not num_tokens:
        raise ConfigError(f"the split '{config.gen_subset}' has no targets: there is nothing to save")
    k = neighbours.config.k
    manifest = _manifest(neighbours, evaluation, config, num_tokens)
    columns = (*columns_of(k, neighbours.rows), *further)
    if cache is not None:
        columns = (*columns, Column(CACHE_COLUMN, "<f4", len(cache.pairs)))
        settings = [CacheSetting(size, theta) for size, theta in cache.pairs]
        manifest = manifest.replace(cache=CacheRecord(settings, cache.weight))
    directory = Path(where.save_retrieval)
    with locked(directory):  # also takes away the lock's file that a run has left which was killed at its very end
        if not where.overwrite and is_saved(directory, columns, manifest):
            logger.info("%s is there already, of this model, data and datastore; it stays as it is", directory)
            return None
    writer = RetrievalWriter.create(directory, columns, manifest, overwrite=where.overwrite)
    return RetrievalRecorder(neighbours, evaluation, writer)


def rows_in_order(dataset: BlockDataset, batches: Sequence[Int64s]) -> tuple[Int64s, Int64s]:
    """Returns the row of each target, in the order in which batches are scored, and each row's place in the stream.

    Padding that stands in the text is not scored and has no row.
    """
    lengths = dataset.ends - dataset.starts
    first_L = np.cumsum(lengths) - lengths
    position_N = np.repeat(dataset.starts - first_L, lengths) + np.arange(int(lengths.sum()))
    scored_N = dataset.tokens[position_N] != PAD
    row_N = np.cumsum(scored_N) - scored_N
    block_idx = np.concatenate([np.empty(0, np.int64), *batches])
    taken = lengths[block_idx]
    before = np.cumsum(taken) - taken
    asked_N = np.repeat(first_L[block_idx] - before, taken) + np.arange(int(taken.sum()))
    return row_N[asked_N[scored_N[asked_N]]], position_N[scored_N]


def _manifest(
    neighbours: NeighbourSource, evaluation: Evaluation, config: EvalConfig, num_tokens: int
) -> RetrievalManifest:
    """Returns what the manifest says besides the arrays and the result."""
    knn, task = neighbours.config, evaluation.task
    hashes = evaluation.identity()
    return RetrievalManifest(
        num_tokens=num_tokens,
        k=knn.k,
        vocabulary_size=len(task.dictionary),
        dictionary=str(task.data_dirs[0] / "dict.txt"),
        split=config.gen_subset,
        data=str(task.split_prefix(config.gen_subset)),
        settings=Settings(
            probe=knn.probe,
            rerank=knn.rerank,
            knn_sim_func=knn.knn_sim_func,
            metric=knn.faiss_metric_type,
            drop_top1=knn.drop_top1,
            context_window=config.context_window,
            tokens_per_sample=evaluation.block_size,
            sample_break_mode=evaluation.task_config.sample_break_mode,
            computed_in=evaluation.precision.name,
        ),
        lmbda=knn.lmbda,
        knn_temp=knn.knn_temp,
        identity=msgspec.convert(
            {**hashes, "weights_sha256": hashes["weights_sha256"][0], **neighbours.identity()}, Identity
        ),
        datastore=datastore_record(neighbours.parts, whole_text=not evaluation.dataset.add_bos),
        files={},
    )
