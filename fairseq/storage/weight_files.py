"""Files of weights in the directory of a Hugging Face model: which they are, and whether they are all there and whole.

Nothing is loaded; of a safetensors file the header is read, which says how long it must be.
"""

import json
import re
from pathlib import Path

from fairseq.errors import CheckpointError

_AGAIN = "copy the model's directory again"
_HEADER_SIZE, _LARGEST_HEADER = 8, 100_000_000


def weight_files(directory: Path) -> list[Path]:
    """Returns the files of a model's weights, by name: safetensors where there are any.

    Raises:
        CheckpointError: there are none, or one is missing or torn.
    """
    for pattern, index in (
        ("model*.safetensors", "model.safetensors.index.json"),
        ("pytorch_model*.bin", "pytorch_model.bin.index.json"),
    ):
        files = {path.name: path for path in directory.glob(pattern)}
        for name in _indexed(directory / index):
            if name not in files:
                raise CheckpointError(f"{directory / name} does not exist, but {index} names it; {_AGAIN}")
        if files:
            found = [files[name] for name in sorted(_indexed(directory / index) or files)]
            for path in found:
                if path.suffix == ".safetensors":
                    _require_whole(path)
            return found
    gguf = next(iter(sorted(directory.glob("*.gguf"))), None)
    convert = f"; fairseq-knnlm convert {gguf} NEW_DIR makes a directory that has them" if gguf else f"; {_AGAIN}"
    raise CheckpointError(f"{directory} has no weights (model.safetensors){convert}")


def _indexed(path: Path) -> set[str]:
    """Returns the files that an index of shards names; none where there is no index."""
    if not path.is_file():
        return set()
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise CheckpointError(f"{path} is not an index of files of weights ({err!r}); {_AGAIN}") from err
    if not all(isinstance(name, str) and re.fullmatch(r"[^/\0]+", name) for name in names):
        raise CheckpointError(f"{path} names a file that is not in its directory; {_AGAIN}")
    return names


def _require_whole(path: Path) -> None:
    """Raises CheckpointError unless a safetensors file is as long as its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_HEADER_SIZE), "little")
        try:
            if length > min(size, _LARGEST_HEADER):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
            wanted = max(
                (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0
            )
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as err:
            raise CheckpointError(f"{path} is not a whole safetensors file ({err}); {_AGAIN}") from err
    if size != _HEADER_SIZE + length + wanted:
        raise CheckpointError(
            f"{path} must be {_HEADER_SIZE + length + wanted} bytes long by its header, but is {size}; {_AGAIN}"
        )
