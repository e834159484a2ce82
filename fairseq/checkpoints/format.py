"""Checkpoints: a ``torch.save`` dict in the layout that fairseq's programs share.

    args                  every setting, an argparse.Namespace   (fairseq 0.12: None, and a nested dict ``cfg``)
    model                 the state dict
    criterion             the criterion's, where it has one
    optimizer_history     [{criterion_name, optimizer_name, lr_scheduler_state, num_updates}]
    last_optimizer_state  the optimizer's state dict
    extra_state           train_iterator, val_loss, best, …

A checkpoint is data: it is read with ``weights_only``, and the classes that old files name become inert stand-ins.
It is believed in nothing: the checksums of its container are verified (torch does not), and what has the wrong type,
or is no finite number where a weight belongs, is refused here, before anything is made from it.
Beside each one that we write lies a JSON of the same name for people.
"""

import hashlib
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairseq.checkpoints.checks import (
    ASK,
    check_container,
    check_weights,
    checked_criterion_state,
    checked_extra_state,
    checked_optimizer_state,
    last_update,
)
from fairseq.checkpoints.record import canonical, record_of
from fairseq.checkpoints.sharded import read, read_without_tensors
from fairseq.config.flags import Namespace
from fairseq.errors import CheckpointError, shown
from fairseq.models.upgrade import SETTINGS_VERSION, constants, upgrade_fields, upgrade_own_fields, upgrade_state
from fairseq.storage.file_kinds import is_sharded_checkpoint
from fairseq.storage.files import atomic_write, write_json
from fairseq.storage.inputs import require_checkpoint


class _Inert:
    """Stand-in for a class that an old file names; it holds what it is given and does nothing."""


_STAND_INS = [
    (_Inert, f"fairseq.{module}.{name}")
    for module in ("meters", "logging.meters")
    for name in ("AverageMeter", "TimeMeter", "StopwatchMeter", "MetersDict")
]
_NUMPY_SCALARS = [np.dtype, np._core.multiarray.scalar] + [  # type: ignore[attr-defined]
    type(np.dtype(code)) for code in ("f4", "f8", "i4", "i8", "b1")
]


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint, in today's names.

    Attributes:
        path: where it was read.
        fields: its settings, flat; ``arch`` is among them but is not to be trusted.
        state: the model's weights, float32.
        optimizer_state: the optimizer's state dict, or None.
        extra_state: iterator position, best loss and the like.
        num_updates: updates made.
        optimizer_name: name that the optimizer was saved under, or an empty string.
        criterion_state: the criterion's state dict, empty for one that has none.
    """

    path: str
    fields: Mapping[str, Any]
    state: Mapping[str, Tensor]
    optimizer_state: Mapping[str, Any] | None
    extra_state: Mapping[str, Any]
    num_updates: int
    optimizer_name: str
    criterion_state: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of the weights."""
        return weights_sha256(self.state)


def load_checkpoint(path: str | os.PathLike[str], layout: Mapping[str, Tensor] | None = None) -> Checkpoint:
    """Returns a checkpoint of this program, of the original kNN-LM code or of fairseq up to 0.12, on the CPU.

    Args:
        path: of the file, or of the directory of one in shards.
        layout: tensors of which this process has a share, and reads no more of a checkpoint in shards (sharded.py).

    Raises:
        CheckpointError: not a checkpoint, torn, or holding objects that are not data.
    """
    raw = read_raw(Path(path), layout)
    fields = _flat_fields(raw, path)
    for name, value in fields.items():
        if not isinstance(name, str) or isinstance(value, Tensor):
            raise CheckpointError(f"{path}: its settings must be plain values by name, but not {shown(name)}; {ASK}")
    check_weights(raw["model"], path)
    last = last_update(raw.get("optimizer_history"), path)
    extra_state = checked_extra_state(raw.get("extra_state"), path)
    if "dictionary_sha256" in extra_state:
        fields = upgrade_own_fields(fields)
    return Checkpoint(
        path=str(path),
        fields=upgrade_fields(fields, raw["model"]),
        state=upgrade_state(raw["model"]),
        optimizer_state=checked_optimizer_state(raw.get("last_optimizer_state"), path, extra_state),
        extra_state=extra_state,
        num_updates=last.get("num_updates", 0),
        optimizer_name=str(last.get("optimizer_name", "")),
        criterion_state=checked_criterion_state(raw.get("criterion"), path),
    )


def load_constants(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Returns what a checkpoint holds among its weights that is none: versions and placeholders.

    Raises:
        CheckpointError: as ``load_checkpoint``.
    """
    return constants(read_raw(Path(path))["model"])


def load_extra_state(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Returns a checkpoint's ``extra_state`` alone, without its tensors being read; empty if there is none.

    It is for files that may be anything: nothing is verified, and what cannot be read has none.
    """
    extra = _part(path, "extra_state")
    return extra if isinstance(extra, Mapping) else {}


def recorded_names(path: str | os.PathLike[str]) -> set[str]:
    """Returns the names of the settings that a checkpoint of this program records, likewise."""
    args = _part(path, "args")
    return set(vars(args)) if isinstance(args, Namespace) else set()


def _part(path: str | os.PathLike[str], name: str) -> Any:
    """Returns a part of a checkpoint; None where there is none, or the file cannot be read."""
    can_map = not any("\udc80" <= char <= "\udcff" for char in os.fspath(path))  # torch maps files by UTF-8 names only
    try:
        if is_sharded_checkpoint(path):
            return read_without_tensors(Path(path))[name]
        with warnings.catch_warnings(), torch.serialization.safe_globals([Namespace, *_STAND_INS, *_NUMPY_SCALARS]):
            warnings.simplefilter("ignore")
            check_container(Path(path), checksums=False)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=can_map)[name]
    except Exception:  # torch lets through whatever a file of another kind makes its parts raise
        return None


