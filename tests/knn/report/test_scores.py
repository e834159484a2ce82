"""The columns of the page against loops: probabilities, votes, hits, verbatim context."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq.knn.report.scores import Columns, MixtureSettings, longest_overlap, nearest_hits, score, shared_suffix
from tests.oracles.knn import knn_probability, mixture

EXACT = 1e-6  # of a log-probability that went through float32


def some_neighbours(n=40, k=9, seed=0):
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(100)[:k] for _ in range(n)])
    distances = np.sort(rng.random((n, k)) * 30, axis=1).astype(np.float32)
    hits = rng.random((n, k)) < 0.3
    ids[2, 4:], distances[2, 4:], hits[2, 4:] = -1, np.inf, False
    ids[5], distances[5], hits[5] = -1, np.inf, False
    return np.log(rng.random(n)), distances, ids, hits


@pytest.mark.parametrize("k", [1, 4, 9])
@pytest.mark.parametrize("temperature", [0.05, 1.0, 40.0])
def test_columns_are_those_of_a_loop(k, temperature):
    lm, distances, ids, hits = some_neighbours()
    columns = score(lm, distances, hits, np.zeros(40, np.int64), MixtureSettings(k, temperature, 0.3))
    mixed = columns.mixture(0.3)
    for n in range(40):
        p = knn_probability(distances[n, :k], ids[n, :k], hits[n, :k].astype(int), 1, temperature)
        assert columns.knn_log_p_N[n] == pytest.approx(math.log(p) if p else -math.inf, rel=EXACT)
        assert mixed[n] == pytest.approx(math.log(mixture(math.exp(lm[n]), p, 0.3)), rel=EXACT)
        assert columns.num_hits_N[n] == hits[n, :k].sum()
        assert columns.first_hit_N[n] == (list(hits[n, :k]).index(True) if hits[n, :k].any() else -1)
        votes = [
            math.exp((float(distances[n, 0]) - float(d)) / temperature - columns.log_votes_N[n])
            for d, row in zip(distances[n, :k], ids[n, :k], strict=True)
            if row >= 0
        ]
        assert sum(votes) == pytest.approx(1 if votes else 0, rel=1e-9)
        assert sum(v for v, hit in zip(votes, hits[n, :k], strict=False) if hit) == pytest.approx(p, rel=1e-9)


def naive_suffix(text, at, source, source_at, longest):
    length = 0
    while length < min(longest, at, source_at) and text[at - length - 1] == source[source_at - length - 1]:
        length += 1
    return length


@given(
    st.lists(st.integers(0, 1), min_size=1, max_size=30),
    st.lists(st.integers(0, 1), min_size=1, max_size=30),
    st.data(),
)
@settings(max_examples=100)
def test_shared_suffixes_are_those_of_a_loop(text, source, data):
    pairs = data.draw(st.lists(st.tuples(st.integers(0, len(text) - 1), st.integers(0, len(source) - 1)), max_size=8))
    at, source_at = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    found = shared_suffix(np.array(text), at, np.array(source), source_at, 5)
    assert found.tolist() == [naive_suffix(text, a, source, b, 5) for a, b in pairs]


def test_the_longest_overlap_is_over_the_nearest_hits_only():
    rng = np.random.default_rng(3)
    text, source = rng.integers(0, 2, 50), rng.integers(0, 2, 80)
    at, source_at = rng.integers(0, 50, 30), rng.integers(0, 80, (30, 6))
    hits = rng.random((30, 6)) < 0.5
    hits[0] = False
    found = longest_overlap(text, at, source, source_at, hits, 2, 10)
    for n in range(30):
        nearest = [rank for rank in range(6) if hits[n, rank]][:2]
        wanted = max((naive_suffix(text, at[n], source, source_at[n, rank], 10) for rank in nearest), default=-1)
        assert found[n] == wanted
    token, rank = nearest_hits(hits, 2)
    assert list(zip(token, rank, strict=True)) == [
        (n, rank) for n in range(30) for rank in [r for r in range(6) if hits[n, r]][:2]
    ]


def test_columns_join_in_order():
    lm, distances, _, hits = some_neighbours()
    parts = [
        score(lm[rows], distances[rows], hits[rows], np.zeros(len(lm[rows]), np.int64), MixtureSettings(9, 1.0, 0.5))
        for rows in (slice(0, 13), slice(13, 40))
    ]
    whole = score(lm, distances, hits, np.zeros(40, np.int64), MixtureSettings(9, 1.0, 0.5))
    joined = Columns.joined(parts)
    for name in Columns.__dataclass_fields__:
        assert np.array_equal(getattr(joined, name), getattr(whole, name))
