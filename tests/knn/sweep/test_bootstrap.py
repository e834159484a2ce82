"""The interval of a gain: against a loop, and against what is known of simple cases."""

import numpy as np
import pytest

from fairseq.knn.sweep import bootstrap
from fairseq.knn.sweep.bootstrap import gain_of


def blocks(num_blocks=40, seed=0):
    rng = np.random.default_rng(seed)
    block = np.repeat(np.arange(num_blocks), rng.integers(1, 9, num_blocks))
    lm = -rng.gamma(2.0, 2.0, len(block))
    return lm, lm + rng.normal(0.2, 0.5, len(block)), block


def test_equals_a_loop(monkeypatch):
    lm, mixed, block = blocks()
    monkeypatch.setattr(bootstrap, "_DRAWN_AT_ONCE", 40 * 7)  # 7 draws at a time
    gain = gain_of(lm, mixed, block, 200, seed=3)
    rng, bits, ppls = np.random.default_rng(3), [], []
    for start in range(0, 200, 7):
        for draw in rng.integers(40, size=(min(7, 200 - start), 40)):
            tokens = [n for b in draw for n in np.flatnonzero(block == b)]
            losses = [-sum(float(p[n]) for n in tokens) / len(tokens) / np.log(2) for p in (lm, mixed)]
            bits.append(losses[0] - losses[1])
            ppls.append(2 ** losses[0] - 2 ** losses[1])
    assert gain.bits_interval == pytest.approx(np.quantile(bits, [0.025, 0.975]), rel=1e-9)
    assert gain.ppl_interval == pytest.approx(np.quantile(ppls, [0.025, 0.975]), rel=1e-9)
    assert gain.bits == pytest.approx((mixed - lm).mean() / np.log(2)) and gain.num_blocks == 40


def test_covers_the_truth_about_as_often_as_it_says():
    """Of 200 texts whose blocks gain 0.1 bits on average, the interval holds it in 95 %, more or less."""
    rng, covered = np.random.default_rng(7), 0
    for seed in range(200):
        block = np.repeat(np.arange(60), 5)
        gains = np.repeat(rng.normal(0.1, 0.4, 60), 5) * np.log(2)  # a block's tokens gain alike
        lm = np.full(300, -4.0)
        low, high = gain_of(lm, lm + gains, block, 400, seed).bits_interval
        covered += low <= 0.1 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_the_same_seed_gives_the_same_and_another_another():
    one, again, other = (gain_of(*blocks(), 300, seed) for seed in (1, 1, 2))
    assert one == again and one.bits_interval != other.bits_interval


@pytest.mark.parametrize("first", [0, 1, 17])
def test_blocks_may_have_any_numbers(first):
    lm, mixed, block = blocks()
    assert gain_of(lm, mixed, 3 * block + first, 300, 1) == gain_of(lm, mixed, block, 300, 1)


def test_what_has_no_interval():
    lm, mixed, _ = blocks()
    assert gain_of(lm, mixed, np.zeros(len(lm), int), 100, 1).bits_interval is None
    mixed[3] = -np.inf
    gain = gain_of(lm, mixed, np.arange(len(lm)), 100, 1)
    assert gain.bits_interval is None and gain.loss == np.inf
