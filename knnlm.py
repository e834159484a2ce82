"""kNN-LM: a datastore and its index as a second source of next-token probabilities.

    neighbours = KNN_Dstore.open("checkpoints/dstore", "checkpoints/knn.index", k=1024, probe=32)
    log_p_N = neighbours.log_prob(queries_ND, target_N)        # float32, natural; −inf where no neighbour agrees
    distances_NK, ids_NK = neighbours.search(queries_ND)       # nearest first; smaller is nearer; −1 is none

Queries are the vectors that the datastore's keys are made of: the last layer's feed-forward input. The parts are in
``fairseq/knn``: datastore, index, search, distribution. Source: Khandelwal et al., 2020.

Legend: N queries · K neighbours · D key width.
"""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairseq.errors import ConfigError, DatastoreError, did_you_mean
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore import Datastore, check_ids
from fairseq.knn.distribution import Votes, drop_nearest, keep_nearest, log_prob_of, votes_for
from fairseq.knn.faiss_index import check_index_fits, on_gpus, open_index
from fairseq.knn.kept_index import take_out, without_rows
from fairseq.knn.layout import keys_path, values_path
from fairseq.knn.list_search import ListSearch
from fairseq.knn.manifest import (
    Expected,
    IndexManifest,
    check_index,
    check_store,
    manifest_path,
    read_manifest,
)
from fairseq.knn.search import recompute_distances, search
from fairseq.resources import require_memory

A = TypeVar("A", Tensor, npt.NDArray[Any])

# Queries that are searched for together, whose neighbours share what is read, fewer where K is above 1024 (200 MiB of
# distances and ids), and those whose probabilities are computed together.
QUERY_BLOCK, MOST_NEIGHBOURS = 1 << 14, 1 << 24
_PROBABILITY_BLOCK = 512


