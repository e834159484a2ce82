"""Where a run goes on among the batches that there are: none is left out, and hardly one is repeated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq.train.position import EpochOrder, epoch_order, order_from, position_among

BATCHES = [np.array([0, 1, 2]), np.array([3]), np.array([4, 5])]


def done_in_order(position: int, count: int, world_size: int) -> int:
    """Returns how many of the first batches are done when rank r has done ``position`` of r, r + world_size, …"""
    done = {batch for rank in range(world_size) for batch in list(range(count))[rank::world_size][:position]}
    assert done == set(range(len(done)))
    return len(done)


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 5), st.data())
def test_another_number_of_processes_leaves_no_batch_out(
    count: int, world_before: int, world_now: int, data: st.DataObject
) -> None:
    before, now = EpochOrder("same", count, world_before), EpochOrder("same", count, world_now)
    position = data.draw(st.integers(0, before.length))
    found = position_among(position, before, now)
    assert found is not None
    was_done, is_done = done_in_order(position, count, world_before), done_in_order(found, count, world_now)
    assert is_done <= was_done
    assert was_done - is_done < world_now
    assert (found == now.length) == (was_done == count)


@pytest.mark.pitfall(28)
@pytest.mark.parametrize(
    ("position", "before", "expected"),
    [
        (3, EpochOrder("other", 10, 1), None),
        (10, EpochOrder("other", 10, 1), 4),  # an epoch that was complete stays complete
        (5, EpochOrder("other", 10, 2), 4),
        (0, EpochOrder("other", 10, 1), 0),
        (3, None, None),
        (0, None, 0),
        (3, EpochOrder("this", 4, 1), 3),
        (9, EpochOrder("this", 4, 1), 4),
    ],
)
def test_a_position_holds_for_its_own_batches_only(
    position: int, before: EpochOrder | None, expected: int | None
) -> None:
    assert position_among(position, before, EpochOrder("this", 4, 1)) == expected


def test_the_identity_is_that_of_the_text_and_of_every_batch() -> None:
    same = epoch_order("text", BATCHES, 1)
    assert same == epoch_order("text", [batch.copy() for batch in BATCHES], 1)
    assert same.count == 3
    others = [
        epoch_order("another text", BATCHES, 1),
        epoch_order("text", BATCHES[::-1], 1),
        epoch_order(
            "text", [np.array([0, 1]), np.array([2, 3]), np.array([4, 5])], 1
        ),  # the same blocks, cut otherwise
        epoch_order("text", [np.array([0, 1, 2]), np.array([3]), np.array([4, 6])], 1),
    ]
    assert len({same.sha256, *(other.sha256 for other in others)}) == 5


@pytest.mark.parametrize(
    "record",
    [None, 3, {}, {"sha256": 1, "count": 1, "world_size": 1}, {"sha256": "x", "count": True, "world_size": 1},
     {"sha256": "x", "count": 1, "world_size": 0}, {"sha256": "x", "count": 1, "world_size": "1"}],
)  # fmt: skip
def test_a_record_of_another_form_is_none(record: object) -> None:
    assert order_from(record) is None


def test_a_record_comes_back() -> None:
    order = EpochOrder("x", 10, 3)
    assert order_from(order.record()) == order
    assert order.length == 4
