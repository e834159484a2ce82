"""Sums over batches and processes, and the numbers of the log that they make."""

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from itertools import zip_longest
from typing import Any

import torch

from fairseq.criterions.by_sample import SampleCriterion
from fairseq.criterions.cross_entropy import Loss
from fairseq.criterions.perplexity import perplexity_of
from fairseq.errors import FairseqError
from fairseq.logging.metrics import Reading, Readings
from fairseq.runtime.distributed import ProcessGroup


@dataclass
class Sums:
    """Sums over batches.

    Attributes:
        nats: of the loss.
        sample_size: what gradient and logged loss are divided by.
        nll: Σ −ln p(target).
        num_with_nll: batches whose loss is something else.
        num_targets: targets.
        num_rows: blocks.
        num_batches: batches.
        num_late: processes that have found the run's time over.
        num_stops: processes that were asked to stop.
    """

    nats: float = 0.0
    sample_size: float = 0.0
    nll: float = 0.0
    num_with_nll: float = 0
    num_targets: float = 0
    num_rows: float = 0
    num_batches: float = 0
    num_late: float = 0
    num_stops: float = 0


@dataclass
class Totals:
    """Sums over this process's batches, and what a ``FairseqCriterion`` told of each."""

    sums: Sums = field(default_factory=Sums)
    told: list[Mapping[str, Any]] = field(default_factory=list)

    def add(self, loss: Loss, num_rows: int) -> None:
        """Counts a batch; raises FairseqError where its sample size is negative or no number."""
        sums, nats = self.sums, float(loss.nats.detach())
        size = float(loss.num_targets if loss.sample_size is None else loss.sample_size)
        if not 0 <= size < math.inf:
            raise FairseqError(f"--criterion must give a sample size that is 0 or more, but gives {size:g} for a batch")
        sums.nats += nats
        sums.sample_size += size
        sums.nll += nats if loss.nll is None else float(loss.nll)
        sums.num_with_nll += loss.nll is not None
        sums.num_targets += loss.num_targets
        sums.num_rows += num_rows
        sums.num_batches += 1
        if loss.logged is not None:
            self.told.append(loss.logged)

    def over(self, group: ProcessGroup, criterion: Any, device: torch.device) -> "Totals":
        """Returns the totals of all processes, which have taken turns at the batches."""
        sums = torch.tensor(astuple(self.sums), dtype=torch.float64, device=device)
        group.sum_([sums])
        told = group.gather(self.told) if isinstance(criterion, SampleCriterion) else [self.told]
        in_order = [output for turn in zip_longest(*told) for output in turn if output is not None]
        return Totals(Sums(*sums.tolist()), in_order)

    def readings(self, criterion: Any, *, by_batch: bool = False) -> Readings:
        """Returns the numbers of the log; ``by_batch`` asks a ``FairseqCriterion`` for those of each batch."""
        sums, bits = self.sums, 1 / math.log(2)
        if isinstance(criterion, SampleCriterion):
            together = Readings()
            for outputs in [[told] for told in self.told] if by_batch else [self.told]:
                together.add(criterion.readings(outputs, sums.nats, sums.sample_size))
            return together
        means = {"loss": Reading(sums.nats * bits, sums.sample_size, 0.0)}
        if sums.num_with_nll:
            means["nll_loss"] = Reading(sums.nll * bits, sums.num_targets, 0.0)
        name = list(means)[-1]
        return Readings(means, {"ppl": lambda found: perplexity_of(found[name].avg)})
