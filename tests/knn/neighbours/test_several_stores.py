"""Several datastores searched together are one: a row is found wherever it lies, and counted once."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.config import TextsConfig
from fairseq.knn.datastore.manifest import Segment
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.datastore.store import Datastore, DatastoreWriter
from fairseq.knn.index.build import build_index
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.maintain.config import ForgetConfig
from fairseq.knn.maintain.forget import forget
from fairseq.knn.neighbours.parts import Values
from fairseq.knn.neighbours.several_stores import SeveralStores, joint_id
from fairseq.knn.retrieval.datastores import StoreRecord, datastore_record, parts_of
from fairseq.storage.records import as_json, parse
from knnlm import KNN_Dstore, open_neighbours
from tests.builders.small_store import ROWS, clustered_keys, small_manifest, values_of
from tests.oracles.knn import knn_probability, nearest

# The same float32 distances of the same rows; only the order in which votes are added differs.
SAME = 1e-6
# p from float32 distances of about 30 that are exact to 1e-6 of themselves.
LOG_P_TOLERANCE = 1e-4
CUT = 600


def write_store(root, name, keys, values=None, **changes):
    values = values_of(len(keys)) if values is None else values
    manifest = small_manifest(rows=len(keys), dimension=keys.shape[1], **changes)
    with DatastoreWriter.create(root / name, manifest) as writer:
        writer.append(keys, values)
        writer.finish()
    build(root, name, "flat", "Flat")


def build(root, name, kind, spec, **more):
    config = BuildConfig("d", "i", index_spec=spec, **more)
    build_index(Datastore.open(root / name), config, root / f"{name}.{kind}")


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Makes a whole datastore and its two halves, each with an index that finds the nearest."""
    root = tmp_path_factory.mktemp("stores")
    for name, rows in (("whole", slice(None)), ("a", slice(CUT)), ("b", slice(CUT, None))):
        settings = {"data": name, "data_sha256": name}
        write_store(root, name, clustered_keys()[rows], values_of()[rows], settings=settings)
    return root


def opened(root, names, kinds="flat", **more):
    indexes = [kinds] * len(names.split(":")) if isinstance(kinds, str) else kinds
    pairs = list(zip(names.split(":"), indexes, strict=True))
    config = KNNConfig(
        knnlm=True,
        dstore_filename=":".join(str(root / name) for name, _ in pairs),
        indexfile=":".join(str(root / f"{name}.{kind}") for name, kind in pairs),
        **{"k": 20, **more},
    )
    return open_neighbours(config)


QUERIES, TARGET = clustered_keys(40, seed=4), np.resize(np.arange(39990, 40010), 40)
OWN = {"knn_sim_func": "do_not_recomp_l2", "no_load_keys": True}


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"knn_temp": 10.0},
        OWN,
        {"drop_top1": True},
        {"knn_sim_func": "dot"},
        {"k": 1},
        {"k": ROWS + 9},
        {"k": 700},
        {"k": 5, "rerank": 30},
    ],
)
def test_two_halves_are_the_whole(stores, flags):
    whole, halves = opened(stores, "whole", **flags), opened(stores, "a:b", **flags)
    assert isinstance(halves, SeveralStores) and halves.rows == ROWS
    if flags.get("knn_sim_func") == "dot":  # of the rows nearest by L2: of the halves there are twice as many
        log_p = halves.log_prob(QUERIES, TARGET)
        dots = clustered_keys() @ QUERIES[0]
        squares = ((clustered_keys() - QUERIES[0]) ** 2).sum(1)
        ids = np.concatenate([np.argsort(squares[:CUT])[:20], np.argsort(squares[CUT:])[:20] + CUT])
        ids = ids[np.argsort(-dots[ids])][:20]
        p = knn_probability(-dots[ids], ids, values_of()[ids], TARGET[0], 1.0)
        assert np.exp(log_p[0]) == pytest.approx(p, abs=LOG_P_TOLERANCE)
        return
    (d, ids), (d_halves, ids_halves) = whole.search(QUERIES), halves.search(QUERIES)
    assert np.allclose(d, d_halves, rtol=SAME, atol=SAME)
    assert (ids == ids_halves).mean() > 0.999
    assert halves.log_prob(QUERIES, TARGET) == pytest.approx(whole.log_prob(QUERIES, TARGET), rel=SAME, abs=SAME)
    one, two = whole.votes(QUERIES, TARGET).nearest_first(), halves.votes(QUERIES, TARGET).nearest_first()
    assert two.ids_NK.shape == (40, flags.get("k", 20)) and (one.hits_NK == two.hits_NK).mean() > 0.999


