"""Files of weights in the directory of a Hugging Face model: which they are, and whether they are all there and whole.

Nothing is loaded; of a safetensors file the header is read, which says how long it must be.
"""

import json
import re
from pathlib import Path
from typing import Any

from fairseq.errors import CheckpointError

_AGAIN = "copy the model's directory again"
_HEADER_SIZE, _LARGEST_HEADER = 8, 100_000_000


def weight_files(directory: Path) -> list[Path]:
    """Returns the files of a model's weights, by name: those that transformers loads, and no others.

    The first of these decides: ``model.safetensors``, its index of shards, ``pytorch_model.bin``, its index.

    Raises:
        CheckpointError: there are none, or one is missing or torn.
    """
    for whole in ("model.safetensors", "pytorch_model.bin"):
        index = directory / f"{whole}.index.json"
        names = [whole] if (directory / whole).is_file() else sorted(_indexed(index))
        found = [directory / name for name in names]
        for path in found:
            if not path.is_file():
                raise CheckpointError(f"{path} does not exist, but {index.name} names it; {_AGAIN}")
            if path.suffix == ".safetensors":
                _require_whole(path)
        if found:
            return found
    for shard in sorted(directory.glob("*-of-*.safetensors")):
        raise CheckpointError(f"{directory} has {shard.name}, but no model.safetensors.index.json; {_AGAIN}")
    gguf = next(iter(sorted(directory.glob("*.gguf"))), None)
    convert = f"; fairseq-knnlm convert {gguf} NEW_DIR makes a directory that has them" if gguf else f"; {_AGAIN}"
    raise CheckpointError(f"{directory} has no weights (model.safetensors){convert}")


def _indexed(path: Path) -> set[str]:
    """Returns the files that an index of shards names; none where there is no index."""
    if not path.is_file():
        return set()
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise CheckpointError(f"{path} is not an index of files of weights ({err!r}); {_AGAIN}") from err
    if not all(isinstance(name, str) and re.fullmatch(r"[^/\0]+", name) for name in names):
        raise CheckpointError(f"{path} names a file that is not in its directory; {_AGAIN}")
    return names


def tensors_of(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Returns the dtype and the shape of each tensor of a safetensors file.

    Raises:
        CheckpointError: it is torn, or no such file.
    """
    try:
        return {name: (str(entry["dtype"]), tuple(entry["shape"])) for name, entry in _header_of(path)[1].items()}
    except (KeyError, TypeError) as err:
        raise CheckpointError(f"{path} is not a whole safetensors file ({err!r}); {_AGAIN}") from err


def _header_of(path: Path) -> tuple[int, dict[str, Any]]:
    """Returns how long a safetensors file's header is, and what it says of each tensor."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_HEADER_SIZE), "little")
            if length > min(path.stat().st_size, _LARGEST_HEADER):
                raise ValueError("its header is longer than the file")
            header = dict(json.loads(file.read(length)))
    except (ValueError, TypeError, RecursionError) as err:
        raise CheckpointError(f"{path} is not a whole safetensors file ({err}); {_AGAIN}") from err
    header.pop("__metadata__", None)
    return length, header


def _require_whole(path: Path) -> None:
    """Raises CheckpointError unless a safetensors file is as long as its header says."""
    length, header = _header_of(path)
    try:
        wanted = _HEADER_SIZE + length + max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, IndexError) as err:
        raise CheckpointError(f"{path} is not a whole safetensors file ({err!r}); {_AGAIN}") from err
    if path.stat().st_size != wanted:
        raise CheckpointError(
            f"{path} must be {wanted} bytes long by its header, but is {path.stat().st_size}; {_AGAIN}"
        )
