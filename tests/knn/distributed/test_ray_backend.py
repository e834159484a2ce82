"""Shards in actors: what a call comes to when they die, by a stand-in for Ray; test_ray.py has the real one."""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.distributed import ray_backend
from fairseq.knn.distributed.messages import Queries
from fairseq.knn.distributed.ray_backend import RESTARTS, RayBackend
from fairseq.knn.distributed.ray_cluster import RayCluster
from tests.builders.fake_ray import (
    ActorDiedError,
    ActorUnavailableError,
    ActorUnschedulableError,
    FakeRay,
    GetTimeoutError,
)
from tests.builders.toy_shard import openers

Open = Callable[..., RayBackend]


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRay]:
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr(RayCluster, "_joined", None)
    monkeypatch.setattr(ray_backend, "_PAUSE_S", 0.0)
    with fake.head:
        yield fake


@pytest.fixture
def set_id(tmp_path: Path) -> Path:
    return tmp_path / "set_id"


@pytest.fixture
def open_backend(ray: FakeRay, set_id: Path) -> Open:
    """Returns ``open_backend(timeout=…)``: two shards."""
    return lambda timeout=60.0: RayBackend(openers(2, set_id), None, timeout)


def queries(key: str = "a") -> Queries:
    ones = np.ones((3, 2), np.float32)
    return Queries(key, ones, ones, np.zeros((3, 1), np.int64), np.zeros((3, 1), np.float32))


def test_shards_answer_each_for_itself(open_backend: Open, ray: FakeRay) -> None:
    backend = open_backend()
    assert [identity.number for identity in backend.identities()] == [0, 1]
    assert all("Ray node 01234567" in identity.node for identity in backend.identities())
    pending = [backend.call(number, "nearest", queries(), 10) for number in (0, 1)]
    assert [one.result() for one in pending] == [6 + 10, 12 + 10]
    assert pending[0].result() == 16  # a second time as well


def test_queries_are_placed_once_for_all_shards(open_backend: Open, ray: FakeRay) -> None:
    backend, block = open_backend(), queries()
    for number in (0, 1):
        backend.call(number, "nearest", block, 1).result()
    assert ray.puts == 1
    backend.call(0, "nearest", queries("b"), 1).result()
    assert ray.puts == 2


