"""What a class of criterion keeps from one update to the next, such as a count in a buffer."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fairseq.criterions.by_sample import SampleCriterion
from fairseq.errors import CheckpointError
from fairseq.runtime.distributed import ProcessGroup


def state_of(criterion: Any) -> dict[str, Tensor]:
    """Returns a criterion's buffers and weights by name; a function has none."""
    return dict(criterion.criterion.state_dict()) if isinstance(criterion, SampleCriterion) else {}


def load_criterion_state(criterion: Any, state: Mapping[str, Tensor], path: str | os.PathLike[str], hint: str) -> None:
    """Puts what a checkpoint holds of a criterion in its place; a checkpoint without leaves it as it is.

    Args:
        criterion: as ``build_criterion`` returns it.
        state: the checkpoint's.
        path: of the checkpoint.
        hint: what to do where it does not fit.

    Raises:
        CheckpointError: it does not fit.
    """
    if not state:
        return
    own = {name: tuple(value.shape) for name, value in state_of(criterion).items()}
    stored = {name: tuple(value.shape) for name, value in state.items()}
    for name in sorted({*own, *stored}):
        if own.get(name) != stored.get(name):
            found = f"{name} is {stored.get(name, 'missing')} there, {own.get(name, 'missing')} here"
            raise CheckpointError(f"what {path} holds of --criterion does not fit: {found}; {hint}")
    criterion.criterion.load_state_dict(state)


def copied_state(criterion: Any) -> dict[str, Tensor]:
    """Returns a copy of a criterion's buffers; its weights are not trained, so that they do not change."""
    return {name: value.clone() for name, value in _buffers(criterion).items()}


@torch.no_grad()
def merge_changes(criterion: Any, before: Mapping[str, Tensor], group: ProcessGroup) -> None:
    """Makes a criterion's state that of all processes: changes of whole numbers add up, others are averaged.

    So a count is that of one process which has seen all batches, and a running mean goes towards the mean of all.

    Args:
        criterion: as ``build_criterion`` returns it.
        before: its ``copied_state`` before the batches.
        group: the processes that had a share of the batches each.
    """
    if group.world_size == 1:
        return
    for name, value in _buffers(criterion).items():
        is_whole = not (value.is_floating_point() or value.is_complex())
        change = value.long() - before[name].long() if is_whole else value - before[name]
        group.sum_([change])
        value.copy_(before[name] + (change if is_whole else change / group.world_size))


def _buffers(criterion: Any) -> dict[str, Tensor]:
    """Returns the buffers that are saved."""
    if not isinstance(criterion, SampleCriterion):
        return {}
    saved = criterion.criterion.state_dict()
    return {name: value for name, value in criterion.criterion.named_buffers() if name in saved}
