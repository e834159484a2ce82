"""What our speed is compared with computes the same."""

import numpy as np
import pytest
from plain import log_prob

from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.store import Datastore, DatastoreWriter
from knnlm import KNN_Dstore
from tests.builders.small_index import small_index
from tests.builders.small_store import WIDTH, clustered_keys, small_manifest, values_of


@pytest.mark.parametrize("exact", [True, False])
def test_plain_neighbours_are_ours(tmp_path, exact: bool) -> None:
    keys, values, queries, targets = clustered_keys(), values_of(), clustered_keys(40, seed=4), values_of(40, seed=5)
    with DatastoreWriter.create(tmp_path / "dstore", small_manifest()) as writer:
        writer.append(keys, values)
        writer.finish()
    index = small_index(WIDTH, "IVF24,PQ8x4")
    index.train(keys)
    index.add(keys)
    index.nprobe = 5
    more = {} if exact else {"no_load_keys": True, "knn_sim_func": "do_not_recomp_l2"}
    ours = KNN_Dstore(Datastore.open(tmp_path / "dstore"), index, KNNConfig(k=50, probe=5, **more))
    plain = log_prob(index, keys if exact else None, values, queries, targets, 50).numpy()
    assert np.isfinite(plain).any()
    # A tie at the k-th place may go either way.
    assert np.isclose(ours.log_prob(queries, targets), plain, atol=2e-3).mean() > 0.9
