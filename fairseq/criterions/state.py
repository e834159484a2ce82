"""What a class of criterion keeps from one update to the next, such as a count in a buffer."""

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fairseq.criterions.by_sample import SampleCriterion
from fairseq.errors import CheckpointError


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
