"""One update.

An update: the loss of its batches summed over targets, divided by the number of targets of all batches and processes
(or of blocks, or by what else the criterion says), clipped by the global norm, one optimizer step. Update n is a
function of the weights, the optimizer's state, the batches and ``seed + n`` alone, so that a resumed run repeats an
uninterrupted one to the bit (on a CPU).

A batch draws random numbers by its own number within the update, whichever process it is in. So two processes make the
update of one with twice the ``--update-freq``, dropout included: to the bit, since a sum of two does not depend on
their order. With more batches in an update, sums are in another order, and the last digits may differ.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import Optimizer

from fairseq.criterions.batch_loss import Criterion, loss_of, seed_batch
from fairseq.criterions.state import copied_state, merge_changes
from fairseq.criterions.totals import Sums, Totals
from fairseq.data.block_dataset import Batch
from fairseq.errors import FairseqError
from fairseq.logging.metrics import Readings
from fairseq.optim.lr_schedules import Schedule
from fairseq.runtime.distributed import ProcessGroup
from fairseq.runtime.precision import Precision


@dataclass(frozen=True)
class UpdateStats:
    """Statistics of one update.

    Attributes:
        nats: the loss, summed over all processes.
        num_targets: targets, all processes.
        num_rows: blocks, all processes.
        gradient_norm: global norm before clipping.
        lr: learning rate of the update.
        clipped: whether the norm was above the bound.
        stop: whether any process was asked to stop.
        late: whether any process has found the run's time over.
        readings: the numbers of the log.
    """

    nats: float
    num_targets: int
    num_rows: int
    gradient_norm: float
    lr: float
    clipped: bool
    stop: bool = False
    late: bool = False
    readings: Readings = field(default_factory=Readings)


@dataclass(eq=False)
class Trainer:
    """The model with its optimizer, schedule and precision.

    Attributes:
        model: on the device of ``precision``.
        criterion: the loss.
        optimizer: over the model's parameters.
        schedule: learning rate of each update.
        precision: device and number format.
        group: the processes of the run.
        clip_norm: bound of the gradient norm; 0 is no bound.
        seed: base of each update's random seed.
        num_updates: made so far.
    """

    model: nn.Module
    criterion: Criterion
    optimizer: Optimizer
    schedule: Schedule
    precision: Precision
    group: ProcessGroup
    clip_norm: float
    seed: int
    num_updates: int = 0

    def __post_init__(self) -> None:
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]

    @property
    def max_positions(self) -> int:
        """Longest row that the model takes, in tokens."""
        return int(self.model.max_positions)  # type: ignore[arg-type]

    def update(self, batches: Sequence[Batch], epoch: int, *, stop: bool = False, late: bool = False) -> UpdateStats:
        """Makes one update from this process's batches; a process whose batches have run out gives none.

        ``stop`` says that this process was asked to stop, and ``late`` that its clock has run out; all processes learn
        it, to stop after the same update.

        Raises:
            FairseqError: the loss is not a number.
        """
        lr = self.schedule(self.num_updates, epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        own, missing = Totals(Sums(num_late=late, num_stops=stop)), self.group.missing_rounds(len(batches))
        kept = copied_state(self.criterion)
        for turn, batch in enumerate(batches):
            seed_batch(self.seed + self.num_updates, turn, self.group)
            loss = loss_of(self.model, self.criterion, self.precision, batch)
            nats = self.group.with_all_weights(self.model, loss.nats)
            self.precision.scaler.scale(nats).backward()  # type: ignore[no-untyped-call]
            own.add(loss, len(batch.block_idx_B))
        self.group.idle(self.model, missing)
        totals = own.over(self.group, self.criterion, self.precision.device)
        merge_changes(self.criterion, kept, self.group)
        sums = totals.sums
        if not math.isfinite(sums.nats):
            raise FairseqError(
                f"the loss of update {self.num_updates + 1} is {sums.nats}; lower --lr, or lengthen the warm-up"
            )
        norm = self._normalise_gradients(sums.sample_size)
        if self._step(norm):
            self.num_updates += 1
        self.group.done = f"after update {self.num_updates}"
        counts, clipped = (int(sums.num_targets), int(sums.num_rows)), 0 < self.clip_norm < norm
        asked, readings = (sums.num_stops > 0, sums.num_late > 0), totals.readings(self.criterion)
        return UpdateStats(sums.nats, *counts, norm, lr, clipped, *asked, readings)

    def _normalise_gradients(self, sample_size: float) -> float:
        """Divides gradients by the sample size, clips them, and returns their norm before clipping.

        Scaled gradients are summed before they are unscaled, so that every process sees the same overflow. The mean
        and the clipping are one factor: gradients are gone over once.
        """
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)  # e.g. a tail without targets in this update
        gradients = self.group.summed([p.grad for p in self._parameters if p.grad is not None])
        if self.precision.scaler.is_enabled():
            self.precision.scaler.scale(gradients[0].new_zeros(()))  # sets the scaler up where no batch has
            self.precision.scaler.unscale_(self.optimizer)
        mean = 1 / (sample_size or 1.0)
        norm = mean * self.group.norm(gradients)
        factor = mean * (self.clip_norm / (norm + 1e-6)).clamp(max=1.0) if self.clip_norm > 0 else mean
        torch._foreach_mul_(gradients, factor)
        return float(norm)

    def _step(self, norm: float) -> bool:
        """Steps the optimizer; returns False if a float16 overflow only lowered the loss scale."""
        scaler = self.precision.scaler
        if scaler.is_enabled():
            scaler.step(self.optimizer)
            return self.precision.adapt_loss_scale()
        if not math.isfinite(norm):
            raise FairseqError(
                f"the gradient of update {self.num_updates + 1} is not finite; lower --lr or lengthen the warm-up"
            )
        self.optimizer.step()
        return True
