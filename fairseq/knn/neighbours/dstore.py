"""A datastore with its index as a source of neighbours.

The index gives the rows, list by list where many queries visit each list (fairseq/knn/search/by_list.py); distances are
its own, or exact ones from the stored keys.

Legend: N queries · K neighbours · D key width.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fairseq.arrays import Array, Float32s, Int64s
from fairseq.config.keywords import in_keywords
from fairseq.errors import ConfigError, DatastoreError, shown
from fairseq.knn.config import KEYWORDS, KNNConfig, KNNSettings, with_settings
from fairseq.knn.datastore.format import keys_path, require_rows, values_path
from fairseq.knn.datastore.identity import require_model
from fairseq.knn.datastore.manifest import DatastoreManifest, manifest_path, read_manifest
from fairseq.knn.datastore.store import Datastore, check_ids
from fairseq.knn.index.faiss_index import lists_on_disk, lists_visited, on_gpus, open_index
from fairseq.knn.index.identity import indexed_part, missing_rows, require_index
from fairseq.knn.index.index_file import IndexFile, look_at
from fairseq.knn.index.without_rows import take_out, without_rows
from fairseq.knn.neighbours.neighbour_source import NeighbourSource
from fairseq.knn.neighbours.parts import StorePart
from fairseq.knn.neighbours.tally import Lists
from fairseq.knn.search.by_index import search
from fairseq.knn.search.by_list import ListSearch
from fairseq.knn.search.distances import recompute_distances
from fairseq.knn.search.mapped_lists import MappedListSearch
from fairseq.knn.shards.manifest import is_sharded
from fairseq.models.protocol import ModelIdentity
from fairseq.runtime.resources import fits_memory, require_memory

if TYPE_CHECKING:
    from typing_extensions import Unpack

logger = logging.getLogger(__name__)


class KNN_Dstore(NeighbourSource):  # noqa: N801 - the name that users know
    """A datastore with its index; what it answers, and how it is asked, is a ``NeighbourSource``'s.

    Args:
        datastore: values, and keys unless the index's own distances are used.
        index: a FAISS index whose ids are the datastore's rows; it loses those that are forgotten.
        config: k, temperature, and how nearness is measured.
        index_file: what is known of the index's file.
        distinct_ids: the index is known to hold each row once, as ``open`` checks.
        vocabulary_size: targets are below it; the datastore's manifest may know it too.

    Raises:
        ConfigError: names of files, which ``open`` takes.
    """

    def __init__(
        self,
        datastore: Datastore,
        index: Any,
        config: KNNConfig | None = None,
        index_file: IndexFile | None = None,
        *,
        distinct_ids: bool = False,
        vocabulary_size: int | None = None,
    ) -> None:
        if not isinstance(datastore, Datastore):
            raise ConfigError(_how_to_open(datastore, index))
        self.datastore, self.parts = datastore, (StorePart(datastore, 0),)
        self.config = config if config is not None else KNNConfig()
        self.is_mapped = self.config.map_index or lists_on_disk(index)
        self.index = without_rows(index, datastore.forgotten, datastore.rows_left, mapped=self.is_mapped)
        self.index_file = index_file
        self.distinct_ids = distinct_ids
        self.vocabulary_size = vocabulary_size if vocabulary_size is not None else datastore.model.vocabulary_size
        if self.config.needs_keys and datastore.keys_ND is None:
            raise DatastoreError(f"{datastore.prefix} was opened without keys, but distances are computed from them")
        self._by_list: ListSearch | None = None

    @classmethod
    def open(
        cls,
        prefix: str | Path,
        indexfile: str | Path,
        config: KNNConfig | None = None,
        model: ModelIdentity | None = None,
        *,
        rows: int | None = None,
        key_fp16: bool = False,
        **settings: "Unpack[KNNSettings]",
    ) -> "KNN_Dstore":
        """Returns the datastore at ``prefix`` with its index, after checking that they belong together.

        Args:
            prefix: of the datastore's files.
            indexfile: of its index.
            config: settings; the defaults if left out.
            model: that the datastore must have been written with, as far as both are known.
            rows: how many there are, only needed for datastores without a manifest.
            key_fp16: whether the keys are float16, likewise.
            settings: ``k``, ``probe`` and others, which replace the config's.

        Raises:
            ConfigError: no such setting, or one out of range.
            DatastoreError: a file cannot be read.
            MismatchError: they do not belong together.
        """
        if config is not None and not isinstance(config, KNNConfig):
            raise ConfigError(f"config must be a KNNConfig, but is {shown(config)}; numbers are given by name: k=16")
        config = with_settings(config if config is not None else KNNConfig(), settings, "KNN_Dstore.open")
        with in_keywords(KNNConfig, **KEYWORDS):
            store = cls.opened(prefix, indexfile, config, model, rows=rows, key_fp16=key_fp16)
            _ = store.temperature  # an error of measuring it belongs here
            return store

    @classmethod
    def opened(
        cls,
        prefix: str | Path,
        indexfile: str | Path,
        config: KNNConfig,
        model: ModelIdentity | None,
        *,
        rows: int | None,
        key_fp16: bool,
    ) -> "KNN_Dstore":
        """Returns what ``open`` does, before its temperature is measured, for a command as well: errors name flags."""
        if is_sharded(indexfile):
            raise ConfigError(
                f"{indexfile} is an index in shards, which KNN_Dstore does not search; give KNN({str(prefix)!r},"
                f" {str(indexfile)!r}) to from_pretrained, or a KNNConfig to knnlm.open_neighbours"
            )
        _require_memory(Path(prefix), Path(indexfile), config)
        file = look_at(indexfile)
        allow = config.allow_mismatch
        index = open_index(
            file,
            nprobe=config.probe,
            metric=config.faiss_metric_type,
            mapped=config.map_index,
            allow_mismatch=allow,
        )
        vocabulary_size = model.vocabulary_size if model is not None else None
        datastore = Datastore.open(
            prefix,
            rows=rows,
            dimension=_width(prefix, index, model, load_keys=config.needs_keys),
            key_fp16=key_fp16,
            vocabulary_size=vocabulary_size,
            load_keys=config.needs_keys,
            in_memory=config.move_dstore_to_mem,
        )
        require_model(prefix, datastore.model, model, allow_mismatch=allow)
        vocabulary_size = vocabulary_size or datastore.model.vocabulary_size
        if vocabulary_size:
            check_ids(datastore.prefix, datastore.values_N, vocabulary_size)
        part = indexed_part(index, file, datastore)
        if part.rows < datastore.rows:
            logger.warning(missing_rows(file, part, datastore.rows))
        datastore = part
        require_index(index, file, datastore, allow_mismatch=allow)
        if config.gpu_index:
            take_out(index, datastore.forgotten)  # there, rows cannot be removed
            index = on_gpus(index)
        return cls(datastore, index, config, file, distinct_ids=True, vocabulary_size=vocabulary_size)

    def __repr__(self) -> str:
        return f"KNN_Dstore({self.datastore.prefix}, {self.datastore.rows_left:,} rows of {self.datastore.dimension})"

    def identity(self) -> dict[str, Any]:
        """Returns the ids of the datastore and of its index, as a result names them."""
        file = self.index_file
        return {
            "store_id": self.datastore.store_id,
            "index_sha256": file.sha256 if file is not None else None,
            "index_fingerprint": file.fingerprint if file is not None else None,
        }

    def lists(self) -> list[Lists | None]:
        """Returns the inverted lists of the index, None if it has none."""
        count, visited = lists_visited(self.index)
        return [Lists(count, visited, self.datastore.rows_left) if count else None]

    def found(self, queries_ND: Float32s, k: int) -> tuple[Float32s, Int64s]:
        """Returns distances and ids ``[N, K]``, in no order, of the k nearest by the index; −1 for none."""
        keys_ND = self.datastore.keys_ND if self.config.needs_keys else None
        dot = self.config.knn_sim_func == "dot"
        by_list, mapped = None, self.is_mapped
        list_search = MappedListSearch if mapped else ListSearch
        if not dot and not self.config.by_query and list_search.pays(self.index, len(queries_ND)):
            self._by_list = self._by_list or list_search(self.index)
            by_list = self._by_list if self._by_list.rows_are_near else None
        # A list's rows lie anywhere in the file: to read them list by list is to read it all for every block.
        is_exact = by_list is not None and keys_ND is not None and not mapped and fits_memory(keys_ND.nbytes)
        if by_list is not None:
            distances_NK, ids_NK = by_list.search(queries_ND, k, keys_ND if is_exact else None)
        else:
            distances_NK, ids_NK = search(self.index, queries_ND, k)
        if keys_ND is not None and not is_exact:
            distances_NK = recompute_distances(keys_ND, queries_ND, ids_NK, inner_product=dot)
        if keys_ND is not None:
            _check_found(self.datastore.prefix, keys_ND, queries_ND, distances_NK, ids_NK)
        return distances_NK, ids_NK


def _check_found(prefix: Path, keys_ND: Array, queries_ND: Float32s, distances_NK: Float32s, ids_NK: Int64s) -> None:
    """Raises DatastoreError for a neighbour's key that is not finite; a query that is not is counted by its result."""
    bad_NK = ~np.isfinite(distances_NK) & (ids_NK >= 0)
    for n, k in np.argwhere(bad_NK) if bad_NK.any() else ():
        # A distance beyond float32 is no mass; only what is stored wrongly is an error.
        if np.isfinite(queries_ND[n]).all() and not np.isfinite(keys_ND[ids_NK[n, k]]).all():
            raise DatastoreError(
                f"{keys_path(prefix)}: row {ids_NK[n, k]} is not finite; fairseq-knnlm check lists such rows, write the"
                " datastore again"
            )


