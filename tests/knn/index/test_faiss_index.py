"""What lies behind the outer object of an index."""

import faiss
import numpy as np
import pytest

from fairseq.knn.index.faiss_index import inner_index, stored_ids
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
