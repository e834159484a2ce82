"""Writing a datastore: one row for every token of a split that has a full context before it.

A row's key is the last layer's feed-forward input at a position, its value the token that comes next there. Rows are
the targets of every block whose context window is full, in stream order, the short last block included:

    rows = total − ceil(W / B) · B        block size B, context window W

so that the same data gives the same rows for any batching. The output layer does not run. With `--sample-break-mode
eos` and no context window, rows are the tokens of every sentence, which has nothing but itself for a context. With
`document` rows are the tokens of every document, likewise.

Rows are computed in groups (row_groups.py). One process writes them in order. Of several that ``torchrun`` has started,
or the jobs of an array, each writes a range of them in place (range_writer.py), to the same bytes; the first process,
or ``fairseq-knnlm join``, completes the manifest (join.py).

Source: Khandelwal et al., 2020, section 2.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq.arrays import Int64s
from fairseq.data.block_dataset import BlockDataset
from fairseq.errors import ConfigError
from fairseq.evaluate.config import EvalConfig
from fairseq.evaluate.evaluation import Evaluation
from fairseq.evaluate.sequence_scorer import SequenceScorer
from fairseq.knn.datastore.config import DatastoreConfig, DumpConfig
from fairseq.knn.datastore.format import append_path
from fairseq.knn.datastore.identity import has_bos_in_front, key_type_of, recorded_key_type, stored_key_type, use_keys
from fairseq.knn.datastore.manifest import DatastoreManifest
from fairseq.knn.datastore.range_record import range_name, read_ranges, remove_ranges, what_is_missing
from fairseq.knn.datastore.row_map import full_context_rows
from fairseq.knn.datastore.row_writer import RowWriter
from fairseq.knn.datastore.store import DatastoreWriter, is_written, rows_to_use
from fairseq.knn.dump.append import appended_so_far, open_target
from fairseq.knn.dump.join import join_in_place
from fairseq.knn.dump.range_writer import OPENING_S, RangeWriter
from fairseq.knn.dump.row_groups import row_groups, rows_of_ranges
from fairseq.runtime.distributed import ProcessGroup
from fairseq.runtime.interrupts import asked_to_stop, check, finish_step_first
from fairseq.runtime.progress import Progress
from fairseq.storage.files import locked

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Dump:
    """What is written, and how.

    Attributes:
        evaluation: model and text.
        config: limits of a batch.
        manifest: that the datastore of the text will have.
        block_idx: the blocks that give rows, in stream order.
        starts: the first row of each, and one more entry: all rows.
        prefix: of the datastore.
        overwrite: replaces what is there.
        save_interval_s: seconds between two states to resume from.
    """

    evaluation: Evaluation
    config: EvalConfig
    manifest: DatastoreManifest
    block_idx: Int64s
    starts: Int64s
    prefix: Path
    overwrite: bool
    save_interval_s: float

    @property
    def rows(self) -> int:
        """How many rows are written in all."""
        return self.manifest.rows


def dump_datastore(
    evaluation: Evaluation,
    config: EvalConfig,
    dump: DumpConfig,
    dstore: DatastoreConfig,
    processes: ProcessGroup,
) -> None:
    """Writes (or goes on writing) the datastore of a split.

    Raises:
        ConfigError: the split has no rows, or several processes were to append some.
        DatastoreError: ``--dstore-size`` is larger than the number of rows that there are.
    """
    assert dump.dstore_mmap is not None
    asked = recorded_key_type(evaluation.models[0], dstore.knn_keytype)
    use_keys(evaluation.models[0], stored_key_type([dump.dstore_mmap], asked) if dump.append else asked)
    block_idx, starts = _rows_of(evaluation.dataset)
    rows = rows_to_use(dstore.dstore_size, int(starts[-1]), "this split")
    manifest = _manifest(evaluation, config, dstore, rows)
    task = _Dump(
        evaluation,
        config,
        manifest,
        block_idx,
        starts,
        Path(dump.dstore_mmap),
        dump.overwrite,
        dump.save_interval_s,
    )
    if dump.append:
        if processes.world_size > 1:
            raise ConfigError("--append adds rows behind the others, by one process; start it without torchrun")
        _append(task)
        return
    count, numbers = _ranges_to_write(task, processes)
    if count == 0:
        logger.info("%s is there already, of this data and model; nothing to do", task.prefix)
    elif count == 1:
        _write_whole(task)
    else:
        _write_ranges(task, count, numbers, processes)


def _ranges_to_write(task: _Dump, processes: ProcessGroup) -> tuple[int, Sequence[int]]:
    """Returns in how many ranges the rows are written, 0 if all are there, and which ranges are this process's.

    An unfinished datastore that is in ranges stays so: they are dealt to the processes that there are now.
    """
    prefix, config = task.prefix, task.config
    is_there = False
    if not task.overwrite:
        with locked(prefix, OPENING_S if config.num_shards * processes.world_size > 1 else 0):
            if is_there := is_written(prefix, task.manifest):
                remove_ranges(prefix)  # of a run that was killed at its very end
    begun = max((record.count for record in read_ranges(prefix, task.manifest.store_id)), default=0)
    found = processes.gather((is_there, begun))  # by all in the same way, also where each has a disk of its own
    if any(is_there for is_there, _ in found):
        return 0, ()
    if config.num_shards > 1:
        return config.num_shards, (config.shard_id,)
    count = max(begun for _, begun in found) or processes.world_size
    return count, range(processes.rank, count, processes.world_size)


def _write_whole(task: _Dump) -> None:
    """Writes all rows, by one process."""
    with ExitStack() as held:
        held.enter_context(finish_step_first())
        overwrite, interval_s = task.overwrite, task.save_interval_s
        writer = DatastoreWriter.create(task.prefix, task.manifest, overwrite=overwrite, save_interval_s=interval_s)
        held.enter_context(writer)
        _write_rows(task, writer)
        writer.finish()
    logger.info("wrote %d rows of width %d to %s", task.rows, task.manifest.dimension, task.prefix)


def _append(task: _Dump) -> None:
    """Writes the rows behind those of a datastore."""
    prefix = task.prefix
    with ExitStack() as held:
        held.enter_context(finish_step_first())
        held.enter_context(locked(prefix))
        store, target = open_target(prefix, task.manifest)
        if target is None:
            append_path(prefix).unlink(missing_ok=True)  # left by a run that was killed at its very end
            return
        before, start = store.rows, appended_so_far(prefix, store, target)
        del store  # its files are about to grow
        writer = DatastoreWriter.extend(prefix, start, task.save_interval_s)
        held.enter_context(writer)
        _write_rows(task, writer, before)
        writer.finish()
    logger.info("wrote %d rows of width %d to %s", task.rows, task.manifest.dimension, prefix)


def _write_ranges(task: _Dump, count: int, numbers: Sequence[int], processes: ProcessGroup) -> None:
    """Writes this process's ranges; the first process joins them when all are there."""
    prefix, ranges = task.prefix, rows_of_ranges(task.evaluation.dataset, task.block_idx, task.starts, task.rows, count)
    for number in numbers:
        rows, overwrite, interval_s = ranges[number], task.overwrite, task.save_interval_s
        with ExitStack() as held:
            held.enter_context(finish_step_first())
            writer = RangeWriter.create(
                prefix, task.manifest, number, count, rows, overwrite=overwrite, save_interval_s=interval_s
            )
            held.enter_context(writer)
            if writer.rows_done < rows.stop:
                _write_rows(task, writer, shown=processes.rank == 0)
            writer.finish()
        logger.info("wrote %d rows, %s, to %s", len(rows), range_name(number, count), prefix)
    processes.wait()
    if processes.rank > 0:
        return
    missing = what_is_missing(read_ranges(prefix, task.manifest.store_id))
    if missing or task.config.num_shards > 1:
        there = f"{count - len(missing)} of {count} ranges are written"
        logger.info("%s: %s here; when all are, fairseq-knnlm join makes a datastore of them", prefix, there)
        return
    join_in_place(prefix)
    logger.info("wrote %d rows of width %d to %s", task.rows, task.manifest.dimension, prefix)


