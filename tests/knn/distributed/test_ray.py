"""Shards in actors of a real cluster, which asks for a token: two nodes beside the head, which die.

One test with several parts, so that one process starts one cluster, however tests are dealt to processes.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.config import KNNConfig
from fairseq.knn.distributed.backend import Pending, ShardBackend
from fairseq.knn.distributed.messages import Wanted
from fairseq.knn.distributed.ray_backend import RayBackend
from fairseq.knn.distributed.ray_head import require_head
from fairseq.knn.distributed.sharded_store import ShardedStore
from fairseq.knn.neighbours.opening import open_neighbours
from fairseq.knn.search.by_list import ListSearch
from tests.builders.cases import Artefacts
from tests.builders.ray_nodes import ROOT, RayNodes, ray_nodes
from tests.builders.shards import trained_index, write_in_shards, write_whole
from tests.builders.small_store import clustered_keys, values_of, write_store
from tests.builders.toy_shard import openers

pytestmark = pytest.mark.slow
PATIENT_S = 120.0
TOKEN = "secret" * 30  # a length of two bytes where it is sent
ROWS, WIDTH, QUERIES, K, SPEC = 12_000, 16, 4096, 1024, "IVF32,PQ8x4"


def test_shards_in_actors(
    artefacts: Artefacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with ray_nodes(TOKEN) as nodes:
        tokens_that_differ_are_told_at_once(nodes)
        a_killed_process_is_replaced(nodes, tmp_path)
        a_deadline_names_shard_and_node(nodes, tmp_path)
        search = made_search(tmp_path)
        any_number_of_shards_gives_what_one_machine_does(nodes, search)
        deaths_in_the_middle_change_nothing(nodes, search, caplog)
        other_versions_are_refused(nodes, search)
        the_command_says_the_same_as_in_one_process(nodes, artefacts, tmp_path)


def tokens_that_differ_are_told_at_once(nodes: RayNodes) -> None:
    for mode, token, expected in [
        ("", TOKEN, "asks for a token; set RAY_AUTH_MODE=token"),
        ("token", "wrong", "has another token than RAY_AUTH_TOKEN"),
    ]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_AUTH_MODE", mode)
            patch.setenv("RAY_AUTH_TOKEN", token)
            with pytest.raises(ConfigError, match=f"^--ray-address {nodes.address}: the cluster {expected}"):
                require_head(nodes.address, PATIENT_S)


def homes(backend: ShardBackend) -> list[str]:
    return [identity.node for identity in backend.identities()]


def a_killed_process_is_replaced(nodes: RayNodes, tmp_path: Path) -> None:
    with closing(RayBackend(openers(4, tmp_path / "set_id"), nodes.address, PATIENT_S)) as backend:
        assert len(set(homes(backend))) == 2  # the head has no processors
        before = [backend.call(shard, "process").result() for shard in range(4)]
        pending = [backend.call(shard, "late", 1.0) for shard in range(4)]
        os.kill(before[2], signal.SIGKILL)
        assert [one.result() for one in pending] == [0, 1, 2, 3]
        after = [backend.call(shard, "process").result() for shard in range(4)]
        assert [shard for shard in range(4) if after[shard] != before[shard]] == [2]


def a_deadline_names_shard_and_node(nodes: RayNodes, tmp_path: Path) -> None:
    with closing(RayBackend(openers(1, tmp_path / "set_id"), nodes.address, PATIENT_S)) as backend:
        backend.timeout = 1.0  # of an answer, not of a start
        pending = backend.call(0, "late", 600.0)
        with pytest.raises(DatastoreError) as raised:
            pending.result()
    assert str(raised.value).startswith(f"shard 0 on {homes(backend)[0]} has not answered within 1 s (--knn-timeout)")


@dataclass(frozen=True)
class Search:
    """A datastore, its index in one file and in 1, 2 and 4 shards, and what to search for.

    Attributes:
        log_p_N: what one machine computes, added up in float64.
    """

    directory: Path
    query_ND: np.ndarray
    target_N: np.ndarray
    config: KNNConfig
    log_p_N: np.ndarray

    def index(self, count: int) -> Path:
        return self.directory / f"in-{count}.index"

    def open(self, count: int, nodes: RayNodes) -> ShardedStore:
        config = replace(
            self.config,
            indexfile=str(self.index(count)),
            knn_backend="ray",
            ray_address=nodes.address,
            knn_timeout=PATIENT_S,
        )
        store = open_neighbours(config)
        assert isinstance(store, ShardedStore)
        return store

    def log_prob(self, store: ShardedStore) -> np.ndarray:
        return store.exact_log_prob(self.query_ND, self.target_N)[0]


def made_search(directory: Path) -> Search:
    store = write_store(directory, keys=clustered_keys(ROWS, WIDTH), values=values_of(ROWS))
    trained = trained_index(store, SPEC)
    whole = write_whole(store, trained, directory / "whole.index", SPEC)
    for count in (1, 2, 4):
        write_in_shards(store, trained, directory / f"in-{count}.index", count, SPEC)
    query_ND, target_N = clustered_keys(QUERIES, WIDTH, seed=7), values_of(QUERIES, seed=8)
    config = KNNConfig(
        knnlm=True, dstore_filename=str(store.prefix), indexfile=str(whole), k=K, probe=16, knn_temp=10.0
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ListSearch, "pays", lambda *_: False)  # its products round otherwise than FAISS, whose rows count
        votes = open_neighbours(config).votes(query_ND, target_N)
    near_NK = votes.distances_NK.astype(np.float64) / 10.0
    mass_NK = np.exp(near_NK.min(axis=1, keepdims=True) - near_NK)
    with np.errstate(divide="ignore"):
        log_p_N = np.log((mass_NK * votes.hits_NK).sum(axis=1)) - np.log(mass_NK.sum(axis=1))
    return Search(directory, query_ND, target_N, config, log_p_N)


def assert_same(log_p_N: np.ndarray, expected_N: np.ndarray, each: float, loss: float) -> None:
    """Asserts that none differs by more than ``each``, and the mean by no more than ``loss``."""
    is_some_N = np.isfinite(expected_N)
    assert is_some_N.sum() > QUERIES // 2
    np.testing.assert_array_equal(np.isfinite(log_p_N), is_some_N)
    np.testing.assert_allclose(log_p_N[is_some_N], expected_N[is_some_N], rtol=0, atol=each)
    assert abs(log_p_N[is_some_N].mean() - expected_N[is_some_N].mean()) < loss


class Watched(ShardBackend):
    """A backend that does something before a call, and notes what counts.

    Args:
        backend: that does the work.
        before: method, which of its calls, from 0, and what to do.
    """

    def __init__(self, backend: ShardBackend, *before: tuple[str, int, Callable[[], None]]) -> None:
        self.backend, self.before = backend, list(before)
        self.calls: dict[str, int] = {}
        self.wanted: dict[str, np.ndarray] = {}

    def identities(self) -> Any:
        return self.backend.identities()

    def call(self, shard: int, method: str, *args: Any) -> Pending:
        number = self.calls.get(method, 0)
        for which, at, act in self.before:
            if (which, at) == (method, number):
                act()
        self.calls[method] = number + 1
        if isinstance(args[0], Wanted):
            wanted: Wanted = args[0]
            self.wanted[wanted.key] = self.wanted.get(wanted.key, 0) + wanted.prefix_N
        return self.backend.call(shard, method, *args)

    def close(self) -> None:
        self.backend.close()


def any_number_of_shards_gives_what_one_machine_does(nodes: RayNodes, search: Search) -> None:
    found = {}
    for count in (1, 2, 4):
        with closing(search.open(count, nodes)) as store:
            watched = Watched(store.phases.backend)
            store.phases.backend = watched
            found[count] = search.log_prob(store)
            assert len(set(homes(watched))) == min(count, 2)
            traffic = store.report().found["shards"]["bytes_of_a_search"]
            assert sum(len(prefix_N) for prefix_N in watched.wanted.values()) == QUERIES
            assert all((prefix_N == K).all() for prefix_N in watched.wanted.values())  # k keys are read, not P · k
            assert traffic["phase_b"] == 32 * count
            assert traffic["phase_a"] <= (6000 if count == 4 else 4 * K + 2000)
        assert_same(found[count], search.log_p_N, 1e-6, 1e-9)
    for count in (2, 4):
        assert_same(found[count], found[1], 1e-12, 1e-12)


def deaths_in_the_middle_change_nothing(nodes: RayNodes, search: Search, caplog: pytest.LogCaptureFixture) -> None:
    """A process before a search, another between its phases, and a node between those of a later one."""
    with closing(search.open(4, nodes)) as store:
        backend = store.phases.backend
        assert isinstance(backend, RayBackend)
        store.phases.backend = Watched(
            backend,
            ("nearest", 6, lambda: backend.kill(1)),
            ("sums", 0, lambda: backend.kill(0)),
            ("sums", 9, nodes.kill_one),
        )
        log_p_N = search.log_prob(store)
        assert store.phases.backend.calls["nearest"] > 4 * QUERIES // 1024  # who was started anew was asked again
        died = {line.split(" died")[0] for line in caplog.messages if " died on " in line}
        assert died >= {"shard 0", "shard 1"} and len(set(homes(backend))) == 1
    nodes.add_one()
    assert_same(log_p_N, search.log_p_N, 1e-6, 1e-9)


def other_versions_are_refused(nodes: RayNodes, search: Search) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairseq.__version__", "0.0.1")  # here, and not where the shard is
        with pytest.raises(MismatchError, match=r"^shard 0 of .* on .*Ray node .* this machine 0.0.1"):
            search.open(1, nodes)


def the_command_says_the_same_as_in_one_process(nodes: RayNodes, artefacts: Artefacts, tmp_path: Path) -> None:
    index = tmp_path / "knn.index"
    build = ["--dstore-mmap", artefacts.store, "--faiss-index", index, "--index-spec", "IVF4,Flat"]
    command("build_dstore", *build, "--num-shards", 4)
    words = [artefacts.data, "--path", artefacts.checkpoint, "--cpu", "--gen-subset", "valid", "--context-window", 8]
    words += ["--knnlm", "--dstore-filename", artefacts.store, "--indexfile", index, "--k", 8, "--lmbda", 0.25]
    local = command("fairseq_cli.eval_lm", *words, "--results-path", tmp_path / "local")
    ray = ["--knn-backend", "ray", "--ray-address", nodes.address, "--results-path", tmp_path / "ray"]
    remote = command("fairseq_cli.eval_lm", *words, *ray)
    said = [done.stdout.splitlines()[1:] for done in (local, remote)]  # without the first line, which tells the time
    assert said[0] == said[1] and len(said[0]) == 4
    assert all(" | INFO | " in line for line in remote.stderr.splitlines()), remote.stderr  # nothing of Ray's own
    results = [json.loads((tmp_path / name / "eval_valid.json").read_text()) for name in ("local", "ray")]
    assert abs(results[0]["loss_base2"] - results[1]["loss_base2"]) < 1e-9
    assert results[0]["shards"] == results[1]["shards"] and results[0]["shards"]["count"] == 4


def command(module: str, *words: object) -> "subprocess.CompletedProcess[str]":
    """Runs a command in a process of its own, which must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done
