"""What ``reduce_metrics`` may call beside means and sums, by hand."""

import time

import pytest

from fairseq import metrics
from fairseq.errors import ConfigError
from fairseq.logging.metrics import collecting


def clock(monkeypatch: pytest.MonkeyPatch, *times: float) -> None:
    """Makes the clock show these times, one after the other."""
    shown = iter(times)
    monkeypatch.setattr(time, "perf_counter", lambda: next(shown))


def test_what_is_told_in_an_aggregate_is_in_the_log_as_well() -> None:
    with collecting() as outer:
        metrics.log_scalar("loss", 1.0, 1)
        with metrics.aggregate("train") as inner:
            metrics.log_scalar("loss", 4.0, 2)
        with metrics.aggregate(new_root=True) as root:
            metrics.log_scalar("loss", 100.0, 1)
    assert inner.get_smoothed_values() == {"loss": 4.0}
    assert root.values() == {"loss": 100.0}
    assert outer.values() == {"loss": (1 * 1 + 4 * 2) / 3}


def test_a_speed_is_a_sum_over_the_seconds_since_the_call_before(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 10.0, 12.0, 13.0)
    with collecting() as readings:
        for words in (1000, 60, 30):
            metrics.log_speed("a_speed", words, round=1)
    assert readings.values() == {"a_speed": (60 + 30) / (2 + 1)}


def test_times_are_a_sum_or_a_mean_per_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 1.0, 3.0, 10.0, 14.0, 20.0, 26.0)
    called = []
    with collecting() as readings:
        metrics.log_start_time("alone")
        metrics.log_stop_time("alone", prehook=lambda: called.append(1))
        for _ in range(2):
            metrics.log_start_time("each", round=2)
            metrics.log_stop_time("each", 5)
        metrics.log_stop_time("never begun")
    assert readings.values() == {"alone": 3.0 - 1.0, "each": (4 + 6) / (5 + 5)}
    assert called == [1]


def test_other_names_are_refused_in_a_line_and_are_no_error_to_look_for() -> None:
    with pytest.raises(ConfigError, match=r"metrics\.log_custom is not here; fairseq\.metrics has aggregate, "):
        metrics.log_custom(None, "a")
    assert not hasattr(metrics, "__wrapped__")