def test_probabilities_are_those_of_the_oracle(stores):
    log_p = opened(stores, "b:a", knn_temp=5.0).log_prob(QUERIES[:5], TARGET[:5])
    for n in range(5):
        d, ids = nearest(clustered_keys(), QUERIES[n], 20)
        p = knn_probability(d, ids, values_of()[ids], TARGET[n], 5.0)
        assert np.exp(log_p[n]) == pytest.approx(p, rel=LOG_P_TOLERANCE, abs=1e-12)


def test_the_order_does_not_matter_but_for_the_ids(stores):
    ab, ba = opened(stores, "a:b"), opened(stores, "b:a")
    assert np.allclose(ab.log_prob(QUERIES, TARGET), ba.log_prob(QUERIES, TARGET), rtol=SAME, atol=SAME)
    ids, other = ab.search(QUERIES)[1], ba.search(QUERIES)[1]
    assert ((ids - CUT) % ROWS == other).mean() > 0.999
    assert np.array_equal(ab.values_of(ids), values_of()[ids])
    assert ab.identity()["store_id"] != ba.identity()["store_id"]


@pytest.mark.parametrize("seed", range(6))
def test_the_order_does_not_change_one_bit(tmp_path, seed: int):
    """Few different keys, so that many rows are equally far, their values differ, and k cuts through them."""
    rng = np.random.default_rng(seed)
    keys = rng.integers(-2, 3, (12, 8)).astype(np.float32)
    names = ["a", "b", "c"][: 2 + seed % 2]
    for name in names:
        rows = int(rng.integers(40, 200))
        settings = {"data": name, "data_sha256": name}
        values = rng.integers(0, 9, rows)
        write_store(tmp_path, name, keys[rng.integers(0, 12, rows)], values, settings=settings)
        build(tmp_path, name, "lists", "IVF4,SQ8")
    queries = keys[rng.integers(0, 12, 60)] + rng.integers(0, 2, (60, 8)).astype(np.float32)
    target = rng.integers(0, 9, 60)
    kinds = {name: ("flat", "lists")[number % 2] for number, name in enumerate(names)}
    for flags in ({"k": 7}, {"k": 30, "rerank": 50}, {"k": 9, "drop_top1": True}, {"k": 25, "knn_temp": 3.0}, OWN):
        one, other = (
            opened(tmp_path, ":".join(order), [kinds[name] for name in order], **{"k": 11, **flags})
            for order in (names, names[::-1])
        )
        assert np.array_equal(one.log_prob(queries, target), other.log_prob(queries, target))
        assert np.array_equal(one.next_log_prob(queries), other.next_log_prob(queries))
        votes, back = (of.votes(queries, target).nearest_first(of.tie_order) for of in (one, other))
        assert np.array_equal(votes.distances_NK, back.distances_NK) and np.array_equal(votes.hits_NK, back.hits_NK)
        found, found_back = one.search(queries)[1], other.search(queries)[1]
        assert np.array_equal(one.values(found), other.values(found_back))