def _require_memory(prefix: Path, indexfile: Path, config: KNNConfig) -> None:
    """Refuses what does not fit: an index unless it is mapped, the datastore's files only when that is asked for."""
    files, remedies = [], []
    if not config.map_index:
        files.append(indexfile)
        remedies.append("leave the index in its file with --map-index, or build a smaller one (--index-spec)")
    if config.move_dstore_to_mem:
        files += [values_path(prefix), *([keys_path(prefix)] if config.needs_keys else [])]
        remedies.insert(0, "leave --move-dstore-to-mem out")
    needed = sum(path.stat().st_size for path in files if path.is_file())
    require_memory(f"reading {' and '.join(map(str, files))}", needed, ", or ".join(remedies))


def _width(prefix: str | Path, index: Any, model: ModelIdentity | None, *, load_keys: bool) -> int | None:
    """Returns the width to open with: the manifest's (None), else the model's or the index's.

    Raises:
        MismatchError: the datastore's keys are of another width than the model's.
    """
    require_rows(Path(prefix), load_keys=load_keys)
    width = model.key_dimension if model is not None else None
    manifest = read_manifest(manifest_path(prefix), DatastoreManifest)
    if manifest is not None:
        require_model(prefix, manifest.model, ModelIdentity(key_dimension=width))
        return None
    return width if width is not None else int(index.d)


def _how_to_open(datastore: object, index: object) -> str:
    """Returns what to call instead of the constructor, given names, or the arguments of the original's."""
    if hasattr(datastore, "dstore_filename") and hasattr(datastore, "indexfile"):
        asked = f"{datastore.dstore_filename!r}, {datastore.indexfile!r}"
        given = {name: getattr(datastore, name, None) for name in ("k", "probe", "knn_temp", "knn_sim_func")}
        asked += "".join(f", {name}={value!r}" for name, value in given.items() if value is not None)
    else:
        paths = [str(given) if isinstance(given, Path) else given for given in (datastore, index)]
        asked = ", ".join(repr(path) if isinstance(path, str) else "…" for path in paths)
    return f"KNN_Dstore is made of what is open already; open the files by KNN_Dstore.open({asked})"
