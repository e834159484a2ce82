"""Exported distributions: rows rebuilt by brute force in float64, the row itself never among its neighbours."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq.errors import ConfigError, FairseqError
from fairseq.knn.datastore.config import TextsConfig
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.export import distribution as module
from fairseq.knn.export.config import ExportConfig
from fairseq.knn.export.distribution import export_distribution
from fairseq.knn.export.shares import word_shares
from fairseq.knn.index.build import build_index
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.maintain.config import ForgetConfig
from fairseq.knn.maintain.forget import forget
from fairseq.knn.neighbours.dstore import KNN_Dstore
from fairseq.text.model_tokenizer import SHIFT
from tests.builders.small_store import clustered_keys, write_store

pa = pytest.importorskip("pyarrow")
ROWS, WIDTH, K, T = 400, 8, 20, 3.0
NO_LABEL = 30_000  # no row but one has it


def keys_with_twins() -> np.ndarray:
    """Returns keys in clusters; rows 0 to 19 are there twice, so that another row is as near as the row itself."""
    keys = clustered_keys(ROWS, WIDTH)
    keys[200:220] = keys[:20]
    return keys


def values() -> np.ndarray:
    found = np.random.default_rng(5).integers(10, 25, ROWS)
    found[7] = NO_LABEL
    return found


def make(tmp_path: Path, spec: str, **changes: Any) -> tuple[Datastore, Path]:
    store = write_store(tmp_path, keys=keys_with_twins(), values=values(), **changes)
    index = tmp_path / "knn.index"
    build_index(store, BuildConfig(dstore_mmap=str(store.prefix), faiss_index=str(index), index_spec=spec), str(index))
    return store, index


def exported(store: Datastore, index: Path, out: Path, **settings: Any) -> Any:
    """Returns the table that the command writes, as pyarrow reads it."""
    given = {"k": K, "knn_temp": T, "probe": 64, **settings}
    export_distribution(ExportConfig(str(store.prefix), str(index), str(out), **given))
    with pa.OSFile(str(out)) as file:
        return pa.ipc.open_stream(file).read_all()


def brute(keys: np.ndarray, words: np.ndarray, row: int, k: int = K, allowed: Any = None) -> dict[int, float]:
    """Returns p of each word by the k nearest other rows, in float64."""
    distances = ((keys.astype(np.float64) - keys[row].astype(np.float64)) ** 2).sum(1)
    distances[row] = np.inf
    if allowed is not None:
        distances[~allowed] = np.inf
    near = np.argsort(distances, kind="stable")[:k]
    weights = np.exp(-(distances[near] - distances[near[0]]) / T)
    p: dict[int, float] = {}
    for other, weight in zip(near, weights / weights.sum(), strict=True):
        p[int(words[other])] = p.get(int(words[other]), 0.0) + float(weight)
    return p


def check_row(record: dict[str, Any], wanted: dict[int, float]) -> None:
    assert record["id_cnt"] == len(record["token_id"]) == len(record["prob"])
    assert record["token_id"] == sorted(set(record["token_id"]))
    found = dict(zip(record["token_id"], record["prob"], strict=True))
    for word in {*found, *wanted}:
        assert abs(float(found.get(word, 0.0)) - wanted.get(word, 0.0)) <= 2**-11  # half a unit of float16 below 1


def test_every_row_is_what_brute_force_gives(tmp_path: Path) -> None:
    store, index = make(tmp_path, "Flat")
    table = exported(store, index, tmp_path / "out.arrow")
    columns = {"id_cnt": "int32", "token_id": "list<item: int32>", "prob": "list<item: halffloat>", "label": "int32"}
    assert {field.name: str(field.type) for field in table.schema} == columns
    assert table["label"].to_pylist() == values().tolist()
    for row, record in enumerate(table.to_pylist()):
        check_row(record, brute(keys_with_twins(), values(), row))


@pytest.mark.parametrize("spec", ["Flat", "IVF4,Flat", "IVF4,PQ2x4", "PQ2x4"])
def test_no_row_is_its_own_neighbour(tmp_path: Path, spec: str) -> None:
    """Row 7's word is no other's; by codes, dozens of rows are as near as itself, and need not come behind it."""
    store, index = make(tmp_path, spec)
    table = exported(store, index, tmp_path / "out.arrow", k=5)
    for record, word in zip(table.to_pylist(), values(), strict=True):
        assert NO_LABEL not in record["token_id"] or word != NO_LABEL
        assert record["id_cnt"] >= 1
        assert abs(sum(map(float, record["prob"])) - 1) <= record["id_cnt"] * 2**-11


@pytest.mark.parametrize("sim_func", [None, "do_not_recomp_l2"])
def test_a_twin_is_a_neighbour(tmp_path: Path, sim_func: str | None) -> None:
    """Of two rows with one key, each has the other as its nearest: at distance 0, and never itself."""
    store, index = make(tmp_path, "Flat")
    table = exported(store, index, tmp_path / "out.arrow", k=1, knn_sim_func=sim_func)
    words = values()
    for row in range(20):
        assert table["token_id"][row].as_py() == [int(words[200 + row])]
        assert table["token_id"][200 + row].as_py() == [int(words[row])]


def test_the_farthest_goes_where_the_row_was_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that never finds row 3: its k neighbours are the nearest k of the k + 1 that were found."""
    store, index = make(tmp_path, "Flat")
    real = KNN_Dstore.found

    def without_3(self: Any, queries_ND: Any, k: int) -> Any:
        assert k == K + 1
        distances, ids = real(self, queries_ND, k + 1)
        order = np.argsort(np.where(ids == 3, np.inf, distances), axis=1, kind="stable")[:, :k]
        return np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1)

    monkeypatch.setattr(KNN_Dstore, "found", without_3)
    table = exported(store, index, tmp_path / "out.arrow", rows="3")
    assert table.num_rows == 1
    check_row(table.to_pylist()[0], brute(keys_with_twins(), values(), 3))


