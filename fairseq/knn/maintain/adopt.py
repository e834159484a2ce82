"""Adopting the datastore of another tool: its layout found, certain faults mended, a manifest written.

    zero tail       rows at the end whose key is all zero were never filled: they are cut off
    int16 values    ids above 32,767 have turned into others; where the text is at hand, and every stored value equals
                    its token modulo 2^16, the tokens take their place; otherwise the datastore is refused

The old files are never changed. Files that can stay as they are get a second name (a hard link, a symbolic one across
file systems). The manifest says "writing" before any file is there, and "complete" after the last one.

Legend: N rows · D key width.
"""

import hashlib
import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.arrays import Array, Int64s
from fairseq.config.common import DeviceConfig
from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.datastore.format import Layout, chunk_digests, keys_path, row_files, values_path
from fairseq.knn.datastore.manifest import DatastoreManifest, manifest_path, read_manifest, write_manifest
from fairseq.knn.datastore.store import INT16_LARGEST, map_files
from fairseq.knn.datastore.writer import clear_sidecars, copy_start
from fairseq.knn.maintain.config import AdoptConfig, OriginConfig
from fairseq.knn.maintain.foreign import find_foreign, foreign_layout
from fairseq.knn.maintain.origin import Origin, check_keys, open_origin
from fairseq.runtime.resources import require_disk
from fairseq.storage.files import atomic_write, fsync_directory, locked, remove_leftover, temporary_name
from fairseq.storage.inputs import data_directories
from fairseq.storage.outputs import claim, require_datastore_name
from fairseq.storage.stores import datastore_names

logger = logging.getLogger(__name__)

TAIL_BLOCK_ROWS = 1 << 14


@dataclass(frozen=True)
class _Plan:
    """What becomes of the old files.

    Attributes:
        prefix: of the old files.
        layout: of the new ones.
        keys_ND: the old keys that are kept.
        values_N: to write as int64; None where the old file stays as it is.
        mended: what is mended, in words.
    """

    prefix: Path
    layout: Layout
    keys_ND: Array
    values_N: Array | None
    mended: str


def adopt_datastore(config: AdoptConfig, origin_config: OriginConfig, device: DeviceConfig) -> str:
    """Makes a datastore of ours from another tool's, and returns what was done, as a line.

    Raises:
        ConfigError: something is in the way.
        DatastoreError: the files cannot be a datastore, or hold words that are lost.
        MismatchError: they do not come from the text or the model that was named.
    """
    foreign = find_foreign(config.source)
    old = foreign.prefix
    target = Path(config.dstore_mmap) if config.dstore_mmap is not None else old
    in_place = os.path.realpath(target) == os.path.realpath(old)
    _claim(old, target, in_place=in_place, overwrite=config.overwrite)
    with locked(target):
        if not config.overwrite:
            _require_free(old, target)
        layout = foreign_layout(foreign, config.dstore_size, config.dimension, config.dstore_fp16)
        logger.info("%s: %s", old, layout)
        origin = open_origin(origin_config, device)
        plan = _plan(old, layout, origin)
        settings: dict[str, Any] = {"adopted_by": "fairseq-knnlm adopt", "mended": plan.mended}
        if origin is not None and origin.evaluation is not None:
            settings["keys_computed_again"] = check_keys(origin, plan.keys_ND)
            logger.info("%d keys computed again are the model's", settings["keys_computed_again"])
        if in_place and plan.values_N is not None:
            raise ConfigError(
                f"{old} needs mending ({plan.mended}), and the old files stay as they are; give --dstore-mmap another"
                " prefix"
            )
        # The files beside it are ours from now on, also where this run is killed.
        write_manifest(manifest_path(target), _begun(plan.layout, settings))
        if not in_place:
            _write_files(plan, target, config.copy)
        manifest = _manifest(plan.layout, settings, target, origin, origin_config)
        write_manifest(manifest_path(target), manifest)
        clear_sidecars(target)
    rows = f"{manifest.rows} rows of width {manifest.dimension}"
    return f"{target}: {rows}, {plan.mended}, store {manifest.store_id[:12]}"


