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

from fairseq.arrays import Array
from fairseq.config.common import DeviceConfig
from fairseq.data.corpus.record import tokenizer_record
from fairseq.errors import ConfigError, DatastoreError
from fairseq.knn.datastore.format import Layout, chunk_digests, keys_path, row_files, values_path
from fairseq.knn.datastore.manifest import DatastoreManifest, Segment, manifest_path, read_manifest, write_manifest
from fairseq.knn.datastore.store import INT16_LARGEST, map_files
from fairseq.knn.datastore.writer import clear_sidecars, copy_start
from fairseq.knn.maintain.blocks_origin import BlocksOrigin
from fairseq.knn.maintain.config import AdoptConfig, OriginConfig
from fairseq.knn.maintain.foreign import find_foreign, foreign_layout
from fairseq.knn.maintain.origin import Compared, Origin
from fairseq.knn.maintain.reproduce import reproduction
from fairseq.knn.maintain.windows_origin import WindowsOrigin
from fairseq.runtime.resources import require_disk
from fairseq.storage.files import atomic_write, fsync_directory, locked, remove_leftover, temporary_name
from fairseq.storage.inputs import data_directories
from fairseq.storage.outputs import claim, require_datastore_name
from fairseq.storage.stores import datastore_names

logger = logging.getLogger(__name__)

TAIL_BLOCK_ROWS = 1 << 14
VALUES_BLOCK = 1 << 22


@dataclass(frozen=True)
class _Plan:
    """What becomes of the old files.

    Attributes:
        prefix: of the old files.
        layout: of the new ones.
        keys_ND: the old keys that are kept; None where there are none.
        values_N: to write as int64; None where the old file stays as it is.
        shift: what is added to them.
        mended: what is mended, in words.
        segment: where the rows come from, if that is more than the manifest's settings say.
        note: on the rows, for the user.
    """

    prefix: Path
    layout: Layout
    keys_ND: Array | None
    values_N: Array | None
    shift: int
    mended: str
    segment: Segment | None
    note: str


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
        if origin is None and foreign.is_run_clms:
            raise ConfigError(
                f"{old} has a name of knn-transformers, whose values are a model's own ids, not those here; give --data"
                " the text, made by fairseq-preprocess --tokenizer, or --data and --dictionary-only"
            )
        plan = _plan(old, layout, origin)
        settings: dict[str, Any] = {"adopted_by": "fairseq-knnlm adopt", "mended": plan.mended}
        if origin is not None and origin.evaluation is not None:
            if plan.keys_ND is None:
                raise ConfigError(f"--path: {old} has no keys to compare with the model's; leave --path out")
            settings["keys_computed_again"] = origin.check_keys(plan.keys_ND)
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
        manifest = _manifest(plan, settings, target, origin)
        write_manifest(manifest_path(target), manifest)
        clear_sidecars(target)
    rows = f"{manifest.rows} rows of width {manifest.dimension}"
    lines = [f"{target}: {rows}, {plan.mended}, store {manifest.store_id[:12]}", plan.note]
    if plan.keys_ND is None:
        lines.append(
            "there are no keys: neighbours need --knn-sim-func do_not_recomp_l2, and the index that came with it"
        )
    if isinstance(origin, WindowsOrigin):
        lines += reproduction(old, target, manifest.rows, origin, origin_config)
    return "\n".join(filter(None, lines))


