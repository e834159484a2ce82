"""A validation: the loss of a model on whole splits."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fairseq.criterions.batch_loss import Criterion, loss_of
from fairseq.criterions.perplexity import loss_and_ppl
from fairseq.data.block_dataset import Batch
from fairseq.runtime.distributed import ProcessGroup
from fairseq.runtime.interrupts import checked
from fairseq.runtime.precision import Precision
from fairseq.runtime.progress import Progress
from fairseq.validate.splits import ValidationSplit


@dataclass(frozen=True)
class ValidationResult:
    """What a validation found on one split, over all processes.

    Attributes:
        nats: Σ −ln p over its targets.
        num_targets: targets.
        num_rows: blocks.
        num_batches: batches.
        seconds: that it took.
    """

    nats: float
    num_targets: int
    num_rows: int
    num_batches: int
    seconds: float

    def values(self) -> dict[str, float]:
        """Returns the loss in bits per target and the perplexity."""
        return loss_and_ppl(self.nats, self.num_targets)

    def speed(self) -> dict[str, float]:
        """Returns targets per second, targets per batch and blocks per batch, by fairseq's names."""
        n = max(self.num_batches, 1)
        wps = self.num_targets / max(self.seconds, 1e-9)
        return {"wps": wps, "wpb": self.num_targets / n, "bsz": self.num_rows / n}


@torch.no_grad()
def validate(
    model: Any, criterion: Criterion, precision: Precision, group: ProcessGroup, batches: Iterable[Batch]
) -> ValidationResult:
    """Returns the sums over this process's batches and those of the others."""
    start = time.monotonic()
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=precision.device)
    for batch in batches:
        loss = loss_of(model, criterion, precision, batch)
        of_batch = [float(loss.nats), loss.num_targets, len(batch.block_idx_B), 1]
        sums += torch.tensor(of_batch, dtype=torch.float64, device=sums.device)
    group.sum_([sums])
    nats, num_targets, num_rows, num_batches = sums.tolist()
    return ValidationResult(nats, int(num_targets), int(num_rows), int(num_batches), time.monotonic() - start)


def validate_on(
    split: ValidationSplit, model: Any, criterion: Criterion, precision: Precision, group: ProcessGroup
) -> ValidationResult:
    """Returns the result of a model on a split, and shows how far it is."""
    return validate(model, criterion, precision, group, _batches(split, alone=group.world_size == 1))


def _batches(split: ValidationSplit, *, alone: bool) -> Iterator[Batch]:
    """Yields the batches of a split; a process alone can be stopped between two, one among several goes to the end."""
    with Progress(f"validate on {split.split}", len(split.batches), "batches") as progress:
        for idx in checked(split.batches) if alone else split.batches:
            yield split.dataset.collate(idx)
            progress.advance(1)
