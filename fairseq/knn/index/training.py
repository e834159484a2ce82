"""Training inverted lists, and filling them, with much less work than FAISS's own settings take.

FAISS trains centroids on 256 points a list and product codes on 65,536 points in 25 rounds, all in full width. The keys
of a language model's contexts lie close to far fewer directions than they have numbers, so neighbours are found as well
after

    k-means    40 points a list, 6 rounds, in the directions that hold 80 % of the keys' variance
    centroids  the means of the lists' points, in full width
    codes      64 points for each of a code's 256 words, 10 rounds; the order that FAISS's factory strings give the
               words afterwards ("polysemous"), which no search here uses, is left out
    adding     a row's list is looked for in the directions that hold 95 % of the centroids' variance. With P onto these
               and R onto the rest,  ‖x − c‖² = ‖Px − Pc‖² + ‖Rc‖² − 2 Rx·Rc + ‖Rx‖²;  only Rx·Rc, which is small,
               is left out (‖Rx‖² is the same for all lists)

What comes out is an ordinary FAISS index, searched in full width. Everything is a function of keys, seed and index, so
that a resumed build fills the same lists. Where an index has no lists in full width (behind a transform, FastScan),
only the limits on points and rounds hold. Effects are measured in docs/indexes.md.

Legend: N rows · L lists · D key width · P directions.
"""

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import torch

from fairseq.arrays import Float32s, Int64s
from fairseq.knn.index.faiss_index import on_gpus, transformed
from fairseq.knn.threads import run_all, worker_threads

LIST_POINTS, LIST_ROUNDS = 40, 6
WORD_POINTS, WORD_ROUNDS = 64, 10
KEY_VARIANCE, CENTROID_VARIANCE = 0.8, 0.95
DIRECTIONS_STEP = 16
COVARIANCE_ROWS = 1 << 15
ROWS_AT_ONCE = 1 << 15
# Rows whose distances to all centroids are there at once in a thread: they stay in the cache.
PRODUCT_ROWS = 256
CODE_WORDS = 256
# Rows that FAISS's own adding is given at a time.
FAISS_ROWS = 1 << 13
# Indexes whose lists this module finds, where they are in full width.
_QUICK = (
    faiss.IndexIVFFlat,
    faiss.IndexIVFScalarQuantizer,
    faiss.IndexIVFPQ,
    getattr(faiss, "IndexIVFRaBitQ", ()),
)


def points_wanted(num_lists: int) -> int:
    """Returns how many rows the training makes use of."""
    return max(LIST_POINTS * num_lists, WORD_POINTS * CODE_WORDS)


def train(index: Any, sample_ND: Float32s, seed: int, *, quick: bool, gpu: bool = False) -> None:
    """Trains an index on a sample of keys; with ``gpu``, centroids are found on the GPUs, if FAISS has any."""
    inverted: Any = faiss.try_extract_index_ivf(index)
    if quick:
        _limit(index, inverted)
    if gpu and inverted is not None:
        lists = on_gpus(faiss.IndexFlat(inverted.d, inverted.metric_type))
        inverted.clustering_index = lists  # a bare pointer: ``lists`` must stay until the training is over
    if quick and _has_lists_in_full_width(index) and len(sample_ND) > inverted.nlist:
        centroid_LD = _centroids(sample_ND, inverted.nlist, seed, gpu)
        inverted.quantizer.train(centroid_LD)
        inverted.quantizer.add(centroid_LD)
    if quick and _has_words_of_a_byte(index) and len(sample_ND) > CODE_WORDS:
        _train_words(index, sample_ND, seed)
    else:
        index.train(sample_ND)
    if gpu and inverted is not None:
        inverted.clustering_index = None


