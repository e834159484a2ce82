"""The splits that a validation goes over, and this process's batches of them."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairseq.arrays import Int64s
from fairseq.data.batching import batch_by_size, by_length
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.dictionary import PAD
from fairseq.errors import ConfigError
from fairseq.runtime.distributed import ProcessGroup
from fairseq.validate.config import ValidationConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidationSplit:
    """One split with this process's batches.

    Attributes:
        split: its name.
        dataset: its blocks.
        batches: those of this process.
        num_blocks: in the batches of all processes; fewer than the split has where ``--max-valid-steps`` ends it.
    """

    split: str
    dataset: BlockDataset
    batches: list[Int64s]
    num_blocks: int

    @property
    def identity(self) -> str:
        """What tells its text, and the part of it that is validated on, from others."""
        part = "" if self.num_blocks == len(self.dataset) else f", the {self.num_blocks} shortest of its blocks"
        return f"'{self.split}' ({self.dataset.sha256()[:16]}{part})"


def load_splits(
    task: Any,
    config: ValidationConfig,
    max_tokens: int | None,
    max_sentences: int | None,
    limit: int,
    group: ProcessGroup,
) -> list[ValidationSplit]:
    """Returns the splits of ``--valid-subset``.

    Args:
        task: loads them.
        config: which they are, and how large their batches are.
        max_tokens: most of a batch, where the config does not say.
        max_sentences: most blocks of a batch, likewise.
        limit: tokens of the longest row that the model takes.
        group: the processes that share the batches out.

    Raises:
        ConfigError: a block is longer than the limit, and the user has not asked to leave such blocks out.
    """
    bound = "--max-tokens-valid" if config.max_tokens_valid else "--max-tokens"
    most = config.max_tokens_valid or max_tokens, config.batch_size_valid or max_sentences
    loaded = []
    for split in config.splits:
        combined = {"combined": True} if config.combine_valid_subsets else {}
        dataset, num_left_out = task.load_split(split, **combined).without_longer_than(limit)
        if num_left_out and not config.skip_invalid_size_inputs_valid_test:
            raise ConfigError(
                f"the split '{split}' has blocks of more than the model's {limit} positions ({num_left_out} tokens);"
                " --skip-invalid-size-inputs-valid-test leaves them out"
            )
        warn_of_long_blocks(split, num_left_out, limit)
        warn_of_padding(split, dataset)
        batches = batch_by_size(by_length(dataset.sizes), dataset.sizes, *most, split=split, bound=bound)
        first = batches[: config.max_valid_steps]
        num_blocks = sum(map(len, first))
        if len(first) < len(batches):
            logger.info(
                "'%s': validation is on a part of the split, the %d shortest of %d blocks (--max-valid-steps %d)",
                *(split, num_blocks, len(dataset), len(first)),
            )
        loaded.append(ValidationSplit(split, dataset, first[group.rank :: group.world_size], num_blocks))
    return loaded


def warn_of_padding(split: str, dataset: BlockDataset) -> None:
    """Warns of the word ``<pad>`` in a text."""
    count = int(np.count_nonzero(dataset.tokens == PAD))
    if count:
        logger.warning("'%s': the word <pad> stands there %d times; training does not predict it", split, count)


def warn_of_long_blocks(split: str, num_left_out: int, limit: int) -> None:
    """Warns of blocks that are left out."""
    if num_left_out:
        logger.warning("'%s': %d tokens in blocks of over %d positions are left out", split, num_left_out, limit)
