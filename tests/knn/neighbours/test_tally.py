"""What searches have found, by loops over neighbours; and what to do where they find too few."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import faiss
import numpy as np
import pytest
import torch

from fairseq.evaluate.mixture import ScoredTokens
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.neighbours.distribution import Votes
from fairseq.knn.neighbours.tally import Lists, Tally, empty_places, tallied
from knnlm import KNN_Dstore


@pytest.mark.parametrize("temperature", [0.5, 1.0, 30.0])
def test_places_and_the_nearests_share_are_the_naive_ones(temperature: float) -> None:
    """Of nine queries one finds nothing, one a single row, one three; distances lie in no order, some far off."""
    rng = np.random.default_rng(0)
    distances = (rng.gamma(4.0, 3.0, (9, 6)) + np.array([0.0] * 8 + [90000.0])[:, None]).astype(np.float32)
    ids = np.stack([rng.permutation(50)[:6] for _ in range(9)])
    for query, there in ((2, 0), (4, 1), (5, 3)):
        distances[query, there:], ids[query, there:] = np.inf, -1
    votes = Votes(distances, ids, np.zeros((9, 6), bool))
    shares, found = [], 0
    for query in range(9):
        own = [float(distances[query, k]) for k in range(6) if ids[query, k] >= 0]
        found += len(own)
        if own:
            weights = [np.exp(-(d - min(own)) / temperature) for d in own]
            shares.append(1 / sum(weights))
    _, tally = tallied(votes, temperature)
    record = tally.record(6)
    assert (tally.searches, record["found_mean"]) == (9, found / 9)
    assert record["empty_share"] == pytest.approx(1 - found / 54)
    assert record["nearest_share"] == pytest.approx(np.mean(shares))
    assert tally.line(6) == (
        f"Neighbours: {found / 9:.1f} of k = 6 found ({1 - found / 54:.1%} of the places are empty);"
        f" the nearest has {np.mean(shares):.1%} of p_kNN"
    )
    parts = Tally()
    for part in (slice(0, 3), slice(3, 9)):
        parts.add(tallied(votes.rows(part), temperature)[1])
    assert parts.record(6) == pytest.approx(record)


def test_no_search_and_no_neighbour_are_no_number() -> None:
    assert set(Tally().record(4).values()) == {4, None}
    assert Tally(searches=3).line(4) == "Neighbours: none of k = 4 found in 3 searches"


def test_the_advice_has_numbers_that_fit() -> None:
    """8 of 4,096 lists of 105.5 rows are 844 rows for 1,024 places; twice as many rows as places are 20 lists."""
    lists = Lists(4096, 8, 432157)
    (line,) = empty_places(Tally(10, 9062, 10), 1024, 432157, [lists])
    assert line.startswith("11.5% of the neighbours' places are empty: a search visits 8 of 4096 lists, which hold")
    assert "about 844 rows, and --k is 1024; give --probe 20, or build the index with --ncentroids 1688" in line
    assert 20 * 432157 / 4096 >= 2 * 1024 > 19 * 432157 / 4096
    assert 8 * 432157 / 1688 >= 2 * 1024 > 8 * 432157 / 1689
    assert empty_places(Tally(10, 10000, 10), 1024, 432157, [lists]) == []  # 2.3 % are few
    assert empty_places(Tally(), 1024, 432157, [lists]) == []


def test_lists_of_several_indexes_count_together_and_other_indexes_have_no_numbers() -> None:
    lists = Lists(100, 2, 5000)
    (line,) = empty_places(Tally(10, 1900, 10), 400, 10000, [lists, lists])
    assert "2 of 100 lists and 2 of 100 lists, which hold about 200 rows" in line
    assert "give --probe 8, or build the index with fewer --ncentroids" in line
    (line,) = empty_places(Tally(10, 1900, 10), 400, 10000, [lists, None])
    assert "lower --k, or build another index" in line
    assert empty_places(Tally(10, 3000, 10), 400, 300, [lists]) == []  # more than all rows cannot be found


def test_what_is_left_out_on_purpose_is_no_empty_place(make_store: Callable[..., Datastore]) -> None:
    """An exact index of ten rows finds all of them, less the nearest one, or less two that are the token's own."""
    keys = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    store, index = make_store("d", keys, np.arange(10)), faiss.IndexFlatL2(4)
    index.add(keys)
    own: Any = SimpleNamespace(of=lambda blocks: np.array([[2, 7]] * len(blocks)), sources=("one", "two"))
    cases: Sequence[tuple[KNNConfig, Any, int]] = (
        (KNNConfig(k=10, drop_top1=True), None, 9),
        (KNNConfig(k=10), own, 8),
        (KNNConfig(k=10), None, 10),
    )
    for config, own_rows, found in cases:
        neighbours = KNN_Dstore(store, index, config)
        neighbours.own_rows = own_rows
        targets = {"target_N": torch.tensor([3, 4]), "log_p_N": torch.zeros(2), "known": None}
        neighbours.scores(ScoredTokens(block_idx_N=np.array([0, 0]), query_ND=torch.zeros(2, 4), **targets))
        assert neighbours.report().found["neighbours"]["found_mean"] == found
        assert not neighbours.report().warnings
    assert empty_places(Tally(3), 1, 0, [None]) == []  # no row is left that could be found
