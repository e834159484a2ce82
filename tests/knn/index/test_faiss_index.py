"""What lies behind the outer object of an index."""

import faiss
import numpy as np
import pytest

from fairseq.errors import MismatchError
from fairseq.knn.index.faiss_index import inner_index, open_index, stored_ids
from tests.builders.small_store import ROWS, WIDTH, clustered_keys


@pytest.mark.parametrize(
    ("spec", "inner", "stored"),
    [
        ("Flat", faiss.IndexFlat, False),
        ("IVF8,Flat", faiss.IndexIVFFlat, True),
        ("PCA8,L2norm,IVF8,SQ8", faiss.IndexIVFScalarQuantizer, True),
        ("HNSW8", faiss.IndexHNSWFlat, False),
    ],
)
def test_the_index_behind_transforms_and_the_ids_that_it_stores(spec, inner, stored):
    index = faiss.index_factory(WIDTH, spec)
    index.train(clustered_keys())
    index.add(clustered_keys())
    assert isinstance(inner_index(index), inner)
    ids = np.concatenate([np.empty(0, np.int64), *stored_ids(index)])
    assert sorted(ids) == (list(range(ROWS)) if stored else [])


def test_stored_ids_can_be_changed_where_they_lie():
    mapped = faiss.IndexIDMap(faiss.IndexFlatL2(WIDTH))
    mapped.add_with_ids(clustered_keys(), np.arange(ROWS) + 7)
    [ids] = stored_ids(mapped)
    ids -= 7
    assert mapped.search(clustered_keys()[:9], 1)[1][:, 0].tolist() == list(range(9))


@pytest.mark.parametrize(
    ("ids", "found"),
    [([0], None), ([1, 0], None), ([1], "1 ids from 0 to 1"), ([0, 0, 2], "from 0 to 2"), ([-5, 1], "from -5 to 1")],
)
def test_ids_are_the_numbers_of_the_rows_each_once(tmp_path, ids, found):
    index = faiss.index_factory(4, "IVF1,Flat")
    index.train(clustered_keys(40, width=4))
    index.add_with_ids(clustered_keys(len(ids), width=4), np.array(ids))
    faiss.write_index(index, str(tmp_path / "i"))
    if found is None:
        assert open_index(tmp_path / "i").ntotal == len(ids)
    else:
        with pytest.raises(MismatchError, match=f"0 to {len(ids) - 1}, each once, but has .*{found}"):
            open_index(tmp_path / "i")
