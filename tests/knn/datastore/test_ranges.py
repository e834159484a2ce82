"""Rows as ranges, against sets of numbers."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq.knn.datastore.ranges import RowRanges, evenly_spaced

ROWS = 40
pairs = st.lists(st.tuples(st.integers(0, ROWS), st.integers(0, ROWS)), max_size=8)


def as_set(ranges):
    return {row for start, stop in ranges.pairs for row in range(start, stop)}


def of_set(rows):
    return {row for start, stop in rows for row in range(start, stop)}


@given(pairs, pairs, st.integers(0, ROWS), st.integers(0, ROWS))
def test_ranges_are_sets(one, other, low, high):
    ranges, wanted = RowRanges.of(one), of_set(one)
    assert as_set(ranges) == wanted and ranges.num_rows == len(wanted)
    assert all(stop < start for (_, stop), (start, _) in zip(ranges.pairs, ranges.pairs[1:], strict=False))
    assert as_set(ranges | RowRanges.of(other)) == wanted | of_set(other)
    assert as_set(ranges.complement(low)) == set(range(low)) - wanted
    assert as_set(ranges.within(low, high)) == wanted & set(range(low, high))
    rows = np.arange(-1, ROWS + 2)
    assert ranges.holds(rows).tolist() == [row in wanted for row in rows]
    assert ranges.mask(3, ROWS).tolist() == [row in wanted for row in range(3, ROWS)]
    ids = sorted(wanted)
    assert ranges.ids().tolist() == ids
    assert ranges.place_of(np.array(ids, np.int64)).tolist() == list(range(len(ids)))
    assert not ids or RowRanges.from_json(ranges.to_json()) == ranges


def test_numbers_that_are_evenly_spaced():
    for total in range(1, 80):
        for count in range(1, 100):
            found = evenly_spaced(total, count).tolist()
            gaps = {b - a for a, b in itertools.pairwise(found)}
            assert len(found) == min(total, count) and found[0] == 0 and found[-1] == (total - 1 if count > 1 else 0)
            assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)
    assert evenly_spaced(0, 5).tolist() == []
    assert RowRanges.of([[10, 12], [20, 25]]).spaced(3).tolist() == [10, 21, 24]
    assert RowRanges.of().spaced(3).tolist() == []


@given(st.one_of(pairs.map(lambda found: [list(pair) for pair in found]), st.lists(st.lists(st.integers())), st.text()))
def test_json_is_ranges_or_refused(value):
    try:
        assert RowRanges.from_json(value).pairs == value
    except ValueError as err:
        assert str(err).startswith("must be ranges of rows")


def test_broken_ranges():
    for value in (
        [[3, 3]],
        [[5, 3]],
        [[0, 4], [4, 6]],
        [[4, 6], [0, 2]],
        [[0, 2**54]],
        [],
        [3],
        [[-1, 2]],
        [[0, True]],
        [[0, 1.0]],
        {},
    ):
        with pytest.raises(ValueError, match="must be ranges of rows, sorted and apart, but is"):
            RowRanges.from_json(value)
