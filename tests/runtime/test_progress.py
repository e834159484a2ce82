"""Progress: what each format shows, and when."""

import io
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairseq.runtime import log
from fairseq.runtime.log import log_to, set_log_format
from fairseq.runtime.progress import Progress, at_work
from tests.builders.terminal import shown_in_terminal


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", lambda: clock.now)
    return clock


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO):
        yield
    set_log_format(None)


def test_simple_shows_done_total_rate_and_time_left(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    set_log_format("simple")
    with Progress("evaluate", 4000, "tokens") as progress:
        clock.now += 5
        progress.advance(500)
        assert not caplog.messages, "no line before ten seconds have passed"
        clock.now += 5
        progress.advance(500, loss=7.5)
    assert caplog.messages == ["evaluate: 1,000 / 4,000 tokens (25 %) | 100 tokens/s | 0:30 left | loss 7.5"]


def test_json_is_one_record_a_line(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    set_log_format("json")
    with Progress("train", 10, "updates", every=2) as progress:
        for _ in range(4):
            clock.now += 1
            progress.advance(1, loss=2.0)
    records = [json.loads(message) for message in caplog.messages]
    assert [record["done"] for record in records] == [2, 4]
    assert records[0] == {
        "stage": "train",
        "done": 2,
        "total": 10,
        "unit": "updates",
        "per_second": 1.0,
        "seconds_left": 8.0,
        "loss": 2.0,
    }


def test_none_shows_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    set_log_format("none")
    with Progress("evaluate", 10, "tokens", every=1) as progress:
        clock.now += 100
        progress.advance(10)
    assert not caplog.messages


def test_tqdm_shows_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    set_log_format("tqdm")
    with Progress("evaluate", 10, "tokens") as progress:
        progress.advance(10, loss=1.5)
    assert "evaluate" in capsys.readouterr().err


def test_what_an_earlier_run_did_is_not_counted_in_the_rate(clock: Clock) -> None:
    set_log_format("none")
    with Progress("write", 100, "rows", done=50) as progress:
        clock.now += 5
        progress.advance(10)
        assert progress.n == 60
        assert progress.rate == 2.0


def test_an_empty_stage_does_not_divide_by_zero(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    set_log_format("simple")
    with Progress("write", 0, "rows", every=1) as progress:
        progress.advance(0)
    assert caplog.messages == ["write: 0 / 0 rows (0 %) | 0 rows/s | 0:00 left"]


def test_a_terminal_without_a_size_has_a_bar_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import pty

    main, terminal = pty.openpty()  # a new one is 0 columns wide
    with open(terminal, "w", encoding="utf-8") as stderr:  # noqa: PTH123 - a descriptor, not a path
        assert os.get_terminal_size(terminal).columns == 0
        monkeypatch.setattr(sys, "stderr", stderr)
        set_log_format("tqdm")
        with Progress("evaluate", 10, "tokens") as progress:
            progress.advance(5)
            stderr.flush()
            assert b"evaluate:" in os.read(main, 4096)
    os.close(main)


@pytest.mark.parametrize(
    ("rate", "shown"), [(1234.4, "1,234"), (12.3, "12"), (3.21, "3.2"), (0.0337, "0.034"), (0, "0")]
)
def test_slow_rates_are_no_zero(rate: float, shown: str, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    set_log_format("simple")
    with Progress("write", 10**8, "rows", every=1) as progress:
        clock.now += 10_000
        progress.advance(round(rate * 10_000))
    assert f"| {shown} rows/s |" in caplog.text


def test_units_are_counted_even_where_tqdm_is_told_to_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
    set_log_format("tqdm")
    with Progress("write", 10, "rows") as progress:
        progress.advance(4)
        assert progress.n == 4


@pytest.mark.parametrize("log_format", ["simple", "json", "tqdm"])
def test_a_log_file_has_a_line_an_interval_even_beside_a_bar(
    clock: Clock, tmp_path: Path, log_format: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    set_log_format(log_format)
    with log_to(str(tmp_path / "log")), Progress("evaluate", 400, "tokens") as progress:
        for _ in range(4):
            clock.now += 6
            progress.advance(100, loss=2.5)
    lines = (tmp_path / "log").read_text().splitlines()
    assert "log of fairseq-knnlm" in lines.pop(0)
    assert len(lines) == 2, lines
    assert all("evaluate" in line and " | INFO | fairseq | " in line for line in lines)
    assert ("200 / 400 tokens (50 %)" in lines[0]) == (log_format != "json")
    assert len(caplog.messages) == (0 if log_format == "tqdm" else 2), "a line would tear the bar"


@pytest.mark.parametrize("log_format", ["simple", "json", "tqdm", "none"])
def test_what_cannot_be_counted_says_that_it_goes_on(
    log_format: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    told, drawn, terminal = threading.Event(), threading.Event(), io.StringIO()

    class Terminal(io.StringIO):
        def write(self, text: str) -> int:
            if "train index: 00:00" in text:
                drawn.set()
            return terminal.write(text)

    monkeypatch.setattr("fairseq.runtime.progress.LINE_INTERVAL_S", 0.001)
    monkeypatch.setattr("fairseq.runtime.progress.CLOCK_INTERVAL_S", 0.001)
    monkeypatch.setattr(sys, "stderr", Terminal())
    set_log_format(log_format)
    with log_to(str(tmp_path / "log")):
        assert log._file is not None
        log._file.addFilter(lambda record: told.set() or True)
        with at_work("train index"):
            assert log_format == "none" or told.wait(60)
            assert log_format != "tqdm" or drawn.wait(60)
    assert not any(thread.name == "train index" for thread in threading.enumerate()), "the tellers are gone"
    lines = [line.split(" | ")[-1] for line in (tmp_path / "log").read_text().splitlines()[1:]]
    if log_format == "none":
        assert not lines
    elif log_format == "json":
        assert json.loads(lines[0])["stage"] == "train index" and json.loads(lines[0])["seconds"] >= 0
    else:
        assert lines[0] == "train index: 0:00 so far"
    assert bool(caplog.messages) == (log_format in ("simple", "json")), "a line would tear the clock"
    assert (terminal.getvalue() != "") == (log_format == "tqdm")


def test_a_line_goes_above_a_bar_and_the_bar_tells_the_time_left_in_all() -> None:
    script = """
import time
from fairseq.runtime.log import logger, setup_logging
from fairseq.runtime.progress import Progress
setup_logging()
with Progress("epoch 001", 10, "updates", more=10**6) as progress:
    for _ in range(3):
        time.sleep(0.15)
        progress.advance(1, loss=2.0, **{f"further_{i}": i for i in range(20)})
    logger.info("in between")
    progress.advance(1)
    time.sleep(2.3)  # nothing is counted, but the clock moves
"""
    code, shown = shown_in_terminal([sys.executable, "-c", script], columns=90)
    assert code == 0, shown
    before, drawn_again = shown.split("in between")
    assert before.split("\r")[-1].endswith(" | INFO | fairseq | "), "the bar is taken away first"
    assert "epoch 001:" in drawn_again and "40%" in drawn_again and "[00:02<" in drawn_again
    bars = [bar for bar in before.split("\r") if bar.startswith("epoch 001:")]
    assert re.search(r"30%\|█{6} {14}\| 3\.00/10\.0 \[00:00<00:0\d, \d+:\d\d:\d\d in all, ", bars[-1]), bars
    assert all(len(bar) <= 90 for bar in bars)
