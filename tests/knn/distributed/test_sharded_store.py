"""An index in shards answers what the same index in one file does, for any number of shards."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq.errors import ConfigError, DatastoreError
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.config import TextsConfig
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.distributed.sharded_store import ShardedStore
from fairseq.knn.distributed.two_phases import first_asked
from fairseq.knn.maintain.config import ForgetConfig
from fairseq.knn.maintain.forget import forget
from fairseq.knn.neighbours.dstore import KNN_Dstore
from fairseq.knn.neighbours.neighbour_source import NeighbourSource
from fairseq.knn.neighbours.opening import open_neighbours, open_store
from fairseq.knn.neighbours.several_stores import SeveralStores
from tests.builders.shards import trained_index, write_in_shards, write_whole
from tests.builders.small_store import VOCABULARY, clustered_keys, values_of, write_store
from tests.oracles.knn import knn_probability

SPEC, K, QUERY_COUNT = "IVF8,PQ4", 50, 1100
QUERIES, TARGET = clustered_keys(QUERY_COUNT, seed=4), np.resize(np.arange(39990, 40010), QUERY_COUNT)
# p is float32 on one machine, and adds up in another order.
SAME = 1e-6
# In float64, between numbers of shards.
SAME_SHARDS = 1e-12


class Indexes:
    """The index of a datastore in one file, and in as many shards as are asked for."""

    def __init__(self, store: Datastore, spec: str, metric: str = "l2") -> None:
        self.store, self.spec, self.metric = store, spec, metric
        self.trained = trained_index(store, spec, metric)
        self.root = store.prefix.parent
        self.name = f"{store.prefix.name}-{spec.replace(',', '-')}-{metric}"

    @functools.cached_property
    def whole(self) -> Path:
        return write_whole(self.store, self.trained, self.root / f"{self.name}.whole", self.spec, self.metric)

    @functools.cache  # noqa: B019 - as long as the tests
    def shards(self, count: int, **more: Any) -> Path:
        name = self.root / f"{self.name}.{count}{''.join(more)}"
        return write_in_shards(self.store, self.trained, name, count, self.spec, self.metric, **more)

    def open(self, index: Path, **flags: Any) -> Any:
        usual = {"k": K, "knn_temp": 5.0, "probe": 4, "faiss_metric_type": self.metric, "by_query": True}
        config = KNNConfig(**{**usual, **flags})
        return open_store(self.store.prefix, index, config)


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> Indexes:
    return Indexes(write_store(tmp_path_factory.mktemp("shards")), SPEC)


@pytest.fixture(scope="module")
def doubled(tmp_path_factory: pytest.TempPathFactory) -> Indexes:
    """A datastore with every row twice, far apart."""
    keys = clustered_keys(400, 8)
    values = np.random.default_rng(3).integers(0, 9, 800)
    return Indexes(
        write_store(tmp_path_factory.mktemp("doubled"), keys=np.concatenate([keys, keys]), values=values), SPEC
    )


def agree(one: NeighbourSource, shards: Any, queries: Any = QUERIES, target: Any = TARGET, own: Any = None) -> None:
    """Asserts that both find the same rows, and that p_kNN is the same."""
    votes = one.votes(queries, target, own).nearest_first()
    found = shards.votes(queries, target, own).nearest_first()
    assert np.array_equal(found.ids_NK, votes.ids_NK) and np.array_equal(found.hits_NK, votes.hits_NK)
    assert np.array_equal(found.distances_NK, votes.distances_NK)
    log_p_N, tally = one._tallied(queries, target, own)
    of_shards_N, of_shards = shards.exact_log_prob(queries, target, own)
    is_hit_N = np.isfinite(log_p_N)
    assert np.array_equal(np.isfinite(of_shards_N), is_hit_N)
    assert np.abs(of_shards_N[is_hit_N] - log_p_N[is_hit_N]).max(initial=0) < SAME
    assert (of_shards.searches, of_shards.found, of_shards.with_any) == (tally.searches, tally.found, tally.with_any)
    assert of_shards.nearest.value == pytest.approx(tally.nearest.value, rel=SAME)


FLAGS: list[dict[str, Any]] = [
    {},
    {"knn_sim_func": "do_not_recomp_l2", "no_load_keys": True},
    {"knn_sim_func": "dot", "knn_temp": 20.0},
    {"rerank": 90},
    {"drop_top1": True},
    {"rerank": 70, "drop_top1": True, "knn_sim_func": "dot", "knn_temp": 20.0},
    {"k": 1},
    {"k": 1600, "probe": 8},
    {"move_dstore_to_mem": True, "knn_in_flight": 1},
]


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_shards_find_what_one_index_does(indexes: Indexes, flags: dict[str, Any]) -> None:
    count = len(QUERIES) if not flags else 100  # once more than a block
    queries, target = QUERIES[:count], TARGET[:count]
    one = indexes.open(indexes.whole, **flags)
    before = None
    for number in (1, 2, 4):
        shards = indexes.open(indexes.shards(number), **flags)
        assert isinstance(shards, ShardedStore)
        agree(one, shards, queries, target)
        log_p_N, _ = shards.exact_log_prob(queries, target)
        if before is not None:
            is_hit_N = np.isfinite(before)
            assert np.abs(log_p_N[is_hit_N] - before[is_hit_N]).max() < SAME_SHARDS
        before = log_p_N


@pytest.mark.parametrize("spec", ["IVF8,Flat", "IVF8,SQ8", "OPQ4_8,IVF8,PQ4", "PCA8,IVF8,SQfp16"])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_every_kind_of_lists(indexes: Indexes, spec: str, metric: str) -> None:
    kind = Indexes(indexes.store, spec, metric)
    agree(kind.open(kind.whole, knn_temp=20.0), kind.open(kind.shards(3), knn_temp=20.0), QUERIES[:200], TARGET[:200])


def test_whole_distributions_are_the_same_and_sum_to_one(indexes: Indexes) -> None:
    one, shards = indexes.open(indexes.whole), indexes.open(indexes.shards(4))
    log_p_NV = shards.next_log_prob(QUERIES[:40], VOCABULARY)
    expected_NV = one.next_log_prob(QUERIES[:40], VOCABULARY)
    is_word_NV = np.isfinite(expected_NV)
    assert np.array_equal(np.isfinite(log_p_NV), is_word_NV)
    assert np.abs(log_p_NV[is_word_NV] - expected_NV[is_word_NV]).max() < SAME
    assert np.exp(log_p_NV.astype(np.float64)).sum(axis=1) == pytest.approx(1, abs=SAME)
    assert shards.next_log_prob(QUERIES[:0]).shape == (0, VOCABULARY)
    with pytest.raises(ConfigError, match="vocabulary_size must be"):
        shards.next_log_prob(QUERIES[:2], 40000)


def test_probabilities_are_those_of_the_oracle(indexes: Indexes) -> None:
    shards = indexes.open(indexes.shards(4), probe=8, k=20, rerank=400)
    log_p_N, _ = shards.exact_log_prob(QUERIES[:20], TARGET[:20])
    for n in range(20):
        d = ((clustered_keys().astype(np.float64) - QUERIES[n]) ** 2).sum(1)
        ids = np.argsort(d)[:20]
        assert np.exp(log_p_N[n]) == pytest.approx(
            knn_probability(d[ids], ids, values_of()[ids], TARGET[n], 5.0), rel=1e-5, abs=1e-12
        )


def test_search_values_and_found(indexes: Indexes) -> None:
    one, shards = indexes.open(indexes.whole), indexes.open(indexes.shards(4, has_rows=True))
    (d, ids), (d_shards, ids_shards) = one.search(QUERIES[:30], 60), shards.search(QUERIES[:30], 60)
    assert np.array_equal(ids, ids_shards) and np.array_equal(d, d_shards)
    assert np.array_equal(shards.values(ids), one.values(ids))
    assert np.array_equal(shards.values(np.array([[-1, 3]])), one.values(np.array([[-1, 3]])))
    assert shards.lists() == one.lists() and len(shards) == len(one)
    assert shards.distance_unit == one.distance_unit
    own = indexes.open(indexes.shards(4, has_rows=True), knn_sim_func="do_not_recomp_l2")
    assert own.distance_unit == indexes.open(indexes.whole, knn_sim_func="do_not_recomp_l2").distance_unit
    assert "1,500 rows of 16, 4 shards" in repr(shards)


def test_rows_that_a_query_must_not_find(indexes: Indexes) -> None:
    """Each query is a row of the datastore itself, and some have two rows of their own."""
    queries, rows = clustered_keys()[:300], np.arange(300)
    own_NS = np.stack([rows, np.where(rows % 3 == 0, rows + 1, -1)], axis=1)
    one, shards = indexes.open(indexes.whole, drop_top1=True), indexes.open(indexes.shards(4), drop_top1=True)
    agree(one, shards, queries, TARGET[:300], own_NS)
    votes = shards.votes(queries, TARGET[:300], own_NS)
    assert not any(np.isin(own, found).any() for own, found in zip(own_NS[:, :1], votes.ids_NK, strict=True))


def test_half_precision_keys(tmp_path: Path) -> None:
    store = write_store(tmp_path, keys=clustered_keys().astype(np.float16), key_dtype="float16")
    half = Indexes(store, SPEC)
    for has_rows in (False, True):
        agree(half.open(half.whole), half.open(half.shards(4, has_rows=has_rows)), QUERIES[:200], TARGET[:200])


def test_forgotten_rows_are_not_found(tmp_path: Path) -> None:
    some = Indexes(write_store(tmp_path, settings={"data": "a", "context_window": 8}), SPEC)
    whole, shards = some.whole, some.shards(4)
    forget(ForgetConfig(str(some.store.prefix), rows="100:400"), TextsConfig(), lambda _: None)
    one, sharded = some.open(whole), some.open(shards)
    agree(one, sharded, QUERIES[:300], TARGET[:300])
    ids = sharded.votes(QUERIES[:300], TARGET[:300]).ids_NK
    assert not ((ids >= 100) & (ids < 400)).any() and len(sharded) == 1200


@pytest.mark.parametrize("flags", FLAGS[:6], ids=str)
def test_rows_that_are_equally_far_come_by_number(doubled: Indexes, flags: dict[str, Any]) -> None:
    """k is odd, so that it cuts through pairs; each of a pair has a value of its own."""
    flags = {"k": 25, **flags}
    queries, target = clustered_keys(200, 8, seed=9), np.resize(np.arange(9), 200)
    one = doubled.open(doubled.whole, **flags)
    for count in (1, 2, 4):
        agree(one, doubled.open(doubled.shards(count), **flags), queries, target)
    for found in one.votes(queries, target).ids_NK:  # of a pair that was cut through, the first row is there
        alone = np.setdiff1d(found[found >= 400] - 400, found)
        assert len(alone) <= bool(flags.get("drop_top1"))  # whose other one may be the nearest


@settings(max_examples=12, deadline=None)
@given(
    data=st.data(),
    count=st.integers(1, 5),
    k=st.integers(1, 30),
    seed=st.integers(0, 1 << 30),
)
def test_any_ties_in_any_shards(
    tmp_path_factory: pytest.TempPathFactory, data: Any, count: int, k: int, seed: int
) -> None:
    """Few different keys: the k nearest by distance and number, of an index that finds all, are known by sorting."""
    rng = np.random.default_rng(seed)
    rows = data.draw(st.integers(40, 90))
    keys = rng.integers(0, 2, (4, 8)).astype(np.float32)[rng.integers(0, 4, rows)]
    keys[:3] += rng.integers(0, 2, (3, 8)).astype(np.float32)
    store = write_store(tmp_path_factory.mktemp("ties"), keys=keys, values=rng.integers(0, 4, rows))
    ties = Indexes(store, "IVF2,Flat")
    drop = data.draw(st.booleans())
    more = {"contiguous": True} if data.draw(st.booleans()) else {"block_rows": 3}
    shards = ties.open(ties.shards(count, **more), k=k, probe=2, drop_top1=drop)
    queries = rng.integers(0, 3, (6, 8)).astype(np.float32)
    votes = shards.votes(queries, np.zeros(6, np.int64)).nearest_first()
    for n, query in enumerate(queries):
        d = ((keys - query) ** 2).sum(1)
        expected = np.lexsort((np.arange(rows), d))[drop : k + drop]
        assert votes.ids_NK[n, : len(expected)].tolist() == expected.tolist()
        assert (votes.ids_NK[n, len(expected) :] == -1).all()
    agree(ties.open(ties.whole, k=k, probe=2, drop_top1=drop), shards, queries, np.resize([0, 1, 2, 3], 6))


def test_bytes_and_rows_that_are_read(indexes: Indexes) -> None:
    shards = indexes.open(indexes.shards(4), k=200, probe=8, knn_temp=5.0)
    shards.log_prob(QUERIES, TARGET)
    record = shards.report().found["shards"]
    most = first_asked(200, 4)
    assert most == 50 + 29 + 4
    assert record["count"] == 4
    assert record["bytes_of_a_search"]["phase_b"] == 4 * 4 * 8
    assert record["bytes_of_a_search"]["phase_a"] == pytest.approx(4 * 4 * most, rel=0.05)  # some are asked for more
    assert sum(shard.rows_read for shard in shards.phases.backend.shards) == 200 * QUERY_COUNT
    assert any("128 in phase B" in line for line in shards.report().summary)


def test_several_datastores_some_in_shards(indexes: Indexes, tmp_path: Path) -> None:
    other = Indexes(write_store(tmp_path, "other", keys=clustered_keys(600, seed=7), settings={"data": "b"}), SPEC)

    def opened(first: Path, second: Path) -> NeighbourSource:
        return open_neighbours(
            KNNConfig(
                dstore_filename=f"{indexes.store.prefix}:{other.store.prefix}",
                indexfile=f"{first}:{second}",
                k=K,
                probe=4,
                knn_temp="auto",
            )
        )

    one = opened(indexes.whole, other.whole)
    for first, second in ((indexes.shards(4), other.whole), (indexes.shards(2), other.shards(4))):
        some = opened(first, second)
        assert isinstance(some, SeveralStores) and some.temperature == one.temperature
        log_p_N = one.log_prob(QUERIES[:200], TARGET[:200])
        assert np.allclose(some.log_prob(QUERIES[:200], TARGET[:200]), log_p_N, atol=SAME, rtol=SAME)
        ids = one.search(QUERIES[:20])[1]
        assert np.array_equal(some.search(QUERIES[:20])[1], ids) and np.array_equal(some.values(ids), one.values(ids))


def test_values_and_keys_need_not_be_here(indexes: Indexes, tmp_path: Path) -> None:
    """The coordinator has the manifest alone; shards have rows of their own."""
    own = Indexes(replace(indexes.store, prefix=tmp_path / "dstore"), SPEC)
    (tmp_path / "dstore.json").write_bytes(Path(f"{indexes.store.prefix}.json").read_bytes())
    shards = own.open(own.shards(4, has_rows=True))
    assert not (tmp_path / "dstore_vals.npy").exists()
    agree(indexes.open(indexes.whole), shards, QUERIES[:100], TARGET[:100])


def test_one_file_of_an_index_in_shards_has_another_class(indexes: Indexes) -> None:
    with pytest.raises(ConfigError, match="is an index in shards, which KNN_Dstore does not search; give KNN"):
        KNN_Dstore.open(indexes.store.prefix, indexes.shards(2))
    with pytest.raises(ConfigError, match=r"--knn-backend ray searches an index in shards, but .* is none"):
        open_neighbours(
            KNNConfig(dstore_filename=str(indexes.store.prefix), indexfile=str(indexes.whole), knn_backend="ray")
        )


def test_a_key_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    keys = clustered_keys()
    store = write_store(tmp_path, keys=keys)
    bad = Indexes(store, SPEC)
    shards = bad.open(bad.shards(2), k=1500, probe=8)  # it reads rows where they lie
    with Path(f"{store.prefix}_keys.npy").open("r+b") as file:
        file.seek(4 * 16 * 700)
        file.write(np.full(16, np.nan, np.float32).tobytes())
    with pytest.raises(DatastoreError, match="row 700 is not finite"):
        shards.log_prob(keys[695:705], TARGET[:10])
