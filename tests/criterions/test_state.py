"""What a criterion keeps, where several processes have each seen their own batches."""

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from fairseq.criterions.by_sample import SampleCriterion
from fairseq.criterions.fairseq_criterion import FairseqCriterion
from fairseq.criterions.state import copied_state, merge_changes, state_of
from fairseq.runtime.distributed import SingleProcess


class Keeping(FairseqCriterion):
    """Keeps a count, a running mean, a constant, a mark, a weight that is not trained, and what is not saved."""

    def __init__(self) -> None:
        super().__init__(SimpleNamespace(target_dictionary=None))
        self.register_buffer("seen", torch.tensor(10))
        self.register_buffer("mean", torch.tensor([1.0, 4.0]))
        self.register_buffer("constant", torch.tensor(0.1))
        self.register_buffer("met", torch.tensor(False))
        self.register_buffer("scratch", torch.tensor(0), persistent=False)
        self.weight = torch.nn.Parameter(torch.tensor(0.3), requires_grad=False)

    def see(self, value: float, batches: int) -> None:
        self.seen += batches
        self.mean = self.mean + 0.5 * (value - self.mean)
        self.met |= value > 2
        self.scratch += 1


class Threads(SingleProcess):
    """A process that is a thread among several."""

    def __init__(self, rank: int, given: list[list[Tensor]], barrier: threading.Barrier) -> None:
        self.rank, self.world_size, self._given, self._barrier = rank, barrier.parties, given, barrier

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        own = list(tensors)
        self._given[self.rank] = [tensor.clone() for tensor in own]
        self._barrier.wait(10)
        for tensor, parts in zip(own, zip(*self._given, strict=True), strict=True):
            tensor.copy_(sum(parts))
        self._barrier.wait(10)


@pytest.mark.parametrize("world_size", [2, 3])
def test_counts_add_up_and_running_means_are_averaged(world_size: int) -> None:
    values, batches = [2.0, 8.0, 5.0][:world_size], [1, 2, 4][:world_size]
    given, barrier = [list[Tensor]()] * world_size, threading.Barrier(world_size)

    def process(rank: int) -> dict[str, Tensor]:
        criterion = SampleCriterion(Keeping())
        before = copied_state(criterion)
        criterion.criterion.see(values[rank], batches[rank])
        merge_changes(criterion, before, Threads(rank, given, barrier))
        return state_of(criterion)

    with ThreadPoolExecutor(world_size) as pool:
        first, *others = pool.map(process, range(world_size))
    assert int(first["seen"]) == 10 + sum(batches)
    center = sum(values) / world_size
    torch.testing.assert_close(first["mean"], torch.tensor([1 + 0.5 * (center - 1), 4 + 0.5 * (center - 4)]))
    assert torch.equal(first["constant"], torch.tensor(0.1)) and torch.equal(first["weight"], torch.tensor(0.3))
    assert bool(first["met"])
    assert "scratch" not in first
    for other in others:
        assert all(torch.equal(other[name], value) for name, value in first.items())


def test_a_process_alone_keeps_its_own() -> None:
    criterion = SampleCriterion(Keeping())
    before = copied_state(criterion)
    criterion.criterion.see(3.0, 1)
    own = {name: value.clone() for name, value in state_of(criterion).items()}
    merge_changes(criterion, before, SingleProcess())
    assert all(torch.equal(value, own[name]) for name, value in state_of(criterion).items())
    assert int(before["seen"]) == 10
