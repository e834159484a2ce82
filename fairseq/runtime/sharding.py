"""A model whose weights are shared out among processes (torch's FSDP2), and tensors laid out likewise.

Each process keeps its share of every weight, of its gradient and of the optimizer's numbers. A layer's weights are
gathered for the time that it computes, and its gradients are summed and shared out again. So processes wait for each
other in every pass through the model: all make equally many, over the same layers, and have gradients of the same
weights. A process whose batches have run out passes a single word through, which adds nothing.

This is the second module that uses torch.distributed: what is imported here takes a second, and plain training does
without.
"""

from collections.abc import Iterable

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from fairseq.runtime.distributed import TorchProcesses


class ShardingProcesses(TorchProcesses):
    """A ``torch.distributed`` group whose processes share a model out."""

    is_sharded = True

    def placed(self, model: nn.Module, layers: Iterable[nn.Module], device: torch.device) -> nn.Module:
        """Returns the model, of which this process keeps its share, on the device.

        One layer at a time goes there whole. Sums of gradients are no means, as without sharding.
        """
        mesh = init_device_mesh(device.type, (self.world_size,))
        for part in (*layers, model):
            fully_shard(part, mesh=mesh)
            assert isinstance(part, FSDPModule)
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
        return model

    def summed(self, gradients: list[Tensor]) -> list[Tensor]:
        """Returns this process's shares of the gradients, which ``backward`` has summed."""
        return [share_of(gradient) for gradient in gradients]

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Returns the norm of all gradients together, given this process's shares."""
        square = torch.stack(torch._foreach_norm(gradients)).square().sum()
        torch.distributed.all_reduce(square)
        return square.sqrt()

    def missing_rounds(self, rounds: int) -> int:
        """Returns how many more passes through the model another process makes."""
        device = torch.device("cuda" if torch.distributed.get_backend() == "nccl" else "cpu")
        most = torch.tensor(rounds, device=device)
        torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
        return int(most) - rounds

    def idle(self, model: nn.Module, rounds: int) -> None:
        """Passes one word through the model, so many times; backwards as well in training, with gradients of zero."""
        word_11 = torch.zeros((1, 1), dtype=torch.int64, device=_device_of(model))
        for _ in range(rounds):
            nothing = self.with_all_weights(model, model(word_11).features_BSC.sum() * 0)
            if torch.is_grad_enabled():
                nothing.backward()  # type: ignore[no-untyped-call]

    def with_all_weights(self, model: nn.Module, loss: Tensor) -> Tensor:
        """Returns the loss, with 0 · w of each weight that lies outside the layers.

        FSDP sums the gradients that a process has: where one has none, such as of a tail of the adaptive softmax in
        which no target lies, the others would add theirs to that of another weight.
        """
        gathered = [p for p in model.parameters() if p.requires_grad and not isinstance(p, DTensor)]
        first = [parameter.reshape(-1)[:1].sum() for parameter in gathered]
        return loss + torch.stack(first).sum() * 0 if first else loss


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def share_of(tensor: Tensor) -> Tensor:
    """Returns this process's share of a tensor; the tensor itself where it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def laid_out_as(tensor: Tensor, other: Tensor | None) -> Tensor:
    """Returns a whole tensor in the layout of another of its shape: of a sharded one, this process's share."""
    if not isinstance(other, DTensor) or isinstance(tensor, DTensor) or tensor.shape != other.shape:
        return tensor
    whole = tensor.to(other.device)
    return distribute_tensor(whole, other.device_mesh, other.placements, src_data_rank=None)


def zeros_as(shape: torch.Size, dtype: torch.dtype, other: Tensor | None) -> Tensor:
    """Returns zeros in the layout of another tensor of their shape; whole ones, on the CPU, without such a tensor."""
    if not isinstance(other, DTensor) or shape != other.shape:
        return torch.zeros(shape, dtype=dtype)
    return torch.zeros_like(other, dtype=dtype, requires_grad=False)