def _claim(old: Path, target: Path, *, in_place: bool, overwrite: bool) -> None:
    """Raises ConfigError where a file is in the way that is neither ours nor the old one."""
    require_datastore_name("--dstore-mmap", target)
    for path, kind in datastore_names(target):
        olds = [path_of(old) for path_of in (keys_path, values_path) if path == path_of(target)]
        if not (olds and (in_place or (path.exists() and path.samefile(olds[0])))):
            claim("--dstore-mmap", path, kind, overwrite=overwrite or manifest_path(target).is_file())


def _require_free(old: Path, target: Path) -> None:
    """Refuses to replace what is there; links to the old files, from a run that was stopped, are no obstacle."""
    manifest = read_manifest(manifest_path(target), DatastoreManifest)
    if manifest is not None and manifest.state == "writing" and "adopted_by" in manifest.settings:
        return  # by a run that was stopped
    if manifest is not None:
        raise ConfigError(
            f"{manifest_path(target)} exists: {target} is a datastore of this program's already; fairseq-knnlm check"
            " verifies it, --overwrite replaces it"
        )
    for path_of in (keys_path, values_path):
        if path_of(target).exists() and not path_of(target).samefile(path_of(old)):
            raise ConfigError(
                f"{path_of(target)} exists; give --dstore-mmap another prefix, or --overwrite to replace it"
            )


def _plan(old: Path, layout: Layout, origin: Origin | None) -> _Plan:
    """Returns what becomes of the old files, after looking at them and, where it is known, at their text."""
    keys_ND, values_N = map_files(old, layout)
    assert keys_ND is not None
    rows = filled_rows(keys_ND)
    if not rows:
        raise DatastoreError(f"{keys_path(old)} holds zeros only; nothing was ever written to it")
    values_N = values_N[:rows]
    mended = [f"{layout.rows - rows} rows of zeros cut off the end"] if rows < layout.rows else []
    new_N = np.asarray(values_N, np.int64) if rows < layout.rows else None
    if origin is None:
        _check_values(values_path(old), values_N)
    else:
        tokens_N = _tokens_of(values_path(old), values_N, origin)
        if num_wrong := int((values_N != tokens_N).sum()):
            mended.append(f"{num_wrong} int16 values restored from the text")
            new_N = tokens_N
    new_layout = replace(layout, rows=rows, value_dtype=layout.value_dtype if new_N is None else "int64")
    return _Plan(old, new_layout, keys_ND[:rows], new_N, ", ".join(mended) or "nothing to mend")


def filled_rows(keys_ND: Array) -> int:
    """Returns the number of rows up to the last one whose key is not all zero."""
    for stop in range(len(keys_ND), 0, -TAIL_BLOCK_ROWS):
        start = max(stop - TAIL_BLOCK_ROWS, 0)
        filled = np.flatnonzero(np.asarray(keys_ND[start:stop]).any(axis=1))
        if len(filled):
            return start + int(filled[-1]) + 1
    return 0


def _tokens_of(path: Path, values_N: Array, origin: Origin) -> Int64s:
    """Returns the tokens that the values are: exactly, or as int16 modulo 2^16."""
    tokens_N = origin.values(len(values_N))
    remedy = "give --data, --gen-subset, --context-window and --tokens-per-sample (or --path) of the run that wrote it"
    if len(tokens_N) < len(values_N):
        raise MismatchError(
            f"{path} has {len(values_N)} rows, but the text ({origin.name}) gives {len(tokens_N)}; {remedy}"
        )
    as_stored_N = tokens_N.astype(np.int16) if values_N.dtype == np.int16 else tokens_N
    wrong = np.flatnonzero(as_stored_N != values_N)
    if len(wrong):
        row = int(wrong[0])
        raise MismatchError(
            f"{path}: {len(wrong)} of {len(values_N)} values are not the tokens of the text ({origin.name}),"
            f" the first is row {row}, {int(values_N[row])} against {int(tokens_N[row])}; {remedy}"
        )
    return tokens_N


