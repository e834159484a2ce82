"""How far appended rows have drifted from what an index was trained on.

Centroids and codes are fitted to the rows of the training sample. Where rows of another kind are added, they lie
farther from the nearest centroid, and their codes say less of them: their neighbours are found less surely. Measured on
rows evenly spaced over the old and over the new ones:

    ‖x − c(x)‖²          squared distance to the nearest of the lists' centroids
    ‖x − decode(x)‖²     squared error of what the index stores of a row
    imbalance            L Σ n² / N² of the lists' sizes n: 1 where all are alike, 2 where a search reads twice as much

The errors are told as new over old. Rows of the same kind give about 1, a little more where the index was trained on
few rows, to which it fits better than to others; docs/indexes.md has what other texts give.

Legend: N rows · D key width · L lists.
"""

import logging
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from fairseq.arrays import Float32s, Int64s
from fairseq.knn.datastore.store import Datastore, gather_rows
from fairseq.knn.index.faiss_index import metric_name, transformed

logger = logging.getLogger(__name__)

SAMPLE = 4096
# Below this share of a key's own length, an error is rounding, and no ratio of two says anything.
LEAST_ERROR = 1e-6
# Below this share of the new rows' variance, their codes' error changes no order of neighbours worth a warning: that of
# SQ8 grows where rows lie beyond the range that it was trained on, and stays a thousandth.
LEAST_SHARE = 0.05


@dataclass(frozen=True)
class Drift:
    """Means of the new rows over those of the old ones; None where the index has no such thing.

    Attributes:
        centroids: of the squared distance to the nearest centroid.
        codes: of the squared error of the codes.
        code_share: the new rows' error as a share of their variance.
        imbalance: of the lists, before the new rows.
        added: of the lists, of the new rows alone, as the centroids would spread them.
    """

    centroids: float | None
    codes: float | None
    code_share: float | None
    imbalance: float | None
    added: float | None


def measure_drift(index: Any, store: Datastore, old_rows: int, threshold: float) -> None:
    """Tells how far the rows from ``old_rows`` on are from those before, and warns beyond ``threshold``."""
    assert store.keys_ND is not None
    samples = (store.left.within(0, old_rows), store.left.within(old_rows, store.rows))
    drift = drift_of(index, *(gather_rows(store.keys_ND, rows.spaced(SAMPLE)) for rows in samples))
    parts = [f"{drift.centroids:.2f} times as far from their centroids"] if drift.centroids is not None else []
    if drift.codes is not None and drift.code_share is not None:
        parts.append(f"{drift.codes:.2f} times the codes' error, {drift.code_share:.2%} of their variance")
    if drift.imbalance is not None and drift.added is not None:
        parts.append(f"lists' imbalance {drift.added:.2f}, of the old ones {drift.imbalance:.2f}")
    if parts:
        logger.info("the appended rows, against the old ones: %s", "; ".join(parts))
    codes = drift.codes if drift.code_share is not None and drift.code_share >= LEAST_SHARE else None
    largest = max((value for value in (drift.centroids, codes) if value is not None), default=0.0)
    if largest > threshold:
        logger.warning(
            "the appended rows are unlike those that the index was trained on (%.2f, --drift-warning %g):"
            " searches may miss them; --append --retrain trains it again, fairseq-knnlm recall measures it",
            largest,
            threshold,
        )


def drift_of(index: Any, old_ND: Float32s, new_ND: Float32s) -> Drift:
    """Returns how far new rows are from an index, against old ones."""
    if not len(old_ND) or not len(new_ND):
        return Drift(None, None, None, None, None)
    inverted: Any = faiss.try_extract_index_ivf(index)
    error = _code_error(index, new_ND)
    codes = _ratio(_code_error(index, old_ND), error)
    share = _ratio(float(((new_ND - new_ND.mean(0)) ** 2).sum(1).mean()), error)
    if inverted is None or metric_name(index) != "l2":
        return Drift(None, codes, share, None, None)
    (old_N, _), (new_N, list_N) = (_nearest(index, inverted, rows_ND) for rows_ND in (old_ND, new_ND))
    size_L = np.bincount(list_N, minlength=inverted.nlist)
    # A few rows fall into few lists by chance: what that adds on average, L / N, is no imbalance.
    added = max(
        float(inverted.nlist * (size_L.astype(float) ** 2).sum() / len(list_N) ** 2) - inverted.nlist / len(list_N), 1.0
    )
    imbalance = float(inverted.invlists.imbalance_factor()) if index.ntotal else None
    return Drift(_ratio(float(old_N.mean()), float(new_N.mean())), codes, share, imbalance, added)


def _nearest(index: Any, inverted: Any, rows_ND: Float32s) -> tuple[Float32s, Int64s]:
    """Returns each row's squared distance to the nearest centroid, in the space of the lists, and its list."""
    near_N1, list_N1 = inverted.quantizer.search(transformed(index, rows_ND), 1)
    return np.maximum(near_N1[:, 0], 0), list_N1[:, 0]


def _code_error(index: Any, rows_ND: Float32s) -> float | None:
    """Returns the mean squared error of the codes of rows; None where an index has none, or rounding is all of it."""
    lists = faiss.try_extract_index_ivf(index)
    inverted: Any = faiss.downcast_index(lists) if lists is not None else None
    if isinstance(inverted, faiss.IndexIVFFastScan):  # asking it to encode ends the process
        rows_ND = transformed(index, rows_ND)
        decoded_ND = _by_fast_scan(inverted, rows_ND)
    else:
        try:
            decoded_ND = index.sa_decode(index.sa_encode(rows_ND))
        except (RuntimeError, AttributeError):  # an index without codes of its own
            return None
    if decoded_ND is None:
        return None
    error = float(((rows_ND - decoded_ND) ** 2).sum(1).mean())
    return error if error > LEAST_ERROR * float((rows_ND**2).sum(1).mean()) else None


def _by_fast_scan(inverted: Any, rows_ND: Float32s) -> Float32s | None:
    """Returns what the product codes of an inverted file say of rows; None where its codes are others."""
    if not isinstance(inverted, faiss.IndexIVFPQFastScan):
        return None
    centroid_ND = np.zeros_like(rows_ND)
    if inverted.by_residual:
        list_N = inverted.quantizer.search(rows_ND, 1)[1][:, 0]
        centroid_ND = np.stack([inverted.quantizer.reconstruct(int(number)) for number in list_N])
    coder: Any = inverted.pq
    decoded_ND: Float32s = coder.decode(coder.compute_codes(np.ascontiguousarray(rows_ND - centroid_ND))) + centroid_ND
    return decoded_ND


def _ratio(old: float | None, new: float | None) -> float | None:
    return new / old if old and new is not None else None
