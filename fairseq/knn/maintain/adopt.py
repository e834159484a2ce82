"""Adopting the datastore of another tool: its layout found, certain faults mended, a manifest written.

    zero tail       rows at the end whose key is all zero were never filled: they are cut off
    int16 values    ids above 32,767 have turned into others; where the text is at hand, and every stored value equals
                    its token modulo 2^16, the tokens take their place; otherwise the datastore is refused

The old files are never changed. Files that can stay as they are get a second name (a hard link, a symbolic one across
file systems); the manifest is written last, and only a datastore that has one is a new one of ours.

Legend: N rows · D key width.
"""

import hashlib
import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.arrays import Array, Int64s
from fairseq.config.common import DeviceConfig
from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.datastore.checksums import CHUNK_ROWS, READ_BYTES, chunk_digests
from fairseq.knn.datastore.format import Layout, keys_path, values_path
from fairseq.knn.datastore.manifest import DatastoreManifest, manifest_path, write_manifest
from fairseq.knn.datastore.store import INT16_LARGEST, map_rows
from fairseq.knn.datastore.writer import clear_sidecars
from fairseq.knn.maintain.config import AdoptConfig, OriginConfig
from fairseq.knn.maintain.foreign import Foreign, describe_layout, find_foreign, foreign_layout
from fairseq.knn.maintain.origin import Origin, check_keys, open_origin
from fairseq.runtime.files import atomic_write, locked
from fairseq.runtime.progress import Progress
from fairseq.runtime.resources import require_disk

logger = logging.getLogger(__name__)

TAIL_BLOCK_ROWS = 1 << 14


@dataclass(frozen=True)
class _Plan:
    """What the new datastore will be.

    Attributes:
        found: the old files.
        layout: of the old files.
        rows: that are kept.
        values_N: to write as int64; None where the old file stays as it is.
        settings: how it was adopted, for the manifest.
    """

    found: Foreign
    layout: Layout
    rows: int
    values_N: Array | None
    settings: dict[str, Any]


def adopt_datastore(config: AdoptConfig, origin_config: OriginConfig, device: DeviceConfig) -> str:
    """Makes a datastore of ours from another tool's, and returns what was done, as a line.

    Raises:
        ConfigError: something is in the way.
        DatastoreError: the files cannot be a datastore, or hold words that are lost.
        MismatchError: they do not come from the text or the model that was named.
    """
    found = find_foreign(config.source)
    target = Path(config.dstore_mmap) if config.dstore_mmap is not None else found.prefix
    with locked(target):
        _require_free(found, target, config.overwrite)
        layout = foreign_layout(found, config.dstore_size, config.dimension, config.dstore_fp16)
        logger.info("%s: %s", found.prefix, describe_layout(layout))
        origin = open_origin(origin_config, device)
        plan = _plan(found, layout, origin)
        if origin is not None and origin.evaluation is not None:
            checked = check_keys(origin, _keys(plan))
            plan.settings["keys_computed_again"] = checked
            logger.info("%d keys computed again are the model's", checked)
        changed = plan.rows != layout.rows or plan.values_N is not None
        if target == found.prefix and changed:
            raise ConfigError(
                f"{found.prefix} needs mending ({plan.settings['mended']}), and the old files stay as they are; give"
                " --dstore-mmap another prefix"
            )
        manifest_path(target).unlink(missing_ok=True)
        if target != found.prefix:
            _write_files(plan, target, config.copy)
        manifest = _manifest(plan, target, origin, origin_config)
        write_manifest(manifest_path(target), manifest)
        clear_sidecars(target)
    mended = plan.settings["mended"]
    return f"{target}: {manifest.rows} rows of width {manifest.dimension}, {mended}, store {manifest.store_id[:12]}"


