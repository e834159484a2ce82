"""Batches of an epoch, and which of them a process has in an update."""

from dataclasses import dataclass
from typing import Any

from fairseq.arrays import Int64s
from fairseq.data.batching import batch_by_size, by_length, epoch_batches
from fairseq.data.block_dataset import Batch, BlockDataset
from fairseq.data.config import BatchConfig
from fairseq.runtime.distributed import ProcessGroup
from fairseq.train.position import EpochOrder, batches_of_update, epoch_order
from fairseq.train.trainer import Trainer
from fairseq.validate.splits import warn_of_long_blocks, warn_of_padding


@dataclass(frozen=True)
class Epoch:
    """An epoch's data.

    Attributes:
        dataset: its blocks.
        batches: of all processes, in order.
        order: what a position among them counts.
    """

    dataset: BlockDataset
    batches: list[Int64s]
    order: EpochOrder

    def of_update(self, position: int, freq: int, group: ProcessGroup) -> list[Batch]:
        """Returns what this process has of the update after ``position``; at the end of an epoch it may be nothing."""
        mine = batches_of_update(position, len(self.batches), freq, group.rank, group.world_size)
        return [self.dataset.collate(self.batches[number]) for number in mine]


def load_epoch(task: Any, trainer: Trainer, batching: BatchConfig, seed: int, epoch: int) -> Epoch:
    """Returns an epoch's data."""
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
    return Epoch(dataset, shuffled, epoch_order(dataset.sha256(), shuffled))
