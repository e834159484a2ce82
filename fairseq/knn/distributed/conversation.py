"""What one shard is asked about one request, and the bytes that this takes.

A shard that was started anew between two calls has forgotten the request: it is asked everything again, in order. What
that takes is not counted, so that the bytes of a search are the same for every run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from fairseq.errors import FairseqError
from fairseq.knn.distributed.backend import Pending, ShardBackend

_PHASE_A = ("nearest", "deeper", "ids", "exact")
# Times that a shard may forget one request before the run gives up.
_MOST_FORGOTTEN = 8
# Calls that change what a shard remembers, which are made again where it has forgotten.
_REMEMBERED = ("nearest", "deeper", "exact")


@dataclass
class Traffic:
    """Bytes so far; what was asked again of a shard that was started anew is not among them.

    Attributes:
        queries: that were searched for.
        sent: to all shards.
        distances: received in phase A, until it is known which rows count.
        answers: received in phase B.
    """

    queries: int = 0
    sent: int = 0
    distances: int = 0
    answers: int = 0

    def received(self, method: str, answer: Any) -> None:
        """Counts an answer."""
        if method in _PHASE_A:
            self.distances += num_bytes(answer)
        else:
            self.answers += num_bytes(answer)

    def record(self, shards: int) -> dict[str, Any]:
        """Returns the bytes of a query as plain values for JSON, null before the first."""
        each = {"sent": self.sent, "phase_a": self.distances, "phase_b": self.answers}
        rounded = {name: round(count / self.queries, 1) if self.queries else None for name, count in each.items()}
        return {"shards": {"count": shards, "bytes_of_a_search": rounded}}

    def line(self, shards: int) -> str:
        """Returns the bytes of a query for people."""
        each = (self.sent, self.distances, self.answers)
        sent, distances, answers = (f"{count / max(self.queries, 1):,.0f}" for count in each)
        return (
            f"Shards: {shards}; of each search they were sent {sent} bytes, and gave {distances} in phase A and"
            f" {answers} in phase B"
        )


def num_bytes(message: Any) -> int:
    """Returns the bytes of the arrays in a message; an array that is there twice is sent once."""
    return sum({id(array): array.nbytes for array in _arrays(message)}.values())


def _arrays(message: Any) -> list[np.ndarray[Any, Any]]:
    if isinstance(message, np.ndarray):
        return [message]
    parts: Sequence[Any] = ()
    if is_dataclass(message):
        parts = [getattr(message, field.name) for field in fields(message)]
    elif isinstance(message, (tuple, list)):
        parts = message
    return [array for part in parts for array in _arrays(part)]


class Conversation:
    """What one shard is asked about one request: all of it again where the shard has forgotten.

    Args:
        backend: that has the shard.
        shard: its number.
        traffic: counts the bytes.
    """

    def __init__(self, backend: ShardBackend, shard: int, traffic: Traffic) -> None:
        self.backend, self.shard, self.traffic = backend, shard, traffic
        self._asked: list[tuple[str, tuple[Any, ...]]] = []

    def ask(self, method: str, *args: Any) -> Callable[[], Any]:
        """Sends a call, and returns what waits for its answer."""
        before = tuple(self._asked)
        pending = self.backend.call(self.shard, method, *args)
        self.traffic.sent += num_bytes(args)
        if method in _REMEMBERED:
            self._asked.append((method, args))
        return lambda: self._answer(pending, before, method, args)

    def _answer(
        self, pending: Pending, before: Sequence[tuple[str, tuple[Any, ...]]], method: str, args: tuple[Any, ...]
    ) -> Any:
        for _ in range(_MOST_FORGOTTEN):
            answer = pending.result()
            if answer is not None:
                self.traffic.received(method, answer)
                return answer
            for earlier, its_args in before:
                self.backend.call(self.shard, earlier, *its_args).result()
            pending = self.backend.call(self.shard, method, *args)
        raise FairseqError(
            f"shard {self.shard} has forgotten a request {_MOST_FORGOTTEN} times: it dies again and again, or too many"
            " runs ask it at once; look at its machine's memory, or lower --knn-in-flight"
        )
