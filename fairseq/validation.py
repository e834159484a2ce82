"""The data that training validates on: whole blocks, without a context window, longest batches last."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fairseq.data.batching import batch_by_size, by_length
from fairseq.data.block_dataset import Batch, BlockDataset
from fairseq.data.blocks import Int64s
from fairseq.data.config import BatchConfig
from fairseq.errors import ConfigError
from fairseq.train_config import CheckpointConfig
from fairseq.trainer import Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidationSplit:
    """One split with this process's batches."""

    split: str
    dataset: BlockDataset
    batches: list[Int64s]

    def collated(self) -> Iterator[Batch]:
        """Yields the batches."""
        for block_idx in self.batches:
            yield self.dataset.collate(block_idx)


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
    loaded = []
    for split in batching.valid_subset.split(","):
        dataset, num_left_out = task.load_split(split).without_longer_than(limit)
        if num_left_out and not batching.skip_invalid_size_inputs_valid_test:
            raise ConfigError(
                f"the split '{split}' has blocks of more than the model's {limit} positions ({num_left_out} tokens);"
                " --skip-invalid-size-inputs-valid-test leaves them out"
            )
        if num_left_out:
            logger.warning("'%s': %d tokens in blocks of over %d positions are left out", split, num_left_out, limit)
        lengths = dataset.lengths
        max_tokens = config.max_tokens_valid or batching.max_tokens
        batches = batch_by_size(by_length(lengths), lengths, max_tokens, batching.max_sentences)
        loaded.append(ValidationSplit(split, dataset, batches[trainer.group.rank :: trainer.group.world_size]))
    return loaded
