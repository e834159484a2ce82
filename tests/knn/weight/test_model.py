"""λ of a token by the buckets of one feature."""

import numpy as np

from fairseq.knn.weight.features import FEATURES
from fairseq.knn.weight.model import BucketWeights


def test_a_bucket_ends_before_its_edge() -> None:
    features_NF = np.zeros((3, len(FEATURES)))
    features_NF[:, FEATURES.index("nearest")] = [0.9, 1.0, 1.1]
    assert BucketWeights([1.0], [0.2, 0.4])(features_NF).tolist() == [0.2, 0.4, 0.4]
