"""Rows that are forgotten: still in the files, but no search finds them and nothing shows them.

    PREFIX.json                        "forgotten": {"rows": 512, "sha256": "5f3c…"}
    PREFIX.forgotten.5f3c….json        {"kind": "forgotten", "version": 1, "ranges": [[7000, 7512]]}

The file is named by its checksum, written before the manifest that names it, and the older one is removed after it: at
every moment the manifest names a whole file. What it says is part of the datastore's identity (``store_id``), not of
that of its rows (``rows_id``), which is what an index belongs to.
"""

import glob
import hashlib
import json
from pathlib import Path
from typing import Any

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.manifest import DatastoreManifest, manifest_path
from fairseq.knn.datastore.ranges import RowRanges, checked_ranges
from fairseq.runtime.files import atomic_write

KIND, VERSION = "forgotten", 1
_NAMED_BY = 16  # hexadecimal digits of the checksum


def forgotten_path(prefix: str | Path, sha256: str) -> Path:
    """Returns the file that holds the forgotten rows."""
    return Path(f"{prefix}.forgotten.{sha256[:_NAMED_BY]}.json")


def write_forgotten(prefix: str | Path, rows: RowRanges) -> dict[str, Any]:
    """Writes the forgotten rows, and returns what the manifest is to say of them."""
    record = {"kind": KIND, "version": VERSION, "ranges": rows.pairs}
    data = (json.dumps(record, separators=(",", ":")) + "\n").encode()
    sha256 = hashlib.sha256(data).hexdigest()
    with atomic_write(forgotten_path(prefix, sha256)) as file:
        file.write(data)
    return {"rows": rows.num_rows, "sha256": sha256}


def remove_others(prefix: str | Path, manifest: DatastoreManifest | None) -> None:
    """Removes what an earlier state of the datastore had forgotten, or a killed run has left."""
    own = forgotten_path(prefix, manifest.forgotten["sha256"]).name if manifest and manifest.forgotten else None
    prefix = Path(prefix)
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
    sha256, count = stated.get("sha256"), stated.get("rows")
    if not isinstance(sha256, str) or type(count) is not int:
        raise DatastoreError(
            f"{manifest_path(prefix)}: 'forgotten' must give rows and a sha256, but is {str(stated)[:80]!r}; restore it"
        )
    path = forgotten_path(prefix, Path(sha256).name)
    try:
        data = path.read_bytes()
    except FileNotFoundError as err:
        raise DatastoreError(
            f"{path} does not exist, but {manifest_path(prefix)} names it: it says which {count} rows are forgotten;"
            " restore it"
        ) from err
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DatastoreError(f"{path} is damaged: its checksum is not the one in {manifest_path(prefix)}; restore it")
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise DatastoreError(f"{path} must be JSON, but is not ({err}); restore it") from err
    sound = isinstance(record, dict) and record.get("kind") == KIND and record.get("version") == VERSION
    rows = checked_ranges(record.get("ranges"), manifest.rows) if sound else None
    if rows is None or rows.num_rows != count:
        raise DatastoreError(
            f"{path} must hold {count} of the {manifest.rows} rows as ranges, version {VERSION}, but does not; restore"
            " it"
        )
    return rows
