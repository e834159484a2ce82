"""Batches of an epoch, this process's share of them."""

from dataclasses import dataclass
from typing import Any

from fairseq.arrays import Int64s
from fairseq.data.batching import batch_by_size, by_length, epoch_batches
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.config import BatchConfig
from fairseq.train.position import EpochOrder, epoch_order
from fairseq.train.trainer import Trainer
from fairseq.validate.splits import warn_of_long_blocks, warn_of_padding


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
    warn_of_long_blocks(split, num_left_out, limit)
    warn_of_padding(split, dataset)
    batches = batch_by_size(
        by_length(dataset.sizes, seed),
        dataset.sizes,
        batching.max_tokens,
        batching.max_sentences,
        batching.required_batch_size_multiple,
        split=split,
    )
    shuffled = batches if epoch <= batching.curriculum else epoch_batches(batches, seed, epoch)
    rank, world = trainer.group.rank, trainer.group.world_size
    mine, order = shuffled[rank::world], epoch_order(dataset.sha256(), shuffled, world)
    return Epoch(dataset, mine + [shuffled[0][:0]] * (order.length - len(mine)), order)
