"""How long a run still is: by ``--max-update`` and ``--max-epoch``, whichever comes first, and by the clock."""

import time

from fairseq.optim.config import OptimizationConfig

SECONDS_IN_AN_HOUR = 3600


def updates_left(
    bounds: OptimizationConfig, num_batches: int, position: int, epoch: int, num_updates: int, world_size: int = 1
) -> tuple[int, int | None]:
    """Returns how many updates the run makes of the rest of an epoch, and after it; None for the latter if unbounded.

    Later epochs are taken to be as long as this one: data directories that take turns may differ.

    Args:
        bounds: where the run ends, and how many batches of each process an update has in each epoch.
        num_batches: batches in the epoch.
        position: how many of them are done.
        epoch: from 1.
        num_updates: made so far.
        world_size: processes.
    """
    freqs = [freq * world_size for freq in bounds.update_freq]
    now = -(-(num_batches - position) // freqs[min(epoch, len(freqs)) - 1])
    later = None
    if bounds.max_epoch:
        listed = range(epoch + 1, min(bounds.max_epoch, len(freqs)) + 1)
        others = max(bounds.max_epoch - max(epoch, len(freqs)), 0)
        later = sum(-(-num_batches // freqs[number - 1]) for number in listed) + others * -(-num_batches // freqs[-1])
    if bounds.max_update:
        left = max(bounds.max_update - num_updates, 0)
        now = min(now, left)
        later = left - now if later is None else min(later, left - now)
    return now, later


def is_due(num_updates: int, every: int) -> bool:
    """Returns whether something that is done every so many updates is done after this one; never where that is 0."""
    return num_updates > 0 and every > 0 and num_updates % every == 0


class TimeLimit:
    """Tells when ``--stop-time-hours`` are over.

    Args:
        hours: how long the run may take; 0 for no limit.
        start_s: when this command began, by ``time.monotonic``.
        before_s: seconds that the run had taken before.

    Attributes:
        is_over: whether the time is over for all processes; the run sets it after the update in which one found so.
    """

    def __init__(self, hours: float, start_s: float, before_s: float) -> None:
        self.hours, self._start_s, self._before_s = hours, start_s, before_s
        self.is_over = 0 < hours * SECONDS_IN_AN_HOUR <= before_s

    @property
    def elapsed_s(self) -> float:
        """Seconds that the run has taken, those before it was resumed included."""
        return self._before_s + time.monotonic() - self._start_s

    def is_up(self) -> bool:
        """Looks at the clock of this process."""
        return 0 < self.hours * SECONDS_IN_AN_HOUR <= self.elapsed_s
