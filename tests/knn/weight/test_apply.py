"""The weight of each token's own, as an evaluation asks for it."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fairseq.evaluate.mixture import Known, MemoryReport, ScoredTokens
from fairseq.knn.neighbours.distribution import Votes
from fairseq.knn.neighbours.tally import Tally
from fairseq.knn.weight.apply import WeighedNeighbours

NONE = [np.inf, np.inf]


def tokens(count: int) -> ScoredTokens:
    return ScoredTokens(
        block_idx_N=np.arange(count),
        query_ND=torch.zeros(count, 4),
        target_N=torch.full((count,), 7),
        log_p_N=torch.zeros(count, dtype=torch.float64),
        known=Known(np.zeros(count, np.int64), np.full(count, -1.0, np.float32), np.ones(count, np.float32)),
    )


def memory(distances: list[list[float]], skipped: list[bool]) -> tuple[WeighedNeighbours, list[Any]]:
    """Returns neighbours at such distances, each with the value 7, under a weight of 0.7; and what they are asked."""
    asked: list[Any] = []

    def votes(queries: torch.Tensor, target: torch.Tensor, own: Any) -> Votes:
        asked.append((len(queries), own))
        distances_NK = np.array(distances, np.float32)[~np.array(skipped)]
        ids_NK = np.where(np.isfinite(distances_NK), 3, -1)
        return Votes(distances_NK, ids_NK, ids_NK >= 0)

    neighbours: Any = SimpleNamespace(
        temperature=1.0,
        votes=votes,
        values_of=lambda ids: np.full(ids.shape, 7),
        tally=Tally(),
        tie_order=lambda ids: ids,
        report=lambda: MemoryReport(
            {"store_id": "s"}, {"knn_temp": 1.0}, {"neighbours": 7}, summary=["found"], warnings=["few"]
        ),
        own_of=lambda tokens: np.arange(len(tokens.target_N))[:, None],
    )
    model: Any = SimpleNamespace(
        weights=lambda features: np.full(len(features), 0.7),
        skip=SimpleNamespace(skipped=lambda before, share: np.array(skipped)),
    )
    return WeighedNeighbours(neighbours, model, np.ones(10, np.int64)), asked


def test_a_token_without_neighbours_has_weight_0() -> None:
    """Whatever the model says of its features: p_kNN is nothing, and the language model keeps all."""
    weighed, _ = memory([[1.0, 2.0], NONE, [3.0, np.inf]], [False] * 3)
    scores = weighed.scores(tokens(3))
    assert scores.weight_N is not None
    assert scores.weight_N.tolist() == [0.7, 0.0, 0.7]
    assert scores.log_p_N.tolist() == [0.0, -np.inf, 0.0]


def test_a_search_that_is_skipped_has_weight_0_and_others_keep_their_own_rows() -> None:
    weighed, asked = memory([[1.0, 2.0]] * 3, [False, True, False])
    scores = weighed.scores(tokens(3))
    assert scores.weight_N is not None and scores.weight_N.tolist() == [0.7, 0.0, 0.7]
    assert scores.log_p_N.tolist() == [0.0, -np.inf, 0.0]
    ((count, own),) = asked
    assert count == 2 and own.tolist() == [[0], [2]]
    assert (weighed.num_asked, weighed.num_skipped) == (3, 1)


def test_the_report_says_what_was_searched_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches of four tokens; each takes 1.23456 seconds of a clock that was set before."""
    clock = iter([100.0, 101.23456, 200.0, 201.23456])
    monkeypatch.setattr("fairseq.knn.weight.apply.time.monotonic", lambda: next(clock))
    weighed, _ = memory([[1.0, 2.0]] * 4, [False, True, False, True])
    for _ in range(2):
        weighed.scores(tokens(4))
    report = weighed.report()
    assert report.found == {"neighbours": 7, "searches": 4, "searches_skipped": 4}
    assert report.speed == {"search_seconds": 2.469}
    assert report.identity == {"store_id": "s", "lmbda_model_sha256": None}
    assert report.summary == [
        "found",
        "Skipped 4 of 8 searches (50.0%); the others took 2.5s, these would have taken about 2.5s",
    ]
    assert report.warnings == ["few"]
    assert memory([], [])[0].report().summary[1:] == ["Skipped 0 of 0 searches (0.0%)"]
