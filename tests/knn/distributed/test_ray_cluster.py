"""Joining a cluster of Ray: addresses where none is, and threads of an actor."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fairseq.errors import ConfigError
from fairseq.knn.distributed.ray_cluster import RayCluster, last_line
from tests.builders.fake_ray import NODE_ID, FakeRay


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
