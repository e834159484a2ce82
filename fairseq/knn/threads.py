"""Threads that share work, each with its own products: where matrices are small, threads within a product only wait.

How many threads torch uses is a number of each thread, which it takes at its first operation from one number for all;
to set the first is to set the second as well. So the workers are kept, and the number for all is put back at once.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_turn = threading.Lock()
_pools: dict[int, ThreadPoolExecutor] = {}


@contextmanager
def worker_threads() -> Iterator[ThreadPoolExecutor]:
    """Yields as many threads as torch uses in this one; in each, a matrix product and FAISS's decoding use one thread.

    Callers in several threads take turns. What the workers do must not ask for workers.
    """
    with _turn:
        count = torch.get_num_threads()
        if count not in _pools:
            _pools[count] = _new_pool(count)
        yield _pools[count]


def run_all(workers: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Returns what the work on every item gave, in order.

    What the first failure raised is raised when nothing is under way any more; what has not begun then does not.
    """
    futures = [workers.submit(work, item) for item in items]
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()
        wait(futures)


def _new_pool(count: int) -> ThreadPoolExecutor:
    """Returns as many threads, all started, in each of which torch and FAISS use one."""
    import faiss

    ready = threading.Barrier(count + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # takes it: from here on, the number for all is nothing to this thread
        faiss.omp_set_num_threads(1)
        ready.wait()

    workers = ThreadPoolExecutor(count, "worker", begin)
    for _ in range(count):
        workers.submit(int)  # a thread is begun for each, since none is idle before all are ready
    ready.wait()
    torch.set_num_threads(count)
    return workers


def _forget() -> None:
    """In a forked process, which has none of the threads, and perhaps another's lock."""
    global _turn
    _turn = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
