"""A shard without rows, for tests of what lies between a search and its shards."""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fairseq.knn.distributed.messages import Queries, ShardIdentity


class ToyShard:
    """Answers what it is told to, late if it must; remembers queries by their key, as shards do."""

    def __init__(self, number: int, set_id: str) -> None:
        self.number, self.set_id = number, set_id
        self.known: dict[str, float] = {}

    @classmethod
    def open(cls, number: int, set_id_file: Path) -> "ToyShard":
        """Returns a shard; what ``set_id_file`` says is the identity of those that are opened from then on."""
        return cls(number, set_id_file.read_text(encoding="utf-8"))

    def identity(self) -> ShardIdentity:
        return ShardIdentity(
            number=self.number,
            set_id=self.set_id,
            rows_id="rows",
            index_sha256="index",
            num_bytes=10,
            rows=20,
            forgotten_sha256="",
            versions={"Python": "3"},
            node="",
        )

    def nearest(self, queries: Queries, k: int) -> float:
        self.known[queries.key] = float(queries.query_ND.sum()) * (self.number + 1)
        return self.known[queries.key] + k

    def sums(self, key: str) -> float | None:
        return self.known.get(key)

    def late(self, seconds: float) -> int:
        time.sleep(seconds)
        return self.number

    def process(self) -> int:
        return os.getpid()

    def fail(self) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/disk/knn.index.shard-1-of-2")

    def mistake(self) -> None:
        raise ZeroDivisionError("a mistake")


def openers(count: int, set_id_file: Path) -> list[Callable[[], Any]]:
    """Returns what opens so many shards."""
    set_id_file.write_text("set", encoding="utf-8")
    return [partial(ToyShard.open, number, set_id_file) for number in range(count)]
