"""What is settled before a datastore and its index are opened: settings, width, memory."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from fairseq.config.flags import as_dict, resolve
from fairseq.errors import ConfigError, did_you_mean
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.format import keys_path, values_path
from fairseq.knn.datastore.manifest import Expected, manifest_path
from fairseq.runtime.resources import require_memory


def require_memory_for(prefix: Path, indexfile: Path, config: KNNConfig) -> None:
    """Refuses what does not fit: an index is read into memory, the datastore's files only when that is asked for."""
    files = [indexfile]
    if config.move_dstore_to_mem:
        files += [values_path(prefix), *([keys_path(prefix)] if config.needs_keys else [])]
    needed = sum(path.stat().st_size for path in files if path.is_file())
    remedy = "leave --move-dstore-to-mem out" if config.move_dstore_to_mem else "build a smaller one (--index-spec)"
    require_memory(f"reading {' and '.join(map(str, files))}", needed, remedy)


def sorted_out(config: KNNConfig, more: dict[str, Any]) -> tuple[KNNConfig, Expected]:
    """Returns the config with what replaces it, and what the datastore must match."""
    settings, known = {f.name for f in fields(KNNConfig)}, {f.name for f in fields(Expected)}
    for name in more:
        if name not in settings | known:
            raise ConfigError(f"{name} is not a setting of KNN_Dstore.open{did_you_mean(name, settings | known)}")
    return (
        resolve(KNNConfig, as_dict(config), {name: value for name, value in more.items() if name in settings}),
        Expected(**{name: value for name, value in more.items() if name in known}),
    )


def width_to_open(prefix: str | Path, index: Any, expected: Expected) -> int | None:
    """Returns the width to open with: what is expected, else, for a datastore without a manifest, the index's."""
    if expected.dimension is not None or manifest_path(prefix).is_file():
        return expected.dimension
    return int(index.d)
