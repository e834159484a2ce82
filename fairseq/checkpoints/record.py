"""What a checkpoint holds, before it becomes bytes."""

import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fairseq.config.flags import Namespace


def record_of(
    fields: Mapping[str, Any],
    model_state: Mapping[str, Tensor],
    optimizer_state: Mapping[str, Any] | None,
    criterion_state: Mapping[str, Tensor] | None,
    optimizer_name: str,
    num_updates: int,
    extra_state: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns what a checkpoint holds, in the layout that fairseq's programs share (format.py)."""
    return {
        "args": Namespace(**{name: _historic(name, value) for name, value in fields.items()}),
        "model": dict(model_state),
        "optimizer_history": [
            {
                "criterion_name": str(fields.get("criterion") or ""),
                "optimizer_name": optimizer_name,
                "lr_scheduler_state": {"best": extra_state.get("best")},
                "num_updates": num_updates,
            }
        ],
        "extra_state": dict(extra_state),
        "last_optimizer_state": optimizer_state,
        **({"criterion": dict(criterion_state)} if criterion_state else {}),
    }


def canonical(value: Any) -> Any:
    """Returns the same data, in which equal texts are one object, and tuples and lists are never shared.

    A pickle stores an object once and refers back to it, so its bytes depend on what is shared.
    """
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, dict):
        return {canonical(key): canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([canonical(item) for item in value])
    if isinstance(value, Namespace):
        return Namespace(**canonical(vars(value)))
    return value


def _historic(name: str, value: Any) -> Any:
    """Returns a setting as older programs wrote it: cutoffs and betas as text, other lists as lists."""
    if isinstance(value, str):
        return value
    if name.endswith("_cutoff"):
        return ",".join(map(str, value)) or None
    if name == "adam_betas":
        return str(tuple(value))
    return list(value) if isinstance(value, tuple) else value
