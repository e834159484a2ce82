"""The tokens of a saved retrieval, with their features, as a weight is fitted on them or applied to them.

The neighbours' values are not in the retrieval: they are read from the datastore, by the neighbours' rows; how often a
word occurs, from the dictionary. Both must be those of the retrieval.

Legend: N tokens · K neighbours · V vocabulary.
"""

from pathlib import Path

import numpy as np

from fairseq.arrays import Float64s, Int64s
from fairseq.config.path_lists import join_paths, split_paths
from fairseq.data.dictionary import Dictionary
from fairseq.errors import ConfigError, DatastoreError
from fairseq.knn.datastore.identity import mismatch
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.neighbours.distribution import Votes, log_prob_of
from fairseq.knn.neighbours.parts import Values
from fairseq.knn.retrieval.format import array_path
from fairseq.knn.retrieval.retrieval import Retrieval, read_known
from fairseq.knn.weight.features import context_features, has_neighbours, neighbour_features
from fairseq.knn.weight.fit import Tokens
from fairseq.runtime.progress import Progress

# Tokens whose neighbours are read together (1,024 of each: 12 MiB).
_ROWS = 1024


def identity_of(retrieval: Retrieval) -> dict[str, str | None]:
    """Returns what a weight that is fitted on a retrieval is fitted for: hashes, and how distances were measured."""
    identity, settings = retrieval.manifest.identity, retrieval.manifest.settings
    hashes = {name: getattr(identity, name) for name in ("weights_sha256", "dictionary_sha256", "store_id")}
    return {**hashes, **measure_of(settings.knn_sim_func, settings.metric, settings.drop_top1)}


def measure_of(knn_sim_func: object, metric: object, drop_top1: object) -> dict[str, str | None]:
    """Returns how distances were measured, in words."""
    return {"knn_sim_func": str(knn_sim_func), "metric": str(metric), "drop_top1": str(drop_top1)}


def open_values(retrieval: Retrieval, prefix: str | None, *, allow_mismatch: bool) -> Values:
    """Returns the values of the datastores that a retrieval's ids are rows of.

    Args:
        retrieval: whose ids they are.
        prefix: where the datastores are now, separated by colons; where the run found them, if left out.
        allow_mismatch: only warn of another datastore.

    Raises:
        ConfigError: as many datastores as the retrieval has were not named.
        DatastoreError: one is not there, or has fewer rows than the ids name.
        MismatchError: one is another one.
    """
    parts = retrieval.parts
    places = split_paths(prefix) if prefix is not None else [part.prefix for part in parts]
    if len(places) != len(parts):
        raise ConfigError(
            f"--dstore-filename names {len(places)}, but {retrieval.directory} was saved with {len(parts)} datastores;"
            f" name all, in the order of {join_paths(part.prefix for part in parts)}"
        )
    arrays = []
    for part, place in zip(parts, places, strict=True):
        store = Datastore.open(place, rows=None, vocabulary_size=retrieval.manifest.vocabulary_size, load_keys=False)
        if store.store_id is not None and part.store_id is not None and store.store_id != part.store_id:
            mismatch(
                f"{retrieval.directory} was saved with datastore {part.store_id[:12]}, but {place} is datastore"
                f" {store.store_id[:12]}; give --dstore-filename its own",
                allow_mismatch,
            )
        if len(parts) > 1 and store.rows < (part.rows or 0):
            raise DatastoreError(
                f"{place} has {store.rows} rows, but {retrieval.directory} was saved with {part.rows}; give"
                " --dstore-filename the retrieval's own"
            )
        arrays.append(store.values_N)
    values = Values([part.offset for part in parts], arrays)
    largest = int(retrieval.ids_NK.max())
    if largest >= len(values):
        raise DatastoreError(
            f"{array_path(retrieval.directory, 'ids')} names row {largest}, but {join_paths(places)} has {len(values)}"
            " rows; give --dstore-filename the retrieval's own"
        )
    return values


def open_counts(retrieval: Retrieval, path: str | None, *, allow_mismatch: bool) -> Int64s:
    """Returns how often the dictionary of a retrieval counted each id, ``[V]``.

    Raises:
        DataError: it cannot be read.
        MismatchError: it is another one.
    """
    place = Path(path if path is not None else retrieval.manifest.dictionary)
    dictionary = Dictionary.load(place)
    wanted, size = retrieval.manifest.identity.dictionary_sha256, retrieval.manifest.vocabulary_size
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


def lm_log_probs(retrieval: Retrieval) -> Float64s:
    """Returns ln p_LM of each token; raises DatastoreError where one is no number."""
    log_p_lm_N = np.array(retrieval.lm_log_p_N)
    if np.isnan(log_p_lm_N).any():
        raise DatastoreError(
            f"{array_path(retrieval.directory, 'lm_log_prob')} holds values that are no numbers; save the retrieval"
            " again, with a sound checkpoint"
        )
    return log_p_lm_N


def read_tokens(retrieval: Retrieval, values: Values, counts_V: Int64s, k: int, temperature: float) -> Tokens:
    """Returns each token of a retrieval with the features of its k nearest neighbours, at temperature T."""
    retrieval.check_k(k)
    log_p_lm_N = lm_log_probs(retrieval)
    before_NF = context_features(read_known(retrieval), counts_V)
    after, log_p_knn, there = [], [], []
    with Progress("describe neighbours", len(retrieval), "tokens") as progress:
        for start in range(0, len(retrieval), _ROWS):
            rows = slice(start, start + _ROWS)
            distances_NK, ids_NK = np.asarray(retrieval.distances_NK[rows, :k]), np.asarray(retrieval.ids_NK[rows, :k])
            hits_NK = retrieval.hits_NK(rows)[:, :k] & np.isfinite(distances_NK)
            values_NK = values.of(ids_NK)  # of −1 it is anything; its distance is +inf
            after.append(neighbour_features(distances_NK, values_NK, temperature))
            # Rounded as they are in an evaluation.
            log_p_knn.append(log_prob_of(Votes(distances_NK, ids_NK, hits_NK), temperature).astype(np.float64))
            there.append(has_neighbours(distances_NK))
            progress.advance(len(ids_NK))
    return Tokens(
        np.concatenate([before_NF, np.concatenate(after)], axis=1),
        np.concatenate(there),
        log_p_lm_N,
        np.concatenate(log_p_knn),
        np.asarray(retrieval.block_N),
    )
