"""Running sums of what training shows: loss, speed, gradient norm."""

import math
import time
from dataclasses import dataclass, field

from fairseq.perplexity import perplexity_of
from fairseq.trainer import UpdateStats


@dataclass
class Meters:
    """Sums over the updates since they were last reset."""

    nats: float = 0.0
    num_targets: int = 0
    num_rows: int = 0
    num_updates: int = 0
    num_clipped: int = 0
    gradient_norm_sum: float = 0.0
    start: float = field(default_factory=time.monotonic)

    def add(self, stats: UpdateStats) -> None:
        """Counts one update."""
        self.nats += stats.nats
        self.num_targets += stats.num_targets
        self.num_rows += stats.num_rows
        self.num_updates += 1
        self.num_clipped += stats.clipped
        self.gradient_norm_sum += stats.gradient_norm if math.isfinite(stats.gradient_norm) else 0.0

    def values(self) -> dict[str, float]:
        """Returns loss (bits per token), ppl, tokens and updates per second, and the like, by fairseq's names."""
        n, elapsed_s = max(self.num_updates, 1), max(time.monotonic() - self.start, 1e-9)
        loss = self.nats / max(self.num_targets, 1) / math.log(2)
        return {
            "loss": loss,
            "ppl": perplexity_of(loss),
            "wps": self.num_targets / elapsed_s,
            "ups": self.num_updates / elapsed_s,
            "wpb": self.num_targets / n,
            "bsz": self.num_rows / n,
            "gnorm": self.gradient_norm_sum / n,
            "clip": 100 * self.num_clipped / n,
        }