def _require_free(found: Foreign, target: Path, overwrite: bool) -> None:
    """Refuses to replace what is there; links to the old files, from a run that was stopped, are no obstacle."""
    if manifest_path(target).exists() and not overwrite:
        raise ConfigError(
            f"{manifest_path(target)} exists: {target} is a datastore of this program's already; fairseq-knnlm check"
            " verifies it, --overwrite replaces it"
        )
    if target == found.prefix:
        return
    for new, old in ((keys_path(target), found.keys), (values_path(target), found.values)):
        if not new.exists() or new.samefile(old):
            continue
        if not overwrite:
            raise ConfigError(f"{new} exists; give --dstore-mmap another prefix, or --overwrite to replace it")
    for new in (keys_path(target), values_path(target)):
        if new.exists() and any(new.absolute() == old.absolute() for old in (found.keys, found.values)):
            raise ConfigError(f"{new} is one of the old files, which stay as they are; give another --dstore-mmap")


def _plan(found: Foreign, layout: Layout, origin: Origin | None) -> _Plan:
    """Returns what the new datastore will be, after looking at the old one and, where it is known, at its text."""
    keys_ND = map_rows(found.keys, layout.key_dtype, (layout.rows, layout.dimension))
    values_N = map_rows(found.values, layout.value_dtype, (layout.rows,))
    assert keys_ND is not None and values_N is not None
    rows = filled_rows(keys_ND)
    if not rows:
        raise DatastoreError(f"{found.keys} holds zeros only; nothing was ever written to it")
    mended = [f"{layout.rows - rows} rows of zeros cut off the end"] if rows < layout.rows else []
    kept_N = values_N[:rows]
    new_N = np.asarray(kept_N, np.int64) if rows < layout.rows else None
    if origin is not None:
        tokens_N = _checked_against(kept_N, origin, found)
        differ = int((kept_N != tokens_N).sum())
        if differ:
            mended.append(f"{differ} int16 values restored from the text")
            new_N = tokens_N
    else:
        _check_values(kept_N, found)
    settings: dict[str, Any] = {"adopted_by": "fairseq-knnlm adopt", "mended": ", ".join(mended) or "nothing to mend"}
    return _Plan(found, layout, rows, new_N, settings)


def filled_rows(keys_ND: Array) -> int:
    """Returns the number of rows up to the last one whose key is not all zero."""
    for stop in range(len(keys_ND), 0, -TAIL_BLOCK_ROWS):
        start = max(stop - TAIL_BLOCK_ROWS, 0)
        filled = np.flatnonzero(np.asarray(keys_ND[start:stop]).any(axis=1))
        if len(filled):
            return start + int(filled[-1]) + 1
    return 0


def _checked_against(stored_N: Array, origin: Origin, found: Foreign) -> Int64s:
    """Returns the tokens that the values stand for, which int16 values equal modulo 2^16 and others equal."""
    tokens_N = origin.values()[: len(stored_N)]
    remedy = "give --data, --gen-subset, --context-window and --tokens-per-sample (or --path) of the run that wrote it"
    if len(tokens_N) < len(stored_N):
        raise MismatchError(
            f"{found.values} has {len(stored_N)} rows, but the text ({origin.name}) gives {len(tokens_N)}; {remedy}"
        )
    as_stored_N = tokens_N.astype(np.int16) if stored_N.dtype == np.int16 else tokens_N
    wrong = np.flatnonzero(as_stored_N != stored_N)
    if len(wrong):
        row = int(wrong[0])
        raise MismatchError(
            f"{found.values}: {len(wrong)} of {len(stored_N)} values are not the tokens of the text ({origin.name}),"
            f" the first is row {row}, {int(stored_N[row])} against {int(tokens_N[row])}; {remedy}"
        )
    return tokens_N


def _check_values(values_N: Array, found: Foreign) -> None:
    """Refuses values that are no ids; int16 ones that may have overflowed unseen are warned of."""
    negative = np.flatnonzero(values_N < 0)
    if len(negative):
        why = f"ids above {INT16_LARGEST} do not fit int16" if values_N.dtype == np.int16 else "no id is negative"
        raise DatastoreError(
            f"{found.values}: {len(negative)} values are negative, the first is row {int(negative[0])}: {why}; give"
            " --data with the text that it was written from, and the flags of that run, to restore them"
        )
    if values_N.dtype == np.int16:
        logger.warning(
            "%s has int16 values: right only if every id was below %d; --data would tell",
            found.values,
            INT16_LARGEST + 1,
        )


