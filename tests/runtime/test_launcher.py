"""What the launcher says of processes that failed, and that it leaves no trace in this one."""

import json
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from fairseq.runtime import launcher
from fairseq.runtime.endings import DIRECTORY, LOST, DeadProcessError, EndedError
from fairseq.runtime.interrupts import Interrupted
from fairseq.runtime.launcher import launch


def failure(exit_code: int, rank: int) -> ProcessFailure:
    return ProcessFailure(local_rank=rank, pid=1, exitcode=exit_code, error_file="")


def leave(rank: int, exit_code: int, line: str, done: str = "") -> None:
    record = {"exit_code": exit_code, "line": line, "done": done}
    (Path(os.environ[DIRECTORY]) / f"{rank}.json").write_text(json.dumps(record))


def launched(run: Callable[[], None], monkeypatch: pytest.MonkeyPatch, max_restarts: int = 0) -> None:
    """Launches two processes, in whose place ``run`` is called."""
    monkeypatch.setattr(launcher, "elastic_launch", lambda config, program: lambda *words: run())
    launch("a.module", ["--flag"], 2, max_restarts=max_restarts, go_on=lambda: "begin again")


def test_work_that_is_done_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seen: list[str] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def run() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as torch's launcher takes the signals over
        seen.append(os.environ["OMP_NUM_THREADS"])

    launched(run, monkeypatch)
    assert seen == [str(max((os.cpu_count() or 1) // 2, 1))]
    assert "OMP_NUM_THREADS" not in os.environ and DIRECTORY not in os.environ
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize(
    ("exit_code", "line", "expected_code"),
    [
        (-signal.SIGKILL, "rank 1 of 2 was killed by SIGKILL (out of memory?) after update 5; begin again", 137),
        (-signal.SIGSEGV, "rank 1 of 2 was killed by SIGSEGV after update 5; begin again", 139),
        (1, "rank 1 of 2 ended with exit code 1 after update 5; begin again", 1),
    ],
)
def test_the_process_that_died_is_named_not_those_that_ended_with_it(
    exit_code: int, line: str, expected_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> None:
        leave(0, LOST, "rank 1 has ended", "after update 5")
        raise ChildFailedError("x", {0: failure(-signal.SIGTERM, 0), 1: failure(exit_code, 1)})

    with pytest.raises(DeadProcessError) as caught:
        launched(run, monkeypatch)
    assert (str(caught.value), caught.value.exit_code) == (line, expected_code)


def test_a_process_that_was_stopped_because_another_died_does_not_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Process 0 was still reading its data, and knows of nothing but the launcher's SIGTERM."""

    def run() -> None:
        leave(0, 143, "stopped by SIGTERM; no file is half-written")
        raise ChildFailedError("x", {0: failure(143, 0), 1: failure(-9, 1)})

    with pytest.raises(DeadProcessError, match=r"^rank 1 of 2 was killed by SIGKILL"):
        launched(run, monkeypatch)


def test_a_signal_to_one_process_stops_the_run_as_that_process_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> None:
        leave(0, 143, "stopped by SIGTERM; update 7 is saved")
        raise ChildFailedError("x", {0: failure(143, 0), 1: failure(143, 1)})

    with pytest.raises(EndedError) as caught:
        launched(run, monkeypatch, max_restarts=3)
    assert (caught.value.line, caught.value.exit_code) == ("stopped by SIGTERM; update 7 is saved", 143)


def test_all_that_died_at_once_leave_no_count_of_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> None:
        raise ChildFailedError("x", {1: failure(-9, 1), 0: failure(-9, 0)})

    with pytest.raises(DeadProcessError, match=r"^rank 0 of 2 was killed by SIGKILL \(out of memory\?\); begin again$"):
        launched(run, monkeypatch)


def test_an_error_that_a_process_has_described_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []

    def run() -> None:
        calls.append(time.time())
        leave(1, 2, "fairseq-train: error: no such file")
        leave(0, LOST, "rank 1 has ended", "after update 5")
        raise ChildFailedError("x", {1: failure(2, 1), 0: failure(LOST, 0)})

    with pytest.raises(EndedError) as caught:
        launched(run, monkeypatch, max_restarts=3)
    assert (caught.value.line, caught.value.exit_code, len(calls)) == ("fairseq-train: error: no such file", 2, 1)


@pytest.mark.parametrize("failures", [0, 1, 2, 3])
def test_all_are_started_again_so_often(
    failures: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []

    def run() -> None:
        calls.append(os.environ[DIRECTORY])
        if len(calls) <= failures:
            raise ChildFailedError("x", {1: failure(-9, 1)})

    with caplog.at_level(logging.WARNING):
        if failures > 2:
            with pytest.raises(DeadProcessError):
                launched(run, monkeypatch, max_restarts=2)
        else:
            launched(run, monkeypatch, max_restarts=2)
    assert len(set(calls)) == len(calls) == min(failures + 1, 3)
    assert [message.split("; ")[1] for message in caplog.messages] == [
        f"starting again, {number} of 2 times" for number in range(1, min(failures, 2) + 1)
    ]


def test_a_signal_ends_the_run_with_what_the_first_process_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def saved() -> None:
        leave(0, 143, "stopped by SIGTERM; update 7 is saved")
        leave(1, 143, "stopped by SIGTERM; all is well")
        raise SignalException("x", signal.SIGTERM)

    with pytest.raises(EndedError) as caught:
        launched(saved, monkeypatch, max_restarts=3)
    assert (caught.value.line, caught.value.exit_code) == ("stopped by SIGTERM; update 7 is saved", 143)

    def at_once() -> None:
        raise SignalException("x", signal.SIGINT)

    with pytest.raises(Interrupted) as interrupted:
        launched(at_once, monkeypatch, max_restarts=3)
    assert interrupted.value.signum == signal.SIGINT
