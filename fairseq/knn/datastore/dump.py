"""Writing a datastore: one row for every token of a split that has a full context before it.

A row's key is the last layer's feed-forward input at a position, its value the token that comes next there. Rows are
the targets of every block whose context window is full, in stream order, the short last block included:

    rows = total − ceil(W / B) · B        block size B, context window W

so that the same data gives the same rows for any batching. The output layer does not run. With `--sample-break-mode
eos` and no context window, rows are the tokens of every sentence, which has nothing but itself for a context. With
`document` rows are the tokens of every document, likewise.

Blocks of like length are computed together, and rows put back in their places. Sentences are of all lengths: in stream
order, a batch of them would be mostly padding; sorted by length over the whole text, rows would come in another order
than the text's. So blocks are taken in groups of neighbours, a few thousand rows each; a group is computed shortest
block first, and put in order before it is written:

    stream      7 3 9 3 | 8 2 7 4 | …          lengths of blocks, two groups
    computed    3 3 7 9 | 2 4 7 8 | …

Groups depend on the text alone, never on where a run begins: one that goes on computes the same batches, and so the
same bytes. Where all blocks are of one length, each batch is a group.

Source: Khandelwal et al., 2020, section 2.
"""

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq.arrays import Int64s
from fairseq.data.batching import batch_by_size, by_length
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.blocks import joined_ranges
from fairseq.errors import ConfigError
from fairseq.evaluate.config import EvalConfig
from fairseq.evaluate.evaluation import Evaluation
from fairseq.evaluate.sequence_scorer import SequenceScorer
from fairseq.knn.datastore.append import appended_so_far, open_target
from fairseq.knn.datastore.config import DatastoreConfig, DumpConfig
from fairseq.knn.datastore.format import append_path
from fairseq.knn.datastore.identity import has_bos_in_front, key_type_of, recorded_key_type, stored_key_type, use_keys
from fairseq.knn.datastore.manifest import DatastoreManifest
from fairseq.knn.datastore.row_map import full_context_rows
from fairseq.knn.datastore.store import DatastoreWriter, is_written, rows_to_use
from fairseq.runtime.interrupts import asked_to_stop, check, finish_step_first
from fairseq.runtime.progress import Progress
from fairseq.storage.files import locked

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowGroup:
    """Rows that stand together.

    Attributes:
        first_row: the first of them.
        num_rows: how many there are.
        batches: the blocks of each batch, and which row of the group each of their targets is, both in one order.
    """

    first_row: int
    num_rows: int
    batches: list[tuple[Int64s, Int64s]]


def dump_datastore(evaluation: Evaluation, config: EvalConfig, dump: DumpConfig, dstore: DatastoreConfig) -> None:
    """Writes (or goes on writing) the datastore of a split.

    Raises:
        ConfigError: the split has no rows.
        DatastoreError: ``--dstore-size`` is larger than the number of rows that there are.
    """
    assert dump.dstore_mmap is not None
    asked = recorded_key_type(evaluation.models[0], dstore.knn_keytype)
    use_keys(evaluation.models[0], stored_key_type([dump.dstore_mmap], asked) if dump.append else asked)
    block_idx, starts = _rows_of(evaluation.dataset)
    rows = rows_to_use(dstore.dstore_size, int(starts[-1]), "this split")
    manifest = _manifest(evaluation, config, dstore, rows)
    prefix = Path(dump.dstore_mmap)
    if not dump.append:
        with locked(prefix):
            if not dump.overwrite and is_written(prefix, manifest):
                logger.info("%s is there already, of this data and model; nothing to do", prefix)
                return
    with ExitStack() as held:
        held.enter_context(finish_step_first())
        if dump.append:
            held.enter_context(locked(prefix))
            store, target = open_target(prefix, manifest)
            if target is None:
                append_path(prefix).unlink(missing_ok=True)  # left by a run that was killed at its very end
                return
            before, start = store.rows, appended_so_far(prefix, store, target)
            del store  # its files are about to grow
            writer = DatastoreWriter.extend(prefix, start, dump.save_interval_s)
        else:
            before = 0
            writer = DatastoreWriter.create(
                prefix, manifest, overwrite=dump.overwrite, save_interval_s=dump.save_interval_s
            )
        held.enter_context(writer)
        done = writer.rows_done - before
        if done:
            logger.info("%s has %d of %d rows; going on from there", prefix, done, rows)
        groups = row_groups(evaluation.dataset, block_idx, starts, config, done)
        with Progress("write datastore", rows, "rows", done=done) as progress:
            _write_rows(evaluation, groups, writer, progress)
        writer.finish()
    logger.info("wrote %d rows of width %d to %s", rows, manifest.dimension, prefix)