def open_origin(config: OriginConfig, device: DeviceConfig) -> Origin | None:
    """Returns the text and the model that the flags name, None where they name none."""
    if config.data is None:
        return None
    tokenizer = tokenizer_record(data_directories(config.data)[0])
    if tokenizer is not None:
        return WindowsOrigin(config, device, tokenizer)
    if config.dictionary_only or config.stride is not None:
        flag = "--dictionary-only" if config.dictionary_only else "--stride"
        raise ConfigError(
            f"{flag} is for a text of a model's tokenizer, which {config.data} is not; leave it out, or give --data a"
            " directory that fairseq-preprocess --tokenizer wrote"
        )
    return BlocksOrigin(config, device)


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
    rows = filled_rows(keys_ND) if keys_ND is not None else layout.rows
    if not rows:
        raise DatastoreError(f"{keys_path(old)} holds zeros only; nothing was ever written to it")
    values_N = values_N[:rows]
    mended = [f"{layout.rows - rows} rows of zeros cut off the end"] if rows < layout.rows else []
    if origin is None:
        _check_values(values_path(old), values_N)
    compared = origin.compare(values_path(old), values_N) if origin is not None else Compared()
    mended += [compared.mended] if compared.mended else []
    new_N = compared.values_N if compared.values_N is not None else values_N if mended else None
    new_layout = replace(layout, rows=rows, value_dtype=layout.value_dtype if new_N is None else "int64")
    words = ", ".join(mended) or "nothing to mend"
    keys_ND = keys_ND[:rows] if keys_ND is not None else None
    return _Plan(old, new_layout, keys_ND, new_N, compared.shift, words, compared.segment, compared.note)


def filled_rows(keys_ND: Array) -> int:
    """Returns the number of rows up to the last one whose key is not all zero."""
    for stop in range(len(keys_ND), 0, -TAIL_BLOCK_ROWS):
        start = max(stop - TAIL_BLOCK_ROWS, 0)
        filled = np.flatnonzero(np.asarray(keys_ND[start:stop]).any(axis=1))
        if len(filled):
            return start + int(filled[-1]) + 1
    return 0


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
    old_keys, num_bytes = keys_path(plan.prefix), plan.layout.rows * plan.layout.key_bytes
    # What goes on behind them was never filled.
    copy_keys = plan.keys_ND is not None and (copy or num_bytes < old_keys.stat().st_size)
    needed = num_bytes * copy_keys + 8 * plan.layout.rows
    require_disk(keys_path(target), needed, "make room, or leave --copy out")
    if plan.keys_ND is not None:
        _place(old_keys, keys_path(target), num_bytes, copy=copy_keys)
    old_values = values_path(plan.prefix)
    if plan.values_N is None:
        _place(old_values, values_path(target), old_values.stat().st_size, copy=copy)
    else:
        with atomic_write(values_path(target), replace_link=True) as file:
            for start in range(0, len(plan.values_N), VALUES_BLOCK):
                some_N = np.asarray(plan.values_N[start : start + VALUES_BLOCK]).astype(np.int64)
                file.write(np.ascontiguousarray(some_N + plan.shift).data)


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


def _manifest(plan: _Plan, settings: dict[str, Any], target: Path, origin: Origin | None) -> DatastoreManifest:
    layout = plan.layout
    sums = [
        tuple(chunk_digests(path, row_bytes, layout.rows)) if path.exists() else ()
        for path, row_bytes in row_files(target, layout)
    ]
    # Without a model and a text to go by, the bytes themselves say which datastore this is.
    settings = {**settings, "content_sha256": hashlib.sha256("".join(sums[0] + sums[1]).encode()).hexdigest()}
    manifest = _begun(layout, settings).replace(
        state="complete", rows_written=layout.rows, keys_sha256=sums[0], values_sha256=sums[1]
    )
    manifest = manifest.of_files(target)
    if origin is None:
        return manifest
    settings |= origin.settings
    manifest = manifest.replace(
        vocabulary_size=len(origin.dictionary), dictionary_sha256=origin.dictionary.sha256(), settings=settings
    )
    if plan.segment is not None:
        manifest = manifest.with_segments([plan.segment.replace(settings=settings)])
    if origin.evaluation is None:
        return manifest
    checkpoint = origin.evaluation.checkpoints[0]
    settings["checkpoint"] = checkpoint.path
    return manifest.replace(weights_sha256=checkpoint.weights_sha256)
