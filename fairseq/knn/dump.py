"""Writing a datastore: one row for every token of a split that has a full context before it.

A row's key is the last layer's feed-forward input at a position, its value the token that comes next there. Rows are
the targets of every block whose context window is full, in stream order, the short last block included:

    rows = total − ceil(W / B) · B        block size B, context window W

so that the same data gives the same rows for any batching. The output layer does not run. With `--sample-break-mode
eos` and no context window, rows are the tokens of every sentence, which has nothing but itself for a context.

Blocks of like length are computed together, a few thousand rows at a time (fairseq/knn/dump_order.py).
Source: Khandelwal et al., 2020, section 2.
"""

import logging
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from fairseq.checkpoints import weights_sha256
from fairseq.data.block_dataset import PAD
from fairseq.data.blocks import Int64s
from fairseq.errors import ConfigError
from fairseq.evaluation import Evaluation
from fairseq.files import locked
from fairseq.interrupts import asked_to_stop, check, finish_step_first
from fairseq.knn.config import DatastoreConfig, DumpConfig
from fairseq.knn.datastore import DatastoreWriter, is_written
from fairseq.knn.dump_order import RowGroup, row_groups
from fairseq.knn.manifest import DatastoreManifest
from fairseq.log import Progress
from fairseq.run_config import EvalConfig
from fairseq.sequence_scorer import SequenceScorer

logger = logging.getLogger(__name__)


def dump_datastore(
    evaluation: Evaluation, config: EvalConfig, dump: DumpConfig, dstore: DatastoreConfig, log_format: str
) -> DatastoreManifest:
    """Writes (or goes on writing) the datastore of a split and returns its manifest.

    Raises:
        ConfigError: ``--dstore-size`` is larger than the number of rows that there are.
    """
    assert dump.dstore_mmap is not None
    if (evaluation.dataset.tokens == PAD).any():
        raise ConfigError(
            f"the split '{config.gen_subset}' holds the word <pad>, which has no row; take it out of the text"
        )
    block_idx, starts = full_context_rows(evaluation)
    rows = _rows_to_write(int(starts[-1]), dstore.dstore_size)
    manifest = _manifest(evaluation, config, dstore, rows)
    prefix = Path(dump.dstore_mmap)
    with locked(prefix):
        if not dump.overwrite and is_written(prefix, manifest):
            logger.info("%s is there already, of this data and model; nothing to do", prefix)
            return manifest
    with (
        finish_step_first(),
        DatastoreWriter.create(
            prefix, manifest, overwrite=dump.overwrite, save_interval_s=dump.save_interval_s
        ) as writer,
    ):
        if writer.rows_done:
            logger.info("%s has %d of %d rows; going on from there", prefix, writer.rows_done, rows)
        groups = row_groups(evaluation.dataset, block_idx, starts, config, writer.rows_done)
        with Progress("write datastore", rows, "rows", log_format, done=writer.rows_done) as progress:
            _write_rows(evaluation, groups, writer, progress)
        manifest = writer.finish()
    logger.info("wrote %d rows of width %d to %s", rows, manifest.dimension, prefix)
    return manifest


def _write_rows(
    evaluation: Evaluation, groups: Iterable[RowGroup], writer: DatastoreWriter, progress: Progress
) -> None:
    """Writes the rows of groups from ``writer.rows_done`` on; one group is written while the next one is computed."""
    scorer = SequenceScorer(evaluation.models, evaluation.precision)
    done, total = writer.rows_done, progress.total
    kept = "{} of {} rows are kept, and the same command goes on from there"
    written: Future[None] | None = None
    with ThreadPoolExecutor(1) as thread:
        for group in groups:
            if done == total:
                break
            keys_ND = np.empty((group.num_rows, evaluation.models[0].key_dimension), np.float32)
            values_N = np.empty(group.num_rows, np.int64)
            for batch_idx, row_N in group.batches:
                vectors, targets = scorer.context_vectors(evaluation.dataset.collate(batch_idx))
                keys_ND[row_N], values_N[row_N] = vectors.float().cpu().numpy(), targets.cpu().numpy()
                if asked_to_stop() and written is not None:
                    written.result()
                check(kept.format(writer.rows_done, total))
            start, stop = done - group.first_row, min(group.num_rows, total - group.first_row)
            if written is not None:
                written.result()
            written = thread.submit(writer.append, keys_ND[start:stop], values_N[start:stop])
            progress.advance(stop - start)
            done += stop - start
            if asked_to_stop():
                written.result()
            check(kept.format(writer.rows_done, total))
        if written is not None:
            written.result()


def full_context_rows(evaluation: Evaluation) -> tuple[Int64s, Int64s]:
    """Returns the blocks that give rows, and the first row of each; ``starts`` has one more entry: all rows."""
    dataset = evaluation.dataset
    blocks = np.flatnonzero(dataset.context_lengths() == dataset.context_window)
    lengths = dataset.ends[blocks] - dataset.starts[blocks]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    if not starts[-1]:
        raise ConfigError(
            f"--context-window {dataset.context_window} is never full in this split: there are no rows to write"
        )
    without = int(dataset.lengths.sum()) - len(dataset) * dataset.add_bos - int(starts[-1])
    if without:
        logger.info("%d tokens have no row: their context of %d tokens is not full", without, dataset.context_window)
    return blocks, starts


def _rows_to_write(available: int, asked: int | None) -> int:
    if asked is None or asked == available:
        return available
    if asked > available:
        raise ConfigError(f"--dstore-size {asked} is more than the {available} rows of this split; leave it out")
    logger.warning("--dstore-size %d is smaller than the %d rows of this split: the rest is left out", asked, available)
    return asked


def _manifest(evaluation: Evaluation, config: EvalConfig, dstore: DatastoreConfig, rows: int) -> DatastoreManifest:
    model = evaluation.models[0]
    manifest = DatastoreManifest(
        rows=rows,
        dimension=int(model.key_dimension),
        key_dtype="float16" if dstore.dstore_fp16 else "float32",
        value_dtype="int64",
        key_type=dstore.knn_keytype or "last_ffn_input",
        vocabulary_size=len(evaluation.task.dictionary),
        dictionary_sha256=evaluation.task.dictionary.sha256(),
        weights_sha256=weights_sha256(evaluation.checkpoints[0].state),
        settings={
            "data": str(evaluation.task.split_prefix(config.gen_subset)),
            "data_sha256": evaluation.dataset.sha256(),
            "checkpoint": evaluation.checkpoints[0].path,
            "sample_break_mode": evaluation.task_config.sample_break_mode,
            "tokens_per_sample": evaluation.block_size,
            "context_window": config.context_window,
            "computed_in": evaluation.precision.name,
            **({"longest_block": evaluation.longest_block} if evaluation.num_left_out else {}),
            **({"add_bos_token": True} if evaluation.dataset.add_bos else {}),
        },
    )
    return replace(manifest, state="writing")
