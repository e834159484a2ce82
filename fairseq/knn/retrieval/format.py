"""The columns of a saved retrieval, and its manifest; the format is told in fairseq/knn/retrieval/retrieval.py."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.errors import DatastoreError

KIND, VERSION = "retrieval", 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Column:
    """An array: its name, its dtype, and how many entries a token has in it; 0 for a single one."""

    name: str
    dtype: str
    width: int = 0

    def shape(self, num_tokens: int) -> tuple[int, ...]:
        """Returns the array's shape."""
        return (num_tokens, self.width) if self.width else (num_tokens,)

    def num_bytes(self, num_tokens: int) -> int:
        """Returns the size of the array's entries."""
        return int(np.prod(self.shape(num_tokens), dtype=np.int64)) * np.dtype(self.dtype).itemsize


def columns_of(k: int, datastore_rows: int) -> tuple[Column, ...]:
    """Returns the columns that every retrieval has."""
    return (
        Column("targets", "<i4"),
        Column("positions", "<i8"),
        Column("blocks", "<i4"),
        Column("lm_log_prob", "<f8"),
        Column("ids", "<i4" if datastore_rows < 1 << 31 else "<i8", k),
        Column("distances", "<f4", k),
        Column("hits", "|u1", -(-k // 8)),
    )


def array_path(directory: Path, name: str) -> Path:
    """Returns the file of a column."""
    return directory / f"{name}.npy"


def read_record(directory: Path) -> dict[str, Any]:
    """Returns the manifest of a retrieval, finished or not.

    Raises:
        DatastoreError: there is none, or it is of another kind or version.
    """
    path = directory / MANIFEST
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as err:
        raise DatastoreError(
            f"{directory} must be a saved retrieval, but has no {MANIFEST}; fairseq-eval-lm --save-retrieval writes one"
        ) from err
    except (ValueError, RecursionError) as err:
        raise DatastoreError(f"{path} must be JSON, but is not ({err}); save the retrieval again") from err
    if not isinstance(record, dict) or record.get("kind") != KIND:
        raise DatastoreError(f"{path} must be a manifest of kind {KIND!r}, but is another; check the path")
    if record.get("version") != VERSION:
        raise DatastoreError(
            f"{path} is of version {record.get('version')!r}, but this program reads version {VERSION}; update it"
        )
    return record
