"""``fairseq-knnlm recall``: what it counts, beside naive oracles."""

import numpy as np
import pytest

from fairseq.errors import ConfigError
from fairseq.knn.inspect.config import QueriesConfig, RecallConfig
from fairseq.knn.inspect.queries import Queries
from fairseq.knn.inspect.recall import Measured, lines, loss_of, measure, own_rows, pareto
from tests.builders.small_store import clustered_keys
from tests.oracles.knn import knn_probability, mixture, nearest

# float32 distances.
LOSS_TOLERANCE = 1e-4


def config(**more) -> RecallConfig:
    return RecallConfig(dstore_filename="unused", **{"index_spec": "Flat", **more})


def table(store, queries, **more):
    return list(measure(store, queries, config(**more), 1))


def text_like(store, count=30):
    rng = np.random.default_rng(2)
    targets = store.values_N[rng.integers(0, store.rows, count)].astype(np.int64)
    return Queries("a text", clustered_keys(count, seed=3), targets, np.log(rng.uniform(0.01, 0.9, count)))


def test_loss_is_that_of_the_mixture(make_store):
    store = make_store()
    queries = text_like(store)
    rows = table(store, queries, index_spec="IVF8,Flat", k=20, probe=(2, 8), lmbda=0.3, knn_temp=2.0)
    bits = 0.0
    for query, target, log_p in zip(queries.vectors_ND, queries.target_N, queries.log_p_N, strict=True):
        distances, ids = nearest(store.keys_ND, query, 20)
        p_knn = knn_probability(distances, ids, store.values_N[ids], target, 2.0)
        bits -= np.log2(mixture(np.exp(log_p), p_knn, 0.3))
    exact, two, eight = rows[0], rows[1], rows[2]
    assert exact.loss == pytest.approx(bits / len(queries.vectors_ND), abs=LOSS_TOLERANCE)
    assert (exact.recall, exact.gap) == (1.0, 0.0)
    assert eight.recall == 1.0 and eight.gap == pytest.approx(0, abs=LOSS_TOLERANCE)
    assert two.recall < 1 and two.gap == pytest.approx(two.loss - exact.loss)
    assert [(r.distances, r.probe) for r in rows] == [("keys", 0), ("own", 2), ("own", 8), ("keys", 2), ("keys", 8)]


def test_rows_of_the_datastore_are_not_their_own_neighbours(make_store):
    store = make_store()
    queries = own_rows(store, 25)
    assert queries.row_ids_N is not None and len(queries.row_ids_N) == 25
    rows = table(store, queries, k=10)
    assert [row.recall for row in rows] == [1.0, 1.0, 1.0] and all(row.loss is None for row in rows)
    ids = np.array([nearest(store.keys_ND, query, 11)[1] for query in queries.vectors_ND])
    without = queries.without_themselves(ids.astype(np.float32), ids)[1]
    for row, all_ids, kept in zip(queries.row_ids_N, ids, without, strict=True):
        assert kept.tolist() == [n for n in all_ids if n != row]
    elsewhere = queries.without_themselves(ids.astype(np.float32), np.where(ids == queries.row_ids_N[:, None], -1, ids))
    assert elsewhere[1].shape == (25, 10)


def test_loss_needs_targets(make_store):
    store = make_store()
    ids = np.zeros((2, 1), np.int64)
    assert loss_of(store, own_rows(store, 2), ids.astype(np.float32), ids, config()) is None


def test_indexes_are_kept_where_asked_for(make_store, tmp_path):
    store = make_store()
    first = table(store, own_rows(store, 5), index_spec="IVF8,SQ8; Flat", k=5, keep_in=str(tmp_path / "kept"))
    assert {p.name for p in (tmp_path / "kept").glob("*.index")} == {"IVF8,SQ8.index", "Flat.index"}
    again = table(store, own_rows(store, 5), index_spec="IVF8,SQ8", k=5, keep_in=str(tmp_path / "kept"))
    assert first[1].train_s is not None and again[1].train_s is None
    assert [row.recall for row in first[:5]] == [row.recall for row in again]
    path = str(tmp_path / "kept/IVF8,SQ8.index")
    assert RecallConfig(dstore_filename="d", indexfile=(path,)).specs == ()


def test_more_neighbours_than_rows(make_store):
    store = make_store()
    with pytest.raises(ConfigError, match="--k 1500 is more than the 1499 rows that can be neighbours"):
        table(store, own_rows(store, 5), k=1500)


def row(name: str, size: float, rate: float, recall: float) -> Measured:
    return Measured(name, "own", 8, size, None, None, recall, rate)


def test_pareto_rows_are_beaten_by_none():
    rows = [
        row("a", 10, 5, 0.5),
        row("b", 10, 5, 0.5),
        row("c", 10, 4, 0.5),
        row("d", 20, 1, 0.9),
        row("e", 20, 5, 0.5),
    ]
    assert pareto(rows) == [True, True, False, True, False]
    shown = lines(rows)
    assert [line.startswith("*") for line in shown] == [False, True, True, False, True, False]
    assert " ".join(shown[0].split()) == "index distances probe bytes/key train s add s recall queries/s loss gap"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RecallConfig(dstore_filename="d"), "there is no index to measure; give --index-spec"),
        (lambda: RecallConfig(dstore_filename="d", index_spec=" ; "), "there is no index to measure"),
        (lambda: RecallConfig(dstore_filename="", index_spec="Flat"), "--dstore-filename is required"),
        (lambda: config(knn_temp=0.0), "--knn-temp must be above 0"),
        (lambda: QueriesConfig(data="d"), "DATA gives queries only together with --path CHECKPOINT"),
        (lambda: QueriesConfig(path="p"), "--path gives queries only together with DATA"),
        (lambda: QueriesConfig(data="d", path="a:b"), "--path names several checkpoints"),
    ],
)
def test_flags_that_do_not_go_together(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
