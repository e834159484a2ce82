"""Keeping what every token's neighbours are while a split is evaluated: ``--save-retrieval``.

``SavedNeighbours`` are the memory that the scorer asks: they give every neighbour as columns. ``RetrievalRecorder``
writes the columns of scored batches. A token's row is its place in the token stream, whatever batch it is in:

    stream            a b c d | e f g | h i          three blocks
    rows              0 1 2 3 | 4 5 6 | 7 8
    batches           [block 2, block 1], [block 0]  sorted by length, say
    order of scores   7 8 4 5 6 | 0 1 2 3

Legend: N scored tokens · K neighbours.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from msgspec import UNSET, UnsetType

from fairseq.arrays import Array, Int64s
from fairseq.criterions.perplexity import perplexity_of
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.blocks import joined_ranges
from fairseq.errors import ConfigError, FairseqError
from fairseq.evaluate.cache import CACHE_COLUMN, CacheSetting
from fairseq.evaluate.config import CacheConfig, EvalConfig
from fairseq.evaluate.evaluation import Evaluation
from fairseq.evaluate.mixture import Counts, Memory, MemoryReport, MemoryScores, ScoredTokens
from fairseq.evaluate.result import PartialResult
from fairseq.evaluate.sequence_scorer import ScoredBatch
from fairseq.knn.config import AUTO_SHARE, RetrievalConfig
from fairseq.knn.neighbours.neighbour_source import NeighbourSource
from fairseq.knn.neighbours.tally import tallied
from fairseq.knn.neighbours.temperature import auto_share
from fairseq.knn.retrieval.datastores import datastore_record
from fairseq.knn.retrieval.format import (
    CacheRecord,
    Column,
    Identity,
    Loss,
    RetrievalManifest,
    RetrievalSettings,
    range_path,
)
from fairseq.knn.retrieval.job_array import open_range, save_range
from fairseq.knn.retrieval.retrieval import RetrievalWriter, columns_of_run, known_arrays
from fairseq.knn.retrieval.writer import is_saved
from fairseq.runtime.distributed import ProcessGroup
from fairseq.runtime.progress import at_work
from fairseq.runtime.shares import Share
from fairseq.storage.files import locked

logger = logging.getLogger(__name__)

# Tokens that are ordered and written together: what is computed from them stays in the cache.
AT_ONCE = 512


class SavedNeighbours(Memory):
    """Neighbours that hand on all that they find, as columns of a retrieval."""

    needs_known = True

    def __init__(self, neighbours: NeighbourSource) -> None:
        self.neighbours = neighbours

    def scores(self, tokens: ScoredTokens) -> MemoryScores:
        """Returns ln p_kNN, float32, with the neighbours of each token and what is known before it is seen."""
        assert tokens.known is not None
        votes = self.neighbours.votes(tokens.query_ND, tokens.target_N, self.neighbours.own_of(tokens))
        count, k = votes.ids_NK.shape
        log_p_N, hits = np.empty(count, np.float32), np.empty((count, -(-k // 8)), np.uint8)
        for start in range(0, count, AT_ONCE):
            part = slice(start, start + AT_ONCE)
            found = votes.rows(part)
            log_p_N[part], tally = tallied(found, self.neighbours.temperature)
            self.neighbours.tally.add(tally)
            nearest = found.nearest_first(self.neighbours.tie_order)
            votes.ids_NK[part], votes.distances_NK[part] = nearest.ids_NK, nearest.distances_NK
            hits[part] = np.packbits(nearest.hits_NK, axis=1, bitorder="little")
        columns: dict[str, Array] = {"ids": votes.ids_NK, "distances": votes.distances_NK, "hits": hits}
        columns |= known_arrays(tokens.known)
        return MemoryScores(torch.from_numpy(log_p_N).to(tokens.query_ND.device), columns=columns)

    def counts(self) -> Counts:
        """Returns what was found."""
        return self.neighbours.counts()

    def set_counts(self, counts: Counts) -> None:
        """Takes what all processes have found for its own."""
        self.neighbours.set_counts(counts)

    def report(self) -> MemoryReport:
        """Returns the ids of what is searched, T, and what was found."""
        return self.neighbours.report()


class RetrievalRecorder:
    """Writes scored batches of a share into a retrieval.

    Args:
        writer: of as many rows as the whole split has targets.
        order_N: the row of each target of the share, in the order of its batches.
        position_N: each row's place in the token stream.
        share: which one it is.
        group: the processes that write with this one.
    """

    def __init__(
        self, writer: RetrievalWriter, order_N: Int64s, position_N: Int64s, share: Share, group: ProcessGroup
    ) -> None:
        self.writer, self._order_N, self._position_N = writer, order_N, position_N
        self.is_job = is_job(share, group)
        self._share, self._num_added = share, 0

    def add(self, scored: ScoredBatch) -> None:
        """Writes the next batch, in the order of the evaluation."""
        row_N = self._order_N[self._num_added : self._num_added + len(scored.target_N)]
        columns = {
            "targets": scored.target_N,
            "positions": self._position_N[row_N],
            "blocks": scored.block_idx_N,
            "lm_log_prob": scored.model_log_p_N,
            **scored.columns,
        }
        for start in range(0, len(row_N), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            self.writer.write(row_N[part], **{name: array[part] for name, array in columns.items()})
        self._num_added += len(row_N)

    def flush(self) -> None:
        """Has all rows of the share on the disk."""
        assert self._num_added == len(self._order_N), (self._num_added, len(self._order_N))
        self.writer.flush(self._num_added)

    def keep(self, result: dict[str, Any], found: PartialResult, command: list[str], speed: dict[str, float]) -> None:
        """Marks the retrieval as done; a job of an array, its own rows.

        Args:
            result: of the evaluation, as ``--results-path`` has it.
            found: its sums.
            command: words of the command.
            speed: what took how long.
        """
        if self.is_job:
            directory, manifest = self.writer.directory, self.writer.manifest
            save_range(directory, manifest, self._share, self._order_N, result, command, speed)
            return
        with at_work("checksums of the retrieval"):
            self.writer.finish(*losses_of(found), self._num_added)


def losses_of(found: PartialResult) -> tuple[Loss, Loss]:
    """Returns the loss of the model alone and that of the mixture, by token."""
    assert found.lm is not None
    sums = (found.lm.log_p_sum, found.perplexity.log_p_sum)
    lm, mixture = (Loss(loss, perplexity_of(loss)) for loss in (-sum_ / found.targets / math.log(2) for sum_ in sums))
    return lm, mixture


def open_recorder(
    neighbours: NeighbourSource,
    evaluation: Evaluation,
    config: EvalConfig,
    where: RetrievalConfig,
    cache: CacheConfig | None,
    group: ProcessGroup,
) -> RetrievalRecorder | None:
    """Returns a recorder of an evaluation's neighbours, whose writer the caller closes.

    None where the same rows are there already, and need not be replaced.

    Args:
        neighbours: one datastore or several.
        evaluation: what is scored.
        config: its flags.
        where: the directory.
        cache: the caches that are scored as well, if any.
        group: the processes that share the evaluation.

    Raises:
        ConfigError: nothing is scored, or the disk is too small.
        DatastoreError: something is there.
    """
    assert where.save_retrieval is not None
    order_N, position_N = rows_in_order(evaluation.dataset, evaluation.batches)
    if not len(position_N):
        raise ConfigError(f"the split '{config.gen_subset}' has no targets: there is nothing to save")
    manifest = _manifest(neighbours, evaluation, config, len(position_N))
    columns = columns_of_run(manifest.k, neighbours.rows)
    if cache is not None:
        columns = (*columns, Column(CACHE_COLUMN, "<f4", len(cache.pairs)))
        settings = [CacheSetting(size, theta) for size, theta in cache.pairs]
        manifest = manifest.replace(cache=CacheRecord(settings, cache.weight))
    directory, overwrite, share = Path(where.save_retrieval), where.overwrite, evaluation.share
    writer: RetrievalWriter | None = None
    if not is_job(share, group):
        writer = _writer_of_all(directory, columns, manifest, group, overwrite=overwrite)
    elif open_range(directory, columns, manifest, share, overwrite=overwrite):
        writer = RetrievalWriter(directory, columns, manifest, there=True, lock=range_path(directory, share))
    return RetrievalRecorder(writer, order_N, position_N, share, group) if writer is not None else None


def is_job(share: Share, group: ProcessGroup) -> bool:
    """Returns whether a share is that of a job of an array, which knows nothing of the others."""
    return share.count > group.world_size


def _writer_of_all(
    directory: Path, columns: Sequence[Column], manifest: RetrievalManifest, group: ProcessGroup, *, overwrite: bool
) -> RetrievalWriter | None:
    """Returns the writer of each of some processes, of which the first makes the files; None if all is there."""
    writer, saved = None, False
    if group.rank == 0:
        with locked(directory):  # also takes away the lock's file that a run has left which was killed at its very end
            saved = not overwrite and is_saved(directory, columns, manifest)
        if saved:
            logger.info("%s is there already, of this model, data and datastore; it stays as it is", directory)
        else:
            writer = RetrievalWriter(directory, columns, manifest, overwrite=overwrite)
    if group.gather(saved)[0]:
        return None
    return writer or RetrievalWriter(directory, columns, manifest, there=True)


def rows_in_order(dataset: BlockDataset, batches: Sequence[Int64s]) -> tuple[Int64s, Int64s]:
    """Returns the row of each target, in the order in which batches are scored, and each row's place in the stream."""
    lengths = dataset.ends - dataset.starts
    position_N = joined_ranges(dataset.starts, lengths)
    block_idx = np.concatenate([np.empty(0, np.int64), *batches])
    order_N = joined_ranges((np.cumsum(lengths) - lengths)[block_idx], lengths[block_idx])
    return order_N, position_N


