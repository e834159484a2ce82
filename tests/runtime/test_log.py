"""The log: the form of progress in force, the file beside stderr, time and memory as they are shown."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairseq.runtime import log
from fairseq.runtime.log import format_duration, log_to, peak_memory_gib, set_log_format, setup_logging


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO):
        yield
    set_log_format(None)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599, "59:59"), (3661, "1:01:01")]
)
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "no_bar", "terminal", "expected"),
    [
        (None, False, True, "tqdm"),
        (None, False, False, "simple"),
        (None, True, True, "simple"),
        ("json", False, True, "json"),
        ("tqdm", True, False, "tqdm"),
    ],
)
def test_the_format_in_force(
    name: str | None, no_bar: bool, terminal: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    set_log_format(name, no_bar=no_bar)
    assert log.log_format() == expected


def test_peak_memory_is_plausible() -> None:
    assert 0.001 < peak_memory_gib() < 1000


def test_setup_twice_adds_no_second_handler() -> None:
    setup_logging()
    before = list(logging.getLogger().handlers)
    setup_logging()
    assert logging.getLogger().handlers == before


def test_the_last_line_of_a_log_file_says_why_a_run_ended(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lost"), log_to(str(tmp_path / "log")):
        raise ValueError("the way is\nlost")
    assert (tmp_path / "log").read_text().endswith(" | ERROR | fairseq | ValueError: the way is lost\n")


def test_no_log_file_and_one_that_cannot_be(tmp_path: Path) -> None:
    with log_to(None):
        pass
    with pytest.raises(FileNotFoundError), log_to(str(tmp_path / "gone" / "log")):
        raise AssertionError
