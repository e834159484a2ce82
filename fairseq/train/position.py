"""Where a run stands in an epoch, and what that means among the batches that there are now.

A position counts the batches of all processes. An update takes the next ones, as many as all processes have
micro-batches in it, in turns:

    epoch       0  1  2  3  4  5  6  7  8 …         position 4, three processes, --update-freq 2
    process                  0  1  2  0  1  2
    micro-batch              0  1  2  3  4  5        its number within the update, which its random numbers follow from

So a run goes on with another number of processes, and no batch is left out or repeated.

A position says nothing by itself: on another text, or with other batches, as many batches are other tokens. So it is
kept with the identity of the batches that it counts, and holds for these alone.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fairseq.arrays import Int64s


@dataclass(frozen=True)
class EpochOrder:
    """An epoch's batches, in order.

    Attributes:
        sha256: of the text and of the blocks in each batch.
        count: how many there are.
    """

    sha256: str
    count: int


def epoch_order(text_sha256: str, batches: Sequence[Int64s]) -> EpochOrder:
    """Returns the identity of an epoch's batches."""
    digest = hashlib.sha256(text_sha256.encode())
    digest.update(np.array([len(batch) for batch in batches], np.int64).tobytes())
    digest.update(np.concatenate(batches).tobytes())
    return EpochOrder(digest.hexdigest(), len(batches))


def batches_of_update(position: int, count: int, freq: int, rank: int, world_size: int) -> range:
    """Returns which batches of the epoch a process has in the next update, in order.

    Args:
        position: batches of the epoch that are done.
        count: batches of the epoch.
        freq: micro-batches of each process.
        rank: of the process.
        world_size: processes.
    """
    return range(position + rank, min(position + freq * world_size, count), world_size)


def position_record(position: int, order: EpochOrder | None, world_size: int) -> tuple[int, dict[str, Any] | None]:
    """Returns what a checkpoint stores of a position: ``iterations_in_epoch`` and ``epoch_batches``.

    The former is what fairseq counts: batches that each process has done.
    """
    if order is None:
        return position // world_size, None
    iterations = -(-position // world_size) if position >= order.count else position // world_size
    return iterations, {**asdict(order), "world_size": world_size, "done": position}


def position_from(iterations: int, record: Any) -> tuple[int, EpochOrder | None]:
    """Returns a position and what it counts, from what a checkpoint stores; None for the latter if it does not say.

    Args:
        iterations: batches that each process had done.
        record: ``epoch_batches``; older ones have no count of all that were done.
    """
    if not isinstance(record, Mapping):
        return iterations, None
    sha256, count, world_size = (record.get(name) for name in ("sha256", "count", "world_size"))
    if not isinstance(sha256, str) or type(count) is not int or type(world_size) is not int or world_size < 1:
        return iterations, None
    done = record.get("done")
    return min(done if type(done) is int else iterations * world_size, count), EpochOrder(sha256, count)


def position_among(position: int, before: EpochOrder | None, now: EpochOrder) -> int | None:
    """Returns where a run goes on; None where it can only begin the epoch anew.

    An epoch that was complete stays so, whatever its batches were.

    Args:
        position: batches of the epoch that were done.
        before: those that it counts.
        now: those that there are.
    """
    if before == now or position == 0:
        return min(position, now.count)
    return now.count if before is not None and position >= before.count else None
