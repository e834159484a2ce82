"""How long a run still is, against a walk through it, update by update; and when its time is over."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq.optim.config import OptimizationConfig
from fairseq.train import length
from fairseq.train.length import TimeLimit, updates_left

MANY = 10_000


def walk(
    bounds: OptimizationConfig, num_batches: int, position: int, epoch: int, num_updates: int, world_size: int
) -> tuple[int, int]:
    """Returns the updates made in the epoch, and after it, by making them one at a time."""
    made = {True: 0, False: 0}
    first = epoch
    for epoch in count(first):
        if bounds.max_epoch and epoch > bounds.max_epoch:
            break
        freq = bounds.update_freq[min(epoch, len(bounds.update_freq)) - 1]
        while position < num_batches:
            if (bounds.max_update and num_updates >= bounds.max_update) or sum(made.values()) > MANY:
                return made[True], made[False]
            position, num_updates = position + freq * world_size, num_updates + 1
            made[epoch == first] += 1
        position = 0
    return made[True], made[False]


@given(
    max_epoch=st.integers(0, 6),
    max_update=st.integers(0, 60),
    freqs=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    num_batches=st.integers(1, 12),
    epoch=st.integers(1, 5),
    num_updates=st.integers(0, 70),
    world_size=st.integers(1, 3),
    share=st.floats(0, 1),
)
def test_the_first_bound_ends_the_run(
    max_epoch: int,
    max_update: int,
    freqs: list[int],
    num_batches: int,
    epoch: int,
    num_updates: int,
    world_size: int,
    share: float,
) -> None:
    bounds = OptimizationConfig(
        max_epoch=max_epoch and max(max_epoch, epoch), max_update=max_update, update_freq=tuple(freqs)
    )
    position = int(share * num_batches)
    at = num_batches, position, epoch, num_updates, world_size
    now, later = updates_left(bounds, *at)
    expected_now, expected_later = walk(bounds, *at)
    assert now == expected_now
    if max_epoch or max_update:
        assert later == expected_later
    else:
        assert later is None


@pytest.mark.parametrize(
    ("hours", "before_s", "now_s", "expected"),
    [
        (1.0, 0, 3599, False),
        (1.0, 0, 3600, True),
        (1.0, 3000, 599, False),
        (1.0, 3000, 600, True),
        (0.0, 10**9, 10**9, False),
    ],
)
def test_the_clock_counts_what_the_run_had_taken_before(
    hours: float, before_s: float, now_s: float, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(length.time, "monotonic", lambda: 50.0 + now_s)
    limit = TimeLimit(hours, 50.0, before_s)
    assert not limit.is_over
    assert limit.is_up() == expected
    assert limit.elapsed_s == before_s + now_s


def test_a_run_whose_time_was_over_before_it_was_resumed_is_over_at_once() -> None:
    assert TimeLimit(0.5, 0.0, 1800).is_over
