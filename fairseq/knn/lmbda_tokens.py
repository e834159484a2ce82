"""From a saved retrieval to what a weight is fitted on, or applied to.

The neighbours' values are not in the retrieval: they are read from the datastore, by the neighbours' rows; how often a
word occurs, from the dictionary. Both must be those of the retrieval.

Legend: N tokens · K neighbours · V vocabulary.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from fairseq.data.dictionary import Dictionary
from fairseq.errors import ConfigError, DatastoreError
from fairseq.knn.datastore import Array, Datastore
from fairseq.knn.distribution import Votes, log_prob_of
from fairseq.knn.known import read_known
from fairseq.knn.lmbda_features import context_features, has_neighbours, neighbour_features
from fairseq.knn.lmbda_fit import Tokens
from fairseq.knn.manifest import mismatch
from fairseq.knn.retrieval import Retrieval
from fairseq.knn.retrieval_format import array_path
from fairseq.log import Progress

# Tokens whose neighbours are read together (1,024 of each: 12 MiB).
_ROWS = 1024


def identity_of(retrieval: Retrieval) -> dict[str, str | None]:
    """Returns what a weight that is fitted on a retrieval is fitted for: hashes, and how distances were measured."""
    identity, settings = retrieval.manifest["identity"], retrieval.manifest["settings"]
    hashes = {name: identity.get(name) for name in ("weights_sha256", "dictionary_sha256", "store_id")}
    return {**hashes, **measure_of(settings.get("knn_sim_func"), settings.get("metric"), settings.get("drop_top1"))}


def measure_of(knn_sim_func: object, metric: object, drop_top1: object) -> dict[str, str | None]:
    """Returns how distances were measured, in words."""
    return {"knn_sim_func": str(knn_sim_func), "metric": str(metric), "drop_top1": str(drop_top1)}


def check_k(retrieval: Retrieval, k: int) -> None:
    """Raises ConfigError when fewer than ``k`` neighbours were saved."""
    if k > retrieval.k:
        raise ConfigError(
            f"--k {k} is more than the {retrieval.k} neighbours that {retrieval.directory} holds; give fewer, or save"
            " it again with as many"
        )


def open_values(retrieval: Retrieval, prefix: str | None, *, allow_mismatch: bool) -> Array:
    """Returns the values of the datastore that a retrieval's ids are rows of.

    Raises:
        DatastoreError: it is not there, or has fewer rows than the ids name.
        MismatchError: it is another one.
    """
    stated = retrieval.manifest["datastore"]
    place = prefix if prefix is not None else str(stated.get("prefix"))
    store = Datastore.open(place, rows=None, vocabulary_size=retrieval.manifest["vocabulary_size"], load_keys=False)
    wanted = retrieval.manifest["identity"].get("store_id")
    if store.store_id is not None and wanted is not None and store.store_id != wanted:
        mismatch(
            f"{retrieval.directory} was saved with datastore {wanted[:12]}, but {place} is datastore"
            f" {store.store_id[:12]}; give --dstore-filename its own",
            allow_mismatch,
        )
    largest = max(int(retrieval.ids_NK[start : start + _ROWS].max()) for start in range(0, len(retrieval), _ROWS))
    if largest >= len(store.values_N):
        raise DatastoreError(
            f"{array_path(retrieval.directory, 'ids')} names row {largest}, but {place} has {len(store.values_N)} rows;"
            " give --dstore-filename the retrieval's own"
        )
    return store.values_N


def open_counts(retrieval: Retrieval, path: str | None, *, allow_mismatch: bool) -> npt.NDArray[np.int64]:
    """Returns how often the dictionary of a retrieval counted each id, ``[V]``.

    Raises:
        DataError: it cannot be read.
        MismatchError: it is another one.
    """
    place = Path(path if path is not None else retrieval.manifest["dictionary"])
    dictionary = Dictionary.load(place)
    wanted, size = retrieval.manifest["identity"].get("dictionary_sha256"), retrieval.manifest["vocabulary_size"]
    found = dictionary.sha256()
    if wanted is not None and found != wanted:
        mismatch(
            f"{retrieval.directory} was saved with dictionary {wanted[:12]}, but {place} is {found[:12]}; give"
            " --dictionary its own",
            allow_mismatch,
        )
    if len(dictionary) != size:
        raise DatastoreError(
            f"{place} has {len(dictionary)} ids, but {retrieval.directory} was saved with {size}; give --dictionary"
            " its own"
        )
    return np.array(dictionary.counts, np.int64)


def read_tokens(
    retrieval: Retrieval, values_N: Array, counts_V: npt.NDArray[np.int64], k: int, temperature: float, log_format: str
) -> Tokens:
    """Returns what is known of each token of a retrieval and what its k neighbours say, at temperature T."""
    check_k(retrieval, k)
    after, log_p_knn, there = [], [], []
    with Progress("describe neighbours", len(retrieval), "tokens", log_format) as progress:
        for start in range(0, len(retrieval), _ROWS):
            rows = slice(start, start + _ROWS)
            distances_NK, ids_NK = np.asarray(retrieval.distances_NK[rows, :k]), np.asarray(retrieval.ids_NK[rows, :k])
            votes = Votes(
                distances_NK, ids_NK.astype(np.int64), retrieval.hits_NK(rows)[:, :k] & np.isfinite(distances_NK)
            )
            values_NK = np.take(values_N, ids_NK, mode="clip")  # −1 reads row 0; its distance is +inf
            after.append(neighbour_features(distances_NK, values_NK, temperature))
            log_p_knn.append(log_prob_of(votes, temperature).astype(np.float64))
            there.append(has_neighbours(distances_NK))
            progress.advance(len(ids_NK))
    before_NF, log_p_lm_N = context_features(read_known(retrieval), counts_V), np.asarray(retrieval.lm_log_p_N)
    if np.isnan(log_p_lm_N).any():
        raise DatastoreError(
            f"{array_path(retrieval.directory, 'lm_log_prob')} holds values that are no numbers; save the retrieval"
            " again, with a sound checkpoint"
        )
    return Tokens(
        np.concatenate([before_NF, np.concatenate(after)], axis=1), np.concatenate(there), log_p_lm_N,
        np.concatenate(log_p_knn), np.asarray(retrieval.block_N),
    )  # fmt: skip
