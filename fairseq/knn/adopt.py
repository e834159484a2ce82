"""Giving a datastore of another tool a manifest, after finding out what it is.

    PREFIX_{keys,vals}.npy                        sizes decide; int64, int32 or int16 values
    PREFIX_size{N}_embed{D}_fp16_{keys,vals}.npy  float16 keys
    dstore_{model}_{N}_{D}_{keys,vals}.npy        float16 keys

Rows that were never written are zeros at the end: they are cut off. int16 values may have overflowed; with the data
that the store was written from they are restored: its tokens must agree with them modulo 2¹⁶ in every row. With the
checkpoint, some keys are computed again and compared, so that the manifest can vouch for the model. What was there
stays as it is: keys are linked, and values written anew only where they change.

Legend: N rows · D key width.
"""

import logging
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fairseq.errors import ConfigError, DatastoreError
from fairseq.files import atomic_write, locked
from fairseq.knn.checksums import CHUNK_ROWS, chunk_digests
from fairseq.knn.config import DEFAULT_KEY_DIMENSION, AdoptConfig
from fairseq.knn.datastore import map_file
from fairseq.knn.layout import Layout, infer_layout, keys_path, values_path
from fairseq.knn.manifest import DatastoreManifest, manifest_path, read_manifest, write_manifest
from fairseq.knn.provenance import Provenance, read_provenance
from fairseq.log import Progress
from fairseq.resources import require_disk

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
_NAMED = (
    re.compile(r"_size(?P<rows>\d+)_embed(?P<dimension>\d+)_fp16$"),
    re.compile(r"^dstore_.*_(?P<rows>\d+)_(?P<dimension>\d+)$"),
)
_BLOCK_ROWS = CHUNK_ROWS


@dataclass(frozen=True)
class _Found:
    """A datastore of another tool: its layout, and its files as they are."""

    prefix: Path
    layout: Layout
    keys_ND: Array
    values_N: Array


def adopt_datastore(config: AdoptConfig, log_format: str) -> tuple[Path, DatastoreManifest]:
    """Returns the prefix of the adopted datastore and its manifest.

    Raises:
        ConfigError: flags that do not go together.
        DatastoreError: no datastore, or one that cannot be trusted.
    """
    assert config.source is not None
    source = Path(re.sub(r"_(keys|vals)\.npy$", "", config.source))
    target = Path(config.dstore_mmap) if config.dstore_mmap else source
    if read_manifest(manifest_path(source), DatastoreManifest) is not None:
        raise DatastoreError(f"{source} has a manifest already: there is nothing to adopt")
    found = _open(source, config)
    rows = found.layout.rows - _zero_tail(found.keys_ND)
    if rows < found.layout.rows:
        logger.warning("%s: the last %d keys are zeros, never written; cut off", source, found.layout.rows - rows)
    if not rows:
        raise DatastoreError(f"{keys_path(source)} holds nothing but zeros: it was never written")
    provenance = read_provenance(config) if config.data is not None else None
    values_N = _checked_values(found, rows, provenance)
    if provenance is not None and config.path is not None:
        provenance.check_keys(found.keys_ND[:rows], source)
    is_new_file = values_N is not None or rows < found.layout.rows
    if target == source and is_new_file:
        raise ConfigError(
            f"{source} has to change (rows cut off, or values mended), and originals are left alone; give --dstore-mmap"
            " a new prefix"
        )
    with locked(target):
        _check_target(target, source, config.overwrite)
        require_disk(target, rows * found.layout.dimension * 2 if config.copy else rows * 8, "make room")
        _place_keys(found, rows, target, config.copy)
        _place_values(found, rows, values_N, target, config.copy)
        layout = replace(
            found.layout, rows=rows, value_dtype="int64" if values_N is not None else found.layout.value_dtype
        )
        manifest = _manifest(layout, source, target, provenance, log_format)
        write_manifest(manifest_path(target), manifest)
    return target, manifest


def _open(prefix: Path, config: AdoptConfig) -> _Found:
    for path in (keys_path(prefix), values_path(prefix)):
        if not path.is_file():
            raise DatastoreError(
                f"{path} does not exist; give the prefix of two files, PREFIX_keys.npy and PREFIX_vals.npy"
            )
    named = next((match for pattern in _NAMED if (match := pattern.search(prefix.name))), None)
    rows = config.dstore_size or (int(named["rows"]) if named else None)
    dimension = config.dimension or (int(named["dimension"]) if named else DEFAULT_KEY_DIMENSION)
    keys_bytes = keys_path(prefix).stat().st_size
    layout = infer_layout(
        prefix, keys_bytes, values_path(prefix), rows=rows, dimension=dimension, vocabulary_size=None,
        key_fp16=config.dstore_fp16 or (named is not None and "fp16" in prefix.name),
    )  # fmt: skip
    if rows is not None and layout.rows != rows:
        raise DatastoreError(
            f"{prefix} holds {layout.rows} rows of width {dimension}, but {rows} were named; check --dstore-size and"
            " --dimension"
        )
    logger.info(
        "%s: %d rows of width %d, %s keys, %s values",
        prefix,
        layout.rows,
        dimension,
        layout.key_dtype,
        layout.value_dtype,
    )
    keys_ND = map_file(keys_path(prefix), layout.key_dtype, (layout.rows, layout.dimension))
    values_N = map_file(values_path(prefix), layout.value_dtype, (layout.rows,))
    return _Found(prefix, layout, keys_ND, values_N)


