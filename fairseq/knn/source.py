"""What finds neighbours, in one datastore or in several: the part that is the same for all.

A source gives each of its rows a number, its id, and knows the value of every id. Where it has found neighbours, who
votes and with what weight does not depend on where they lie (fairseq/knn/distribution.py).

    found ── every row that the searches came upon
      └── neighbours ── less the nearest one (--drop-top1), and of these the k nearest
            └── votes ── whose value is the target → ln p_kNN

Legend: N queries · K neighbours · D key width.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore import Datastore
from fairseq.knn.distribution import Votes, drop_nearest, keep_nearest, log_prob_of, votes_for
from fairseq.knn.search import Floats, Ids

A = TypeVar("A", Tensor, npt.NDArray[Any])

# Queries that are searched for together, whose neighbours share what is read, fewer where K is above 1024 (200 MiB of
# distances and ids), and those whose probabilities are computed together.
QUERY_BLOCK, MOST_NEIGHBOURS = 1 << 14, 1 << 24
_PROBABILITY_BLOCK = 512


@dataclass(frozen=True)
class StorePart:
    """A datastore of a source: row r of it has the id ``offset + r``."""

    datastore: Datastore
    offset: int


class NeighbourSource(ABC):
    """A source of neighbours; satisfies ``fairseq.scoring.TargetScorer``.

    Attributes:
        config: k, temperature, and how nearness is measured.
        distinct_ids: no search finds a row twice.
    """

    config: KNNConfig
    distinct_ids: bool

    @property
    @abstractmethod
    def parts(self) -> tuple[StorePart, ...]:
        """The datastores, each once, by offset."""

    @property
    def rows(self) -> int:
        """Rows in all; ids are below."""
        return sum(part.datastore.rows for part in self.parts)

    @abstractmethod
    def found(self, queries_ND: Floats, k: int) -> tuple[Floats, Ids]:
        """Returns distances and ids, ``[N, K]`` or wider, in no order, with the k nearest of what is found; −1 none."""

    @abstractmethod
    def values_of(self, ids_NK: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.integer[Any]]:
        """Returns the values of rows; anything for −1."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Returns the ids of what is searched, as a result names them: ``store_id``, ``index_sha256``."""

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
        k = min(self.config.k, self.rows)  # further places would be empty
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
        step = max(min(QUERY_BLOCK, MOST_NEIGHBOURS // (k * len(self.parts))), 1)
        for start in range(0, len(queries), step):
            distances_NK, ids_NK = self._neighbours(queries[start : start + step], k)
            for first in range(0, len(ids_NK), _PROBABILITY_BLOCK):
                part = slice(first, min(first + _PROBABILITY_BLOCK, len(ids_NK)))
                there = target[start + part.start : start + part.stop]
                values_NK = self.values_of(ids_NK[part])
                yield votes_for(distances_NK[part], ids_NK[part], values_NK, there, distinct=self.distinct_ids)

    def _neighbours(self, queries_ND: Floats, k: int) -> tuple[Floats, Ids]:
        """Returns distances and ids ``[N, K]``, in no order: the k nearest of what is found."""
        asked = max(k, min(self.config.rerank or 0, self.rows)) + self.config.drop_top1
        distances_NK, ids_NK = self.found(queries_ND, asked)
        if self.config.drop_top1:
            distances_NK, ids_NK = drop_nearest(distances_NK, ids_NK)
        return keep_nearest(distances_NK, ids_NK, k)


def _float32(array: Tensor | npt.NDArray[Any]) -> Floats:
    if isinstance(array, Tensor):
        return array.detach().float().cpu().contiguous().numpy()
    return np.ascontiguousarray(array, dtype=np.float32)


def _like(array: npt.NDArray[Any], model: A) -> A:
    if isinstance(model, Tensor):
        return torch.from_numpy(array).to(model.device)
    return array