class KNN_Dstore:  # noqa: N801 - the name that users know
    """A datastore with its index; satisfies ``fairseq.scoring.TargetScorer``.

    Args:
        datastore: values, and keys unless the index's own distances are used.
        index: a FAISS index whose ids are the datastore's rows; it loses those that are forgotten.
        config: k, temperature, and how nearness is measured.
        index_manifest: of the index, if it has one.
        distinct_ids: the index is known to hold each row once, as ``open`` checks.
    """

    def __init__(
        self, datastore: Datastore, index: Any, config: KNNConfig | None = None,
        index_manifest: IndexManifest | None = None, *, distinct_ids: bool = False,
    ) -> None:  # fmt: skip
        self.datastore = datastore
        self.index = without_rows(index, datastore.forgotten, datastore.rows_left)
        self.config = config if config is not None else KNNConfig()
        self.index_manifest = index_manifest
        self.distinct_ids = distinct_ids
        if self.config.needs_keys and datastore.keys_ND is None:
            raise DatastoreError(f"{datastore.prefix} was opened without keys, but distances are computed from them")
        self._by_list: ListSearch | None = None

    @classmethod
    def open(
        cls, prefix: str | Path, indexfile: str | Path, config: KNNConfig | None = None, *, rows: int | None = None,
        key_fp16: bool = False, **more: Any,
    ) -> "KNN_Dstore":  # fmt: skip
        """Returns the datastore at ``prefix`` with its index, after checking that they belong together.

        Args:
            prefix: of the datastore's files.
            indexfile: of its index.
            config: settings; the defaults if left out.
            rows: ``--dstore-size``, only needed for datastores without a manifest.
            key_fp16: ``--dstore-fp16``, likewise.
            more: fields of ``KNNConfig`` (``k``, ``probe``, …) that replace the config's, and of ``Expected``
                (``vocabulary_size``, ``dimension``, ``dictionary_sha256``, …), which the datastore must match.

        Raises:
            ConfigError: no such field.
            DatastoreError: a file cannot be read.
            MismatchError: they do not belong together.
        """
        settings, expected = _sorted_out(config if config is not None else KNNConfig(), more)
        _require_memory(Path(prefix), Path(indexfile), settings)
        index = open_index(indexfile, nprobe=settings.probe, metric=settings.faiss_metric_type)
        datastore = Datastore.open(
            prefix, rows=rows, dimension=_width(prefix, index, expected), key_fp16=key_fp16,
            vocabulary_size=expected.vocabulary_size, load_keys=settings.needs_keys,
            in_memory=settings.move_dstore_to_mem,
        )  # fmt: skip
        allow = settings.allow_mismatch
        if datastore.manifest is not None:
            check_store(datastore.manifest, prefix, expected, allow_mismatch=allow)
        vocabulary_size = expected.vocabulary_size or (datastore.manifest and datastore.manifest.vocabulary_size)
        if vocabulary_size:
            check_ids(datastore.prefix, datastore.values_N, vocabulary_size)
        check_index_fits(index, indexfile, rows=datastore.rows, dimension=datastore.dimension, prefix=prefix)
        built_from = read_manifest(manifest_path(indexfile), IndexManifest)
        if built_from is not None:
            check_index(built_from, indexfile, datastore.rows_id, prefix, allow_mismatch=allow)
        if settings.gpu_index:
            take_out(index, datastore.forgotten)  # there, rows cannot be removed
            index = on_gpus(index)
        return cls(datastore, index, settings, built_from, distinct_ids=True)

    def identity(self) -> dict[str, Any]:
        """Returns the ids of the datastore and of its index, as a result names them."""
        index_sha256 = self.index_manifest.sha256 if self.index_manifest is not None else None
        return {"store_id": self.datastore.store_id, "index_sha256": index_sha256}

    def search(self, queries_ND: A, k: int | None = None) -> tuple[A, A]:
        """Returns distances (float32) and ids (int64), ``[N, K]``, nearest first, as the kind of array that came.

        Args:
            queries_ND: floating point, torch or NumPy.
            k: neighbours; the config's if left out.
        """
        distances_NK, ids_NK = self._neighbours(_float32(queries_ND), self.config.k if k is None else k)
        order_NK = np.argsort(distances_NK, axis=1, kind="stable")
        return (
            _like(np.take_along_axis(distances_NK, order_NK, axis=1), queries_ND),
            _like(np.take_along_axis(ids_NK, order_NK, axis=1), queries_ND),
        )

    def log_prob(self, queries_ND: A, target_N: A) -> A:
        """Returns ln p_kNN(target), float32 ``[N]``, on the device and of the kind that the queries are.

        Args:
            queries_ND: floating point, torch or NumPy.
            target_N: token ids.
        """
        k = min(self.config.k, int(self.index.ntotal))  # further places would be empty
        log_ps: list[npt.NDArray[np.float32]]
        log_ps = [log_prob_of(votes, self.config.knn_temp) for votes in self._votes(queries_ND, target_N, k)]
        return _like(np.concatenate([np.empty(0, np.float32), *log_ps]), queries_ND)

    def votes(self, queries_ND: Tensor | npt.NDArray[Any], target_N: Tensor | npt.NDArray[Any]) -> Votes:
        """Returns the neighbours, in no order, their distances as p_kNN uses them, and whose value is the target.

        Args:
            queries_ND: floating point, torch or NumPy.
            target_N: token ids.
        """
        empty = np.empty((0, self.config.k))
        parts = [Votes(empty.astype(np.float32), empty.astype(np.int64), empty.astype(bool))]
        parts += self._votes(queries_ND, target_N, self.config.k)
        return Votes(
            np.concatenate([part.distances_NK for part in parts]),
            np.concatenate([part.ids_NK for part in parts]),
            np.concatenate([part.hits_NK for part in parts]),
        )

    def _votes(
        self, queries_ND: Tensor | npt.NDArray[Any], target_N: Tensor | npt.NDArray[Any], k: int
    ) -> Iterator[Votes]:
        """Yields the votes of a few queries at a time: what is computed from them stays in the cache."""
        queries = _float32(queries_ND)
        target = target_N.cpu().numpy() if isinstance(target_N, Tensor) else np.asarray(target_N)
        assert target.shape == (len(queries),), (target.shape, queries.shape)
        step = max(min(QUERY_BLOCK, MOST_NEIGHBOURS // k), 1)
        for start in range(0, len(queries), step):
            distances_NK, ids_NK = self._neighbours(queries[start : start + step], k)
            for first in range(0, len(ids_NK), _PROBABILITY_BLOCK):
                part = slice(first, min(first + _PROBABILITY_BLOCK, len(ids_NK)))
                values_NK = np.take(self.datastore.values_N, ids_NK[part], mode="clip")  # −1 reads row 0; without mass
                there = target[start + part.start : start + part.stop]
                yield votes_for(distances_NK[part], ids_NK[part], values_NK, there, distinct=self.distinct_ids)

    def _neighbours(
        self, queries_ND: npt.NDArray[np.float32], k: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Returns distances and ids ``[N, K]``, in no order: the k nearest of what the index finds."""
        keys_ND = self.datastore.keys_ND if self.config.needs_keys else None
        wanted = k
        k = max(k, min(self.config.rerank or 0, int(self.index.ntotal))) + self.config.drop_top1
        dot = self.config.knn_sim_func == "dot"
        if not dot and ListSearch.pays(self.index, len(queries_ND)):
            if self._by_list is None:
                self._by_list = ListSearch(self.index)
            distances_NK, ids_NK = self._by_list.search(queries_ND, k, keys_ND)
        else:
            distances_NK, ids_NK = search(self.index, queries_ND, k)
            if keys_ND is not None:
                distances_NK = recompute_distances(keys_ND, queries_ND, ids_NK, inner_product=dot)
        if keys_ND is not None:
            self._check_finite(queries_ND, distances_NK, ids_NK)
        if self.config.drop_top1:
            distances_NK, ids_NK = drop_nearest(distances_NK, ids_NK)
        return keep_nearest(distances_NK, ids_NK, wanted)

    def _check_finite(
        self, queries_ND: npt.NDArray[np.float32], distances_NK: npt.NDArray[np.float32], ids_NK: npt.NDArray[np.int64]
    ) -> None:
        """Raises DatastoreError for a stored key that is not finite; a query that is not is counted by its result."""
        assert self.datastore.keys_ND is not None
        bad_NK = ~np.isfinite(distances_NK) & (ids_NK >= 0)
        for n, k in np.argwhere(bad_NK) if bad_NK.any() else ():
            # A distance beyond float32 is no mass; only what is stored wrongly is an error.
            if np.isfinite(queries_ND[n]).all() and not np.isfinite(self.datastore.keys_ND[ids_NK[n, k]]).all():
                raise DatastoreError(
                    f"{keys_path(self.datastore.prefix)}: row {ids_NK[n, k]} is not finite; fairseq-knnlm check lists"
                    " such rows, write the datastore again"
                )


def _require_memory(prefix: Path, indexfile: Path, config: KNNConfig) -> None:
    """Refuses what does not fit: an index is read into memory, the datastore's files only when that is asked for."""
    files = [indexfile]
    if config.move_dstore_to_mem:
        files += [values_path(prefix), *([keys_path(prefix)] if config.needs_keys else [])]
    needed = sum(path.stat().st_size for path in files if path.is_file())
    remedy = "leave --move-dstore-to-mem out" if config.move_dstore_to_mem else "build a smaller one (--index-spec)"
    require_memory(f"reading {' and '.join(map(str, files))}", needed, remedy)


def _sorted_out(config: KNNConfig, more: dict[str, Any]) -> tuple[KNNConfig, Expected]:
    """Returns the config with what replaces it, and what the datastore must match."""
    settings, known = {f.name for f in fields(KNNConfig)}, {f.name for f in fields(Expected)}
    for name in more:
        if name not in settings | known:
            raise ConfigError(f"{name} is not a setting of KNN_Dstore.open{did_you_mean(name, settings | known)}")
    return (
        replace(config, **{name: value for name, value in more.items() if name in settings}),
        Expected(**{name: value for name, value in more.items() if name in known}),
    )


def _width(prefix: str | Path, index: Any, expected: Expected) -> int | None:
    """Returns the width to open with: what is expected, else, for a datastore without a manifest, the index's."""
    if expected.dimension is not None or manifest_path(prefix).is_file():
        return expected.dimension
    return int(index.d)


def _float32(array: Tensor | npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if isinstance(array, Tensor):
        return array.detach().float().cpu().contiguous().numpy()
    return np.ascontiguousarray(array, dtype=np.float32)


def _like(array: npt.NDArray[Any], model: A) -> A:
    if isinstance(model, Tensor):
        return torch.from_numpy(array).to(model.device)
    return array
