"""Exact sums against rational arithmetic, in any order and grouping."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from fairseq.runtime.exact_sum import ExactSum


@pytest.mark.parametrize("seed", range(5))
def test_any_order_and_any_grouping_give_the_sum_rounded_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = (rng.normal(size=300) * 10.0 ** rng.integers(-30, 30, 300)).tolist()
    expected = float(sum(map(Fraction, numbers)))
    for _ in range(5):
        rng.shuffle(numbers)
        cuts = [0, *sorted(rng.integers(0, 300, 4).tolist()), 300]
        parts = [ExactSum(numbers[start:stop]) for start, stop in itertools.pairwise(cuts)]
        whole = ExactSum()
        for part in parts:
            whole.extend(part.parts)
        assert whole.value == expected
        assert ExactSum(whole.parts).value == expected


def test_a_plain_sum_would_not_do() -> None:
    assert ExactSum([1e100, 1.0, -1e100]).value == 1.0
    assert ExactSum([0.1] * 10).value == 1.0 != sum([0.1] * 10)


def test_few_parts_are_kept() -> None:
    numbers = np.random.default_rng(0).normal(-7, 3, 10_000).tolist()
    assert len(ExactSum(numbers).parts) <= 4
    assert ExactSum().parts == [] and ExactSum().value == 0.0


@pytest.mark.parametrize(("numbers", "expected"), [([-math.inf, 3.0], -math.inf), ([math.inf, -math.inf], math.nan)])
def test_what_is_not_finite_stays(numbers: list[float], expected: float) -> None:
    found = ExactSum([1.0, *numbers])
    np.testing.assert_equal(found.value, expected)
    np.testing.assert_equal(ExactSum(found.parts).value, expected)
