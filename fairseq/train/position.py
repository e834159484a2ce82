"""Where a run stands in an epoch, and what that means among the batches that there are now.

A position counts batches. It says nothing by itself: on another text, or with other batches, as many batches are other
tokens. So it is kept with the identity of the batches that it counts, and holds for these alone.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fairseq.arrays import Int64s


@dataclass(frozen=True)
class EpochOrder:
    """An epoch's batches, of all processes, in order.

    Attributes:
        sha256: of the text and of the blocks in each batch.
        count: how many there are.
        world_size: processes that take turns at them.
    """

    sha256: str
    count: int
    world_size: int

    @property
    def length(self) -> int:
        """Batches of each process; the last one of some may be empty."""
        return -(-self.count // self.world_size)

    def record(self) -> dict[str, Any]:
        """Returns what a checkpoint stores."""
        return asdict(self)


def epoch_order(text_sha256: str, batches: Sequence[Int64s], world_size: int) -> EpochOrder:
    """Returns the identity of an epoch's batches."""
    digest = hashlib.sha256(text_sha256.encode())
    digest.update(np.array([len(batch) for batch in batches], np.int64).tobytes())
    digest.update(np.concatenate(batches).tobytes())
    return EpochOrder(digest.hexdigest(), len(batches), world_size)


def order_from(record: Any) -> EpochOrder | None:
    """Returns the identity that a checkpoint stores; None where it has none, or one of another form."""
    if not isinstance(record, Mapping):
        return None
    sha256, count, world_size = (record.get(name) for name in ("sha256", "count", "world_size"))
    if not isinstance(sha256, str) or type(count) is not int or type(world_size) is not int or world_size < 1:
        return None
    return EpochOrder(sha256, count, world_size)


def position_among(position: int, before: EpochOrder | None, now: EpochOrder) -> int | None:
    """Returns where a run goes on; None where it can only begin the epoch anew.

    Among the same batches, shared out to another number of processes, no batch is left out, and fewer than
    ``now.world_size`` of them are repeated. An epoch that was complete stays so, whatever its batches were.

    Args:
        position: batches of the epoch that each process had done.
        before: those that it counts.
        now: those that there are.
    """
    if before == now or position == 0:
        return min(position, now.length)
    if before is None:
        return None
    if position >= before.length:
        return now.length
    return position * before.world_size // now.world_size if before.sha256 == now.sha256 else None
