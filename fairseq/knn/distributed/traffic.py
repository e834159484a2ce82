"""How much a search over shards sends and receives: the bytes of the arrays in its messages."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

_PHASE_A = ("nearest", "deeper", "ids", "exact")


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
        return {
            "shards": shards,
            "bytes_of_a_search": {
                name: round(count / self.queries, 1) if self.queries else None for name, count in each.items()
            },
        }

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
