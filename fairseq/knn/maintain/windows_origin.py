"""A text that a model's own tokenizer made, whose rows are those of ``run_clm``'s windows.

Legend: N rows.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fairseq.arrays import Array, Integers
from fairseq.checkpoints.huggingface import is_model_directory, read_model_directory
from fairseq.config.common import DeviceConfig
from fairseq.data.block_dataset import Batch, BlockDataset
from fairseq.data.corpus.record import TokenizerRecord
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.errors import ConfigError, MismatchError, counted
from fairseq.evaluate.config import EvalConfig
from fairseq.evaluate.evaluation import prepare
from fairseq.knn.datastore.manifest import Segment
from fairseq.knn.datastore.ranges import RowRanges, evenly_spaced
from fairseq.knn.maintain.config import OriginConfig
from fairseq.knn.maintain.origin import SAMPLED_BLOCKS, Compared, Origin
from fairseq.knn.maintain.windows import (
    BLOCK,
    STRIDE,
    TEXTS_TOGETHER,
    Windows,
    begun_texts,
    find_windows,
    kept_tokens,
    window_batch,
)
from fairseq.runtime.log import logger
from fairseq.runtime.precision import Precision, select_device
from fairseq.storage.inputs import data_directories
from fairseq.text.model_tokenizer import SHIFT


class WindowsOrigin(Origin):
    """A tokenized text, and perhaps a model of Hugging Face's.

    Args:
        config: names the text, and perhaps the directory of a model.
        device: for the model.
        tokenizer: what ``preprocess.json`` says of it.

    Attributes:
        windows: of the rows, once they were compared.
        begun: whether rows are of texts that begin with a token, which these do not have on the disk; likewise.
    """

    remedy = "--path, --tokens-per-sample (run_clm's --block_size) and --stride"

    def __init__(self, config: OriginConfig, device: DeviceConfig, tokenizer: TokenizerRecord) -> None:
        assert config.data is not None
        directory = data_directories(config.data)[0]
        self.name = f"{config.data}, {config.gen_subset}"
        self.tokenizer, self.evaluation, self.windows, self.begun = tokenizer, None, Windows(), False
        self.dictionary = Dictionary.load(directory / "dict.txt")
        self.block, self.stride = _block_and_stride(config)
        self.settings = {"tokenizer_sha256": tokenizer.sha256}
        self.text = None if config.dictionary_only else MMapIndexedDataset(directory / config.gen_subset)
        if self.text is None:
            return
        if config.path is not None:
            fields = {"data": config.data, "sample_break_mode": "none", "tokens_per_sample": self.block}
            settings = EvalConfig(path=config.path, gen_subset=config.gen_subset)
            self.evaluation = prepare(settings, fields, Precision(device, select_device(device)))
        self.text.check_ids(len(self.dictionary), str(directory / "dict.txt"))
        self.tokens_T: Integers = self.text.tokens
        self.settings |= {
            "data": str(directory / config.gen_subset),
            "data_sha256": BlockDataset(self.text.tokens, self.text.sizes, "none", self.block).sha256(),
            "sample_break_mode": "none",
            "tokens_per_sample": self.block,
            "context_window": 0,
        }

    def compare(self, path: Path, values_N: Array) -> Compared:
        """Returns the values as ids here, and which tokens of the text they are."""
        smallest, largest = int(values_N.min()), int(values_N.max()) + SHIFT
        if smallest < 0 or largest >= len(self.dictionary):
            raise MismatchError(
                f"{path}: ids must be from 0 to {len(self.dictionary) - SHIFT - 1}, those of the tokenizer of"
                f" {self.name}, but are from {smallest} to {largest - SHIFT}; give --data a directory that"
                " fairseq-preprocess --tokenizer wrote with the model's own tokenizer"
            )
        mended = f"ids raised by {SHIFT}"
        if self.text is None:
            return Compared(values_N, SHIFT, mended, note="the values were not compared with a text")
        windows = find_windows(values_N, self.tokens_T)
        if windows is not None:
            self.windows = windows
            segment = Segment(dict(self.settings), len(self.tokens_T), windows.spans(len(values_N)))
            return Compared(values_N, SHIFT, mended, segment, f"rows: {windows.in_words()} of {self.name}")
        return self._compare_in_groups(values_N, mended) or self._compare_with_begun_texts(path, values_N, mended)

    def key_samples(self, rows: int) -> Iterator[tuple[Batch, int]]:
        """Yields a few windows, evenly spaced, each with its first row."""
        assert self.evaluation is not None
        block = self.windows.block or self.block
        stride = self.windows.stride or self.stride
        reader = getattr(self.evaluation.models[0], "reader", None)
        if getattr(reader, "adds_bos", False):
            logger.warning(
                "keys are not compared: this model reads a token in front of each row, run_clm's windows none"
            )
            return
        last = rows + (rows - 1) // (block - 1) + 1 if self.windows.block else rows + 1
        last = min(last, len(self.tokens_T))
        for number in evenly_spaced(-(-last // stride), SAMPLED_BLOCKS).tolist():
            batch, scored_N = window_batch(self.tokens_T[:last], block, stride, number)
            if not len(scored_N):  # a single token, which nothing stands before
                continue
            yield batch, int(scored_N[0]) - 1 - (number if self.windows.block else 0)

    def _compare_in_groups(self, values_N: Array, mended: str) -> Compared | None:
        """Returns ``compare``'s result for more texts than are joined at once; None where it is not so."""
        assert self.text is not None
        groups = [kept_T for kept_T in kept_tokens(self.text.sizes, self.block) if len(kept_T)]
        if len(groups) < 2:
            return None
        stream_T = self.tokens_T[np.concatenate(groups)]
        if self.stride == self.block:
            windows, of_keys_T = Windows(self.block, self.block), stream_T
            rows_T = np.concatenate([np.delete(kept_T, np.s_[:: self.block]) for kept_T in groups])
        else:
            windows, of_keys_T = Windows(), stream_T[: len(groups[0])]
            rows_T = np.concatenate([kept_T[1:] for kept_T in groups])
        rows_T = rows_T[: len(values_N)]
        if not np.array_equal(self.tokens_T[rows_T], np.asarray(values_N).astype(np.int64) + SHIFT):
            return None
        opens = np.flatnonzero(np.diff(rows_T) != 1) + 1
        spans = RowRanges.of([[int(run[0]), int(run[-1]) + 1] for run in np.split(rows_T, opens)])
        segment = Segment(dict(self.settings), len(self.tokens_T), spans)
        self.windows, self.tokens_T = windows, of_keys_T
        words = "of each block" if self.stride == self.block else f"of every {TEXTS_TOGETHER} texts"
        note = f"rows: every token but the first {words} of {self.name}; what filled no block behind them was dropped"
        return Compared(values_N, SHIFT, mended, segment, note)

    def _compare_with_begun_texts(self, path: Path, values_N: Array, mended: str) -> Compared:
        """Returns ``compare``'s result for a tokenizer that begins each text with a token; its rows stand in no text.

        Raises:
            MismatchError: the values are not of this text.
        """
        assert self.text is not None
        bos = self.tokenizer.bos
        if bos is not None:
            begun_T = begun_texts(self.text.tokens, self.text.sizes, bos)
            windows = find_windows(values_N, begun_T)
            if windows is not None:
                self.windows, self.tokens_T, self.begun = windows, begun_T, True
                for name in ("data", "data_sha256", "sample_break_mode", "tokens_per_sample", "context_window"):
                    self.settings.pop(name)  # the rows are not tokens of the text alone
                note = f"rows: {windows.in_words()} of {self.name}, a beginning token in front of each document"
                return Compared(values_N, SHIFT, mended, note=note)
        raise MismatchError(
            f"{path}: the {counted(len(values_N), 'value')} are not the tokens of the text ({self.name}): neither all"
            " but the first, nor all but the first of each block; give --dictionary-only, which compares nothing, or"
            " --tokens-per-sample and --stride of the run, and --data the texts tokenized one by one, as it had them"
            " (JSONL, a line each)"
        )


def _block_and_stride(config: OriginConfig) -> tuple[int, int]:
    """Returns run_clm's block size and stride; raises ConfigError for a stride that leaves tokens out."""
    block = config.tokens_per_sample or BLOCK
    if config.tokens_per_sample is None and config.path is not None and is_model_directory(config.path):
        block = read_model_directory(config.path).default_block()
    stride = config.stride or min(STRIDE, block)
    if stride > block:
        raise ConfigError(
            f"--stride {stride} must be at most the block's {block} tokens; give --tokens-per-sample and --stride of"
            " run_clm"
        )
    return block, stride