class Adder:
    """Adds rows to a trained index.

    What is computed of a row depends, in the last digits of distances, on the rows that are computed with it. So rows
    are added by cells of a grid on their numbers, the same for a build of all rows and for one of some.

    Attributes:
        cell: rows of a cell.
    """

    def __init__(self, index: Any, *, quick: bool, gpu: bool = False) -> None:
        self._index = index
        self._inverted: Any = faiss.try_extract_index_ivf(index)
        self._find: Callable[[Float32s], Int64s] | None = None
        if quick and type(index) in _QUICK and _has_lists_in_full_width(index):
            self._find = _list_finder(index.quantizer.reconstruct_n(0, index.nlist), gpu)
        self.cell = FAISS_ROWS if self._find is None else PRODUCT_ROWS

    def __call__(self, rows_ND: Float32s, ids_N: Int64s | None = None) -> None:
        """Adds rows, the first of which begins a cell.

        Args:
            rows_ND: whole cells, but for the last one of all.
            ids_N: the number of each row, −1 for one that is not added; without, they are counted on.
        """
        step = FAISS_ROWS if self._find is None else ROWS_AT_ONCE
        if self._inverted is None:  # nothing is computed of several rows at once
            step = len(rows_ND)
        for start in range(0, len(rows_ND), step):
            part_ND = rows_ND[start : start + step]
            part_N = None if ids_N is None else ids_N[start : start + step]
            if self._find is not None:
                self._put(self._index, part_ND, part_N, self._find(part_ND))
            elif part_N is None:
                self._index.add(part_ND)
            elif (part_N >= 0).all():
                self._index.add_with_ids(part_ND, part_N)
            elif (part_N >= 0).any():
                moved_NE = transformed(self._index, part_ND)
                list_N = self._inverted.quantizer.search(moved_NE, 1)[1][:, 0]
                self._put(self._inverted, moved_NE, part_N, list_N)
                self._index.ntotal = self._inverted.ntotal

    @staticmethod
    def _put(inverted: Any, rows_ND: Float32s, ids_N: Int64s | None, list_N: Int64s) -> None:
        """Puts rows into their lists; −1 is no list."""
        before, ids = inverted.ntotal, None
        if ids_N is not None:
            list_N[ids_N < 0] = -1
            ids = faiss.swig_ptr(ids_N)
        inverted.add_core(len(rows_ND), faiss.swig_ptr(rows_ND), ids, faiss.swig_ptr(list_N), None)
        inverted.ntotal = before + int((list_N >= 0).sum())  # FAISS counts rows of no list


def _list_finder(centroid_LD: Float32s, gpu: bool) -> Callable[[Float32s], Int64s]:
    """Returns what finds the list of each row, in the directions of the centroids' variance."""
    mean_D, direction_DP = _directions(centroid_LD, CENTROID_VARIANCE)
    centred_LD = centroid_LD - mean_D
    near_LP, norm_L = centred_LD @ direction_DP, (centred_LD**2).sum(1)
    if gpu:
        rest_L = np.sqrt(np.maximum(norm_L - (near_LP**2).sum(1), 0))
        flat = faiss.IndexFlatL2(direction_DP.shape[1] + 1)
        flat.add(np.column_stack([near_LP, rest_L]).astype(np.float32))
        lists = on_gpus(flat)

        def find_there(rows_ND: Float32s) -> Int64s:
            seen_NP = np.pad((rows_ND - mean_D) @ direction_DP, ((0, 0), (0, 1)))
            return np.ascontiguousarray(lists.search(seen_NP, 1)[1][:, 0])

        return find_there
    norm, near_PL = torch.from_numpy(norm_L), torch.from_numpy(near_LP).t().contiguous()
    direction = torch.from_numpy(direction_DP)

    def find(rows_ND: Float32s) -> Int64s:
        list_N = np.empty(len(rows_ND), np.int64)

        def of_part(start: int) -> None:
            part = slice(start, start + PRODUCT_ROWS)
            # NumPy's argmin has vector instructions; FAISS's and torch's take longer than the product.
            distance_NL = torch.addmm(norm, torch.from_numpy(rows_ND[part] - mean_D) @ direction, near_PL, alpha=-2)
            list_N[part] = distance_NL.numpy().argmin(1)

        with worker_threads() as workers:
            run_all(workers, of_part, range(0, len(rows_ND), PRODUCT_ROWS))
        return list_N

    return find


def _limit(index: Any, inverted: Any) -> None:
    """Limits the points and rounds of whatever is trained in an index."""
    if inverted is not None:
        inverted.cp.niter, inverted.cp.max_points_per_centroid = LIST_ROUNDS, LIST_POINTS
    coded: Any = faiss.downcast_index(inverted if inverted is not None else index)
    if hasattr(coded, "pq"):
        coded.pq.cp.niter, coded.pq.cp.max_points_per_centroid = WORD_ROUNDS, WORD_POINTS
    if hasattr(coded, "do_polysemous_training"):
        coded.do_polysemous_training = False  # orders codes for a filter that no search here uses; longer than all else


