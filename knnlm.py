"""kNN-LM: a datastore and its index as a second source of next-token probabilities.

    neighbours = KNN_Dstore.open("checkpoints/dstore", "checkpoints/knn.index", k=1024, probe=32)
    log_p_N = neighbours.log_prob(queries_ND, target_N)        # float32, natural; −inf where no neighbour agrees
    distances_NK, ids_NK = neighbours.search(queries_ND)       # nearest first; smaller is nearer; −1 is none
    value_NK = neighbours.values(ids_NK)                       # the tokens that came next there

NumPy arrays or torch tensors go in, and the same kind comes out. ``KNN`` names a datastore and its weight, to be mixed
into a model by ``TransformerLanguageModel.from_pretrained(…, knn=KNN(…))``.

Queries are the vectors that the datastore's keys are made of: the last layer's feed-forward input. The parts are in
``fairseq/knn``: datastore, index, search, distribution. Source: Khandelwal et al., 2020.

Legend: N queries · K neighbours · D key width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fairseq.config import resolve
from fairseq.errors import ConfigError, DatastoreError, did_you_mean
from fairseq.knn.arrays import A, AnyArray, checked_k, checked_queries, checked_rows, checked_targets, like
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore import Datastore, check_found, check_ids
from fairseq.knn.distribution import Votes, drop_nearest, keep_nearest, log_prob_of, next_log_prob, votes_for
from fairseq.knn.faiss_index import check_index_fits, open_index
from fairseq.knn.list_search import ListSearch
from fairseq.knn.manifest import (
    Expected,
    IndexManifest,
    check_dimension,
    check_index,
    check_store,
    manifest_path,
    read_manifest,
)
from fairseq.knn.opening import require_memory_for, sorted_out, width_to_open
from fairseq.knn.search import recompute_distances, search
from fairseq.knn.spoken import RowText

if TYPE_CHECKING:
    from fairseq.hub.source import ModelFacts

# Queries that are searched for together, whose neighbours share what is read, fewer where K is above 1024 (200 MiB of
# distances and ids), and those whose probabilities are computed together.
QUERY_BLOCK, MOST_NEIGHBOURS = 1 << 14, 1 << 24
_PROBABILITY_BLOCK = 512


class KNN_Dstore:  # noqa: N801 - the name that users know
    """A datastore with its index; satisfies ``fairseq.scoring.TargetScorer`` and ``NextTokenSource``.

    Args:
        datastore: values, and keys unless the index's own distances are used.
        index: a FAISS index whose ids are the datastore's rows.
        config: k, temperature, and how nearness is measured.
        index_manifest: of the index, if it has one.
        distinct_ids: the index is known to hold each row once, as ``open`` checks.
        vocabulary_size: targets are below it; the datastore's manifest may know it too.
    """

    def __init__(
        self, datastore: Datastore, index: Any, config: KNNConfig | None = None,
        index_manifest: IndexManifest | None = None, *, distinct_ids: bool = False, vocabulary_size: int | None = None,
    ) -> None:  # fmt: skip
        self.datastore, self.index = datastore, index
        self.config = config if config is not None else KNNConfig()
        self.index_manifest = index_manifest
        self.distinct_ids = distinct_ids
        recorded = datastore.manifest.vocabulary_size if datastore.manifest is not None else None
        self.vocabulary_size = vocabulary_size if vocabulary_size is not None else recorded
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
        settings, expected = sorted_out(config if config is not None else KNNConfig(), more)
        require_memory_for(Path(prefix), Path(indexfile), settings)
        index = open_index(indexfile, nprobe=settings.probe, metric=settings.faiss_metric_type, gpu=settings.gpu_index)
        datastore = Datastore.open(
            prefix, rows=rows, dimension=width_to_open(prefix, index, expected), key_fp16=key_fp16,
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
            check_index(built_from, indexfile, datastore.store_id, prefix, allow_mismatch=allow)
        return cls(datastore, index, settings, built_from, distinct_ids=True, vocabulary_size=vocabulary_size or None)

    def identity(self) -> dict[str, Any]:
        """Returns the ids of the datastore and of its index, as a result names them."""
        index_sha256 = self.index_manifest.sha256 if self.index_manifest is not None else None
        return {"store_id": self.datastore.store_id, "index_sha256": index_sha256}

    def open_for(self, model: "ModelFacts") -> tuple["KNN_Dstore", float]:
        """Returns this datastore and its weight λ; raises MismatchError where it is another model's."""
        if self.datastore.manifest is not None:
            check_store(
                self.datastore.manifest, self.datastore.prefix,
                Expected(model.vocabulary_size, model.key_dimension, model.dictionary_sha256, model.weights_sha256),
                allow_mismatch=self.config.allow_mismatch,
            )  # fmt: skip
        check_dimension(self.datastore.dimension, self.datastore.prefix, model.key_dimension)
        return self, self.config.lmbda

    def search(self, queries_ND: A, k: int | None = None) -> tuple[A, A]:
        """Returns distances (float32) and ids (int64), ``[N, K]``, nearest first, as the kind of array that came.

        Where fewer than K rows are found, the last places have id −1 and distance +inf.

        Args:
            queries_ND: floating point, torch or NumPy.
            k: neighbours; the config's if left out.

        Raises:
            ConfigError: the queries are no vectors, or k is no number of neighbours.
            MismatchError: the queries have another width than the keys.
        """
        queries = checked_queries(queries_ND, self.datastore.dimension)
        distances_NK, ids_NK = self._neighbours(queries, self.config.k if k is None else checked_k(k))
        order_NK = np.argsort(distances_NK, axis=1, kind="stable")
        return (
            like(np.take_along_axis(distances_NK, order_NK, axis=1), queries_ND),
            like(np.take_along_axis(ids_NK, order_NK, axis=1), queries_ND),
        )

    def values(self, ids_NK: A) -> A:
        """Returns the tokens that came next at some rows, int64, of any shape; −1 for no row.

        Raises:
            ConfigError: a number that is no row.
        """
        rows = checked_rows(ids_NK, self.datastore.rows)
        values = self.datastore.values_N[np.maximum(rows, 0)].astype(np.int64)
        return like(np.where(rows >= 0, values, -1), ids_NK)

    @cached_property
    def text(self) -> RowText | None:
        """The text that the datastore was written from, or None where it is not known or no longer there."""
        return RowText.open(self.datastore)

    def passage(self, row: int, before: int, after: int) -> tuple[Sequence[int], Sequence[int]] | None:
        """Returns the token ids before and after a row's value in its text; None where the text is not known."""
        return self.text.around(row, before, after) if self.text is not None else None

    def log_prob(self, queries_ND: A, target_N: A) -> A:
        """Returns ln p_kNN(target), float32 ``[N]``, on the device and of the kind that the queries are.

        Args:
            queries_ND: floating point, torch or NumPy.
            target_N: token ids.

        Raises:
            ConfigError: the queries are no vectors, or the targets not one word for each of them.
            MismatchError: the queries have another width than the keys.
        """
        k = min(self.config.k, int(self.index.ntotal))  # further places would be empty
        log_ps: list[npt.NDArray[np.float32]]
        log_ps = [log_prob_of(votes, self.config.knn_temp) for votes in self._votes(queries_ND, target_N, k)]
        return like(np.concatenate([np.empty(0, np.float32), *log_ps]), queries_ND)

    def next_log_prob(self, queries_ND: A, vocabulary_size: int) -> A:
        """Returns ln p_kNN of every word, float32 ``[N, V]``, on the device and of the kind that the queries are.

        Args:
            queries_ND: floating point, torch or NumPy; they are searched for together.
            vocabulary_size: V.
        """
        queries = checked_queries(queries_ND, self.datastore.dimension)
        distances_NK, ids_NK = self._neighbours(queries, min(self.config.k, int(self.index.ntotal)))
        values_NK = np.take(self.datastore.values_N, ids_NK, mode="clip")  # −1 reads row 0; without mass
        log_p_NV = next_log_prob(
            distances_NK, ids_NK, values_NK, vocabulary_size, self.config.knn_temp, distinct=self.distinct_ids
        )
        return like(log_p_NV, queries_ND)

    def votes(self, queries_ND: AnyArray, target_N: AnyArray) -> Votes:
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

    def _votes(self, queries_ND: AnyArray, target_N: AnyArray, k: int) -> Iterator[Votes]:
        """Yields the votes of a few queries at a time: what is computed from them stays in the cache."""
        queries = checked_queries(queries_ND, self.datastore.dimension)
        target = checked_targets(target_N, len(queries), self.vocabulary_size)
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
            check_found(self.datastore.prefix, keys_ND, queries_ND, distances_NK, ids_NK)
        if self.config.drop_top1:
            distances_NK, ids_NK = drop_nearest(distances_NK, ids_NK)
        return keep_nearest(distances_NK, ids_NK, wanted)


