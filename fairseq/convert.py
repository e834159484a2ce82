"""Weights as safetensors, a format that cannot hold code, and back to a checkpoint.

The file holds each tensor under its name in the state dict; tied ones are stored once, and the metadata says under
which other names they go. Settings, updates and the dictionary's hash are JSON in the metadata, whose values are
text. Optimizer state and position are left behind: a converted checkpoint is for evaluation, or for --restore-file with
--reset-optimizer.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairseq.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from fairseq.errors import CheckpointError, ConfigError
from fairseq.files import atomic_write, locked

FORMAT = "fairseq-knnlm weights, version 1"


def convert_weights(source: str | Path, target: str | Path, *, overwrite: bool = False) -> None:
    """Writes ``target`` from ``source``: one of them a .safetensors, the other a .pt.

    Raises:
        ConfigError: not such a pair, or the package safetensors is missing.
        CheckpointError: the source cannot be read, or the target is there.
    """
    source, target = Path(source), Path(target)
    if {source.suffix, target.suffix} != {".pt", ".safetensors"}:
        raise ConfigError(f"one of {source} and --to {target} must end in .pt, the other in .safetensors")
    with locked(target):
        if target.exists() and not overwrite:
            raise CheckpointError(f"{target} exists; --overwrite replaces it")
        if target.suffix == ".safetensors":
            _export(load_checkpoint(source), target)
        else:
            _import(source, target)


def _export(checkpoint: Checkpoint, target: Path) -> None:
    save = _safetensors().save
    names: dict[tuple[int, tuple[int, ...]], str] = {}
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    for name, tensor in checkpoint.state.items():
        first = names.setdefault((tensor.data_ptr(), tuple(tensor.shape)), name) if tensor.numel() else name
        if first == name:
            tensors[name] = tensor.contiguous().clone()  # safetensors wants no two tensors in one memory
        else:
            tied[name] = first
    record = {
        "num_updates": checkpoint.num_updates,
        "dictionary_sha256": checkpoint.extra_state.get("dictionary_sha256"),
        "settings": {name: value for name, value in checkpoint.fields.items() if _is_plain(value)},
        "tied": tied,
    }
    with atomic_write(target) as file:
        file.write(save(tensors, {"format": FORMAT, "fairseq": json.dumps(record, sort_keys=True)}))


def _import(source: Path, target: Path) -> None:
    tensors, record = _read(source)
    settings, tied = record["settings"], record["tied"]
    for name, first in tied.items():
        if first not in tensors:
            raise CheckpointError(
                f"{source}: {name} is tied to {first}, which is not there; convert the checkpoint again"
            )
        tensors[name] = tensors[first]
    extra = {"dictionary_sha256": record["dictionary_sha256"], "converted_from": source.name}
    save_checkpoint(
        target,
        fields={name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()},
        model_state=tensors,
        optimizer_state=None,
        optimizer_name="",
        criterion_name=str(settings.get("criterion", "")),
        num_updates=record["num_updates"],
        extra_state={name: value for name, value in extra.items() if value is not None},
    )


def _read(source: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    safetensors = _safetensors()
    if not source.is_file():
        raise CheckpointError(f"{source} does not exist")
    import safetensors as package

    try:
        with package.safe_open(source, "pt") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
        tensors: dict[str, Tensor] = safetensors.load_file(source)
    except (package.SafetensorError, OSError, ValueError) as err:
        raise CheckpointError(f"{source} must be a safetensors file, but cannot be read: {err}") from err
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{source} must hold '{FORMAT}', but says {metadata.get('format')!r}; export it with fairseq-knnlm convert"
        )
    kinds: dict[str, Any] = {"num_updates": int, "settings": dict, "tied": dict, "dictionary_sha256": (str, type(None))}
    try:
        record = json.loads(metadata.get("fairseq", ""))
        right = isinstance(record, dict) and all(isinstance(record[name], kind) for name, kind in kinds.items())
    except (ValueError, KeyError, RecursionError) as err:
        raise CheckpointError(f"{source}: its metadata is damaged ({err}); convert the checkpoint again") from err
    if not right or not all(tensor.dtype in (torch.float32, torch.int64) for tensor in tensors.values()):
        raise CheckpointError(
            f"{source}: its metadata or its tensors are of the wrong kind; convert the checkpoint again"
        )
    return tensors, record


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (str, int, float, bool))


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as err:
        raise ConfigError(
            "converting needs the package safetensors, which is not installed; pip install 'fairseq-knnlm[safetensors]'"
        ) from err
    return safetensors.torch
