"""The files of a shard, opened and checked on the machine where they lie.

    INDEX.shards.json                which rows the shard has
    INDEX.shard-0-of-4(.json)        its index; lists stay on the disk, mapped, unless they are wanted in memory
    INDEX.shard-0-of-4_keys.npy      its own rows, where they were copied; else those of the datastore are read
    PREFIX.json                      the datastore's manifest: types of the rows, and which are forgotten

Nothing else of the datastore need be there where each shard has rows of its own.
"""

import platform
import socket
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import torch

import fairseq
from fairseq.arrays import Array
from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.forgotten import read_forgotten
from fairseq.knn.datastore.format import keys_path, row_files, values_path
from fairseq.knn.datastore.identity import short
from fairseq.knn.datastore.manifest import DatastoreManifest, IndexManifest, manifest_path, read_manifest
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.datastore.store import Datastore, check_ids, map_files
from fairseq.knn.distributed.messages import ShardIdentity
from fairseq.knn.index.faiss_index import metric_name, read_index
from fairseq.knn.index.index_file import look_at
from fairseq.knn.search.preassigned import inverted_file
from fairseq.knn.shards.manifest import ShardsManifest, read_shards, shard_path
from fairseq.runtime.resources import require_memory
from fairseq.storage.fingerprint import fingerprint


@dataclass(frozen=True)
class ShardSettings:
    """How shards are opened, and what their distances are: plain values, which can be sent to other machines.

    Attributes:
        metric: that the index must have been built for, l2 or ip.
        measure: distances of p_kNN: ``exact`` squared L2 and ``dot`` from the stored keys, or the ``index``'s own.
        in_memory: the shard's index, and its own rows alone, are read into memory; else files are mapped.
        remembered: requests that a shard keeps for phase B; no fewer than are under way.
        vocabulary_size: values are below it; None where that is not known.
    """

    metric: str = "l2"
    measure: Literal["exact", "dot", "index"] = "exact"
    in_memory: bool = False
    remembered: int = 4
    vocabulary_size: int | None = None

    @classmethod
    def of(cls, config: KNNConfig, vocabulary_size: int | None = None) -> "ShardSettings":
        """Returns what the flags say, of a model with so many words."""
        measure: Literal["exact", "dot", "index"] = "exact" if config.needs_keys else "index"
        if config.knn_sim_func == "dot":
            measure = "dot"
        remembered = config.knn_in_flight + 2
        return cls(config.faiss_metric_type, measure, config.move_dstore_to_mem, remembered, vocabulary_size)

    @property
    def needs_keys(self) -> bool:
        """Whether distances are computed from the stored keys."""
        return self.measure != "index"


@dataclass(frozen=True)
class ShardFiles:
    """An open shard.

    Attributes:
        prefix: of the datastore.
        identity: what it reports.
        index: whose ids are the datastore's rows.
        rows: the datastore's rows that it has.
        forgotten: rows of the datastore that are not to be found.
        keys_ND: of its own rows, or of all; None where none were opened.
        values_N: likewise.
        has_own_rows: those that are there are of its own rows alone, in ascending order.
    """

    prefix: Path
    identity: ShardIdentity
    index: Any
    rows: RowRanges
    forgotten: RowRanges
    keys_ND: Array | None
    values_N: Array
    has_own_rows: bool

    @classmethod
    def open(cls, prefix: str | Path, index: str | Path, number: int, settings: ShardSettings) -> "ShardFiles":
        """Returns a shard of an index.

        Args:
            prefix: of the datastore's files.
            index: name of the whole index.
            number: of the shard.
            settings: how to open it.

        Raises:
            DatastoreError: a file is missing, or cannot be read.
            MismatchError: files do not belong together.
        """
        shards = read_shards(index)
        manifest, state = indexed_state(prefix, index, shards)
        rows, path = shards.rows_of_shards[number], shard_path(index, number, shards.num_shards)
        if settings.in_memory:
            _require_memory(path, rows, state, settings)
        opened, own = _open_index(index, number, shards, settings)
        has_own = values_path(path).is_file() and (not settings.needs_keys or keys_path(path).is_file())
        if has_own:
            keys_ND, values_N = _own_rows(path, rows, state, own)
            if settings.vocabulary_size:
                check_ids(path, values_N, settings.vocabulary_size)
        else:
            store = Datastore.open(prefix, load_keys=settings.needs_keys)
            keys_ND, values_N = store.keys_ND, store.values_N
        if settings.in_memory:
            own_N = np.arange(rows.num_rows) if has_own else rows.ids()
            keys_ND, values_N, has_own = None if keys_ND is None else keys_ND[own_N], values_N[own_N], True
        identity = ShardIdentity(
            number=number,
            set_id=shards.set_id,
            rows_id=state.rows_id,
            index_sha256=own.sha256,
            num_bytes=own.num_bytes,
            rows=rows.num_rows,
            forgotten_sha256=manifest.forgotten.sha256 if manifest.forgotten else "",
            versions=versions(),
            node=socket.gethostname(),
        )
        forgotten = read_forgotten(prefix, manifest).within(0, state.rows)
        return cls(Path(prefix), identity, opened, rows, forgotten, keys_ND, values_N, has_own)

    def stored_keys(self) -> Array:
        """Returns the keys, the datastore's where none were opened; raises ConfigError where there are none."""
        if self.keys_ND is not None:
            return self.keys_ND
        is_there = keys_path(self.prefix).is_file() and values_path(self.prefix).is_file()
        stored_ND = Datastore.open(self.prefix).keys_ND if is_there else None
        if stored_ND is None:
            raise ConfigError(
                f"--knn-temp auto reads rows, but the keys of shard {self.identity.number} of {self.prefix} are not"
                " there; give a number"
            )
        return stored_ND