def test_the_same_twice_is_once(stores, caplog):
    alone, twice = opened(stores, "a"), opened(stores, "a:a")
    assert isinstance(twice, KNN_Dstore) and "a is named twice with the index" in caplog.text
    assert twice.identity() == alone.identity()
    assert np.array_equal(twice.log_prob(QUERIES, TARGET), alone.log_prob(QUERIES, TARGET))


def test_a_copy_of_a_datastore_is_the_same_datastore(stores):
    for end in ("_keys.npy", "_vals.npy", ".json", ".flat", ".flat.json"):
        shutil.copy(f"{stores}/a{end}", f"{stores}/copy{end}")
    alone, both = opened(stores, "a"), opened(stores, "a:copy")
    assert [part.offset for part in both.parts] == [0] and both.rows == CUT
    assert both.distinct_ids
    assert np.array_equal(both.log_prob(QUERIES, TARGET), alone.log_prob(QUERIES, TARGET))
    assert np.array_equal(both.search(QUERIES)[1], alone.search(QUERIES)[1])
    assert both.identity()["store_id"] == alone.identity()["store_id"]
    three = opened(stores, "a:b:copy")
    assert three.rows == ROWS
    assert three.log_prob(QUERIES, TARGET) == pytest.approx(opened(stores, "a:b").log_prob(QUERIES, TARGET), abs=SAME)


def test_two_indexes_of_one_datastore_find_the_rows_of_both(stores):
    build(stores, "whole", "rough", "IVF20,SQ8", probe=1)
    rough, flat = opened(stores, "whole", "rough", probe=1), opened(stores, "whole", "flat")
    both = opened(stores, "whole:whole", ("rough", "flat"), probe=1)
    assert both.rows == ROWS
    assert not np.array_equal(rough.log_prob(QUERIES, TARGET), flat.log_prob(QUERIES, TARGET))
    assert both.log_prob(QUERIES, TARGET) == pytest.approx(flat.log_prob(QUERIES, TARGET), rel=SAME, abs=SAME)
    ids = both.votes(QUERIES, TARGET).ids_NK
    assert all(len(set(row)) == 20 for row in ids.tolist())


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
@settings(max_examples=50)
def test_values_by_id_are_those_of_one_array(sizes, data):
    arrays = [np.arange(size, dtype=np.int64) + 100 * number for number, size in enumerate(sizes)]
    joined = np.concatenate(arrays)
    values = Values(np.cumsum([0, *sizes[:-1]]).tolist(), arrays)
    ids = np.array(data.draw(st.lists(st.integers(0, len(joined) - 1), max_size=9)), np.int64)
    assert len(values) == len(joined) and values.of(ids).tolist() == joined[ids].tolist()
    assert values.of(np.array([-1, 0]))[1] == joined[0]


def test_what_does_not_belong_together(stores):
    for name, changes in (("w", {"weights_sha256": "o" * 64}), ("d", {"dictionary_sha256": "e" * 64})):
        write_store(stores, name, clustered_keys()[:50], **changes)
        with pytest.raises(MismatchError, match=f"{name} was written with .*--allow-mismatch"):
            opened(stores, f"a:{name}")
        assert opened(stores, f"a:{name}", allow_mismatch=True).rows == CUT + 50
    write_store(stores, "n", clustered_keys(50, width=8))
    with pytest.raises(MismatchError, match="width 8"):
        opened(stores, "a:n", allow_mismatch=True)
    with pytest.raises(MismatchError, match=r"b\.flat has 900 keys, but .*a was opened with 600 rows"):
        KNN_Dstore.open(stores / "a", stores / "b.flat")
    with pytest.raises(DatastoreError, match="nowhere"):
        opened(stores, "a:nowhere")
    with pytest.raises(ConfigError, match="--dstore-size 5 is of one datastore, but --dstore-filename names 2"):
        open_neighbours(replace(opened(stores, "a:b").config), rows=5)
    part = KNN_Dstore.open(stores / "a", stores / "a.flat")
    part.datastore.rows -= 1
    with pytest.raises(MismatchError, match=f"was opened with {CUT} rows, but is the datastore of"):
        SeveralStores([part, KNN_Dstore.open(stores / "a", stores / "a.flat")], part.config)


