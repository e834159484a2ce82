"""What is settled before a datastore and its index are opened: width, memory."""

from pathlib import Path
from typing import Any

from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.format import keys_path, values_path
from fairseq.knn.datastore.manifest import manifest_path
from fairseq.models.protocol import ModelIdentity
from fairseq.runtime.resources import require_memory


def require_memory_for(prefix: Path, indexfile: Path, config: KNNConfig) -> None:
    """Refuses what does not fit: an index is read into memory, the datastore's files only when that is asked for."""
    files = [indexfile]
    if config.move_dstore_to_mem:
        files += [values_path(prefix), *([keys_path(prefix)] if config.needs_keys else [])]
    needed = sum(path.stat().st_size for path in files if path.is_file())
    remedy = "leave --move-dstore-to-mem out" if config.move_dstore_to_mem else "build a smaller one (--index-spec)"
    require_memory(f"reading {' and '.join(map(str, files))}", needed, remedy)


def width_to_open(prefix: str | Path, index: Any, model: ModelIdentity | None) -> int | None:
    """Returns the width to open with: the model's, else, for a datastore without a manifest, the index's."""
    if model is not None and model.key_dimension is not None:
        return model.key_dimension
    return None if manifest_path(prefix).is_file() else int(index.d)
