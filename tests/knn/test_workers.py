"""Threads that share work, asked for by several callers at once."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fairseq.knn.workers import run_all, worker_threads


def test_callers_take_turns_and_leave_the_number_of_threads() -> None:
    before, inside, together = torch.get_num_threads(), [], []

    def call(number: int) -> None:
        with worker_threads() as workers:
            inside.append(number)
            run_all(workers, time.sleep, [0.01])
            together.append(len(inside))
            inside.remove(number)

    with ThreadPoolExecutor(4) as callers:
        list(callers.map(call, range(8)))
    assert together == [1] * 8
    assert torch.get_num_threads() == before


def test_a_failure_ends_the_turn() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), worker_threads() as workers:
        run_all(workers, lambda number: 1 // number, [1, 0])
    with worker_threads() as workers:
        run_all(workers, lambda number: 1 // number, [1])
    assert torch.get_num_threads() == before
