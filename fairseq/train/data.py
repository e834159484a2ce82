"""Batches of an epoch and of the validation splits, this process's share of them."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairseq.arrays import Int64s
from fairseq.data.batching import batch_by_size, by_length, epoch_batches
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.config import BatchConfig
from fairseq.data.dictionary import PAD
from fairseq.errors import ConfigError
from fairseq.train.config import CheckpointConfig
from fairseq.train.position import EpochOrder, epoch_order
from fairseq.train.trainer import Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """An epoch's data.

    Attributes:
        dataset: its blocks.
        batches: those of this process. Every process has as many: where others have one more, the last one is empty.
        order: what a position among them counts.
    """

    dataset: BlockDataset
    batches: list[Int64s]
    order: EpochOrder


def load_epoch(task: Any, trainer: Trainer, batching: BatchConfig, seed: int, epoch: int) -> Epoch:
    """Returns an epoch's data and this process's batches in order."""
    split, limit = batching.train_subset, trainer.max_positions
    dataset, num_left_out = task.load_split(split, epoch=epoch).without_longer_than(limit)
    _warn_of_long_blocks(split, num_left_out, limit)
    _warn_of_padding(split, dataset)
    batches = batch_by_size(
        by_length(dataset.lengths, seed),
        dataset.lengths,
        batching.max_tokens,
        batching.max_sentences,
        batching.required_batch_size_multiple,
        split=split,
    )
    shuffled = epoch_batches(batches, seed, epoch)
    rank, world = trainer.group.rank, trainer.group.world_size
    mine, order = shuffled[rank::world], epoch_order(dataset.sha256(), shuffled, world)
    return Epoch(dataset, mine + [shuffled[0][:0]] * (order.length - len(mine)), order)


@dataclass(frozen=True)
class ValidationSplit:
    """One split with this process's batches."""

    split: str
    dataset: BlockDataset
    batches: list[Int64s]


def load_validation(
    task: Any, trainer: Trainer, batching: BatchConfig, config: CheckpointConfig
) -> list[ValidationSplit]:
    """Returns the splits of ``--valid-subset``; none with ``--disable-validation``.

    Raises:
        ConfigError: a block is longer than the model's positions, and the user has not asked to leave such blocks out.
    """
    if config.disable_validation:
        return []
    limit: int = trainer.max_positions
    max_tokens = config.max_tokens_valid or batching.max_tokens
    bound = "--max-tokens-valid" if config.max_tokens_valid else "--max-tokens"
    loaded = []
    for split in batching.valid_subset.split(","):
        dataset, num_left_out = task.load_split(split).without_longer_than(limit)
        if num_left_out and not batching.skip_invalid_size_inputs_valid_test:
            raise ConfigError(
                f"the split '{split}' has blocks of more than the model's {limit} positions ({num_left_out} tokens);"
                " --skip-invalid-size-inputs-valid-test leaves them out"
            )
        _warn_of_long_blocks(split, num_left_out, limit)
        _warn_of_padding(split, dataset)
        lengths = dataset.lengths
        batches = batch_by_size(
            by_length(lengths), lengths, max_tokens, batching.max_sentences, split=split, bound=bound
        )
        loaded.append(ValidationSplit(split, dataset, batches[trainer.group.rank :: trainer.group.world_size]))
    return loaded


def _warn_of_padding(split: str, dataset: BlockDataset) -> None:
    count = int(np.count_nonzero(dataset.tokens == PAD))
    if count:
        logger.warning("'%s': the word <pad> stands there %d times; training does not predict it", split, count)


def _warn_of_long_blocks(split: str, num_left_out: int, limit: int) -> None:
    if num_left_out:
        logger.warning("'%s': %d tokens in blocks of over %d positions are left out", split, num_left_out, limit)
