"""Conversion of weights between checkpoints and safetensors, bit for bit.

    MODEL.safetensors   every tensor once, float32 as in memory; and text fields:
        format              fairseq-knnlm
        version             1
        settings            JSON: the checkpoint's settings, flat
        num_updates         updates made
        dictionary_sha256   of the dictionary that the model was trained with, or empty
        tied                JSON: {name: the name that its tensor is stored under}

A checkpoint in shards (sharded.py) becomes a file of either kind; as .pt it keeps what training needs.

safetensors holds no two names of one tensor, so that a tied weight is stored once and named in ``tied``. What only
training needs (the optimizer's state, the position in the data) stays behind.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

from fairseq.checkpoints.config import ConvertConfig
from fairseq.checkpoints.format import load_checkpoint, read_raw, save_checkpoint, write_file
from fairseq.checkpoints.gguf import GGUF, convert_gguf
from fairseq.config.flags import Namespace, coerce
from fairseq.errors import CheckpointError, ConfigError
from fairseq.models.decoder import CHECKPOINT_LAYOUT_VERSION
from fairseq.models.upgrade import upgrade_own_fields
from fairseq.storage.file_kinds import SHARDED, SHARDED_SUFFIX, is_sharded_checkpoint
from fairseq.storage.files import atomic_write, locked
from fairseq.storage.inputs import require_checkpoint
from fairseq.storage.marks import CHECKPOINT, CHECKPOINT_SUMMARY
from fairseq.storage.marks import SAFETENSORS as SAFETENSORS_FILE
from fairseq.storage.outputs import claim, reads, require_utf8
from fairseq.storage.records import parse

logger = logging.getLogger(__name__)
T = TypeVar("T")

FORMAT, VERSION = "fairseq-knnlm", "1"
SAFETENSORS = ".safetensors"
# Settings that older programs wrote as text.
_LISTS = {
    "adaptive_input_cutoff": tuple[int, ...],
    "adaptive_softmax_cutoff": tuple[int, ...],
    "adam_betas": tuple[float, ...],
}


def convert(config: ConvertConfig) -> str:
    """Converts a file of weights and returns what was done, as a line.

    Raises:
        CheckpointError: the source cannot be read.
        ConfigError: the suffixes name no conversion, the target is there already, or safetensors is not installed.
    """
    source, target = Path(config.source), Path(config.target)
    if source.suffix == GGUF:
        return convert_gguf(config)
    to_safetensors = target.suffix == SAFETENSORS
    is_sharded = source.suffix == SHARDED_SUFFIX or is_sharded_checkpoint(source)
    if is_sharded:
        require_checkpoint(source, flag="SOURCE")
        _require_file_name(source, target)
    elif to_safetensors == (source.suffix == SAFETENSORS) or (not to_safetensors and target.suffix != ".pt"):
        raise ConfigError(
            f"one of the two files must end in {SAFETENSORS} and the other be a checkpoint (.pt), or the first in"
            f" {GGUF}, but they are {source.name} and {target.name}; name them so"
        )
    if to_safetensors:
        require_utf8("TARGET", target, "safetensors")
        claim("TARGET", target, SAFETENSORS_FILE, overwrite=config.overwrite)
    else:
        claim("TARGET", target, CHECKPOINT, overwrite=config.overwrite)
        claim("TARGET", target.with_suffix(".json"), CHECKPOINT_SUMMARY, overwrite=config.overwrite)
    reads(source)
    try:
        import safetensors.torch
    except ImportError as err:
        raise ConfigError(
            "converting needs the package safetensors, which is not installed; pip install"
            " 'fairseq-knnlm[safetensors]', or pip install safetensors"
        ) from err
    with locked(target):
        if is_sharded and not to_safetensors:
            return _to_one_file(source, target)
        return (_to_safetensors if to_safetensors else _to_checkpoint)(safetensors, source, target)


def _require_file_name(source: Path, target: Path) -> None:
    """Raises ConfigError unless a checkpoint in shards is to become a file of a kind that there is."""
    if target.suffix not in (".pt", SAFETENSORS):
        raise ConfigError(
            f"{source} is {SHARDED}, which becomes a file: its name must end in .pt or {SAFETENSORS}, but is"
            f" {target.name}; name it so"
        )


def _to_one_file(source: Path, target: Path) -> str:
    """Writes a checkpoint in shards as one file, with all that it holds: training goes on from it as well."""
    load_checkpoint(source)  # which checks it
    raw, whole = read_raw(source), {"ddp_backend": "legacy_ddp"}  # what programs take that read one file
    fields = {name: whole.get(name, value) for name, value in vars(raw["args"]).items()}
    write_file(target, {**raw, "args": Namespace(**fields)}, fields)
    return f"{target}: {len(raw['model'])} tensors, {target.stat().st_size} bytes"


def _to_safetensors(safetensors: ModuleType, source: Path, target: Path) -> str:
    checkpoint = load_checkpoint(source)
    # Without its version, the layout would be taken for an older one, whose last LayerNorm is not used.
    state = {"decoder.version": torch.tensor([CHECKPOINT_LAYOUT_VERSION]), **checkpoint.state}
    stored, tied = _once(state)
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "settings": json.dumps(dict(checkpoint.fields), ensure_ascii=False, default=lambda _: None, skipkeys=True),
        "num_updates": str(checkpoint.num_updates),
        "dictionary_sha256": str(checkpoint.extra_state.get("dictionary_sha256") or ""),
        "tied": json.dumps(tied),
    }
    data = safetensors.torch.save(stored, metadata=metadata)
    with atomic_write(target) as file:
        file.write(data)
    return f"{target}: {len(stored)} tensors, {len(tied)} more tied to them, {len(data)} bytes"


def _once(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns each distinct tensor under its first name, and {name: first name} for its equals."""
    stored: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    names: dict[tuple[Any, ...], str] = {}
    for name, tensor in state.items():
        whole = tensor.detach().contiguous()
        content = whole.view(-1).view(torch.uint8).numpy().data if whole.numel() else b""
        identity = (whole.dtype, tuple(whole.shape), hashlib.sha256(content).digest())
        first = names.setdefault(identity, name)
        if first != name:
            tied[name] = first
        else:
            stored[name] = whole.clone()
    return stored, tied


