"""Loss and perplexity, and the tokens that would flatter them."""

import math

import numpy as np
import pytest

from fairseq.criterions.perplexity import Perplexity, perplexity_of


def total(log_p: list[float], target: list[int], num_joined: int = 0) -> Perplexity:
    perplexity = Perplexity()
    perplexity.add(np.array(log_p), np.array(target), num_joined)
    return perplexity


def test_a_coin_has_one_bit() -> None:
    found = total([math.log(0.5)] * 4, [4, 5, 6, 2])
    assert (found.count, found.loss, found.ppl) == (4, pytest.approx(1), pytest.approx(2))


def test_batches_add_up() -> None:
    found = total([-1.0, -2.0], [4, 5])
    found.add(np.array([-3.0]), np.array([6]))
    assert found.loss == pytest.approx(2 / math.log(2))
    assert found.count == 3


@pytest.mark.pitfall(13)
def test_float32_scores_are_added_in_float64() -> None:
    found = Perplexity()
    log_p = np.full(100_000, -0.1, np.float32)
    for _ in range(20):
        found.add(log_p, np.full(100_000, 4))
    assert found.log_p_sum == pytest.approx(float(np.float32(-0.1)) * 2_000_000, rel=1e-12)


def test_joined_subwords_stay_in_the_sum_and_leave_the_count() -> None:
    assert total([-1.0, -2.0, -3.0], [4, 5, 2], num_joined=1).loss == pytest.approx(3 / math.log(2))


@pytest.mark.pitfall(20)
def test_probability_0_makes_the_loss_infinite_and_is_counted_by_token() -> None:
    found = total([-1.0, -math.inf, -math.inf, -math.inf], [4, 7, 5, 7])
    assert (found.loss, found.ppl, found.count) == (math.inf, math.inf, 4)
    assert found.zero_ids == {7: 2, 5: 1}
    assert found.nan_ids == {}


def test_no_number_makes_no_number_and_is_counted_by_token() -> None:
    found = total([-1.0, math.nan], [4, 9])
    assert math.isnan(found.loss) and math.isnan(found.ppl)
    assert found.nan_ids == {9: 1} and found.zero_ids == {}


def test_nothing_scored_is_no_number() -> None:
    assert math.isnan(Perplexity().loss)


def test_a_perplexity_beyond_float64_is_infinite() -> None:
    assert perplexity_of(5000.0) == math.inf