def _unit(neighbours: NeighbourSource) -> float | UnsetType:
    """Returns the unit that a sweep offers multiples of; unset where distances have none, or it cannot be measured."""
    if neighbours.config.is_inner_product:
        return UNSET
    try:
        return neighbours.distance_unit
    except FairseqError as err:
        logger.info("a sweep will take its temperatures from what is found here: %s", err)
        return UNSET


def _manifest(
    neighbours: NeighbourSource, evaluation: Evaluation, config: EvalConfig, num_tokens: int
) -> RetrievalManifest:
    """Returns what the manifest says besides the arrays and the result."""
    knn, task, share = neighbours.config, evaluation.task, auto_share(neighbours.parts)
    inputs = {**evaluation.inputs(), "weights_sha256": evaluation.identity.weights_sha256}
    return RetrievalManifest(
        num_tokens=num_tokens,
        k=knn.k,
        vocabulary_size=len(task.dictionary),
        dictionary=str(task.data_dirs[0] / "dict.txt"),
        split=config.gen_subset,
        data=str(task.split_prefix(config.gen_subset)),
        settings=RetrievalSettings(
            probe=knn.probe,
            rerank=knn.rerank,
            knn_sim_func=knn.knn_sim_func,
            metric=knn.faiss_metric_type,
            drop_top1=knn.drop_top1,
            exclude_own_row=neighbours.own_rows is not None,
            context_window=config.context_window,
            tokens_per_sample=evaluation.block_size,
            sample_break_mode=evaluation.task_config.sample_break_mode,
            computed_in=evaluation.precision.name,
        ),
        lmbda=knn.lmbda,
        **{"distance_unit": _unit(neighbours), **neighbours.temperature_record()},
        auto_share=share if share != AUTO_SHARE else UNSET,
        identity=msgspec.convert({**inputs, **neighbours.identity()}, Identity),
        datastore=datastore_record(neighbours.parts, whole_text=not evaluation.dataset.add_bos),
        own_text=list(neighbours.own_text) or UNSET,
        files={},
    )