def _keys(plan: _Plan) -> Array:
    keys_ND = map_rows(plan.found.keys, plan.layout.key_dtype, (plan.layout.rows, plan.layout.dimension))
    assert keys_ND is not None
    return keys_ND[: plan.rows]


def _write_files(plan: _Plan, target: Path, copy: bool) -> None:
    row_bytes = plan.layout.dimension * np.dtype(plan.layout.key_dtype).itemsize
    copied = plan.rows * row_bytes if copy or plan.rows != plan.layout.rows else 0
    require_disk(keys_path(target), copied + 8 * plan.rows, "make room, or leave --copy out")
    _place(plan.found.keys, keys_path(target), plan.rows * row_bytes, whole=not copied)
    if plan.values_N is None:
        _place(plan.found.values, values_path(target), plan.found.values.stat().st_size, whole=not copy)
    else:
        with atomic_write(values_path(target)) as file:
            file.write(np.ascontiguousarray(plan.values_N, np.int64).data)


def _place(old: Path, new: Path, num_bytes: int, *, whole: bool) -> None:
    """Gives the old file the new name too; or copies its first bytes."""
    new.parent.mkdir(parents=True, exist_ok=True)
    if not whole:
        with old.open("rb") as source, atomic_write(new) as file:
            while num_bytes:
                data = source.read(min(READ_BYTES, num_bytes))
                if not data:
                    raise DatastoreError(f"{old} became shorter while it was read; try again when nothing writes it")
                file.write(data)
                num_bytes -= len(data)
        return
    # A name that nothing else opens for writing: what a killed run leaves there is the old file itself.
    temporary = new.with_name(f".{new.name}.link")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(old.resolve())
    except OSError:
        temporary.symlink_to(old.resolve())
    temporary.replace(new)
    temporary.unlink(missing_ok=True)  # rename leaves two names of one file alone


def _manifest(plan: _Plan, target: Path, origin: Origin | None, config: OriginConfig) -> DatastoreManifest:
    layout = replace(
        plan.layout, rows=plan.rows, value_dtype=plan.layout.value_dtype if plan.values_N is None else "int64"
    )
    manifest = DatastoreManifest(
        layout.rows, layout.dimension, layout.key_dtype, layout.value_dtype, state="complete", rows_written=layout.rows
    )
    sums = []
    for path, row_bytes in ((keys_path(target), manifest.key_bytes), (values_path(target), manifest.value_bytes)):
        with Progress(f"checksums of {path.name}", layout.rows, "rows") as progress:
            digests = []
            for digest in chunk_digests(path, row_bytes, layout.rows):
                digests.append(digest)
                progress.advance(min(CHUNK_ROWS, layout.rows - progress.n))
        sums.append(tuple(digests))
    settings = {
        **plan.settings,
        # Without a model and a text to go by, the bytes themselves say which datastore this is.
        "content_sha256": hashlib.sha256("".join(sums[0] + sums[1]).encode()).hexdigest(),
    }
    if origin is not None:
        settings |= {
            "data": os.fspath(Path(str(config.data)) / config.gen_subset),
            "data_sha256": origin.data_sha256,
            "sample_break_mode": config.sample_break_mode,
            "tokens_per_sample": origin.dataset.block_size,
            "context_window": config.context_window,
        }
        manifest = replace(
            manifest,
            vocabulary_size=len(origin.dictionary),
            dictionary_sha256=origin.dictionary.sha256(),
            weights_sha256=origin.weights_sha256,
        )
        if origin.evaluation is not None:
            settings["checkpoint"] = origin.evaluation.checkpoints[0].path
    return replace(manifest, settings=settings, keys_sha256=sums[0], values_sha256=sums[1])
