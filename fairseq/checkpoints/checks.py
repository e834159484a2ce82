"""Checks of a checkpoint before it is used: an undamaged container, finite weights, values of the right type.

torch writes a checksum for every part of a zip container and does not verify it, so that flipped bits would load as
other weights. The container of before 1.6 has none. What is checked of ``extra_state`` is what the program takes from
it; the rest is not looked at.
"""

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairseq.config.flags import LARGEST_INT
from fairseq.errors import CheckpointError, ConfigError, shown
from fairseq.models.foreign_settings import refuse_other_computations
from fairseq.models.transformer_config import TransformerConfig, other_computations

ZIP_MAGIC = b"PK\x03\x04"
ASK = "get or make the checkpoint again"
# What other parts of the program take from ``extra_state``, by its type; None stands for nothing.
_EXTRA_STATE: Mapping[str, type] = {
    "train_iterator": Mapping,
    "epoch_batches": Mapping,
    "loss_scaler": Mapping,
    "best": float,
    "best_of": str,
    "previous_training_time": float,
    "validations": list,
    "validations_since_best": int,
    "dictionary_sha256": str,
    "run": Mapping,
    "written_by": str,
}
_POSITION = ("epoch", "iterations_in_epoch")
_WORDS = {Mapping: "a dict", list: "a list", str: "text", int: "a whole number", float: "a number"}


def check_container(path: Path, *, checksums: bool = True) -> None:
    """Verifies the checksums of a zip container; torch does not, and older containers have none.

    Without ``checksums`` it only refuses compressed parts.

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
        damaged = container.testzip() if checksums else None
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: the checksum of its part {shown(damaged)} is wrong; {ASK}")


def check_weights(
    model: Mapping[Any, Any], path: str | os.PathLike[str], part: str = "model", *, finite: bool = True
) -> None:
    """Raises CheckpointError, with the name of the tensor, unless a state dict holds plain, finite tensors only."""
    for name, value in model.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path} is not a fairseq checkpoint: its '{part}' holds other things than tensors")
        value = value.to_local() if hasattr(value, "to_local") else value  # of one in shards, this process's
        if value.layout != torch.strided or value.is_meta or value.is_complex() or value.is_quantized:
            raise CheckpointError(f"{path}: the weights {shown(name)} must be a dense tensor of real numbers; {ASK}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: the weights {shown(name)} are larger than what is stored of them; {ASK}")
        if finite and value.is_floating_point() and not torch.isfinite(value).all():
            count = int((~torch.isfinite(value)).sum())
            raise CheckpointError(
                f"{path}: the weights {shown(name)} must be finite numbers, but {count} of {value.numel()} are NaN or"
                f" infinite (the training diverged, or the file is damaged); {ASK}"
            )


def check_same_computation(model: Any, fields: Mapping[str, Any], path: str | os.PathLike[str], num_ids: int) -> None:
    """Raises CheckpointError unless a checkpoint's weights mean the same to ``model`` as where they were trained.

    Args:
        model: one that is to go on from the weights; a plugin's is not looked at.
        fields: the checkpoint's settings.
        path: of the checkpoint.
        num_ids: of the dictionary.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, TransformerConfig):
        return
    refuse_other_computations(fields, (), num_ids, str(path))
    try:
        differences = other_computations(config, fields)
    except ConfigError as err:
        raise CheckpointError(f"the settings in {path} do not make a model: {err}") from err
    if differences:
        raise CheckpointError(
            f"the weights of {path} were trained with {', '.join(differences)}; give the flags that it was trained"
            " with, or another --save-dir"
        )


def last_update(history: Any, path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Returns the last entry of ``optimizer_history``, empty if there is none; ``num_updates`` in it is a count."""
    _require(list, history, "optimizer_history", path)
    last = history[-1] if history else None
    _require(Mapping, last, "the last entry of optimizer_history", path)
    _require_counts(last, ("num_updates",), "", path)
    return last or {}


def checked_extra_state(extra: Any, path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Returns ``extra_state``, empty if there is none; the values that this program uses have the right types."""
    _require(Mapping, extra, "extra_state", path)
    for name, kind in _EXTRA_STATE.items():
        _require(kind, (extra or {}).get(name), f"extra_state: {name}", path)
    _require_counts((extra or {}).get("train_iterator"), _POSITION, "extra_state: ", path)
    for name, value in ((extra or {}).get("loss_scaler") or {}).items():
        _require(float, value, f"extra_state: loss_scaler: {shown(name)}", path)
    for validation in (extra or {}).get("validations") or ():
        _require_validation(validation, path)
    return extra or {}


def checked_criterion_state(state: Any, path: str | os.PathLike[str]) -> Mapping[str, Tensor]:
    """Returns what a checkpoint holds of its criterion, empty if there is nothing: tensors, which may be infinite."""
    _require(Mapping, state, "criterion", path)
    check_weights(state or {}, path, "criterion", finite=False)
    return state or {}


def checked_optimizer_state(
    state: Any, path: str | os.PathLike[str], extra_state: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Returns ``last_optimizer_state``; one that this program wrote has torch's two parts."""
    _require(Mapping, state, "last_optimizer_state", path)
    if state is not None and "written_by" in extra_state:
        _require(Mapping, state.get("state", ()), "last_optimizer_state: state", path)
        _require(list, state.get("param_groups", ()), "last_optimizer_state: param_groups", path)
    checked: Mapping[str, Any] | None = state
    return checked


def _require(kind: type, value: Any, name: str, path: str | os.PathLike[str]) -> None:
    """Raises CheckpointError if a value has another type than it should; None has any."""
    if value is not None and not isinstance(value, (int, float) if kind is float else kind):
        raise _wrong(name, _WORDS[kind], value, path)


def _require_validation(value: Any, path: str | os.PathLike[str]) -> None:
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[1], (int, float))
    if not is_pair or not isinstance(value[0], int) or not 0 <= value[0] <= LARGEST_INT:
        raise _wrong("extra_state: validations", "pairs of a count of updates and a metric", value, path)


def _require_counts(
    values: Mapping[str, Any] | None, names: Sequence[str], where: str, path: str | os.PathLike[str]
) -> None:
    for name in names:
        value = (values or {}).get(name, 0)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_INT:
            raise _wrong(where + name, "a whole number, not negative", value, path)


def _wrong(name: str, expected: str, value: Any, path: str | os.PathLike[str]) -> CheckpointError:
    found = type(value).__name__ if isinstance(value, (Tensor, Mapping, list)) else shown(value)
    return CheckpointError(f"{path}: {name} must be {expected}, but is {found}; {ASK}")
