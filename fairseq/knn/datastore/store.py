"""A datastore on the disk: the vectors of contexts, and the token that came after each.

    PREFIX_keys.npy   raw float32 or float16, C order, [N, D]      no .npy header, despite the name
    PREFIX_vals.npy   raw int64, [N, 1]
    PREFIX.json       the manifest (fairseq/knn/datastore/manifest.py); the older tools left none

What a manifest says is never guessed or asked for again. int16 values, which some older tools wrote, cannot hold an id
above 32,767; they are never written (fairseq/knn/datastore/writer.py), and read only where that cannot have happened.

Legend: N rows · D key width.
"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq.arrays import Array, Float32s, Int64s
from fairseq.errors import DatastoreError, MismatchError
from fairseq.knn.datastore.config import DEFAULT_KEY_DIMENSION
from fairseq.knn.datastore.forgotten import read_forgotten
from fairseq.knn.datastore.format import (
    Layout,
    append_path,
    has_unfinished_compaction,
    infer_layout,
    keys_path,
    require_rows,
    row_files,
    values_path,
)
from fairseq.knn.datastore.manifest import DatastoreManifest, manifest_path, read_manifest
from fairseq.knn.datastore.range_record import how_far
from fairseq.knn.datastore.ranges import RowRanges, evenly_spaced
from fairseq.knn.datastore.writer import DatastoreWriter as DatastoreWriter  # reader and writer, one import
from fairseq.models.protocol import ModelIdentity
from fairseq.storage.fingerprint import fingerprint

logger = logging.getLogger(__name__)

INT16_LARGEST = 32767
_FINGERPRINT_ROWS = 64


@dataclass(eq=False)
class Datastore:
    """An open datastore, read only.

    Attributes:
        prefix: of the files.
        rows: N, or fewer where fewer were asked for.
        dimension: D.
        keys_ND: float32 or float16 mapped file or array; None when not loaded.
        values_N: int64 or int32 mapped file or array.
        manifest: None for a store of the older tools.
        store_id: identity: the manifest's, else a fingerprint of some rows; None for want of both.
        rows_id: identity of the rows, forgotten or not, which an index belongs to.
        forgotten: rows that are not to be found.
    """

    prefix: Path
    rows: int
    dimension: int
    keys_ND: Array | None
    values_N: Array
    manifest: DatastoreManifest | None
    store_id: str | None
    rows_id: str | None
    forgotten: RowRanges

    @property
    def left(self) -> RowRanges:
        """The rows that can be found."""
        return self.forgotten.complement(self.rows)

    @property
    def rows_left(self) -> int:
        """How many rows can be found."""
        return self.rows - self.forgotten.num_rows

    @property
    def model(self) -> ModelIdentity:
        """The model that it was written with, as far as it says."""
        return self.manifest.model if self.manifest else ModelIdentity(key_dimension=self.dimension)

    def require_manifest(self) -> DatastoreManifest:
        """Returns its manifest; raises DatastoreError where there is none."""
        if self.manifest is None:
            raise DatastoreError(
                f"{self.prefix} has no manifest, which says what its rows are; fairseq-knnlm adopt --data writes one"
            )
        return self.manifest

    @classmethod
    def open(
        cls,
        prefix: str | Path,
        *,
        rows: int | None = None,
        dimension: int | None = None,
        key_fp16: bool = False,
        vocabulary_size: int | None = None,
        load_keys: bool = True,
        in_memory: bool = False,
        verify: bool = True,
    ) -> "Datastore":
        """Returns the datastore at ``prefix``.

        With a manifest everything comes from it and the arguments only check. Without one, they and the sizes of the
        files decide.

        Args:
            prefix: of the files.
            rows: ``--dstore-size``; fewer than there are opens the first of them, with a warning.
            dimension: width of a key.
            key_fp16: ``--dstore-fp16``.
            vocabulary_size: of the dictionary in use.
            load_keys: whether keys are wanted; without, their file need not exist.
            in_memory: read the files into memory.
            verify: compare the files' fingerprints with the manifest's.

        Raises:
            DatastoreError: it is unfinished, or cannot be what was said.
            MismatchError: keys of another width or dtype than was asked for.
        """
        prefix = Path(prefix)
        require_rows(prefix, load_keys=load_keys)
        manifest = read_manifest(manifest_path(prefix), DatastoreManifest)
        if manifest is not None:
            layout = manifest.layout
            _check_flags(manifest, prefix, dimension, key_fp16)
            _check_files(prefix, manifest, load_keys, verify)
        else:
            layout = infer_layout(
                prefix,
                rows=rows,
                dimension=dimension or DEFAULT_KEY_DIMENSION,
                key_fp16=key_fp16,
                vocabulary_size=vocabulary_size,
            )
        keys_ND, values_N = map_files(prefix, layout)
        store_id = manifest.store_id if manifest is not None else _fingerprint(layout, keys_ND, values_N)
        rows_id = manifest.rows_id if manifest is not None else store_id
        forgotten = read_forgotten(prefix, manifest) if manifest is not None else RowRanges.of()
        rows = rows_to_use(rows, layout.rows, str(prefix))
        values_N, keys_ND = values_N[:rows], keys_ND[:rows] if load_keys and keys_ND is not None else None
        if values_N.dtype == np.int16:
            values_N = _widened(values_N, prefix, vocabulary_size)
        if in_memory:
            values_N, keys_ND = np.array(values_N), None if keys_ND is None else np.array(keys_ND)
        forgotten = forgotten.within(0, rows)
        return cls(prefix, rows, layout.dimension, keys_ND, values_N, manifest, store_id, rows_id, forgotten)


def rows_to_use(asked: int | None, available: int, whose: str) -> int:
    """Returns ``--dstore-size``, or all rows without it; raises DatastoreError where there are not as many."""
    if asked is None or asked == available:
        return available
    if asked > available:
        raise DatastoreError(
            f"--dstore-size {asked} is larger than the {available} rows of {whose}; leave the flag out"
        )
    logger.warning(
        "--dstore-size %d is smaller than the %d rows of %s: the others are left out; leave the flag out to use them",
        asked,
        available,
        whose,
    )
    return asked


def is_written(prefix: Path, manifest: DatastoreManifest) -> bool:
    """Returns whether the datastore that ``manifest`` describes is there, complete and of the right size.

    Rows may have been appended to it since, or forgotten.

    Raises:
        DatastoreError: it is complete, but its files are not of the size that they had.
    """
    current = read_manifest(manifest_path(prefix), DatastoreManifest)
    if current is None or current.state != "complete":
        return False
    if all(state.rows_id != manifest.store_id for state in current.earlier_states()):
        return False
    _check_sizes(prefix, current, load_keys=True)
    return True


def gather_rows(keys_ND: Array, row_ids: Int64s, block_rows: int = 1 << 16) -> Float32s:
    """Returns some rows as float32; ``row_ids`` should be ascending, so that the file is read forwards."""
    gathered = np.empty((len(row_ids), keys_ND.shape[1]), np.float32)
    for start in range(0, len(row_ids), block_rows):
        gathered[start : start + block_rows] = keys_ND[row_ids[start : start + block_rows]]
    return gathered


def check_finite(prefix: Path, keys_ND: Float32s, start: int | None = None) -> None:
    """Raises DatastoreError for a key that is not finite: nothing is near it, and k-means would spread it.

    Args:
        prefix: of the datastore, for the message.
        keys_ND: some of its rows.
        start: number of the first of them, where they are consecutive.
    """
    bad = np.flatnonzero(~np.isfinite(keys_ND).all(axis=1))
    if len(bad):
        which = "there are keys that are" if start is None else f"row {start + int(bad[0])} is"
        raise DatastoreError(
            f"{keys_path(prefix)}: {which} not finite ({len(bad)} in the {len(keys_ND)} rows just read); fairseq-knnlm"
            " check lists them, write the datastore again"
        )


def check_ids(prefix: Path, values_N: Array, vocabulary_size: int) -> None:
    """Raises DatastoreError for a value that is no id of the vocabulary: it would be a vote for nothing."""
    smallest, largest = int(values_N.min()), int(values_N.max())
    if smallest < 0 or largest >= vocabulary_size:
        raise DatastoreError(
            f"{values_path(prefix)}: ids must be from 0 to {vocabulary_size - 1}, but are from {smallest} to {largest};"
            " fairseq-knnlm check shows the rows, write the datastore again"
        )


def _check_flags(manifest: DatastoreManifest, prefix: Path, dimension: int | None, key_fp16: bool) -> None:
    if manifest.state != "complete":
        raise DatastoreError(f"{prefix} is unfinished: {how_far(prefix, manifest)}")
    if dimension not in (None, manifest.dimension):
        width = manifest.dimension
        raise MismatchError(f"--dimension {dimension}: {prefix} has keys of width {width}; leave the flag out")
    if key_fp16 and manifest.key_dtype != "float16":
        raise MismatchError(f"--dstore-fp16: {prefix} has {manifest.key_dtype} keys; leave the flag out")


def _check_sizes(prefix: Path, manifest: DatastoreManifest, load_keys: bool) -> None:
    for path, row_bytes in reversed(row_files(prefix, manifest.layout)):
        if path == keys_path(prefix) and not load_keys:
            continue
        size, actual = manifest.rows * row_bytes, path.stat().st_size if path.is_file() else 0
        if actual > size and append_path(prefix).is_file():
            continue  # rows that are being appended lie behind the rows of the manifest
        if actual == size:
            continue
        if has_unfinished_compaction(prefix):
            raise DatastoreError(
                f"{prefix} is being compacted, or its compaction was stopped; run fairseq-knnlm forget {prefix}"
                " --compact again, which goes on from there"
            )
        raise DatastoreError(
            f"{path} must have {size} bytes by its manifest, but has {actual}; it was truncated or replaced, write"
            " the datastore again (--overwrite)"
        )


def _check_files(prefix: Path, manifest: DatastoreManifest, load_keys: bool, verify: bool) -> None:
    """Checks sizes, and with ``verify`` fingerprints."""
    _check_sizes(prefix, manifest, load_keys)
    if not verify:
        return
    files = row_files(prefix, manifest.layout)
    for number, (path, row_bytes) in enumerate(files[0 if load_keys else 1 :], 0 if load_keys else 1):
        if manifest.fingerprints and fingerprint(path, manifest.rows * row_bytes) != manifest.fingerprints[number]:
            raise DatastoreError(
                f"{path} is not the file that its manifest was written for: it was exchanged or damaged; restore it"
                " (fairseq-knnlm check names the rows)"
            )


def map_files(prefix: Path, layout: Layout) -> tuple[Array | None, Array]:
    """Returns keys and values of a layout, mapped read only; no keys where their file is not there."""
    keys, values = keys_path(prefix), values_path(prefix)
    values_N = np.memmap(values, layout.value_dtype, "r", shape=(layout.rows,))
    if not keys.is_file():
        return None, values_N
    return np.memmap(keys, layout.key_dtype, "r", shape=(layout.rows, layout.dimension)), values_N


def _widened(values_N: Array, prefix: Path, vocabulary_size: int | None) -> Array:
    """Returns int16 values as int32, where they can be trusted."""
    path = values_path(prefix)
    if (vocabulary_size or 0) > INT16_LARGEST + 1 or (values_N < 0).any():
        raise DatastoreError(
            f"{path} has int16 values, but ids above {INT16_LARGEST} do not fit and have turned into others; the"
            " words are lost, write the datastore again"
        )
    logger.warning("%s has int16 values: right only if every id was below %d", path, INT16_LARGEST + 1)
    return values_N.astype(np.int32)


def _fingerprint(layout: Layout, keys_ND: Array | None, values_N: Array) -> str | None:
    if keys_ND is None:
        return None
    rows = evenly_spaced(layout.rows, _FINGERPRINT_ROWS)
    digest = hashlib.sha256(repr(layout).encode())
    digest.update(keys_ND[rows].tobytes())
    digest.update(values_N[rows].tobytes())
    return digest.hexdigest()