def _check_values(path: Path, values_N: Array) -> None:
    """Refuses values that are no ids; int16 ones that may have overflowed unseen are warned of."""
    negative = np.flatnonzero(values_N < 0)
    if len(negative):
        why = f"ids above {INT16_LARGEST} do not fit int16" if values_N.dtype == np.int16 else "no id is negative"
        raise DatastoreError(
            f"{path}: {len(negative)} values are negative, the first is row {int(negative[0])}: {why}; give --data"
            " with the text that it was written from, and the flags of that run, to restore them"
        )
    if values_N.dtype == np.int16:
        logger.warning(
            "%s has int16 values: right only if every id was below %d; --data would tell", path, INT16_LARGEST + 1
        )


def _write_files(plan: _Plan, target: Path, copy: bool) -> None:
    old_keys, num_bytes = keys_path(plan.prefix), len(plan.keys_ND) * plan.layout.key_bytes
    copy_keys = copy or num_bytes < old_keys.stat().st_size  # what goes on behind them was never filled
    needed = num_bytes * copy_keys + 8 * len(plan.keys_ND)
    require_disk(keys_path(target), needed, "make room, or leave --copy out")
    _place(old_keys, keys_path(target), num_bytes, copy=copy_keys)
    old_values = values_path(plan.prefix)
    if plan.values_N is None:
        _place(old_values, values_path(target), old_values.stat().st_size, copy=copy)
    else:
        with atomic_write(values_path(target), replace_link=True) as file:
            file.write(np.ascontiguousarray(plan.values_N, np.int64).data)


def _place(old: Path, new: Path, num_bytes: int, *, copy: bool) -> None:
    """Gives the old file the new name too; or copies its first bytes."""
    new.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        copy_start(old, new, num_bytes)
        return
    # A name that nothing else opens for writing: what a killed run leaves there is the old file itself.
    temporary = temporary_name(new)
    remove_leftover(temporary)
    try:
        temporary.hardlink_to(old.resolve())
    except OSError:
        temporary.symlink_to(old.resolve())
    temporary.replace(new)
    temporary.unlink(missing_ok=True)  # rename leaves two names of one file alone
    fsync_directory(new.parent)  # else the manifest may be there without it


def _begun(layout: Layout, settings: dict[str, Any]) -> DatastoreManifest:
    return DatastoreManifest(
        **asdict(layout),
        key_type="last_ffn_input",
        vocabulary_size=None,
        dictionary_sha256=None,
        weights_sha256=None,
        settings=settings,
    )


def _manifest(
    layout: Layout, settings: dict[str, Any], target: Path, origin: Origin | None, config: OriginConfig
) -> DatastoreManifest:
    sums = [tuple(chunk_digests(path, row_bytes, layout.rows)) for path, row_bytes in row_files(target, layout)]
    # Without a model and a text to go by, the bytes themselves say which datastore this is.
    settings = {**settings, "content_sha256": hashlib.sha256("".join(sums[0] + sums[1]).encode()).hexdigest()}
    manifest = _begun(layout, settings).replace(
        state="complete", rows_written=layout.rows, keys_sha256=sums[0], values_sha256=sums[1]
    )
    manifest = manifest.of_files(target)
    if origin is None:
        return manifest
    settings |= {
        "data": os.fspath(data_directories(str(config.data))[0] / config.gen_subset),
        "data_sha256": origin.dataset.sha256(),
        "sample_break_mode": config.sample_break_mode,
        "tokens_per_sample": origin.dataset.block_size,
        "context_window": config.context_window,
    }
    manifest = manifest.replace(
        vocabulary_size=len(origin.dictionary), dictionary_sha256=origin.dictionary.sha256(), settings=settings
    )
    if origin.evaluation is None:
        return manifest
    checkpoint = origin.evaluation.checkpoints[0]
    settings["checkpoint"] = checkpoint.path
    return manifest.replace(weights_sha256=checkpoint.weights_sha256)
