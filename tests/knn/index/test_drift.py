"""How far rows are from an index: against loops, on rows of the same kind and of another."""

import faiss
import numpy as np
import pytest

from fairseq.knn.datastore.store import Datastore
from fairseq.knn.index.drift import drift_of, measure_drift

WIDTH = 16


def random_keys():
    return np.random.default_rng(0).standard_normal((2000, WIDTH)).astype(np.float32)


def trained(spec):
    index = faiss.index_factory(WIDTH, spec)
    index.train(random_keys()[:1000])
    index.add(random_keys()[:1000])
    return index


def test_ratios_are_those_of_a_loop():
    old, new = random_keys()[:1000], random_keys()[1000:]
    index = trained("PCA8,IVF16,SQ8")
    found = drift_of(index, old, new)
    transform = faiss.downcast_VectorTransform(index.chain.at(0))
    centroids = faiss.extract_index_ivf(index).quantizer.reconstruct_n(0, 16)
    near = [
        [min(float(((row - c) ** 2).sum()) for c in centroids) for row in transform.apply(part)] for part in (old, new)
    ]
    assert found.centroids == pytest.approx(np.mean(near[1]) / np.mean(near[0]), rel=1e-4)
    assert 0.9 < found.centroids < 1.1
    assert 1 < found.codes < 1.2, "codes clip what lies beyond the thousand rows that they were trained on"
    sizes = [faiss.extract_index_ivf(index).invlists.list_size(n) for n in range(16)]
    assert found.imbalance == pytest.approx(16 * sum(n * n for n in sizes) / 1000**2)
    other = drift_of(index, old, 3 * new + 1)
    assert other.centroids > 3 and other.codes > 2


def test_an_index_without_training_has_no_drift():
    found = drift_of(trained("Flat"), random_keys()[:1000], 9 * random_keys()[1000:])
    assert (found.centroids, found.codes, found.imbalance) == (None, None, None)


def test_it_is_warned_of_beyond_the_threshold(make_store, caplog):
    keys = np.concatenate([random_keys()[:1000], 3 * random_keys()[1000:] + 1])
    store = Datastore.open(make_store(keys=keys).prefix)
    index = trained("IVF16,Flat")
    measure_drift(index, store, 1000, threshold=1e9)
    assert "unlike those" not in caplog.text
    measure_drift(index, store, 1000, threshold=1.25)
    assert "unlike those" in caplog.text and "--append --retrain" in caplog.text
