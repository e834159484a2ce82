"""Shares: every piece once, in order, and of about one size."""

import numpy as np
import pytest

from fairseq.runtime.shares import Share, shares


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("seed", range(4))
def test_every_piece_has_one_worker_and_no_share_is_off_by_more_than_a_piece(workers: int, seed: int) -> None:
    sizes = np.random.default_rng(seed).integers(0, 50, 30)
    found = shares(sizes, workers)
    assert [piece for share in found for piece in share] == [*range(30)]
    for share in found:
        assert abs(sizes[share.start : share.stop].sum() - sizes.sum() / workers) <= sizes.max()
    assert [Share(number, workers).of(sizes) for number in range(workers)] == found


def test_nothing_is_shared_as_nothing() -> None:
    assert [*map(len, shares([], 3))] == [0, 0, 0]
    assert Share().of([5, 6]) == range(2)
