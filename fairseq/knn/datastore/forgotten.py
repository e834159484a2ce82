"""Forgotten rows: they are still in the files, but no search finds them.

    PREFIX.json                        "forgotten": {"rows": 512, "sha256": "5f3c…"}
    PREFIX.forgotten.5f3c….json        {"kind": "forgotten", "version": 1, "ranges": [[7000, 7512]]}

The file is named by its checksum. It is written before the manifest that names it, and the older one is removed after
that: at every moment the manifest names a whole file. Forgetting changes the datastore's ``store_id``, but not its
``rows_id``, which is what an index belongs to.
"""

import glob
import hashlib
import json
from pathlib import Path
from typing import Literal

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.manifest import DatastoreManifest, Forgotten, manifest_path
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.storage.files import atomic_write, file_sha256
from fairseq.storage.records import Record, as_json, read_record

_NAMED_BY = 16  # hexadecimal digits of the checksum


class ForgottenFile(Record, frozen=True, kw_only=True):
    """Which rows are forgotten."""

    kind: Literal["forgotten"] = "forgotten"
    version: Literal[1] = 1
    ranges: RowRanges


def forgotten_path(prefix: str | Path, sha256: str) -> Path:
    """Returns the file that holds the forgotten rows."""
    return Path(f"{prefix}.forgotten.{sha256[:_NAMED_BY]}.json")


def write_forgotten(prefix: str | Path, rows: RowRanges) -> Forgotten:
    """Writes the forgotten rows, and returns what the manifest is to say of them."""
    data = (json.dumps(as_json(ForgottenFile(ranges=rows)), separators=(",", ":")) + "\n").encode()
    sha256 = hashlib.sha256(data).hexdigest()
    with atomic_write(forgotten_path(prefix, sha256)) as file:
        file.write(data)
    return Forgotten(rows=rows.num_rows, sha256=sha256)


def remove_others(prefix: Path, manifest: DatastoreManifest | None) -> None:
    """Removes what an earlier state of the datastore had forgotten, or a killed run has left."""
    own = forgotten_path(prefix, manifest.forgotten.sha256).name if manifest and manifest.forgotten else None
    for path in prefix.parent.glob(f"{glob.escape(prefix.name)}.forgotten.*.json"):
        if path.name != own:
            path.unlink(missing_ok=True)


def read_forgotten(prefix: str | Path, manifest: DatastoreManifest) -> RowRanges:
    """Returns the forgotten rows of a datastore, mostly none.

    Raises:
        DatastoreError: its file is gone, damaged, or not the one that the manifest names.
    """
    stated = manifest.forgotten
    if not stated:
        return RowRanges.of()
    path = forgotten_path(prefix, stated.sha256)
    if not path.is_file():
        raise DatastoreError(
            f"{path} does not exist, but {manifest_path(prefix)} names it: it says which {stated.rows} rows are"
            " forgotten; restore it"
        )
    if file_sha256(path) != stated.sha256:
        raise DatastoreError(f"{path} is damaged: its checksum is not the one in {manifest_path(prefix)}; restore it")
    rows = read_record(path, ForgottenFile, DatastoreError, "restore it").ranges
    if rows.num_rows != stated.rows or rows.stop_R[-1] > manifest.rows:
        raise DatastoreError(f"{path} must hold {stated.rows} of the {manifest.rows} rows, but does not; restore it")
    return rows
