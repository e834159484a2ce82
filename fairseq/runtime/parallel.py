"""A function of many items in several processes, with the same results, in the same order, for any number of them."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

from fairseq.errors import FairseqError

S = TypeVar("S")
T = TypeVar("T")

AHEAD = 2  # items under way for each worker


def ordered_map(function: Callable[[S], T], items: Iterable[S], workers: int) -> Iterator[T]:
    """Yields ``function`` of each item, in order, computed by ``workers`` processes; by this one if that is at most 1.

    Few items are under way at a time, and no more are taken from ``items``.

    Raises:
        FairseqError: a process was killed.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(function,)
    )
    waiting = iter(items)
    try:
        running: deque[Future[T]] = deque(pool.submit(_work, item) for item in islice(waiting, AHEAD * workers))
        while running:
            yield running.popleft().result()
            running.extend(pool.submit(_work, item) for item in islice(waiting, 1))
    except BrokenProcessPool as err:
        raise FairseqError(
            f"all {workers} worker processes must live to the end, but one was killed, often for want of memory; give"
            " fewer --workers"
        ) from err
    finally:
        pool.shutdown(cancel_futures=True)


# What a worker process holds: the function that its pool was made for, sent once instead of with every item.
_function: Callable[[Any], Any] | None = None


def _start_worker(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # after Ctrl-C the parent stops us
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(item: Any) -> Any:
    assert _function is not None
    return _function(item)
