"""Checks of a checkpoint before it is used: an undamaged container, finite weights, values of the right type.

torch writes a checksum for every part of a zip container and does not verify it, so that flipped bits would load as
other weights. The container of before 1.6 has none. What is checked of ``extra_state`` is what the program takes from
it; the rest is not looked at.
"""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairseq.config.flags import LARGEST_INT
from fairseq.errors import CheckpointError, shown

ZIP_MAGIC = b"PK\x03\x04"
ASK = "get or make the checkpoint again"
# What other parts of the program take from ``extra_state``, by the type that it must have; None stands for nothing.
_EXTRA_STATE: Mapping[str, type | tuple[type, ...]] = {
    "train_iterator": Mapping,
    "epoch_order": Mapping,
    "loss_scaler": Mapping,
    "best": (int, float),
    "validations_since_best": int,
    "dictionary_sha256": str,
    "written_by": str,
}
_POSITION = ("epoch", "iterations_in_epoch")


def check_container(path: Path) -> None:
    """Verifies the checksums of a zip container; torch does not, and older containers have none.

    Raises:
        CheckpointError: a part has other bytes than were written, or is compressed, which torch's parts never are.
    """
    with path.open("rb") as file:
        if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            return
    with zipfile.ZipFile(path) as container:
        for part in container.infolist():
            if part.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(
                    f"{path} is not a checkpoint: its part {shown(part.filename)} is compressed; {ASK}"
                )
        damaged = container.testzip()
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: the checksum of its part {shown(damaged)} is wrong; {ASK}")


def check_weights(model: Mapping[Any, Any], path: str | os.PathLike[str]) -> None:
    """Raises CheckpointError, with the name of the tensor, unless a state dict holds plain, finite tensors only."""
    for name, value in model.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path} is not a fairseq checkpoint: its 'model' holds other things than tensors")
        if value.layout != torch.strided or value.is_meta or value.is_complex() or value.is_quantized:
            raise CheckpointError(f"{path}: the weights {shown(name)} must be a dense tensor of real numbers; {ASK}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: the weights {shown(name)} are larger than what is stored of them; {ASK}")
        if value.is_floating_point() and not torch.isfinite(value).all():
            count = int((~torch.isfinite(value)).sum())
            raise CheckpointError(
                f"{path}: the weights {shown(name)} must be finite numbers, but {count} of {value.numel()} are NaN or"
                f" infinite (the training diverged, or the file is damaged); {ASK}"
            )


def last_update(history: Any, path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Returns the last entry of ``optimizer_history``; its ``num_updates``, if any, is a count."""
    if history is None or history == []:
        return {}
    if not isinstance(history, list) or not isinstance(history[-1], Mapping):
        raise _wrong_type(path, "optimizer_history", "a list of dicts", history)
    last: Mapping[str, Any] = history[-1]
    if not _is_count(last.get("num_updates", 0)):
        raise _wrong_type(path, "num_updates", "a whole number, not negative", last["num_updates"])
    return last


def checked_extra_state(extra: Any, path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Returns ``extra_state``, empty if there is none; the values that this program uses have the right types."""
    if extra is None:
        return {}
    if not isinstance(extra, Mapping):
        raise _wrong_type(path, "extra_state", "a dict", extra)
    for name, kind in _EXTRA_STATE.items():
        value = extra.get(name)
        if value is not None and not isinstance(value, kind):
            words = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise _wrong_type(path, f"extra_state: {name}", f"of type {words.lower()}", value)
    position = extra.get("train_iterator") or {}
    for name in _POSITION:
        if not _is_count(position.get(name, 0)):
            raise _wrong_type(path, f"extra_state: {name}", "a whole number, not negative", position[name])
    return extra


def checked_optimizer_state(
    state: Any, path: str | os.PathLike[str], extra_state: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Returns ``last_optimizer_state``; one that this program wrote has torch's two parts."""
    if state is None:
        return None
    if not isinstance(state, Mapping):
        raise _wrong_type(path, "last_optimizer_state", "a dict", state)
    if "written_by" in extra_state:
        for name, kind in (("state", Mapping), ("param_groups", list)):
            if not isinstance(state.get(name), kind):
                raise _wrong_type(path, f"last_optimizer_state: {name}", f"a {kind.__name__.lower()}", state.get(name))
    return state


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_INT


def _wrong_type(path: str | os.PathLike[str], name: str, expected: str, value: Any) -> CheckpointError:
    """Returns the error of a value that has another type than is ``expected``."""
    found = type(value).__name__ if isinstance(value, (Tensor, Mapping, list)) else shown(value)
    return CheckpointError(f"{path}: {name} must be {expected}, but is {found}; {ASK}")
