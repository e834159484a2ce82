"""How far rows are from an index: against loops, on rows of the same kind and of another."""

from typing import Any

import faiss
import numpy as np
import pytest

from fairseq.knn.datastore.store import Datastore
from fairseq.knn.index.drift import _code_error, drift_of, measure_drift
from tests.builders.small_index import small_index
from tests.builders.small_store import clustered_keys

WIDTH = 16


def random_keys():
    return np.random.default_rng(0).standard_normal((2000, WIDTH)).astype(np.float32)


def trained(spec):
    index = small_index(WIDTH, spec)
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


@pytest.mark.parametrize("spec", ["IVF8,PQ8x4fs", "IVF8,PQ8x4fsr"])
def test_the_error_of_fast_scan_codes_is_that_of_what_they_store(spec: str) -> None:
    """FAISS ends the process when it is asked to encode: beside what it stores of rows that are added."""
    keys, rows = clustered_keys(), clustered_keys(200, seed=9)
    index = faiss.index_factory(16, spec)
    index.train(keys)
    found = _code_error(index, rows)
    index.add(rows)
    index.make_direct_map()
    stored = np.stack([index.reconstruct(row) for row in range(200)]).astype(np.float64)
    assert found == pytest.approx(((rows - stored) ** 2).sum(1).mean(), rel=1e-4)


@pytest.mark.parametrize("spec", ["OPQ8_8,IVF8,Flat", "OPQ8_8,IVF8,PQ4x4,RFlat", "PCAR8,IVF8,SQ8,Refine(SQ8)"])
def test_centroids_are_compared_behind_transforms_wherever_these_are(spec: str) -> None:
    """Under a refinement too; the transform by hand: A x + b."""
    keys, old, new = clustered_keys(), clustered_keys(200, seed=9), clustered_keys(200, seed=9) * 2
    index = small_index(16, spec)
    index.train(keys)
    base = faiss.downcast_index(index.base_index) if spec.count(",") > 2 else index
    linear: Any = faiss.downcast_VectorTransform(base.chain.at(0))
    matrix = faiss.vector_to_array(linear.A).reshape(8, 16).astype(np.float64)
    shift = faiss.vector_to_array(linear.b) if linear.have_bias else 0.0
    inverted: Any = faiss.extract_index_ivf(index)
    centroids = inverted.quantizer.reconstruct_n(0, 8).astype(np.float64)
    means = [(((rows @ matrix.T + shift)[:, None] - centroids) ** 2).sum(2).min(1).mean() for rows in (old, new)]
    assert drift_of(index, old, new).centroids == pytest.approx(means[1] / means[0], rel=1e-3)


def test_an_error_that_is_rounding_alone_is_none_however_long_the_keys() -> None:
    """Rotated and back: what is stored differs in the last places only. Half of the width stored is no rounding."""
    for rows in (random_keys(), -100 * np.abs(random_keys())):
        for spec, is_rounding in (("RR16,Flat", True), ("RR8,Flat", False)):
            index = faiss.index_factory(WIDTH, spec)
            index.train(rows)
            error = float(((index.sa_decode(index.sa_encode(rows)).astype(np.float64) - rows) ** 2).sum(1).mean())
            assert error > 0 and _code_error(index, rows) == (None if is_rounding else pytest.approx(error, rel=1e-4))
