"""Joining a cluster of Ray: addresses where none is, and threads of an actor."""

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from fairseq.errors import ConfigError
from fairseq.knn.distributed.ray_cluster import RayCluster, last_line
from tests.builders.fake_ray import NODE_ID, FakeRay
from tests.builders.ray_head import server


class Nowhere(FakeRay):
    """Ray in a process that has not joined a cluster."""

    def is_initialized(self) -> bool:
        return False

    def init(self, **_: object) -> None:
        raise AssertionError("Ray was asked, and waits for minutes where no cluster is")


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRay]:
    monkeypatch.setattr(RayCluster, "_joined", None)
    with (fake := Nowhere()).head:
        yield fake


def test_an_address_where_nobody_is_fails_at_once(ray: FakeRay) -> None:
    address = ray.address
    ray.head.close()
    with pytest.raises(ConfigError, match=f"^--ray-address {address}: no Ray cluster answers there "):
        RayCluster.join(ray, address, 5.0)


def test_a_machine_outside_the_cluster_is_told_at_once(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray._private, "services", SimpleNamespace(find_node_ids=set), raising=False)
    with server() as address, pytest.raises(ConfigError) as raised:
        RayCluster.join(ray, address, 5.0)
    assert str(raised.value) == (
        f"--ray-address {address}: this machine is no node of the cluster; give `ray start --address {address}"
        " --num-cpus 0` first, by which no shard comes here"
    )


def test_the_cause_of_a_failure_is_said_in_one_line(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        cause = RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.50.0\n    Python: 3.11.7\n")
        raise ConnectionError("Failed to connect") from cause

    monkeypatch.setattr(ray, "init", init)
    with server() as address, pytest.raises(ConfigError) as raised:
        RayCluster.join(ray, address, 5.0)
    cause = "Version mismatch: The cluster was started with: Ray: 2.50.0 Python: 3.11.7"
    assert str(raised.value) == f"--ray-address {address}: {cause}"


@pytest.mark.parametrize(("mode", "own", "is_made"), [(None, "", True), (None, "mine", False), ("disabled", "", False)])
def test_a_new_cluster_writes_no_token_to_the_home(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str | None, own: str, is_made: bool
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", own)
    if mode is None:
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    else:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    seen: list[str] = []
    monkeypatch.setattr(ray, "init", lambda **_: seen.append(os.environ["RAY_AUTH_TOKEN"]))
    monkeypatch.setattr(ray, "shutdown", lambda: None, raising=False)
    RayCluster.join(ray, "local", 5.0).leave()
    assert len(seen[0]) == (64 if is_made else len(own)) and (is_made or seen == [own])


def test_the_environment_names_a_cluster_as_ray_has_it(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "nowhere")
    with pytest.raises(ConfigError, match="host:port"):
        RayCluster.join(ray, None, 5.0)


def test_a_cluster_of_this_machine_that_has_ended_is_not_waited_for(
    ray: FakeRay, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(ray.address)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(ray, "init", lambda **given: asked.append(given), raising=False)
    address = ray.address
    ray.head.close()
    monkeypatch.setattr(FakeRay, "address", address)
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": NODE_ID, "NodeManagerAddress": "h", "NodeManagerPort": 1}])
    monkeypatch.setattr(ray, "shutdown", lambda: None, raising=False)
    RayCluster.join(ray, None, 5.0).leave()
    assert [given["address"] for given in asked] == ["local"]


@pytest.mark.parametrize(("actors", "expected"), [(1, 8), (2, 4), (4, 2), (5, 1), (64, 1)])
def test_actors_share_the_processors_of_a_node(monkeypatch: pytest.MonkeyPatch, actors: int, expected: int) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with (fake := FakeRay()).head:
        cluster = RayCluster(fake, owned=False, directory=None)
        assert cluster.threads(actors) == expected
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert cluster.threads(actors) == 3


def test_the_reason_of_an_error_is_its_last_line() -> None:
    assert last_line(ValueError("Traceback:\n  File x\nModuleNotFoundError: no fairseq\n\n")) == (
        "ModuleNotFoundError: no fairseq"
    )
    assert last_line(ValueError()) == "ValueError"