def _has_lists_in_full_width(index: Any) -> bool:
    inverted: Any = faiss.downcast_index(index)
    return (
        isinstance(inverted, faiss.IndexIVF)
        and inverted.metric_type == faiss.METRIC_L2
        and isinstance(faiss.downcast_index(inverted.quantizer), faiss.IndexFlat)
    )


def _centroids(sample_ND: Float32s, count: int, seed: int, gpu: bool) -> Float32s:
    """Returns the centroids ``[L, D]`` of as many clusters of the sample."""
    step = max(len(sample_ND) // COVARIANCE_ROWS, 1)
    mean_D, direction_DP = _directions(sample_ND[::step], KEY_VARIANCE)
    points_NP: Float32s = np.matmul(sample_ND - mean_D, direction_DP, dtype=np.float32)
    clustering = faiss.Clustering(points_NP.shape[1], count)
    clustering.niter, clustering.seed, clustering.min_points_per_centroid = LIST_ROUNDS, seed, 1
    clustering.max_points_per_centroid = LIST_POINTS
    flat = faiss.IndexFlatL2(points_NP.shape[1])
    lists = on_gpus(flat) if gpu else flat
    clustering.train(points_NP, lists)
    list_N = lists.search(points_NP, 1)[1][:, 0]
    centroid_LD = faiss.vector_to_array(clustering.centroids).reshape(count, -1) @ direction_DP.T + mean_D
    sizes_L = np.bincount(list_N, minlength=count)
    there_L = sizes_L > 0
    order_N = np.argsort(list_N, kind="stable")
    first_L = (np.cumsum(sizes_L) - sizes_L)[there_L]
    # In the lists' order, and one pass: a list's rows are summed where they lie next to each other.
    centroid_LD[there_L] = np.add.reduceat(sample_ND[order_N], first_L, axis=0) / sizes_L[there_L, None]
    return np.ascontiguousarray(centroid_LD, dtype=np.float32)


def _has_words_of_a_byte(index: Any) -> bool:
    return (
        type(index) is faiss.IndexIVFPQ
        and _has_lists_in_full_width(index)
        and index.quantizer.ntotal == index.nlist
        and index.pq.nbits == 8
    )


def _train_words(index: Any, sample_ND: Float32s, seed: int) -> None:
    """Trains product codes of the rows less their centroids.

    Each part of the code is a k-means of its own, so small that threads within it would mostly wait for each other; one
    thread takes one part.
    """
    step = max(len(sample_ND) // (WORD_POINTS * CODE_WORDS), 1)
    rows_ND = np.ascontiguousarray(sample_ND[::step])
    rest_ND = rows_ND - index.quantizer.reconstruct_n(0, index.nlist)[index.quantizer.search(rows_ND, 1)[1][:, 0]]
    coder = index.pq

    def of_part(part: int) -> Float32s:
        columns = slice(part * coder.dsub, (part + 1) * coder.dsub)
        clustering = faiss.Clustering(coder.dsub, CODE_WORDS)
        clustering.niter, clustering.seed, clustering.min_points_per_centroid = WORD_ROUNDS, seed, 1
        clustering.train(np.ascontiguousarray(rest_ND[:, columns]), faiss.IndexFlatL2(coder.dsub))
        return faiss.vector_to_array(clustering.centroids)

    with worker_threads() as workers:
        words = run_all(workers, of_part, range(coder.M))
    faiss.copy_array_to_vector(np.concatenate(words), coder.centroids)
    index.is_trained = True
    index.precompute_table()


def _directions(rows_ND: Float32s, variance: float) -> tuple[Float32s, Float32s]:
    """Returns the mean of rows, and the fewest directions ``[D, P]`` that hold so much of their variance."""
    mean_D = rows_ND.mean(0, dtype=np.float64).astype(np.float32)
    centred_ND = rows_ND - mean_D
    variance_D, vector_DD = np.linalg.eigh((centred_ND.T @ centred_ND).astype(np.float64))
    held_D = np.cumsum(variance_D[::-1])
    count = int(np.searchsorted(held_D, variance * held_D[-1])) + 1
    count = min(-(-count // DIRECTIONS_STEP) * DIRECTIONS_STEP, len(mean_D))
    return mean_D, np.ascontiguousarray(vector_DD[:, ::-1][:, :count], dtype=np.float32)
