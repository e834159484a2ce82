"""Position tables: as many rows as positions, and every row the formula's, however long the input gets."""

import numpy as np
import pytest
import torch

from fairseq.modules.positions import LONGEST_FIRST_TABLE, LearnedPositions, SinusoidalPositions
from tests.oracles.transformer import sinusoid

ATOL = 2e-6  # float32 angles of at most 60 radians


def test_a_table_has_a_row_for_each_position_and_two_before() -> None:
    assert SinusoidalPositions(8, 10).table.shape == (12, 8)
    assert LearnedPositions(8, 10).weight.shape == (12, 8)
    assert SinusoidalPositions(4, 10**9).table.shape == (LONGEST_FIRST_TABLE + 2, 4)


@pytest.mark.parametrize("length", [1, 9, 10, 11, 12, 13, 40])
def test_columns_of_any_length_have_the_formulas_rows(length: int) -> None:
    positions = SinusoidalPositions(8, 10)
    expected = [sinusoid(t + 2, 8) for t in range(length)]
    np.testing.assert_allclose(positions(length).numpy(), expected, atol=ATOL, rtol=0)
    columns_BS = torch.tensor([[0, length - 1]])
    np.testing.assert_allclose(positions.at(columns_BS, length)[0], [expected[0], expected[-1]], atol=ATOL, rtol=0)


def test_a_table_that_is_long_enough_is_kept_and_a_new_one_is_twice_as_long() -> None:
    positions = SinusoidalPositions(8, 10)
    first = positions.table
    positions(10)
    assert positions.table is first
    positions(11)
    assert len(positions.table) == 24


def test_learned_rows_are_those_behind_padding() -> None:
    positions = LearnedPositions(8, 10)
    assert torch.equal(positions(10), positions.weight[2:12])
    assert not positions.weight[1].any() and positions.weight[0].any()
    with pytest.raises(AssertionError):
        positions(11)