def test_small_blocks_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, index = make(tmp_path, "Flat")
    whole = exported(store, index, tmp_path / "whole.arrow")
    monkeypatch.setattr(module, "MOST_ROWS", 33)
    monkeypatch.setattr(module, "_SHARES_BLOCK", 7)
    assert exported(store, index, tmp_path / "blocks.arrow").equals(whole)
    assert exported(store, index, tmp_path / "some.arrow", rows="10:90").equals(whole.slice(10, 80))


def test_forgotten_rows_are_neither_written_nor_neighbours(tmp_path: Path) -> None:
    store, index = make(tmp_path, "Flat")
    forget(ForgetConfig(str(store.prefix), rows="50:120"), TextsConfig(), print)
    store = Datastore.open(store.prefix)
    table = exported(store, index, tmp_path / "out.arrow")
    allowed = np.ones(ROWS, bool)
    allowed[50:120] = False
    assert table["label"].to_pylist() == values()[allowed].tolist()
    made_of = json.loads(table.schema.metadata[b"fairseq-knnlm distribution"])
    assert made_of["rows"] == f"0:50,120:{ROWS}"  # which row each record is of
    for row, record in zip(np.flatnonzero(allowed), table.to_pylist(), strict=True):
        check_row(record, brute(keys_with_twins(), values(), row, allowed=allowed))


def test_ids_are_the_tokenizers_where_the_text_was_tokenized(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "tokenized").mkdir()
    plain = exported(*make(tmp_path / "plain", "Flat"), tmp_path / "plain.arrow")
    store, index = make(tmp_path / "tokenized", "Flat", settings={"tokenizer_sha256": "a" * 64})
    shifted = exported(store, index, tmp_path / "shifted.arrow")
    assert shifted["label"].to_numpy().tolist() == (plain["label"].to_numpy() - SHIFT).tolist()
    for one, other in zip(shifted["token_id"].to_pylist(), plain["token_id"].to_pylist(), strict=True):
        assert [word + SHIFT for word in one] == other
    assert shifted["prob"].equals(plain["prob"])


def test_datasets_reads_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    store, index = make(tmp_path, "Flat")
    table = exported(store, index, tmp_path / "out.arrow")
    found = datasets.Dataset.from_file(str(tmp_path / "out.arrow"))
    assert found.column_names == ["id_cnt", "token_id", "prob", "label"]
    assert found[11] == table.to_pylist()[11]


def test_a_stopped_export_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, index = make(tmp_path, "Flat")
    out = tmp_path / "out.arrow"
    exported(store, index, out)
    before = out.read_bytes()
    with pytest.raises(ConfigError, match="is there already"):
        exported(store, index, out)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Progress, "advance", stop)
    with pytest.raises(KeyboardInterrupt):
        exported(store, index, out, overwrite=True, k=3)
    assert out.read_bytes() == before
    assert not list(tmp_path.glob(".*tmp"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rows": "390:401"}, r"row 400 must be one of the 400 rows"),
        ({"rows": "x"}, "rows must be a number or a range"),
        ({"knn_temp": "auto", "knn_sim_func": "dot"}, "taken from squared distances"),
        ({"indexfile": "a.index:b.index"}, "must name one datastore's"),
        ({"dstore_filename": ""}, "must name one datastore's"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    store, index = make(tmp_path, "Flat")
    given = {"dstore_filename": str(store.prefix), "indexfile": str(index), "destination": str(tmp_path / "o"), "k": 3}
    with pytest.raises(FairseqError, match=said):
        export_distribution(ExportConfig(**{**given, **settings}))
    assert not (tmp_path / "o").exists()


def test_words_that_share_votes(tmp_path: Path) -> None:
    """By hand: weights 1, e⁻¹, e⁻¹ and e⁻⁸; none has a place of no neighbour, nor what float16 cannot hold."""
    distances = np.array([[1.0, 2.0, 2.0, 9.0], [0.0, 100.0, np.inf, np.inf]], np.float32)
    ids = np.array([[5, 6, 7, 8], [1, 2, -1, -1]])
    words = np.array([[7, 3, 7, 5], [9, 8, 9, 9]])
    found = word_shares(distances, ids, words, 1.0)
    assert found.count_N.tolist() == [3, 1]
    assert found.word_E.tolist() == [3, 5, 7, 9]
    e = np.exp(-1.0)
    total = 1 + 2 * e + e**8
    np.testing.assert_allclose(found.p_E, [e / total, e**8 / total, (1 + e) / total, 1.0], rtol=2**-10)
    nothing = word_shares(np.full((2, 3), np.inf, np.float32), np.full((2, 3), -1), np.zeros((2, 3), int), 1.0)
    assert nothing.count_N.tolist() == [0, 0] and not len(nothing.word_E)
