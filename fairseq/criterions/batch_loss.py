"""The loss of a batch of blocks, on the model's device and in its number format."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from fairseq.criterions.by_sample import SampleCriterion
from fairseq.criterions.cross_entropy import Loss
from fairseq.data.block_dataset import Batch
from fairseq.runtime.distributed import ProcessGroup
from fairseq.runtime.precision import Precision

Criterion: TypeAlias = Callable[..., Loss]


_APART = 1_000_003  # seeds of neighbouring batches; those of neighbouring updates are 1 apart


def seed_batch(seed: int, turn: int, group: ProcessGroup) -> None:
    """Seeds all generators of random numbers for a batch, by its number among those of all processes.

    Args:
        seed: of batch 0.
        turn: how many batches this process had before it.
        group: the processes that take turns at the batches.
    """
    torch.manual_seed(seed + (turn * group.world_size + group.rank) * _APART)


def loss_of(model: Any, criterion: Criterion, precision: Precision, batch: Batch) -> Loss:
    """Returns what a criterion says of a batch."""
    source_BT = torch.from_numpy(batch.input_BT).to(precision.device)
    target_BT = torch.from_numpy(batch.target_BT).to(precision.device)
    more = (torch.from_numpy(batch.block_idx_B).to(precision.device),) if isinstance(criterion, SampleCriterion) else ()
    with precision.autocast():
        return criterion(model, source_BT, target_BT, *more)