def _write_rows(task: _Dump, writer: RowWriter, before: int = 0, *, shown: bool = True) -> None:
    """Writes the rows from ``writer.rows_done`` on; one group is written while the next one is computed.

    Args:
        task: what is written.
        writer: of the rows.
        before: rows of other texts, which the writer counts as well.
        shown: False makes progress in silence.
    """
    evaluation = task.evaluation
    scorer = SequenceScorer(evaluation.models, evaluation.precision)
    first, done, last = max(writer.rows.start - before, 0), writer.rows_done - before, writer.rows.stop - before
    written: Future[None] | None = None
    if done > first:
        logger.info("%s has %d of %d rows; going on from there", writer.name, done - first, last - first)

    def stop_if_asked() -> None:
        if asked_to_stop() and written is not None:
            written.result()
        kept = writer.rows_done - before - first
        check(f"{kept} of {last - first} rows are kept, and the same command goes on from there")

    with (
        ThreadPoolExecutor(1) as thread,
        Progress("write datastore", last - first, "rows", done=done - first, shown=shown) as progress,
    ):
        for group in row_groups(evaluation.dataset, task.block_idx, task.starts, task.config, done):
            if done == last:
                break
            start, stop = done - group.first_row, min(group.num_rows, last - group.first_row)
            keys_ND = np.empty((group.num_rows, evaluation.models[0].key_dimension), np.float32)
            values_N = np.empty(group.num_rows, np.int64)
            for batch_idx, row_N in group.batches:
                if not ((row_N >= start) & (row_N < stop)).any():
                    continue  # all of it is there, or another's
                vectors, targets = scorer.context_vectors(evaluation.dataset.collate(batch_idx))
                keys_ND[row_N], values_N[row_N] = vectors.float().cpu().numpy(), targets.cpu().numpy()
                stop_if_asked()
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
