"""Which numbers of a row are its smallest, beside a stable sort."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq.knn.search.distances import smallest

FEW = st.sampled_from([-1.0, 0.0, 2.5, np.inf, np.nan])  # so that equal ones meet the bound


@given(st.integers(1, 5).flatmap(lambda c: st.lists(st.lists(FEW, min_size=c, max_size=c), min_size=1, max_size=4)))
@settings(max_examples=300)
def test_the_first_of_equal_ones_and_nan_last(rows) -> None:
    numbers = np.array(rows, np.float32)
    for k in range(1, numbers.shape[1] + 1):
        columns = np.sort(np.argsort(numbers, axis=1, kind="stable")[:, :k], axis=1)
        expected = columns + numbers.shape[1] * np.arange(len(numbers))[:, None]
        assert np.array_equal(smallest(numbers, k), expected)