def _write_rows(
    evaluation: Evaluation, groups: Iterable[RowGroup], writer: DatastoreWriter, progress: Progress
) -> None:
    """Writes the rows of groups from ``writer.rows_done`` on; one group is written while the next one is computed."""
    scorer = SequenceScorer(evaluation.models, evaluation.precision)
    done, total = progress.n, progress.total
    before = writer.rows_done - done  # rows of other texts
    written: Future[None] | None = None

    def stop_if_asked() -> None:
        if asked_to_stop() and written is not None:
            written.result()
        check(f"{writer.rows_done - before} of {total} rows are kept, and the same command goes on from there")

    with ThreadPoolExecutor(1) as thread:
        for group in groups:
            if done == total:
                break
            keys_ND = np.empty((group.num_rows, evaluation.models[0].key_dimension), np.float32)
            values_N = np.empty(group.num_rows, np.int64)
            for batch_idx, row_N in group.batches:
                vectors, targets = scorer.context_vectors(evaluation.dataset.collate(batch_idx))
                keys_ND[row_N], values_N[row_N] = vectors.float().cpu().numpy(), targets.cpu().numpy()
                stop_if_asked()
            start, stop = done - group.first_row, min(group.num_rows, total - group.first_row)
            if written is not None:
                written.result()
            written = thread.submit(writer.append, keys_ND[start:stop], values_N[start:stop])
            progress.advance(stop - start)
            done += stop - start
            stop_if_asked()
        if written is not None:
            written.result()


def _rows_of(dataset: BlockDataset) -> tuple[Int64s, Int64s]:
    """Returns ``full_context_rows``, of which there must be some, and says which tokens have none."""
    blocks, starts = full_context_rows(dataset)
    if not starts[-1]:
        raise ConfigError(
            f"--context-window {dataset.context_window} leaves no rows: no block of this split has so much context"
            " before it; lower it"
        )
    without = int(dataset.lengths.sum()) - len(dataset) * dataset.add_bos - int(starts[-1])
    if without:
        logger.info(
            "skipped the first %d tokens: their blocks have less than %d tokens of context",
            without,
            dataset.context_window,
        )
    return blocks, starts


def _manifest(evaluation: Evaluation, config: EvalConfig, dstore: DatastoreConfig, rows: int) -> DatastoreManifest:
    model = evaluation.identity
    assert model.key_dimension is not None
    return DatastoreManifest(
        rows=rows,
        dimension=model.key_dimension,
        key_dtype="float16" if dstore.dstore_fp16 else "float32",
        value_dtype="int64",
        key_type=key_type_of(evaluation.models[0]),
        vocabulary_size=model.vocabulary_size,
        dictionary_sha256=model.dictionary_sha256,
        weights_sha256=model.weights_sha256,
        settings={
            "data": str(evaluation.task.split_prefix(config.gen_subset)),
            "data_sha256": evaluation.dataset.sha256(),
            "checkpoint": evaluation.checkpoints[0].path,
            "sample_break_mode": evaluation.task_config.sample_break_mode,
            "tokens_per_sample": evaluation.block_size,
            "context_window": config.context_window,
            "computed_in": evaluation.precision.name,
            **({"longest_block": evaluation.max_positions} if evaluation.num_left_out else {}),
            **({"add_bos_token": True} if evaluation.dataset.add_bos else {}),
            **({"bos_in_front": True} if has_bos_in_front(evaluation.models[0]) else {}),
            **({"tokenizer_sha256": model.tokenizer_sha256} if model.tokenizer_sha256 else {}),
        },
    )


# Rows that are computed before they are put in order. Of WikiText-2's sentences, 2,048 positions a batch, 7 % is then
# padding (in stream order 55 %, benchmarks/sentences.py); keys of 1,024 numbers take 128 MiB.
GROUP_ROWS = 32768


def row_groups(
    dataset: BlockDataset, block_idx: Int64s, starts: Int64s, config: EvalConfig, rows_done: int
) -> Iterator[RowGroup]:
    """Yields the groups, from the one on in which a run that wrote ``rows_done`` rows has stopped.

    Args:
        dataset: the blocks.
        block_idx: those that give rows, in stream order.
        starts: the first row of each, and one more entry: all rows.
        config: limits of a batch.
        rows_done: rows that are there already.
    """
    sizes = dataset.sizes[block_idx]
    if (sizes[:-1] == sizes[0]).all() and sizes[-1] <= sizes[0]:
        batches = batch_by_size(np.arange(len(block_idx)), sizes, config.max_tokens, config.max_sentences)
        cuts = np.array([batch[0] for batch in batches])
    else:
        cuts = np.flatnonzero(np.diff(starts[:-1] // GROUP_ROWS, prepend=-1))
    first = int(np.searchsorted(starts[cuts], rows_done, side="right")) - 1
    for begin, end in zip(cuts[first:], [*cuts[first + 1 :], len(block_idx)], strict=True):
        order = begin + by_length(sizes[begin:end])
        first_row, batches = int(starts[begin]), batch_by_size(order, sizes, config.max_tokens, config.max_sentences)
        pairs = [
            (block_idx[batch], joined_ranges(starts[batch] - first_row, starts[batch + 1] - starts[batch]))
            for batch in batches
        ]
        yield RowGroup(first_row, int(starts[end]) - first_row, pairs)
