"""Measures the rates of this machine with the code that will do the work, on keys that are drawn at random.

    training      lists alone, of an index that keeps rows as they are; codes alone, of an index of few lists
    adding        likewise
    searching     few queries by FAISS, and many list by list, each past all rows

Drawn keys have a spectrum that falls off as a power, as those of trained models do, above a white floor; but they do
not cluster around frequent words.
"""

import os
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from fairseq.arrays import Array, Float32s, UInt8s
from fairseq.knn.index.training import CODE_WORDS, LIST_POINTS, WORD_POINTS, Adder, train
from fairseq.knn.neighbours.distribution import votes_for
from fairseq.knn.neighbours.tally import tallied
from fairseq.knn.plan.rates import Rates
from fairseq.knn.plan.work import Work
from fairseq.knn.search.by_index import search
from fairseq.knn.search.by_list import ListSearch
from fairseq.knn.search.distances import recompute_distances
from fairseq.knn.threads import run_all, worker_threads
from fairseq.runtime.progress import at_work
from fairseq.runtime.resources import free_disk_bytes, total_memory_bytes

DISK_BYTES, SEEKS = 1 << 29, 2048
# Rows that are drawn, at most; lists where these are not what is measured; queries that FAISS and that ``ListSearch``
# search for.
MOST_ROWS, FEW_LISTS, FEW, QUERIES = 1 << 16, 16, 64, 2048
VOTERS = 4096  # queries whose votes are counted
RANK, NOISE = 64, 0.05


def peak_bytes() -> float:
    """Returns the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def measure_rates(work: Work, place: Path, base_bytes: float) -> Rates:
    """Returns this machine's rates for a key width, a code and a number of neighbours.

    Args:
        work: what is planned.
        place: directory on the disk that is measured.
        base_bytes: memory of this process before it had any data.
    """
    with at_work("measure the disk"):
        disk_write, disk_read, disk_seek = measure_disk(place, work.row_bytes)
    with at_work("measure training and adding"):
        keys_ND = drawn(MOST_ROWS, work.dimension, 1)
        train_operations, train_codes_s = _measure_training(work, keys_ND)
        index, add_operations, add_rows = _measure_adding(work, keys_ND)
    with at_work("measure searching"):
        queries_ND = drawn(QUERIES, work.dimension, 2)
        stored_ND = keys_ND.astype(np.float16) if work.key_bytes == 2 else keys_ND
        by_faiss, by_list = _measure_search(index, queries_ND, stored_ND, work.k)
        read_rows = _measure_reading(stored_ND, queries_ND, work.k)
        coarse, voted_rows = _measure_coarse(work), _measure_votes(work.k)
    return Rates(
        machine=f"{platform.node()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads",
        dimension=work.dimension,
        code_bytes=work.code_bytes,
        disk_write=disk_write,
        disk_read=disk_read,
        disk_seek=disk_seek,
        train_operations=train_operations,
        train_codes_s=train_codes_s,
        add_operations=add_operations,
        add_rows=add_rows,
        coarse_operations=coarse,
        visited_rows=by_faiss,
        visited_rows_by_list=by_list,
        read_rows=read_rows,
        voted_rows=voted_rows,
        base_bytes=base_bytes,
        memory=float(total_memory_bytes()),
        disk=float(free_disk_bytes(place)),
    )


def drawn(count: int, dimension: int, seed: int) -> Float32s:
    """Returns random keys or queries, ``[count, dimension]``, all of one distribution."""
    rank = min(RANK, dimension)
    basis_RD = np.linalg.qr(np.random.default_rng(0).standard_normal((dimension, rank)))[0].T.astype(np.float32)
    rng = np.random.default_rng([seed, 1])
    deviation_R = 3.0 * np.arange(1, rank + 1, dtype=np.float32) ** -0.5
    out_ND = rng.standard_normal((count, dimension), dtype=np.float32)
    out_ND *= NOISE
    out_ND += (rng.standard_normal((count, rank), dtype=np.float32) * deviation_R) @ basis_RD
    return out_ND


def measure_disk(place: Path, row_bytes: int) -> tuple[float, float, float]:
    """Returns bytes a second of writing and of reading in order, and random pieces of ``row_bytes`` a second."""
    path = place / f".disk-rate-{os.getpid()}"
    block = np.random.default_rng(0).integers(0, 256, 1 << 24, np.uint8)
    try:
        with path.open("w+b", buffering=0) as file:
            write_s = _timed(lambda: _write(file.fileno(), block, DISK_BYTES // len(block)))
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            read_s = _timed(lambda: _read(file.fileno(), block))
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            places = np.random.default_rng(1).integers(0, DISK_BYTES - row_bytes, SEEKS)
            seek_s = _timed(lambda: [os.pread(file.fileno(), row_bytes, place) for place in places.tolist()])
    finally:
        path.unlink(missing_ok=True)
    return DISK_BYTES / write_s, DISK_BYTES / read_s, SEEKS / seek_s


def _write(descriptor: int, block: UInt8s, times: int) -> None:
    for _ in range(times):
        os.write(descriptor, block.data)
    os.fsync(descriptor)


def _read(descriptor: int, block: UInt8s) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    while os.readv(descriptor, [block.data]):
        pass


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return max(time.perf_counter() - start, 1e-9)


def _coded(work: Work, lists: int) -> Any:
    return faiss.IndexIVFPQ(faiss.IndexFlatL2(work.dimension), work.dimension, lists, work.code_bytes, 8)


def _whole(work: Work, lists: int) -> Any:
    """Returns an index that keeps rows as they are: its training and filling are the lists' alone."""
    return faiss.IndexIVFFlat(faiss.IndexFlatL2(work.dimension), work.dimension, lists)