@pytest.mark.parametrize(
    ("stores_named", "indexes", "message"),
    [
        ("a:b", "i", "--dstore-filename names 2, but --indexfile 1; give each datastore its index"),
        ("a", "i:j", "--dstore-filename names 1, but --indexfile 2"),
        ("a:", "i:j", "--dstore-filename must be names separated by colons, but is 'a:'"),
        ("a:b", ":j", "--indexfile must be names separated by colons, but is ':j'"),
    ],
)
def test_names_in_pairs(stores_named, indexes, message):
    with pytest.raises(ConfigError, match=message):
        KNNConfig(knnlm=True, dstore_filename=stores_named, indexfile=indexes)


def test_what_a_retrieval_says_of_its_datastores(stores):
    record = datastore_record(opened(stores, "a:b").parts, whole_text=True)
    written = as_json(record)
    assert list(written) == ["prefix", "rows", "data", "context_window", "first_position", "parts"]
    assert list(written["parts"][0]) == [*list(written)[:5], "offset", "store_id"]
    assert written["prefix"] == f"{stores}/a:{stores}/b" and (written["rows"], written["first_position"]) == (
        ROWS,
        None,
    )
    a, b = parts_of(read_back(written), None)
    assert (a.offset, a.rows, b.offset, b.rows, b.texts[0].data) == (0, CUT, CUT, ROWS - CUT, "b")
    single = datastore_record(opened(stores, "a").parts, whole_text=True)
    assert list(as_json(single)) == ["prefix", "rows", "data", "context_window", "first_position"]
    (alone,) = parts_of(read_back(as_json(single)), "x")
    assert (alone.offset, alone.rows, alone.store_id) == (0, CUT, "x")
    parts = written["parts"]
    for wrong in (
        [],
        [parts[0]],
        "ab",
        parts[::-1],
        [parts[0], {**parts[1], "offset": CUT + 1}],
        [parts[0], {**parts[1], "rows": "9"}],
        [1, 2],
    ):
        with pytest.raises(DatastoreError, match=r"^it.* must .*; save again$"):
            read_back({**written, "parts": wrong})


def read_back(written):
    return parse(json.dumps(written), StoreRecord, "it", DatastoreError, "save again")


def segment_record(spans, **changes):
    rows = sum(stop - start for start, stop in spans)
    return {"data": "t", "context_window": 0, "first_position": 10, "rows": rows, "spans": spans, **changes}


def test_what_a_retrieval_says_of_segments(stores, tmp_path):
    """Row 3 of the datastore is the source's row 5; the second text's rows begin at row 7."""
    cut = {"sample_break_mode": "none", "tokens_per_sample": 10, "context_window": 5}
    segments = tuple(
        Segment({**cut, "data": name}, 20, RowRanges.of(spans))
        for name, spans in (("t", [[0, 3], [5, 9]]), ("u", [[4, 20]]))
    )
    write_store(tmp_path, "s", clustered_keys(23), settings={**cut, "data": "t"}, segments=segments)
    source = KNN_Dstore.open(tmp_path / "s", tmp_path / "s.flat")
    record = datastore_record(source.parts, whole_text=True)
    written = as_json(record)
    assert (written["data"], written["first_position"]) == (None, None) and "rows_id" not in written
    (part,) = parts_of(read_back(written), None)
    assert [text.data for text in part.texts] == ["t", "u"]
    first, second = (text.map for text in part.texts)
    assert first.positions(np.arange(7)).tolist() == [10, 11, 12, 15, 16, 17, 18] and first.rows == 7
    assert second.positions(np.arange(2)).tolist() == [14, 15] and second.rows == 16
    assert written["segments"] == [
        segment_record([[0, 3], [5, 9]], context_window=5),
        segment_record([[4, 20]], data="u", context_window=5),
    ]
    source.datastore.rows = 5  # --dstore-size
    fewer = datastore_record(source.parts, whole_text=False)
    assert [part.spans.pairs for part in fewer.segments] == [[[0, 3], [5, 7]]]
    assert parts_of(fewer, None)[0].texts[0].map is None
    sound = segment_record([[0, 7]])
    for wrong, message in (
        ([], "must have segments of its 23 rows"),
        ([sound], "must have segments of its 23 rows, but they have 7"),
        ("x", "'segments' must be a list"),
        ([{**sound, "spans": [[3, 2]]}], r"'segments\[0\].spans' must be ranges of rows"),
        ([{**sound, "rows": 8}], r"'segments\[0\]' must have spans of its 8 rows, but they have 7"),
        ([{**sound, "first_position": "1"}], r"'segments\[0\].first_position' must be a whole number or null"),
        ([7], r"'segments\[0\]' must be an object"),
        ([{**sound, "first_position": -1}], r"'segments\[0\].first_position' must be at least 0"),
    ):
        with pytest.raises(DatastoreError, match=message):
            read_back({**written, "segments": wrong})


