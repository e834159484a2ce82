"""Shards in actors of a real cluster: two nodes beside the head, which die."""

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from fairseq.errors import DatastoreError
from fairseq.knn.distributed.ray_backend import RayBackend
from tests.builders.ray_nodes import RayNodes, ray_nodes
from tests.builders.toy_shard import openers

pytestmark = pytest.mark.slow
PATIENT_S = 120.0


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        with ray_nodes() as cluster:
            yield cluster


@pytest.fixture
def backend(nodes: RayNodes, tmp_path: Path) -> Iterator[RayBackend]:
    with closing(RayBackend(openers(4, tmp_path / "set_id"), nodes.address, PATIENT_S)) as opened:
        yield opened


def homes(backend: RayBackend) -> list[str]:
    return [identity.node for identity in backend.identities()]


def test_a_killed_process_and_a_killed_node_are_replaced(nodes: RayNodes, backend: RayBackend) -> None:
    assert len(set(homes(backend))) == 2  # the head has no processors
    before = [backend.call(shard, "process").result() for shard in range(4)]
    pending = [backend.call(shard, "late", 1.0) for shard in range(4)]
    os.kill(before[2], signal.SIGKILL)
    assert [one.result() for one in pending] == [0, 1, 2, 3]
    after = [backend.call(shard, "process").result() for shard in range(4)]
    assert [shard for shard in range(4) if after[shard] != before[shard]] == [2]

    pending = [backend.call(shard, "late", 1.0) for shard in range(4)]
    nodes.kill_one()
    assert [one.result() for one in pending] == [0, 1, 2, 3]
    assert len(set(homes(backend))) == 1
    nodes.add_one()


def test_a_deadline_names_shard_and_node(nodes: RayNodes, tmp_path: Path) -> None:
    with closing(RayBackend(openers(2, tmp_path / "set_id"), nodes.address, PATIENT_S)) as backend:
        backend._timeout = 1.0  # an answer, not a start
        pending = backend.call(1, "late", 600.0)
        with pytest.raises(DatastoreError) as raised:
            pending.result()
    assert str(raised.value).startswith(f"shard 1 on {homes(backend)[1]} has not answered within 1 s (--knn-timeout)")