def _measure_training(work: Work, keys_ND: Float32s) -> tuple[float, float]:
    """Returns the operations a second of training lists, and the seconds of training codes."""
    lists = len(keys_ND) // LIST_POINTS
    of_lists = replace(work, rows=len(keys_ND), lists=lists)
    lists_s = _timed(lambda: train(_whole(work, lists), keys_ND, 1, quick=True))
    codes_s = _timed(lambda: train(_coded(work, FEW_LISTS), keys_ND[: CODE_WORDS * WORD_POINTS], 1, quick=True))
    return of_lists.train_operations / lists_s, codes_s


def _measure_adding(work: Work, keys_ND: Float32s) -> tuple[Any, float, float]:
    """Returns an index of these keys, the operations a second of finding lists, and rows a second that are encoded."""
    many, few = _whole(work, min(work.lists, len(keys_ND) // LIST_POINTS)), _coded(work, FEW_LISTS)
    for index in (many, few):
        train(index, keys_ND[: CODE_WORDS * WORD_POINTS], 1, quick=True)
    find, encode = Adder(many, quick=True), Adder(few, quick=True)
    nowhere_N = np.full(len(keys_ND), -1)  # lists are looked for, and no row is added
    find(keys_ND[:4096], nowhere_N[:4096])  # wakes the threads
    find_s, encode_s = _timed(lambda: find(keys_ND, nowhere_N)), _timed(lambda: encode(keys_ND))
    operations = len(keys_ND) * replace(work, lists=many.nlist).add_operations
    return few, operations / find_s, len(keys_ND) / encode_s


def _measure_search(index: Any, queries_ND: Float32s, stored_ND: Array, k: int) -> tuple[float, float]:
    """Returns codes a second that FAISS goes over, and that a search list by list does, which reads the keys as well.

    Lists are few, and all are visited.
    """
    k, index.nprobe = min(k, index.ntotal // 8), index.nlist
    by_list, few_ND = ListSearch(index), queries_ND[:FEW]
    by_list.search(few_ND[:16], k, stored_ND)
    faiss_s, list_s = _timed(lambda: search(index, few_ND, k)), _timed(lambda: by_list.search(queries_ND, k, stored_ND))
    return len(few_ND) * index.ntotal / faiss_s, len(queries_ND) * index.ntotal / list_s


def _measure_reading(stored_ND: Array, queries_ND: Float32s, k: int) -> float:
    ids_NK = np.random.default_rng(3).integers(0, len(stored_ND), (FEW, k))
    return ids_NK.size / _timed(lambda: recompute_distances(stored_ND, queries_ND[:FEW], ids_NK))


def _measure_coarse(work: Work) -> float:
    lists = min(work.lists, 4096)
    quantizer = faiss.IndexFlatL2(work.dimension)
    quantizer.add(drawn(lists, work.dimension, 4))
    queries_ND = drawn(1024, work.dimension, 5)
    quantizer.search(queries_ND[:64], min(work.probe, lists))
    seconds = _timed(lambda: quantizer.search(queries_ND, min(work.probe, lists)))
    return len(queries_ND) * 2.0 * work.dimension * lists / seconds


def _measure_votes(k: int) -> float:
    rng = np.random.default_rng(6)
    near_NK = rng.random((VOTERS, k), np.float32)
    ids_NK = np.broadcast_to(np.arange(k), near_NK.shape)
    values_NK, target_N = rng.integers(0, 999, near_NK.shape), rng.integers(0, 999, VOTERS)

    def count(first: int) -> None:
        part = slice(first, first + VOTERS // 8)
        tallied(votes_for(near_NK[part], ids_NK[part], values_NK[part], target_N[part], distinct=True), 1.0)

    with worker_threads() as workers:
        return near_NK.size / _timed(lambda: run_all(workers, count, range(0, VOTERS, VOTERS // 8)))
