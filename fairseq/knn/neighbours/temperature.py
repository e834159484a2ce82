"""The temperature that ``--knn-temp auto`` stands for, from the distances between the rows of a datastore.

    unit    the median, over 1,000 rows, of the squared distance to the nearest other row that is apart
    T       a fixed share of the unit

The rows are evenly spaced; of several datastores, each gives a share that goes with its size. They are searched for as
contexts are, by the same index, lists and kind of distance, so that the unit is on the scale of p_kNN's distances. A
row that lies upon another (of a sentence that is there twice) is not apart from it, whatever their codes say. No text
that is evaluated has a part in it: T is the same for valid and test, for every batch and shard, and for a single
prompt.

The unit has three digits, so that what is printed is T, and rounding in another order of sums leaves it as it is.

Legend: N rows · K neighbours · D key width.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from fairseq.arrays import Float32s, Int64s
from fairseq.errors import ConfigError
from fairseq.knn.config import AUTO, AUTO_SHARE, AUTO_SHARE_OF_TOKENS, LEAST_TEMPERATURE, KnnTemp, multiple
from fairseq.knn.neighbours.distribution import drop_own
from fairseq.knn.neighbours.parts import StorePart
from fairseq.knn.search.distances import recompute_distances
from fairseq.runtime.progress import at_work

Search = Callable[[Float32s, int], tuple[Float32s, Int64s]]

logger = logging.getLogger(__name__)

SAMPLE = 1000
# Rows that the index is asked for, of which the nearest is taken: by codes, another one may come first.
ASKED = 16
# Below this share of a row's own length, a distance is rounding.
LEAST_SHARE = 1e-6


def auto_share(parts: Iterable[StorePart]) -> float:
    """Returns which share of the unit ``auto`` stands for, by the model that wrote the datastores."""
    of_tokens = all(part.datastore.model.tokenizer_sha256 is not None for part in parts)
    return AUTO_SHARE_OF_TOKENS if of_tokens else AUTO_SHARE


def temperature_of(asked: KnnTemp, unit: Callable[[], float], share: float) -> float:
    """Returns T: the number that was asked for, or for ``auto`` its share of the unit, which is measured then."""
    if asked != AUTO:
        return asked
    measured = unit()
    found = multiple(measured, share)
    logger.info(
        "--knn-temp auto is %g: %g × %g, the median squared distance from a row to the nearest other row",
        found,
        share,
        measured,
    )
    return found


def temperature_record(asked: KnnTemp, temperature: float, unit: Callable[[], float]) -> dict[str, Any]:
    """Returns T as results and files have it, and where it was ``auto`` that word and the unit."""
    measured = {"knn_temp_asked": AUTO, "distance_unit": unit()} if asked == AUTO else {}
    return {"knn_temp": temperature, **measured}


def measure_unit(parts: Sequence[StorePart], search: Search) -> float:
    """Returns the median squared distance from a row to the nearest other row, of three digits.

    Args:
        parts: the datastores.
        search: gives distances and ids ``[N, K]``, in any order, of the nearest rows to some keys; −1 for none.

    Raises:
        ConfigError: keys cannot be read, or no row has another one near it.
    """
    with at_work("measure distances between rows"):
        ids_N, keys_ND = _sample(parts)
        rows_left = sum(part.datastore.rows_left for part in parts)
        distances_NK, ids_NK = drop_own(*search(keys_ND, min(ASKED + 1, rows_left)), ids_N[:, None])
        least_N1 = np.maximum(LEAST_SHARE * (keys_ND * keys_ND).sum(axis=1, keepdims=True), LEAST_TEMPERATURE)
        # By the keys themselves as well: from a row to its own code there is some distance.
        exact_NK = np.minimum.reduce([_exact(part, keys_ND, ids_NK) for part in parts])
        is_apart_NK = (ids_NK >= 0) & (np.minimum(exact_NK, distances_NK) > least_N1)
        nearest_N = np.where(is_apart_NK, distances_NK, np.inf).min(axis=1, initial=np.inf)
        nearest_N = nearest_N[np.isfinite(nearest_N)]
    if not len(nearest_N):
        names = " and ".join(str(part.datastore.prefix) for part in parts)
        raise ConfigError(
            f"--knn-temp auto is taken from the distances between rows, but the index finds no two rows of {names} that"
            " are apart; give a number"
        )
    return multiple(float(np.median(nearest_N)), 1.0)


def _sample(parts: Sequence[StorePart]) -> tuple[Int64s, Float32s]:
    """Returns the ids of evenly spaced rows, of each datastore in proportion to its rows, and their keys."""
    total, ids, keys = sum(part.datastore.rows_left for part in parts), [], []
    for part in parts:
        rows_N = part.datastore.left.spaced(-(-SAMPLE * part.datastore.rows_left // max(total, 1)))
        ids.append(rows_N + part.offset)
        keys.append(part.keys_of(rows_N))
    return np.concatenate(ids), np.concatenate(keys)


def _exact(part: StorePart, keys_ND: Float32s, ids_NK: Int64s) -> Float32s:
    """Returns exact distances to the rows that are of one datastore, ``[N, K]``; +inf for those of another."""
    is_here_NK = (ids_NK >= part.offset) & (ids_NK < part.offset + part.datastore.rows)
    rows, place_NK = np.unique(np.where(is_here_NK, ids_NK - part.offset, 0), return_inverse=True)  # of a large file
    place_NK = np.where(is_here_NK, place_NK.reshape(ids_NK.shape), -1)
    return recompute_distances(part.keys_of(rows), keys_ND, place_NK)
