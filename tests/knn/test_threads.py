"""Threads that share work, asked for by several callers at once."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fairseq.knn.threads import run_all, worker_threads


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def threads_of_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(torch.get_num_threads).result()


def test_a_worker_uses_one_thread_and_everyone_else_as_many_as_before() -> None:
    meanwhile = []
    with worker_threads() as workers:
        assert run_all(workers, lambda _: torch.get_num_threads(), range(8)) == [1] * 8
        meanwhile += [torch.get_num_threads(), threads_of_a_new_thread()]
    assert meanwhile == [torch.get_num_threads(), threads_of_a_new_thread()] == [2, 2]


def test_there_are_as_many_workers_as_torch_has_threads() -> None:
    for count in (2, 3, 1, 2):
        torch.set_num_threads(count)
        there = threading.Barrier(count)
        with worker_threads() as workers:
            found = run_all(workers, lambda _, there=there: (there.wait(5), threading.get_ident())[1], range(count))
        assert len(set(found)) == count


def test_callers_take_turns() -> None:
    inside, together = [], []

    def call(number: int) -> None:
        with worker_threads() as workers:
            inside.append(number)
            run_all(workers, time.sleep, [0.01])
            together.append(len(inside))
            inside.remove(number)

    with ThreadPoolExecutor(4) as callers:
        list(callers.map(call, range(8)))
    assert together == [1] * 8
    assert (torch.get_num_threads(), threads_of_a_new_thread()) == (2, 2)


def test_a_failure_is_raised_when_nothing_is_under_way_any_more() -> None:
    began, ended = [], []

    def work(number: int) -> float:
        began.append(number)
        try:
            return 1 / number
        finally:
            time.sleep(0.05)
            ended.append(number)

    with worker_threads() as workers:
        with pytest.raises(ZeroDivisionError):
            run_all(workers, work, [0, 1, 2, 4, 5, 8])
        assert sorted(began) == sorted(ended) and 0 in ended
        assert run_all(workers, work, [4]) == [0.25]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_process_has_workers_of_its_own() -> None:
    with worker_threads() as workers:
        run_all(workers, int, [1, 2])
        child = os.fork()
        if not child:
            with worker_threads() as own:
                os._exit(7 if run_all(own, int, [3, 4]) == [3, 4] else 8)
    deadline = time.monotonic() + 20
    while not (done := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.02)
    if not done[0]:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(done[1]) == 7
