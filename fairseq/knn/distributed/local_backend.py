"""The shards of an index in this process: a search with mapped files, and the twin of ``ray_backend``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq.knn.distributed.backend import Pending, ShardBackend
from fairseq.knn.distributed.messages import ShardIdentity
from fairseq.knn.distributed.shard import Shard
from fairseq.knn.distributed.shard_files import ShardSettings


@dataclass(frozen=True)
class Answer(Pending):
    """An answer that is there."""

    value: Any

    def result(self) -> Any:
        """Returns it."""
        return self.value


class LocalBackend(ShardBackend):
    """Shards in this process; a call is answered before it returns.

    Args:
        shards: by number.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = tuple(shards)

    @classmethod
    def open(cls, prefix: str | Path, index: str | Path, count: int, settings: ShardSettings) -> "LocalBackend":
        """Returns the shards of an index; what is raised is what ``ShardFiles.open`` raises."""
        return cls([Shard.open(prefix, index, number, settings) for number in range(count)])

    def identities(self) -> Sequence[ShardIdentity]:
        """Returns what each shard reported."""
        return [shard.identity() for shard in self.shards]

    def call(self, shard: int, method: str, *args: Any) -> Answer:
        """Returns the answer of a shard's method."""
        return Answer(getattr(self.shards[shard], method)(*args))

    def close(self) -> None:
        """Lets the shards go."""
        self.shards = ()