def _to_checkpoint(safetensors: ModuleType, source: Path, target: Path) -> str:
    state, metadata = _read(safetensors, source)
    fields = _parsed(metadata, "settings", dict[str, Any], source)
    for name, kind in _LISTS.items():
        if fields.get(name) is not None:
            fields[name] = coerce(fields[name], kind, f"{source}: {name}")
        elif name in fields:
            fields[name] = ()
    if metadata.get("dictionary_sha256"):
        fields = upgrade_own_fields(fields)
    for name, stored in _parsed(metadata, "tied", dict[str, str], source).items():
        if stored not in state:
            raise CheckpointError(f"{source} ties {name} to {stored!r}, which it does not hold; convert it again")
        state[name] = state[stored]
    num_updates = metadata.get("num_updates", "0")
    if not (num_updates.isascii() and num_updates.isdigit() and len(num_updates) < 19):
        raise CheckpointError(f"{source}: num_updates must be a whole number, but is {num_updates[:40]!r}")
    sha256 = metadata.get("dictionary_sha256")
    save_checkpoint(
        target,
        fields=fields,
        model_state=state,
        optimizer_state=None,
        optimizer_name="",
        num_updates=int(num_updates),
        extra_state={"dictionary_sha256": sha256 or None},  # the field by which our checkpoints are known
    )
    return f"{target}: {len(state)} tensors, {target.stat().st_size} bytes"


def _read(safetensors: ModuleType, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give the path of a {SAFETENSORS} file")
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            metadata = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError, TypeError) as err:
        raise CheckpointError(
            f"{path} is not a whole {SAFETENSORS} file ({err}); convert the checkpoint again"
        ) from err
    if metadata.get("format") != FORMAT or metadata.get("version") != VERSION:
        found = f"{metadata.get('format')!r}, version {metadata.get('version')!r}"
        raise CheckpointError(
            f"{path} must name the format {FORMAT!r}, version {VERSION!r}, and the model's settings, but names {found};"
            " give a file that fairseq-knnlm convert wrote"
        )
    return state, metadata


def _parsed(metadata: Mapping[str, str], name: str, kind: type[T], path: Path) -> T:
    """Returns the JSON in a text field of the metadata."""
    return parse(metadata.get(name, ""), kind, f"{path}: its {name}", CheckpointError, "convert the checkpoint again")
