"""The data of one epoch: its blocks, and this process's batches in the epoch's order."""

import logging
import math
from typing import Any

from fairseq.data.batching import batch_by_size, by_length, epoch_batches
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.blocks import Int64s
from fairseq.data.config import BatchConfig
from fairseq.trainer import Trainer

logger = logging.getLogger(__name__)


def load_epoch(
    task: Any, trainer: Trainer, batching: BatchConfig, seed: int, epoch: int
) -> tuple[BlockDataset, list[Int64s]]:
    """Returns an epoch's data and this process's batches, an empty one where other processes have one more."""
    split, limit = batching.train_subset, trainer.max_positions
    dataset, num_left_out = task.load_split(split, epoch=epoch).without_longer_than(limit)
    if num_left_out:
        logger.warning("'%s': %d tokens in blocks of over %d positions are left out", split, num_left_out, limit)
    order = by_length(dataset.lengths, seed)
    batches = batch_by_size(
        order,
        dataset.lengths,
        batching.max_tokens,
        batching.max_sentences,
        batching.required_batch_size_multiple,
    )
    shuffled = epoch_batches(batches, seed, epoch)
    rank, world = trainer.group.rank, trainer.group.world_size
    mine = shuffled[rank::world]
    return dataset, mine + [shuffled[0][:0]] * (math.ceil(len(shuffled) / world) - len(mine))
