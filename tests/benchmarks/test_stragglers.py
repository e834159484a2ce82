"""The simulation of a search that waits for its slowest shard, beside closed forms."""

import numpy as np
import pytest
from stragglers import Times, answered, simulate


def drawn(blocks: int, shards: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).exponential(1.0, (blocks, shards))


@pytest.mark.parametrize("shards", [1, 2, 16, 64])
def test_a_block_at_a_time_takes_the_expected_maximum_of_exponentials(shards: int) -> None:
    sent, done = answered(drawn(20_000, shards), in_flight=1)
    harmonic = sum(1 / number for number in range(1, shards + 1))  # E[max of P] = H_P
    assert (done - sent).mean() == pytest.approx(harmonic, rel=0.03)
    assert done[-1] / len(done) == pytest.approx(harmonic, rel=0.03)


def test_a_block_at_a_time_and_all_at_once() -> None:
    times = drawn(50, 7)
    one_sent, one_done = answered(times, in_flight=1)
    assert one_done == pytest.approx(np.cumsum(times.max(1)))
    assert one_sent == pytest.approx(np.append(0, one_done[:-1]))
    all_sent, all_done = answered(times, in_flight=50)
    assert not all_sent.any() and all_done == pytest.approx(np.cumsum(times, axis=0).max(1))


def test_two_in_flight_by_hand() -> None:
    # Shard 0 takes 1, 1, 1; shard 1 takes 3, 1, 1. Blocks 0 and 1 are sent at 0, block 2 when block 0 is answered at 3:
    # shard 0 has been idle since 2, shard 1 works on block 1 until 4.
    sent, done = answered(np.array([[1.0, 3.0], [1.0, 1.0], [1.0, 1.0]]), in_flight=2)
    assert sent.tolist() == [0, 0, 3] and done.tolist() == [3, 4, 5]


def test_times_have_the_mean_and_the_slow_machines_that_they_say() -> None:
    rng = np.random.default_rng(0)
    assert Times(0.3, 0.0).draw(400, 500, rng).mean() == pytest.approx(1, abs=0.01)
    by_machine = Times(0.0, 0.1, 3.0).draw(2, 20_000, rng)
    assert {*by_machine.ravel()} == {1.0, 3.0} and (by_machine[0] == by_machine[1]).all()
    assert (by_machine[0] == 3.0).mean() == pytest.approx(0.1, abs=0.01)


def test_what_is_lost_without_any_chance() -> None:
    lost, latency = simulate(Times(0.0, 0.0), 5, 3, 100, 2, 1)
    assert lost == pytest.approx(0) and latency == pytest.approx((3, 3))
    lost, latency = simulate(Times(0.0, 1.0, 4.0), 5, 1, 100, 2, 1)
    assert lost == pytest.approx(0.75) and latency == pytest.approx((4, 4))
