"""What asks shards, wherever they are: the protocol knows no engine.

``local_backend.py`` has them in this process, with files mapped; ``ray_backend.py`` in actors on many machines. The
coordinator sends calls to shards and waits for the answers; that an answer comes in the end, or a one-line error that
names the shard and its node, is the backend's part:

    call ─► answer                          as it is
         ─► the shard's process or node died   started anew, and the same call again, a few times at the most
         ─► nothing before the deadline        FairseqError: which shard, on which node, how long
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

from fairseq.knn.distributed.messages import ShardIdentity


class Pending(Protocol):
    """An answer on its way."""

    @abstractmethod
    def result(self) -> Any:
        """Returns the answer; waits for it.

        Raises:
            FairseqError: it did not come before the deadline, or the shard died too often.
        """
        ...


class ShardBackend(Protocol):
    """Shards of one index, numbered from 0."""

    @abstractmethod
    def identities(self) -> Sequence[ShardIdentity]:
        """Returns what each shard reported when it was started."""
        ...

    @abstractmethod
    def call(self, shard: int, method: str, *args: Any) -> Pending:
        """Sends a call of a ``Shard``'s method, and returns at once.

        Args:
            shard: its number.
            method: name of the method.
            args: plain values, arrays, and messages.
        """
        ...

    @abstractmethod
    def close(self) -> None:
        """Lets the shards go."""
        ...
