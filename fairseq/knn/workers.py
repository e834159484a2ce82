"""Threads that share work, each with its own products: where matrices are small, threads within a product only wait."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

# How many threads a product uses is one number for all; who changes it waits for whoever has.
_TURN = threading.Lock()


@contextmanager
def worker_threads() -> Iterator[ThreadPoolExecutor]:
    """Yields as many threads as torch uses; until the end, a matrix product of any thread uses one thread.

    Callers in several threads take turns. What the workers do must not ask for workers.
    """
    with _TURN, ThreadPoolExecutor(count := torch.get_num_threads(), initializer=_one_thread) as workers:
        torch.set_num_threads(1)
        try:
            yield workers
        finally:
            torch.set_num_threads(count)


def run_all(workers: ThreadPoolExecutor, work: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Does the work on every item; raises what the first failure raised."""
    for future in [workers.submit(work, item) for item in items]:
        future.result()


def _one_thread() -> None:
    """In a worker: its products and FAISS's decoding use this thread only."""
    import faiss

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
