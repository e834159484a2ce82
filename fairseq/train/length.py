"""How long a run still is, by ``--max-update`` and ``--max-epoch``, whichever comes first."""

from fairseq.optim.config import OptimizationConfig


def updates_left(
    bounds: OptimizationConfig, num_batches: int, position: int, epoch: int, num_updates: int
) -> tuple[int, int | None]:
    """Returns how many updates the run makes of the rest of an epoch, and after it; None for the latter if unbounded.

    Later epochs are taken to be as long as this one: data directories that take turns may differ.

    Args:
        bounds: where the run ends, and how many batches an update has in each epoch.
        num_batches: batches of this process in the epoch.
        position: how many of them are done.
        epoch: from 1.
        num_updates: made so far.
    """
    freqs = bounds.update_freq
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
