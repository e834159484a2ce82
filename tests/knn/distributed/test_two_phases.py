"""Shards that die, forget or are slow change no result, and nothing incomplete is ever used."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from fairseq.errors import FairseqError
from fairseq.knn.distributed.backend import Pending, ShardBackend
from fairseq.knn.distributed.conversation import Traffic, num_bytes
from fairseq.knn.distributed.local_backend import LocalBackend
from fairseq.knn.distributed.messages import Queries, ShardIdentity, Sums
from fairseq.knn.distributed.shard import Shard
from fairseq.knn.distributed.shard_files import ShardSettings
from fairseq.knn.distributed.two_phases import Asked, TwoPhases, first_asked
from tests.builders.shards import trained_index, write_in_shards
from tests.builders.small_store import clustered_keys, write_store

QUERIES = clustered_keys(2300, seed=4)  # three blocks
TARGET = np.resize(np.arange(39990, 40010), len(QUERIES))
OWN = np.arange(len(QUERIES))[:, None] % 1500


@dataclass(frozen=True)
class _Late(Pending):
    """An answer that is computed when it is asked for."""

    compute: Callable[[], Any]

    def result(self) -> Any:
        return self.compute()


class Unreliable(ShardBackend):
    """Shards in this process that answer late and in any order, and are opened anew before some calls.

    Args:
        open_shard: opens one.
        count: shards.
        dies_before: says of a shard's method and how many calls it had so far whether the shard dies first.
    """

    def __init__(
        self, open_shard: Callable[[int], Shard], count: int, dies_before: Callable[[int, str, int], bool]
    ) -> None:
        self.open_shard, self.dies_before = open_shard, dies_before
        self.shards = [open_shard(number) for number in range(count)]
        self.calls: list[str] = []

    def identities(self) -> list[ShardIdentity]:
        return [shard.identity() for shard in self.shards]

    def call(self, shard: int, method: str, *args: Any) -> Pending:
        def answer() -> Any:
            if self.dies_before(shard, method, len(self.calls)):
                self.shards[shard] = self.open_shard(shard)
            self.calls.append(method)
            return getattr(self.shards[shard], method)(*args)

        return _Late(answer)

    def close(self) -> None:
        self.shards = []


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Callable[[int], Shard]]:
    """Returns a trained index, and what opens a shard of four."""
    root = tmp_path_factory.mktemp("phases")
    keys = clustered_keys()
    store = write_store(root, keys=keys[np.argsort(keys[:, 0])])
    trained = trained_index(store, "IVF8,PQ4")
    index = write_in_shards(store, trained, root / "index", 4, "IVF8,PQ4", contiguous=True)
    settings = ShardSettings(remembered=3)
    return trained, lambda number: Shard.open(store.prefix, index, number, settings)


def sums_of(backend: ShardBackend, trained: Any, asked: Asked, in_flight: int) -> tuple[list[Sums], Traffic]:
    search = TwoPhases(backend, [1500 // 4] * 4, trained, 4, in_flight=in_flight)
    sums = [one for chosen in search.search(QUERIES, asked) for one in chosen.sums(TARGET[chosen.queries], 5.0)]
    return sums, search.traffic


@pytest.mark.parametrize("asked", [Asked(40, 40), Asked(60, 40, True, OWN)], ids=["plain", "by exact distance"])
@pytest.mark.parametrize("in_flight", [1, 3])
def test_a_shard_that_forgets_is_asked_again(shards: Any, asked: Asked, in_flight: int) -> None:
    """Rows lie side by side in shards, so that many queries are asked again for more."""
    trained, open_shard = shards
    local = LocalBackend([open_shard(number) for number in range(4)])
    expected, traffic = sums_of(local, trained, asked, in_flight=1)

    deaths: list[str] = []

    def dies(shard: int, method: str, calls: int) -> bool:
        """Once before each kind of call of each shard, and between the phases above all."""
        name = f"{method} {shard} {calls // 40}"
        return method != "nearest" and name not in deaths and not deaths.append(name)  # type: ignore[func-returns-value]

    backend = Unreliable(open_shard, 4, dies)
    found, its_traffic = sums_of(backend, trained, asked, in_flight)
    assert {name.split()[0] for name in deaths} >= {"deeper", "sums"} | ({"exact"} if asked.by_exact else set())
    assert backend.calls.count("nearest") > 4 * 3
    assert its_traffic == traffic
    for one, other in zip(found, expected, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_shard_that_always_forgets_ends_the_run(shards: Any) -> None:
    trained, open_shard = shards
    backend = Unreliable(open_shard, 4, lambda shard, method, _: shard == 2 and method == "sums")
    with pytest.raises(FairseqError, match=r"shard 2 has forgotten a request 8 times: .*--knn-in-flight"):
        sums_of(backend, trained, Asked(40, 40), in_flight=2)


def test_more_blocks_than_a_shard_remembers_are_right_as_well(shards: Any) -> None:
    trained, open_shard = shards
    expected, _ = sums_of(LocalBackend([open_shard(n) for n in range(4)]), trained, Asked(40, 40), in_flight=1)
    few = [open_shard(number) for number in range(4)]
    for shard in few:
        shard.settings = ShardSettings(remembered=1)
    found, _ = sums_of(LocalBackend(few), trained, Asked(40, 40), in_flight=3)
    for one, other in zip(found, expected, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_an_array_that_is_there_twice_is_counted_once() -> None:
    query_ND = np.zeros((5, 4), np.float32)
    lists = np.zeros((5, 2), np.int64), np.zeros((5, 2), np.float32)
    assert num_bytes([Queries("key", query_ND, query_ND, *lists), 7]) == 80 + 80 + 40
    assert num_bytes(Queries("key", query_ND, query_ND.copy(), *lists)) == 160 + 80 + 40


@pytest.mark.parametrize(("k", "count", "first"), [(1024, 4, 324), (1024, 64, 36), (5, 1, 5), (3, 4, 3)])
def test_how_many_a_shard_is_asked_for_first(k: int, count: int, first: int) -> None:
    assert first_asked(k, count) == first