@pytest.mark.parametrize("kind", ["Flat", "IVF8,Flat"])
def test_what_is_forgotten_in_one_is_found_in_neither(tmp_path, kind):
    """Of 60 rows 25 are forgotten; k goes up to more than all that are left."""
    keys, values = clustered_keys(60), values_of(60)
    for name, rows in (("a", slice(40)), ("b", slice(40, None))):
        write_store(tmp_path, name, keys[rows], values[rows], settings={"data": name})
        build(tmp_path, name, "index", kind, probe=8)
    forget(ForgetConfig(str(tmp_path / "a"), rows="5:30"), TextsConfig(), lambda line: None)
    left = np.delete(np.arange(60), np.arange(5, 30))
    for k in (7, 35, 50):
        source = opened(tmp_path, "a:b", "index", k=k, probe=8)
        assert (source.rows, source.rows_left) == (60, 35)
        _, ids = source.search(QUERIES)
        assert not np.isin(ids, np.arange(5, 30)).any() and ((ids >= 0).sum(1) == min(k, 35)).all()
        for n, query in enumerate(QUERIES):
            wanted_distances, wanted = nearest(keys[left], query, min(k, 35))
            assert ids[n][ids[n] >= 0].tolist() == left[wanted].tolist()
            p = knn_probability(wanted_distances, left[wanted], values[left[wanted]], TARGET[n], 1.0)
            assert np.exp(source.log_prob(QUERIES[n : n + 1], TARGET[n : n + 1])[0]) == pytest.approx(p, abs=1e-5)
    record = datastore_record(source.parts, whole_text=True)
    a, b = parts_of(record, None)
    assert a.rows_id != a.store_id and a.rows == 40 and b.rows_id == b.store_id


def test_joint_id():
    assert joint_id(["x"]) == "x" and joint_id(["x", None]) is None
    assert joint_id(["x", "y"]) not in ("x", "y", joint_id(["y", "x"]))


def test_a_third_store_begins_behind_each_store_once(stores):
    """a and its copy have the same rows: b's begin behind a's, and their values are b's."""
    for end in ("_keys.npy", "_vals.npy", ".json", ".flat", ".flat.json"):
        shutil.copy(f"{stores}/a{end}", f"{stores}/twin{end}")
    for names in ("a:twin:b", "a:a:b"):
        found = opened(stores, names)
        assert [part.offset for part in found.parts] == [0, CUT] and found.rows == ROWS
        ids = found.search(QUERIES)[1]
        assert ids.max() >= CUT and np.array_equal(found.values(ids), values_of()[ids])
        whole = opened(stores, "whole").log_prob(QUERIES, TARGET)
        assert found.log_prob(QUERIES, TARGET) == pytest.approx(whole, rel=SAME, abs=SAME)