class KNN:
    """A datastore, its index and its weight, to be opened for a model: ``from_pretrained(…, knn=KNN(…))``.

    Args:
        prefix: of the datastore's files.
        indexfile: of its index.
        lmbda: weight λ of the neighbours.
        data: of the text that the datastore was written from, its directory or its split, where that was moved; what
            the manifest says if left out.
        more: ``k``, ``probe``, ``knn_temp`` and the other fields of ``KNNConfig``; ``rows`` and ``key_fp16`` for a
            datastore without a manifest.

    Raises:
        ConfigError: no such setting, or one out of range.
    """

    def __init__(
        self, prefix: str | Path, indexfile: str | Path, *, lmbda: float = 0.25, data: str | Path | None = None,
        **more: Any,
    ) -> None:  # fmt: skip
        self.prefix, self.indexfile, self.data = prefix, indexfile, data
        self._layout = {name: more.pop(name) for name in ("rows", "key_fp16") if name in more}
        known = {f.name for f in fields(KNNConfig)} - {"knnlm", "dstore_filename", "indexfile"}
        for name in more:
            if name not in known:
                raise ConfigError(f"{name} is not a setting of KNN{did_you_mean(name, known)}")
        self.config = resolve(KNNConfig, {**more, "lmbda": lmbda})

    def open_for(self, model: "ModelFacts") -> tuple[KNN_Dstore, float]:
        """Returns the datastore and its weight λ; raises MismatchError where it is another model's."""
        opened = KNN_Dstore.open(
            self.prefix, self.indexfile, self.config, dimension=model.key_dimension,
            vocabulary_size=model.vocabulary_size, dictionary_sha256=model.dictionary_sha256,
            weights_sha256=model.weights_sha256, **self._layout,
        )  # fmt: skip
        if self.data is not None:
            opened.text = RowText.open(opened.datastore, self.data)
        return opened, self.config.lmbda