def read_raw(path: Path, layout: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """Returns the dict that a checkpoint is. It has a ``model``; everything else is unchecked."""
    require_checkpoint(path)
    if is_sharded_checkpoint(path):
        return read(path, layout)
    try:
        with (
            warnings.catch_warnings(),
            torch.serialization.safe_globals([Namespace, *_STAND_INS, *_NUMPY_SCALARS]),
        ):
            warnings.simplefilter("ignore")  # torch's advice on pickles is not for our users
            check_container(path)
            raw = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        foreign = re.search(r"GLOBAL ([\w.]+)", str(err))
        reason = f"it names {foreign[1]}, which is not data" if foreign else "its pickle is damaged, or not only data"
        raise CheckpointError(f"{path} was not loaded: {reason}; {ASK}") from err
    except (PermissionError, CheckpointError):
        raise  # says itself what is wrong
    except Exception as err:  # torch lets through whatever a torn file makes its parts raise
        # Of torch's own words the first line only, and none of its advice to load the file by running what is in it.
        reason = str(err).splitlines()[0] if str(err) and "weights_only" not in str(err) else type(err).__name__
        raise CheckpointError(f"{path} is not a whole checkpoint (torn or of another kind): {reason[:200]}") from err
    if not isinstance(raw, dict) or not isinstance(raw.get("model"), Mapping):
        raise CheckpointError(f"{path} is not a fairseq checkpoint: it has no 'model' state dict")
    return raw


def _flat_fields(raw: Mapping[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the settings by name.

    Where they do not say whether LayerNorms stand before or after, the container does: fairseq 0.9 had them before
    whatever was asked for, fairseq 0.12 has them after unless it is told.
    """
    args, cfg = raw.get("args"), raw.get("cfg")
    if isinstance(args, Namespace):
        return {"decoder_normalize_before": True, **vars(args)}
    if not isinstance(cfg, Mapping):
        raise CheckpointError(f"{path} records no settings: neither 'args' nor 'cfg' is there")
    groups = {name: vars(group) if isinstance(group, Namespace) else group for name, group in cfg.items()}
    fields: dict[str, Any] = {"decoder_normalize_before": False}
    for name in ("common", "dataset", "optimization", "criterion", "optimizer", "lr_scheduler", "task", "model"):
        if isinstance(groups.get(name), Mapping):
            fields.update(groups[name])
    for name in ("tokenizer", "bpe"):  # which, and its settings
        if isinstance(groups.get(name), Mapping):
            fields = {**groups[name], **fields, name: groups[name].get("_name")}
    for name, setting in (("model", "arch"), ("task", "task"), ("criterion", "criterion")):
        if isinstance(groups.get(name), Mapping):
            fields.setdefault(setting, groups[name].get("_name"))
    return fields


def save_checkpoint(
    path: str | os.PathLike[str],
    *,
    fields: Mapping[str, Any],
    model_state: Mapping[str, Tensor],
    optimizer_state: Mapping[str, Any] | None,
    optimizer_name: str,
    num_updates: int,
    extra_state: Mapping[str, Any],
    criterion_state: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes a checkpoint and, beside it, a JSON for people, each atomically.

    Equal states give equal bytes, whether a run was resumed or not.
    """
    fields = {**fields, **SETTINGS_VERSION}
    states = model_state, optimizer_state, criterion_state
    write_file(path, record_of(fields, *states, optimizer_name, num_updates, extra_state), fields)


def write_file(path: str | os.PathLike[str], record: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Writes what a checkpoint holds as one file, and its settings, as ``fields``, into the JSON beside it."""
    num_updates = last_update(record["optimizer_history"], path)["num_updates"]
    readable = {"num_updates": num_updates, "extra_state": record["extra_state"], "settings": dict(fields)}
    write_json(Path(path).with_suffix(".json"), readable)
    with atomic_write(path) as file:
        torch.save(canonical(record), file)


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """Returns a hash of the weights alone: equal for the same weights in another layout or on another device."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def saved_by(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Returns which program wrote a checkpoint, as far as its layout tells, and the dtypes that its weights have there.

    Raises:
        CheckpointError: as ``load_checkpoint``.
    """
    raw = read_raw(Path(path))
    extra = raw.get("extra_state")
    if isinstance(raw.get("cfg"), Mapping):
        program = "fairseq 0.10 to 0.12 ('cfg')"
    elif isinstance(extra, Mapping) and "dictionary_sha256" in extra:
        program = "this program"
    else:
        program = "the original kNN-LM code or fairseq up to 0.9 ('args')"
    kinds = {str(t.dtype).removeprefix("torch.") for t in raw["model"].values() if torch.is_floating_point(t)}
    return program, ", ".join(sorted(kinds)) or "none"
