"""All of torch.distributed, behind one object, which has a twin for a run of one process.

Several processes are started by ``torchrun`` or by ``launcher.py``, which set RANK, LOCAL_RANK and WORLD_SIZE. In
training each takes every n-th batch; gradients and counts are summed, so that an update is the same as one process's
over the same batches. Other work is shared out in stretches (shares.py).
"""

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from fairseq.runtime.endings import LostProcessError, be_silent, is_launched
from fairseq.runtime.interrupts import Interrupted, ignore_signals

T = TypeVar("T")

_SECONDS_TO_GO = 3.0  # within which a process that has died is no longer listed by the system


class _WholeModel:
    """What a process does whose model is whole; processes that share its weights out do otherwise (sharding.py).

    Attributes:
        is_sharded: whether they do.
        done: what the processes have done together, in words, for when one of them is lost.
    """

    is_sharded = False
    done = ""

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Sums tensors over the processes, in place."""
        raise NotImplementedError

    def placed(self, model: nn.Module, layers: Iterable[nn.Module], device: torch.device) -> nn.Module:
        """Returns the model on the device."""
        return model.to(device)

    def summed(self, gradients: list[Tensor]) -> list[Tensor]:
        """Returns those gradients that are here, summed over the processes."""
        self.sum_(gradients)
        return gradients

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Returns the norm of all gradients together."""
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        return norm

    def missing_rounds(self, rounds: int) -> int:
        """Returns how many more passes through the model other processes make; 0 where none of them waits for it."""
        return 0

    def idle(self, model: nn.Module, rounds: int) -> None:
        """Passes nothing through the model, so many times."""

    def with_all_weights(self, model: nn.Module, loss: Tensor) -> Tensor:
        """Returns the loss; where processes wait for each other's gradients, every weight has one of it."""
        return loss


class SingleProcess(_WholeModel):
    """The group of a run with one process: nothing to add up, nobody to wait for."""

    rank = 0
    local_rank = 0
    world_size = 1

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Leaves the tensors as they are."""

    def wait(self) -> None:
        """Does nothing."""

    def gather(self, item: T) -> list[T]:
        """Returns the item alone."""
        return [item]

    def lost(self, patience_s: float = 0.0) -> list[int]:
        """Returns nobody."""
        return []

    def leave(self) -> None:
        """Does nothing."""

    def is_first_to_end(self) -> bool:
        """Returns True."""
        return True

    def close(self) -> None:
        """Does nothing."""


class TorchProcesses(_WholeModel):
    """A ``torch.distributed`` group: NCCL between GPUs, Gloo between CPUs."""

    def __init__(self, device_type: str, wait: timedelta | None) -> None:
        if device_type == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        self._store, self.rank, self.world_size = next(rendezvous("env://"))
        torch.distributed.init_process_group(
            "nccl" if device_type == "cuda" else "gloo",
            store=PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.world_size,
            timeout=wait,
        )
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self._store.set(f"member {self.rank}", f"{socket.gethostname()} {os.getpid()}")
        self._members = self._store.multi_get([f"member {rank}" for rank in range(self.world_size)])

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Sums through one flat buffer, so that many small tensors cost one message."""
        originals = list(tensors)
        if not originals:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in originals])
        torch.distributed.all_reduce(flat)
        for tensor, part in zip(originals, torch.split(flat, [t.numel() for t in originals]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Waits until every process has come here."""
        torch.distributed.barrier()

    def gather(self, item: T) -> list[T]:
        """Returns every process's item, in the order of their ranks."""
        items: list[T] = [item] * self.world_size
        torch.distributed.all_gather_object(items, item)
        return items

    def lost(self, patience_s: float = _SECONDS_TO_GO) -> list[int]:
        """Returns the ranks of those processes that have died, after so many seconds if there are none.

        A process sees those of its own machine, and tells the others.
        """
        deadline = time.monotonic() + patience_s
        while True:
            ended = [rank for rank, member in enumerate(self._members) if not _is_there(*member.decode().split())]
            with suppress(RuntimeError):  # what keeps the words has ended itself
                ended = [rank for rank in ended if not self._store.check([f"left {rank}"])]
                if ended:
                    self._store.set("lost", " ".join(map(str, ended)))
                elif self._store.check(["lost"]):
                    ended = [int(rank) for rank in self._store.get("lost").split()]
            if ended or time.monotonic() > deadline:
                return ended
            time.sleep(0.05)

    def leave(self) -> None:
        """Tells the others that this process ends of itself, so that they do not take it for one that has died."""
        with suppress(RuntimeError):
            self._store.set(f"left {self.rank}", "")

    def is_first_to_end(self) -> bool:
        """Returns whether no other process has asked this before: then this one says why the run ends."""
        try:
            return int(self._store.add("ended", 1)) == 1
        except RuntimeError:  # what keeps the count has ended itself
            return True

    def close(self) -> None:
        """Leaves the group."""
        self.leave()
        torch.distributed.destroy_process_group()


def _is_there(host: str, pid: str) -> bool:
    """Returns False where a process of this machine has ended."""
    try:
        if host == socket.gethostname():
            os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return True


ProcessGroup: TypeAlias = SingleProcess | TorchProcesses


def join_processes(
    device_type: str, wait: timedelta | None = None, several: type[TorchProcesses] = TorchProcesses
) -> ProcessGroup:
    """Returns the group that ``torchrun`` started this process in, or that of a single process.

    Args:
        device_type: where the tensors are that are summed.
        wait: how long one may wait for another; torch's default if left out, which suits those that go in step.
        several: what a group of several is; its processes may share a model out (sharding.py).
    """
    if int(os.environ.get("WORLD_SIZE") or "1") > 1:
        return several(device_type, wait)
    return SingleProcess()


@contextmanager
def joined(
    device_type: str,
    go_on: Callable[[], str],
    wait: timedelta | None = None,
    several: type[TorchProcesses] = TorchProcesses,
) -> Iterator[ProcessGroup]:
    """Yields the group as ``join_processes`` does, and sees to it that one of its processes says why the run fails.

    ``go_on`` returns how to go on, for the line that says that another process has ended.

    Raises:
        LostProcessError: another process has ended, so that torch cannot go on.
    """
    group = join_processes(device_type, wait, several)
    try:
        yield group
    except Interrupted as stop:
        # torchrun stops this process because the run is to stop, or because another process has died.
        lost = [] if is_launched() else group.lost(0)
        group.leave()
        if lost:
            be_silent(not group.is_first_to_end())
            raise LostProcessError(lost, group.world_size, group.done, go_on()) from stop
        raise
    except Exception as err:
        if group.world_size > 1:
            ignore_signals()  # torchrun stops the others where one has ended
        lost = group.lost() if isinstance(err, RuntimeError) else []
        be_silent(not is_launched() and not group.is_first_to_end())
        if lost:
            raise LostProcessError(lost, group.world_size, group.done, go_on()) from err
        raise
    group.close()