def _require_memory(path: Path, rows: RowRanges, state: DatastoreManifest, settings: ShardSettings) -> None:
    """Raises ConfigError where a shard and its rows do not fit into memory."""
    (_, key_bytes), (_, value_bytes) = row_files(path, state.layout)
    row_bytes = value_bytes + (key_bytes if settings.needs_keys else 0)
    needed = rows.num_rows * row_bytes + (path.stat().st_size if path.is_file() else 0)
    require_memory(f"reading {path} and its rows", needed, "leave --move-dstore-to-mem out: files are mapped then")


def versions() -> dict[str, str]:
    """Returns the versions of what results depend on."""
    return {
        "fairseq-knnlm": fairseq.__version__,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "torch": str(torch.__version__),
        "FAISS": faiss.__version__,
        "byte order": sys.byteorder,
    }


def indexed_state(
    prefix: str | Path, index: str | Path, shards: ShardsManifest
) -> tuple[DatastoreManifest, DatastoreManifest]:
    """Returns a datastore's manifest, and that of the rows that an index was built from, before others were appended.

    Raises:
        DatastoreError: the datastore has no manifest.
        MismatchError: it is another datastore.
    """
    manifest = read_manifest(manifest_path(prefix), DatastoreManifest)
    if manifest is None:
        raise DatastoreError(
            f"{manifest_path(prefix)} is not there, which says what the rows of {prefix} are: shards need it; copy it"
            " from where the datastore was written, or make it with fairseq-knnlm adopt"
        )
    for state in manifest.earlier_states():
        if state.rows_id == shards.index.store_id:
            return manifest, state
    raise MismatchError(
        f"{index} was built from datastore {short(shards.index.store_id)}, but {prefix} is datastore"
        f" {short(manifest.rows_id)}; give --indexfile the datastore's own, or build it with fairseq-build-dstore"
    )


def _open_index(
    index: str | Path, number: int, shards: ShardsManifest, settings: ShardSettings
) -> tuple[Any, IndexManifest]:
    """Returns a shard's index, and what it says of itself."""
    count = shards.num_shards
    path = shard_path(index, number, count)
    if not path.is_file():
        raise DatastoreError(
            f"{path} is not there: shard {number} of {count} of {index}; build it with fairseq-build-dstore"
            f" --num-shards {count} --shard-id {number}, or copy it here"
        )
    file, again = look_at(path), f"build it with fairseq-build-dstore --num-shards {count} --shard-id {number}"
    if file.manifest is None:
        raise MismatchError(f"{manifest_path(path)} is not there, so the shard may be unfinished; {again}")
    if file.problem is not None:
        raise MismatchError(
            f"{path} is not the file that its manifest was written for: it was truncated or exchanged; remove it, and"
            f" {again}"
        )
    if file.manifest.of_no_file() != shards.of_shard(number).of_no_file():
        raise MismatchError(
            f"{path} is of another index, or is another shard, by its manifest; copy shard {number} of this one here,"
            f" or {again} --overwrite"
        )
    opened = read_index(path, mapped=not settings.in_memory)
    if metric_name(opened) != settings.metric:
        raise MismatchError(
            f"{path} was built for the metric {metric_name(opened)}, but --faiss-metric-type is {settings.metric}; give"
            f" --faiss-metric-type {metric_name(opened)}"
        )
    rows = shards.rows_of_shards[number].num_rows
    if inverted_file(opened) is None or opened.ntotal != rows:
        raise MismatchError(
            f"{path} must hold {rows} rows in inverted lists, but has {opened.ntotal}; {again} --overwrite"
        )
    return opened, file.manifest


def _own_rows(path: Path, rows: RowRanges, state: DatastoreManifest, own: IndexManifest) -> tuple[Array | None, Array]:
    """Returns the keys and values beside a shard, mapped."""
    layout = replace(state.layout, rows=rows.num_rows)
    for (file, row_bytes), known in zip(row_files(path, layout), own.rows_fingerprints or ("", ""), strict=True):
        if not file.is_file():
            continue
        if file.stat().st_size != row_bytes * layout.rows or fingerprint(file) != known:
            raise DatastoreError(
                f"{file} is not the copy of the shard's {layout.rows} rows: it was truncated or exchanged; build the"
                " shard again with --with-rows"
            )
    return map_files(path, layout)
