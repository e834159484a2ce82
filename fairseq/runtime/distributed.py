"""All of torch.distributed, behind one object, which has a twin for a run of one process.

Several processes are started by ``torchrun``, which sets RANK, LOCAL_RANK and WORLD_SIZE. Each takes every n-th batch;
gradients and counts are summed, so that an update is the same as one process's over the same batches.
"""

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class _WholeModel:
    """What a process does whose model is whole; processes that share its weights out do otherwise (sharding.py)."""

    is_sharded = False

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

    def close(self) -> None:
        """Does nothing."""


class TorchProcesses(_WholeModel):
    """A ``torch.distributed`` group: NCCL between GPUs, Gloo between CPUs."""

    def __init__(self, device_type: str, wait: timedelta | None) -> None:
        if device_type == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        torch.distributed.init_process_group("nccl" if device_type == "cuda" else "gloo", timeout=wait)
        self.rank = torch.distributed.get_rank()
        self.world_size = torch.distributed.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))

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

    def close(self) -> None:
        """Leaves the group."""
        torch.distributed.destroy_process_group()


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
