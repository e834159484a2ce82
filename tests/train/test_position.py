"""Where a run goes on among the batches that there are: every batch comes once, whatever the number of processes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq.train.position import (
    EpochOrder,
    batches_of_update,
    epoch_order,
    position_among,
    position_from,
    position_record,
)

BATCHES = [np.array([0, 1, 2]), np.array([3]), np.array([4, 5])]
ORDER = EpochOrder("this", 10)
WORLDS, FREQS = (1, 2, 3, 4), (1, 2, 3)


def updates(position: int, count: int, world_size: int, freq: int) -> list[list[int]]:
    """Returns the batches of each of the remaining updates, by all processes, in the order of their numbers."""
    made = []
    while position < count:
        shares = [list(batches_of_update(position, count, freq, rank, world_size)) for rank in range(world_size)]
        assert all(len(share) <= freq for share in shares)
        turns = [share[turn] for turn in range(freq) for share in shares if turn < len(share)]
        made.append(turns)
        position += len(turns)
    return made


@pytest.mark.parametrize("worlds", [(a, b, c) for a in WORLDS for b in WORLDS for c in WORLDS])
@pytest.mark.parametrize("freq", FREQS)
def test_every_batch_comes_once_whatever_the_numbers_of_processes(worlds: tuple[int, int, int], freq: int) -> None:
    """A run changes its number of processes twice in an epoch, through a checkpoint, after any updates."""
    for count in (1, 2, 5, 12, 13):
        for stops in ((0, 1), (1, 1), (1, 2), (2, 0)):
            order, seen, position = EpochOrder("x", count), list[int](), 0
            for world_size, stop in zip(worlds, (*stops, count), strict=True):
                for batches in updates(position, count, world_size, freq)[:stop]:
                    seen += batches
                    position += len(batches)
                position, order_found = position_from(*position_record(position, order, world_size))
                assert order_found == order
            assert seen == list(range(count))


@pytest.mark.parametrize(("world_size", "freq"), [(2, 1), (2, 3), (3, 2)])
def test_processes_make_the_updates_of_one_with_a_larger_freq(world_size: int, freq: int) -> None:
    for count in range(1, 20):
        assert updates(0, count, world_size, freq) == updates(0, count, 1, world_size * freq)


def done_before(position: int, count: int, world_size: int) -> set[int]:
    """Returns the batches that are done when rank r has done ``position`` of r, r + world_size, …"""
    return {batch for rank in range(world_size) for batch in list(range(count))[rank::world_size][:position]}


@given(st.integers(1, 40), st.integers(1, 5), st.data())
def test_a_position_of_an_older_checkpoint_counts_the_batches_of_each_process(
    count: int, world_size: int, data: st.DataObject
) -> None:
    iterations = data.draw(st.integers(0, -(-count // world_size)))
    record = {"sha256": "x", "count": count, "world_size": world_size}
    position, order = position_from(iterations, record)
    assert order == EpochOrder("x", count)
    assert set(range(position)) == done_before(iterations, count, world_size)


@given(st.integers(1, 40), st.integers(1, 5), st.data())
def test_an_older_program_leaves_no_batch_out(count: int, world_size: int, data: st.DataObject) -> None:
    """It takes the position for that of each process, and repeats a few batches at most."""
    position = data.draw(st.integers(0, count))
    iterations, _ = position_record(position, EpochOrder("x", count), world_size)
    taken_for_done = done_before(iterations, count, world_size)
    assert taken_for_done <= set(range(position))
    assert position - len(taken_for_done) < world_size
    assert (iterations >= -(-count // world_size)) == (position == count)


@pytest.mark.pitfall(28)
@pytest.mark.parametrize(
    ("position", "before", "expected"),
    [
        (3, EpochOrder("other", 20), None),
        (20, EpochOrder("other", 20), 10),  # an epoch that was complete stays complete
        (0, EpochOrder("other", 20), 0),
        (3, None, None),
        (0, None, 0),
        (3, ORDER, 3),
        (19, ORDER, 10),
    ],
)
def test_a_position_holds_for_its_own_batches_only(
    position: int, before: EpochOrder | None, expected: int | None
) -> None:
    assert position_among(position, before, ORDER) == expected


def test_the_identity_is_that_of_the_text_and_of_every_batch() -> None:
    same = epoch_order("text", BATCHES)
    assert same == epoch_order("text", [batch.copy() for batch in BATCHES])
    assert same.count == 3
    others = [
        epoch_order("another text", BATCHES),
        epoch_order("text", BATCHES[::-1]),
        epoch_order("text", [np.array([0, 1]), np.array([2, 3]), np.array([4, 5])]),  # the same blocks, cut otherwise
        epoch_order("text", [np.array([0, 1, 2]), np.array([3]), np.array([4, 6])]),
    ]
    assert len({same.sha256, *(other.sha256 for other in others)}) == 5


@pytest.mark.parametrize(
    "record",
    [None, 3, {}, {"sha256": 1, "count": 1, "world_size": 1}, {"sha256": "x", "count": True, "world_size": 1},
     {"sha256": "x", "count": 1, "world_size": 0}, {"sha256": "x", "count": 1, "world_size": "1"}],
)  # fmt: skip
def test_a_record_of_another_form_counts_nothing_that_is_known(record: object) -> None:
    assert position_from(5, record) == (5, None)


def test_a_count_of_another_form_is_that_of_each_process() -> None:
    record = {"sha256": "x", "count": 10, "world_size": 2}
    assert position_from(3, {**record, "done": "7"}) == (6, EpochOrder("x", 10))
    assert position_from(3, {**record, "done": 7}) == (7, EpochOrder("x", 10))


def test_between_two_epochs_there_is_nothing_to_count() -> None:
    assert position_record(0, None, 3) == (0, None)