def _zero_tail(keys_ND: Array) -> int:
    """Returns how many rows at the end are all zero."""
    rows = len(keys_ND)
    for stop in range(rows, 0, -_BLOCK_ROWS):
        written = np.flatnonzero(np.asarray(keys_ND[max(stop - _BLOCK_ROWS, 0) : stop]).any(axis=1))
        if len(written):
            return rows - (max(stop - _BLOCK_ROWS, 0) + int(written[-1]) + 1)
    return rows


def _checked_values(found: _Found, rows: int, provenance: Provenance | None) -> Array | None:
    """Returns the values to write, or None where those of the file stay, compared with the data where it is given."""
    path, stored_N = values_path(found.prefix), found.values_N[:rows]
    if provenance is None:
        if stored_N.dtype == np.int16:
            raise DatastoreError(
                f"{path} has int16 values: ids above 32767 do not fit and have turned into others"
                f" ({int((stored_N < 0).sum())} are negative); give --data, --tokens-per-sample and --context-window of"
                " the run that wrote it, to mend them"
            )
        return None
    expected_N = provenance.values(rows, path)
    wrong = np.flatnonzero(expected_N.astype(stored_N.dtype) != stored_N)
    if len(wrong):
        row = int(wrong[0])
        raise DatastoreError(
            f"{path}: the value of row {row} is {stored_N[row]}, but the data has {expected_N[row]} there"
            f" ({len(wrong)} of {rows} rows differ); check --gen-subset, --tokens-per-sample and --context-window"
        )
    if stored_N.dtype != np.int16:
        logger.info("all %d values are those of the data", rows)
        return None
    logger.info("all %d values agree with the data modulo 2^16; %d are mended", rows, int((expected_N > 32767).sum()))
    return expected_N.astype(np.int64)


def _check_target(target: Path, source: Path, overwrite: bool) -> None:
    files = (manifest_path(target), *((keys_path(target), values_path(target)) if target != source else ()))
    for path in files:
        if path.exists() and not overwrite:
            raise DatastoreError(f"{path} exists; --overwrite replaces it")


def _place_keys(found: _Found, rows: int, target: Path, copy: bool) -> None:
    if target == found.prefix:
        return
    if rows == found.layout.rows:
        _link(keys_path(found.prefix), keys_path(target), copy)
        return
    with atomic_write(keys_path(target)) as file:
        for start in range(0, rows, _BLOCK_ROWS):
            file.write(np.ascontiguousarray(found.keys_ND[start : min(start + _BLOCK_ROWS, rows)]).data)


def _place_values(found: _Found, rows: int, values_N: Array | None, target: Path, copy: bool) -> None:
    if values_N is None and rows == found.layout.rows:
        if target != found.prefix:
            _link(values_path(found.prefix), values_path(target), copy)
        return
    with atomic_write(values_path(target)) as file:
        file.write(np.ascontiguousarray(values_N if values_N is not None else found.values_N[:rows]).data)


def _link(source: Path, target: Path, copy: bool) -> None:
    target.unlink(missing_ok=True)
    if not copy:
        try:
            os.link(source, target)
            return
        except OSError:
            logger.info("%s cannot be linked to %s; copying it", target, source)
    with atomic_write(target) as file, source.open("rb") as original:
        shutil.copyfileobj(original, file, 1 << 24)


def _manifest(
    layout: Layout, source: Path, target: Path, provenance: Provenance | None, log_format: str
) -> DatastoreManifest:
    known = provenance.identity() if provenance is not None else {}
    manifest = DatastoreManifest(
        rows=layout.rows, dimension=layout.dimension, key_dtype=layout.key_dtype, value_dtype=layout.value_dtype,
        state="complete", rows_written=layout.rows, **known,
    )  # fmt: skip
    manifest = replace(manifest, settings={**manifest.settings, "adopted_from": source.name})
    sums: dict[str, Any] = {}
    for name, path, row_bytes in (
        ("keys_sha256", keys_path(target), manifest.key_bytes),
        ("values_sha256", values_path(target), manifest.value_bytes),
    ):
        with Progress(f"checksums of {path.name}", layout.rows, "rows", log_format) as progress:
            digests = []
            for digest in chunk_digests(path, row_bytes, layout.rows):
                digests.append(digest)
                progress.advance(min(CHUNK_ROWS, layout.rows - progress.done))
        sums[name] = tuple(digests)
    # The checksums are the identity of a store of unknown origin.
    content = {"content_sha256": sums["keys_sha256"][0]} if not known else {}
    return replace(manifest, **sums, settings={**manifest.settings, **content})
