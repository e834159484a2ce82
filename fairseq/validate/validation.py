"""A validation: the loss of a model on whole splits."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from fairseq.criterions.batch_loss import Criterion, loss_of, seed_batch
from fairseq.criterions.state import copied_state, merge_changes
from fairseq.criterions.totals import Totals
from fairseq.data.block_dataset import Batch
from fairseq.logging.metrics import Readings
from fairseq.runtime.distributed import ProcessGroup
from fairseq.runtime.interrupts import checked
from fairseq.runtime.precision import Precision
from fairseq.runtime.progress import Progress
from fairseq.validate.config import ValidationConfig
from fairseq.validate.splits import ValidationSplit


@dataclass(frozen=True)
class ValidationResult:
    """What a validation found on one split, over all processes.

    Attributes:
        nats: the loss, summed.
        num_targets: targets.
        num_rows: blocks.
        num_batches: batches.
        seconds: that it took.
        readings: the numbers of the log.
    """

    nats: float
    num_targets: int
    num_rows: int
    num_batches: int
    seconds: float
    readings: Readings = field(default_factory=Readings)

    def values(self) -> dict[str, float]:
        """Returns the loss in bits, the perplexity, and whatever else the criterion tells."""
        return self.readings.values()

    def speed(self) -> dict[str, float]:
        """Returns targets per second, targets per batch and blocks per batch, by fairseq's names."""
        n = max(self.num_batches, 1)
        wps = self.num_targets / max(self.seconds, 1e-9)
        return {"wps": wps, "wpb": self.num_targets / n, "bsz": self.num_rows / n}


@torch.no_grad()
def validate(
    model: Any, criterion: Criterion, precision: Precision, group: ProcessGroup, batches: Iterable[Batch], seed: int
) -> ValidationResult:
    """Returns the sums over this process's batches and those of the others.

    A criterion that draws random numbers draws those of ``seed`` and of the batch's number; those of training stay.
    """
    start, device = time.monotonic(), precision.device
    model.eval()
    own, kept = Totals(), copied_state(criterion)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for turn, batch in enumerate(batches):
            seed_batch(seed, turn, group)
            own.add(loss_of(model, criterion, precision, batch), len(batch.block_idx_B))
    totals = own.over(group, criterion, device)
    merge_changes(criterion, kept, group)
    sums, seconds = totals.sums, time.monotonic() - start
    counts = int(sums.num_targets), int(sums.num_rows), int(sums.num_batches)
    return ValidationResult(sums.nats, *counts, seconds, totals.readings(criterion, by_batch=True))


def validate_on(
    split: ValidationSplit, model: Any, criterion: Criterion, precision: Precision, group: ProcessGroup, seed: int
) -> ValidationResult:
    """Returns the result of a model on a split, and shows how far it is."""
    return validate(model, criterion, precision, group, _batches(split, model, group), seed)


def validation_seed(config: ValidationConfig, seed: int, num_updates: int) -> int:
    """Returns the seed of a validation: of each another, unless ``--fixed-validation-seed`` gives one for all."""
    return seed + num_updates if config.fixed_validation_seed is None else config.fixed_validation_seed


def _batches(split: ValidationSplit, model: Any, group: ProcessGroup) -> Iterator[Batch]:
    """Yields the batches of a split; a process alone can be stopped between two, one among several goes to the end."""
    missing = group.missing_rounds(len(split.batches))
    with Progress(f"validate on {split.split}", len(split.batches), "batches") as progress:
        for idx in checked(split.batches) if group.world_size == 1 else split.batches:
            yield split.dataset.collate(idx)
            progress.advance(1)
    group.idle(model, missing)
