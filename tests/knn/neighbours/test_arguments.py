"""``KNN_Dstore`` alone: what goes in, what comes out, and what is refused."""

import numpy as np
import pytest
import torch

from fairseq.errors import ConfigError, MismatchError
from fairseq.knn.index.build import build_index
from fairseq.knn.index.config import BuildConfig
from knnlm import KNN_Dstore
from tests.builders.small_store import ROWS, VOCABULARY, WIDTH, clustered_keys, values_of

QUERIES, TARGETS = clustered_keys(3, seed=4), np.array([39990, 39991, 39992])


@pytest.fixture
def dstore(make_store, tmp_path):
    build_index(make_store(), BuildConfig("d", "i", index_spec="Flat"), tmp_path / "i")
    return KNN_Dstore.open(tmp_path / "dstore", tmp_path / "i", k=4)


@pytest.mark.parametrize("as_kind", [np.asarray, torch.tensor, lambda a: torch.tensor(a)[None][0].t().contiguous().t()])
def test_the_kind_that_goes_in_comes_out(dstore, as_kind):
    queries, targets = as_kind(QUERIES), as_kind(TARGETS)
    distances, ids = dstore.search(queries, 6)
    values = dstore.values(ids)
    log_p = dstore.log_prob(queries, targets)
    for array, dtype, shape in (
        (distances, "float32", (3, 6)),
        (ids, "int64", (3, 6)),
        (values, "int64", (3, 6)),
        (log_p, "float32", (3,)),
    ):
        assert type(array) is type(queries)
        assert (str(array.dtype).removeprefix("torch."), tuple(array.shape)) == (dtype, shape)
    assert np.array_equal(np.asarray(values), values_of()[np.asarray(ids)])


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_number_formats_are_the_same_vectors(dstore, dtype):
    queries = QUERIES.astype("float16")
    expected = dstore.search(queries.astype("float32"))
    for found in (dstore.search(queries.astype(dtype)), dstore.search(torch.tensor(queries.astype(dtype)))):
        assert all(np.array_equal(np.asarray(a), b) for a, b in zip(found, expected, strict=True))


def test_no_row_has_no_value(dstore):
    assert dstore.values(np.array([[0, -1]])).tolist() == [[values_of()[0], -1]]
    distances, ids = dstore.search(QUERIES, ROWS + 2)
    assert (ids[:, ROWS:] == -1).all()
    assert np.isinf(distances[:, ROWS:]).all()
    assert dstore.search(QUERIES[:0])[0].shape == (0, 4)
    assert dstore.log_prob(QUERIES[:0], TARGETS[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("ask", "kind", "expect"),
    [
        (lambda d: d.search(QUERIES[:, :5]), MismatchError, f"of shape (queries, {WIDTH}), the width of"),
        (lambda d: d.search(QUERIES[0]), MismatchError, f"but are ({WIDTH},)"),
        (lambda d: d.search(torch.tensor(QUERIES)[None]), MismatchError, f"but are (1, 3, {WIDTH})"),
        (lambda d: d.search(QUERIES.astype(int)), ConfigError, "floating-point vectors, but are int64"),
        (lambda d: d.search(torch.ones(3, WIDTH, dtype=torch.int32)), ConfigError, "floating-point vectors"),
        (lambda d: d.search(QUERIES, 0), ConfigError, "k must be a whole number from 1 on, but is 0"),
        (lambda d: d.search(QUERIES, 2.5), ConfigError, "k must be a whole number from 1 on, but is 2.5"),
        (lambda d: d.log_prob(QUERIES, TARGETS[:2]), ConfigError, "of shape (3,), one for each query, but are (2,)"),
        (lambda d: d.log_prob(QUERIES, TARGETS[:, None]), ConfigError, "but are (3, 1)"),
        (lambda d: d.log_prob(QUERIES, TARGETS + 0.5), ConfigError, "targets must be whole numbers, but are float64"),
        (lambda d: d.log_prob(QUERIES, np.array([1, -1, 2])), ConfigError, f"to {VOCABULARY - 1}, but one is -1"),
        (lambda d: d.log_prob(QUERIES, np.array([1, VOCABULARY, 2])), ConfigError, f"but one is {VOCABULARY}"),
        (lambda d: d.log_prob(QUERIES[:, :5], TARGETS), MismatchError, "but are (3, 5)"),
        (lambda d: d.next_log_prob(QUERIES[:, :5], VOCABULARY), MismatchError, "but are (3, 5)"),
        (lambda d: d.next_log_prob(QUERIES, VOCABULARY - 1), ConfigError, f"a whole number from {VOCABULARY} on"),
        (lambda d: d.next_log_prob(QUERIES, 5e5), ConfigError, "but is 500000.0"),
        (lambda d: d.values(np.array([ROWS])), ConfigError, f"from -1 to {ROWS - 1}, but one is {ROWS}; give the ids"),
        (lambda d: d.values(np.array([0.5])), ConfigError, "rows must be whole numbers"),
    ],
)
def test_what_is_no_query_or_target_is_refused(dstore, ask, kind, expect):
    with pytest.raises(kind) as caught:
        ask(dstore)
    assert expect in str(caught.value)


def test_settings_are_checked_when_it_is_opened(dstore, tmp_path):
    for more, expect in (({"k": 0}, "^k must be at least 1"), ({"knn_temp": 0}, "^knn_temp must be above 0")):
        with pytest.raises(ConfigError, match=expect):
            KNN_Dstore.open(tmp_path / "dstore", tmp_path / "i", **more)
