"""Indexes of another datastore are refused, or told of where that is allowed."""

from types import SimpleNamespace

import numpy as np
import pytest

from fairseq.errors import MismatchError
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.index.append import append_to_index
from fairseq.knn.index.build import build_index, read_index
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.index.identity import index_differences, indexed_part, require_index
from fairseq.knn.index.index_file import look_at
from tests.builders.small_store import ROWS, WIDTH, clustered_keys, grow, values_of


@pytest.mark.pitfall(2)
def test_index_of_another_store(make_store, tmp_path, caplog):
    store, other = make_store(), make_store("other", weights_sha256="o" * 64)
    path = tmp_path / "i"
    build_index(store, BuildConfig("d", "i", index_spec="Flat"), path)
    index, file = read_index(path), look_at(path)
    require_index(index, file, store)
    ids = f"{store.store_id[:12]}, but .*other is datastore {other.store_id[:12]}"
    with pytest.raises(MismatchError, match=f"i was built from datastore {ids}"):
        require_index(index, file, other)
    require_index(index, file, other, allow_mismatch=True)
    assert "going on" in caplog.text
    with pytest.raises(MismatchError, match=f"i has {ROWS} keys, but .*short was opened with 100 rows"):
        require_index(index, file, make_store("short", keys=clustered_keys()[:100]), allow_mismatch=True)
    path.with_name("i.json").unlink()
    require_index(index, look_at(path), other)  # nothing says whose it is


def test_every_difference_is_named(make_store):
    store = make_store()
    narrow, same = SimpleNamespace(d=8, ntotal=3), SimpleNamespace(d=WIDTH, ntotal=ROWS)
    found = index_differences(narrow, None, "i", store)
    assert found["width"].startswith(f"i has keys of width 8, but {store.prefix} of {WIDTH}; ")
    assert set(found) == {"width", "rows"} and index_differences(same, None, "i", store) == {}


@pytest.mark.parametrize("with_keys", [True, False])
def test_what_an_index_has_of_a_datastore_that_has_grown(make_store, tmp_path, with_keys):
    store, path = make_store(), tmp_path / "i"
    build_index(store, BuildConfig("d", "i", index_spec="Flat"), path)
    grow(store, clustered_keys(70, seed=5), np.full(70, 9))
    grown = Datastore.open(store.prefix, load_keys=with_keys)
    assert grown.rows == ROWS + 70
    part = indexed_part(read_index(path), look_at(path), grown)
    assert (part.rows, part.rows_id, part.store_id) == (ROWS, store.rows_id, store.store_id)
    assert np.array_equal(part.values_N, values_of())
    assert np.array_equal(part.keys_ND, clustered_keys()) if with_keys else part.keys_ND is None
    require_index(read_index(path), look_at(path), part)


def test_an_index_that_has_all_rows_loses_what_a_killed_append_left(make_store, tmp_path):
    store, path = make_store(), tmp_path / "i"
    build_index(store, BuildConfig("d", "i", index_spec="Flat"), path)
    before = {name: (tmp_path / name).read_bytes() for name in ("i", "i.json")}
    for name, content in before.items():
        (tmp_path / name.replace("i", "i.partial", 1)).write_bytes(content)
    made = append_to_index(store, BuildConfig("d", "i", append=True), path)
    assert made.rows == ROWS and {file.name: file.read_bytes() for file in tmp_path.glob("i*")} == before
