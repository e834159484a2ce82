"""A text of words, whose rows are the tokens of every block with a full context window (knn/dump/dump.py).

Legend: N rows.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.arrays import Array, Int64s
from fairseq.config.common import DeviceConfig
from fairseq.data.block_dataset import Batch
from fairseq.data.config import LanguageModelingConfig
from fairseq.errors import MismatchError
from fairseq.evaluate.config import EvalConfig
from fairseq.evaluate.evaluation import prepare
from fairseq.knn.datastore.ranges import evenly_spaced
from fairseq.knn.datastore.row_map import full_context_rows, source_map
from fairseq.knn.maintain.config import OriginConfig
from fairseq.knn.maintain.origin import SAMPLED_BLOCKS, Compared, Origin
from fairseq.runtime.precision import Precision, select_device
from fairseq.storage.inputs import data_directories
from fairseq.tasks.language_modeling import LanguageModelingTask


class BlocksOrigin(Origin):
    """A text of words in blocks, and perhaps a model.

    Args:
        config: names text, blocks, and perhaps a checkpoint.
        device: for the checkpoint's model.
    """

    def __init__(self, config: OriginConfig, device: DeviceConfig) -> None:
        assert config.data is not None
        self.name = f"{config.data}, {config.gen_subset}"
        if config.path is None:
            full = config.tokens_per_sample or 1024  # without a context window, every block gives rows, of any size
            task = LanguageModelingTask(
                LanguageModelingConfig(
                    data=config.data,
                    sample_break_mode=config.sample_break_mode,
                    tokens_per_sample=full - config.context_window,
                )
            )
            dataset = task.load_split(config.gen_subset, context_window=config.context_window)
            self.evaluation, self.dictionary, self.dataset = None, task.dictionary, dataset
        else:
            settings = EvalConfig(path=config.path, gen_subset=config.gen_subset, context_window=config.context_window)
            text: dict[str, Any] = {"data": config.data, "sample_break_mode": config.sample_break_mode}
            if config.tokens_per_sample is not None:
                text["tokens_per_sample"] = config.tokens_per_sample
            self.evaluation = prepare(settings, text, Precision(device, select_device(device)))
            self.dictionary, self.dataset = self.evaluation.task.dictionary, self.evaluation.dataset
        self.settings = {
            "data": str(data_directories(config.data)[0] / config.gen_subset),
            "data_sha256": self.dataset.sha256(),
            "sample_break_mode": config.sample_break_mode,
            "tokens_per_sample": self.dataset.block_size,
            "context_window": config.context_window,
        }

    def compare(self, path: Path, values_N: Array) -> Compared:
        """Returns the tokens that the values are: exactly, or as int16 modulo 2^16."""
        tokens_N = self._values(len(values_N))
        remedy = "give --data, --gen-subset, --context-window and --tokens-per-sample (or --path) of the run"
        if len(tokens_N) < len(values_N):
            raise MismatchError(
                f"{path} has {len(values_N)} rows, but the text ({self.name}) gives {len(tokens_N)}; {remedy} that"
                " wrote it"
            )
        as_stored_N = tokens_N.astype(np.int16) if values_N.dtype == np.int16 else tokens_N
        wrong = np.flatnonzero(as_stored_N != values_N)
        if len(wrong):
            row = int(wrong[0])
            raise MismatchError(
                f"{path}: {len(wrong)} of {len(values_N)} values are not the tokens of the text ({self.name}),"
                f" the first is row {row}, {int(values_N[row])} against {int(tokens_N[row])}; {remedy} that wrote it"
            )
        num_wrong = int((values_N != tokens_N).sum())
        return (
            Compared(tokens_N, mended=f"{num_wrong} int16 values restored from the text") if num_wrong else Compared()
        )

    def key_samples(self, rows: int) -> Iterator[tuple[Batch, int]]:
        """Yields a few blocks, evenly spaced, each with its first row."""
        blocks, first_rows = full_context_rows(self.dataset)
        blocks = blocks[first_rows[:-1] < rows]
        for number in evenly_spaced(len(blocks), SAMPLED_BLOCKS).tolist():
            yield self.dataset.collate(blocks[number : number + 1]), int(first_rows[number])

    def _values(self, most: int) -> Int64s:
        """Returns the value of every row that the text gives, or of the first ``most``."""
        rows = source_map(self.dataset)
        assert rows.rows is not None
        tokens_N: Int64s = self.dataset.tokens[rows.positions(np.arange(min(rows.rows, most)))].astype(np.int64)
        return tokens_N
