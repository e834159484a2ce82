"""What the benchmarks read out of the commands' output, and make of it."""

import pytest
from bench import RowError, number, seconds_per_update, update_stamps, valid_loss
from calibrate import ratios
from scale import lists_for, power_law

OURS = [
    (1.0, 'INFO | fairseq | {"stage": "epoch 001", "done": 10, "total": 333, "unit": "updates"}'),
    (2.0, "a line with a { brace"),
    (3.5, 'INFO | fairseq | {"stage": "epoch 001", "done": 20, "total": 333, "unit": "updates"}'),
    (9.0, 'INFO | fairseq | {"epoch": 1, "part": "valid", "loss": 9.25, "num_updates": 20}'),
]
PEERS = [
    (1.0, 'INFO | train_inner | {"epoch": 1, "num_updates": "10", "gnorm": "5.4", "loss": "14.1"}'),
    (4.0, 'INFO | train_inner | {"epoch": 1, "num_updates": "20", "gnorm": "5.4", "loss": "13.6"}'),
    (9.0, 'INFO | valid | {"epoch": 1, "valid_loss": "9.3", "valid_num_updates": "20"}'),
]


def test_progress_lines_of_both_programs() -> None:
    assert update_stamps(OURS) == [(10, 1.0), (20, 3.5)]
    assert update_stamps(PEERS) == [(10, 1.0), (20, 4.0)]
    assert (valid_loss(OURS), valid_loss(PEERS), valid_loss([])) == (9.25, 9.3, None)


def test_one_slow_interval_does_not_count() -> None:
    assert seconds_per_update([(10, 1.0), (20, 2.0), (30, 42.0), (40, 43.0)]) == pytest.approx(0.1)


def test_a_number_that_is_not_there_is_said() -> None:
    assert number(r"Evaluated ([\d,]+) tokens", "Evaluated 55,514 tokens") == 55514
    with pytest.raises(RowError, match="Evaluated"):
        number(r"Evaluated (\d+)", "Killed")


def test_ratios_are_by_the_first_word() -> None:
    assert ratios({"gemm_gflops": 50.0, "other_s": 1.0}, {"gemm_gflops": 200.0}) == {"gemm": 0.25}


def test_a_power_law_is_found_again() -> None:
    assert power_law([10, 100, 1000], [3 * n**1.5 for n in (10, 100, 1000)]) == pytest.approx((3, 1.5))


def test_lists_grow_with_the_root() -> None:
    assert [lists_for(n) for n in (100, 4_000_000)] == [64, 8000]