@pytest.mark.parametrize("error", [ActorDiedError("gone"), ActorUnavailableError("away")])
def test_the_call_of_a_shard_that_died_is_sent_again(
    open_backend: Open, ray: FakeRay, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    backend = open_backend()
    ray.deaths[1] = deque([error, error])
    assert backend.call(1, "nearest", queries(), 10).result() == 22
    assert ray.calls["nearest"] == 3
    (line,) = caplog.messages
    assert line.startswith("shard 1 died on ") and "; started anew on " in line


def test_a_shard_that_was_started_anew_has_forgotten(open_backend: Open, ray: FakeRay) -> None:
    backend = open_backend()
    backend.call(0, "nearest", queries("a"), 10).result()
    assert backend.call(0, "sums", "a").result() == 6
    ray.deaths[0] = deque([ActorUnavailableError("away")])
    assert backend.call(0, "sums", "a").result() is None


def test_a_shard_that_dies_at_every_call_is_given_up(open_backend: Open, ray: FakeRay) -> None:
    backend = open_backend()
    ray.deaths[1] = deque([ActorDiedError("first line\n\nThe actor is dead.\n")] * (RESTARTS + 2))
    with pytest.raises(DatastoreError, match=rf"^shard 1 on .* died, {RESTARTS} restarts included \(The actor is dead"):
        backend.call(1, "late", 0.0).result()
    assert ray.calls["late"] == RESTARTS + 1


def test_a_shard_that_no_node_can_have_is_given_up_at_once(open_backend: Open, ray: FakeRay) -> None:
    backend = open_backend()
    ray.deaths[1] = deque([ActorUnschedulableError("no node has it")])
    with pytest.raises(DatastoreError, match="no node has it"):
        backend.call(1, "late", 0.0).result()


def test_a_node_without_this_program_is_told_apart(ray: FakeRay, set_id: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(ref: Any, timeout: float) -> Any:
        raise ActorDiedError("The actor died.\nModuleNotFoundError: No module named 'fairseq'\n")

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(DatastoreError, match=r"^shard 0 could not be started \(ModuleNotFoundError: .*; start Ray on"):
        RayBackend(openers(2, set_id), None, 60.0)


@pytest.mark.parametrize("error", [GetTimeoutError("late"), ActorUnavailableError("away")])
def test_a_late_answer_names_shard_node_and_flag(open_backend: Open, ray: FakeRay, error: Exception) -> None:
    backend = open_backend(timeout=0.0)
    ray.deaths[0] = deque([error] * 3)
    expected = r"^shard 0 on .*Ray node 01234567\) has not answered within 0 s \(--knn-timeout\)"
    with pytest.raises(DatastoreError, match=expected):
        backend.call(0, "late", 0.0).result()


def test_a_shard_that_never_opened_is_said_to_have_no_room(ray: FakeRay, set_id: Path) -> None:
    ray.get = lambda ref, timeout: (_ for _ in ()).throw(GetTimeoutError("late"))  # type: ignore[method-assign]
    with pytest.raises(DatastoreError, match=r"^shard 0 was not open within 0 s .*`ray status`"):
        RayBackend(openers(2, set_id), None, 0.0)
    assert ray.killed == 2


@pytest.mark.parametrize("error", [GetTimeoutError("late"), ActorUnavailableError("away")])
def test_a_cluster_that_went_away_is_named(
    open_backend: Open, ray: FakeRay, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairseq.knn.distributed.ray_cluster._LOOK_AGAIN_S", 0.0)
    backend, address = open_backend(), ray.address
    ray.deaths[0] = deque([error])
    pending = backend.call(0, "late", 0.0)
    ray.head.close()
    with pytest.raises(DatastoreError, match=f"the Ray cluster at {address} has gone"):
        pending.result()
    with pytest.raises(DatastoreError, match="has gone"):  # Ray would end the process
        backend.call(0, "nearest", queries(), 1)


def test_another_shard_after_a_restart_is_refused(open_backend: Open, ray: FakeRay, set_id: Path) -> None:
    backend = open_backend()
    set_id.write_text("another", encoding="utf-8")
    ray.deaths[1] = deque([ActorUnavailableError("away")])
    with pytest.raises(MismatchError, match=r"^shard 1 was started anew on .*; give every node the same files"):
        backend.call(1, "late", 0.0).result()


def test_what_a_shard_cannot_read_is_said_with_its_node(open_backend: Open) -> None:
    expected = r"^shard 1 on .*\): /disk/knn.index.shard-1-of-2: No such file or directory$"
    with pytest.raises(DatastoreError, match=expected):
        open_backend().call(1, "fail").result()


def test_a_shard_that_cannot_be_opened_ends_the_others(ray: FakeRay, tmp_path: Path) -> None:
    opening: list[Any] = openers(2, tmp_path / "set_id")
    (tmp_path / "set_id").unlink()
    with pytest.raises(DatastoreError, match=r"^shard 0 on .*set_id: No such file or directory"):
        RayBackend(opening, None, 60.0)
    assert ray.killed == 2


def test_a_shard_goes_where_a_node_says_that_it_has_it(ray: FakeRay, set_id: Path) -> None:
    ray.resources["shard-1-of-2"] = 1.0
    RayBackend(openers(2, set_id), None, 60.0)
    first, second = ray.options
    assert first["scheduling_strategy"] == "SPREAD" and "resources" not in first
    assert second["resources"].keys() == {"shard-1-of-2"} and 0 < second["resources"]["shard-1-of-2"] < 0.01
    assert all(options["max_restarts"] == RESTARTS and 0 < options["num_cpus"] < 0.01 for options in ray.options)


def test_without_ray_there_is_advice(monkeypatch: pytest.MonkeyPatch, set_id: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'fairseq-knnlm\[ray\]'"):
        RayBackend(openers(1, set_id), None, 1.0)


def test_backends_share_a_cluster_that_the_program_keeps(open_backend: Open, ray: FakeRay, set_id: Path) -> None:
    first = open_backend()
    second = RayBackend(openers(1, set_id), ray.address, 60.0)
    with pytest.raises(ConfigError, match=f"this process is in the cluster at {ray.address} already"):
        RayBackend(openers(1, set_id), "10.0.0.1:6379", 60.0)
    first.close()
    assert second.call(0, "late", 0.0).result() == 0
    second.close()
    assert ray.killed == 3
