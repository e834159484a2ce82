"""How processes of a launch leave word of their end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq.runtime import endings
from fairseq.runtime.endings import (
    DIRECTORY,
    LAUNCHER,
    Ending,
    LostProcessError,
    is_launched,
    leave_ending,
    read_endings,
)


def test_endings_come_back_in_the_order_of_the_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    monkeypatch.setenv(LAUNCHER, str(os.getppid()))
    expected = {}
    for rank in (10, 2, 0):
        monkeypatch.setenv("RANK", str(rank))
        expected[rank] = Ending(2, f"fairseq-train: error: ü {rank}", "after update 3")
        assert leave_ending(expected[rank])
    assert is_launched()
    assert list(read_endings(str(tmp_path)).items()) == sorted(expected.items())


def test_without_a_launcher_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DIRECTORY, raising=False)
    assert not is_launched()
    assert not leave_ending(Ending(2, "line"))
    monkeypatch.setenv(DIRECTORY, str(tmp_path / "gone with the launcher"))
    assert not leave_ending(Ending(2, "line"))
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    monkeypatch.setenv(LAUNCHER, "1")  # another process than the parent: it was killed
    assert not leave_ending(Ending(2, "line"))
    assert list(tmp_path.iterdir()) == []


# Starts a process of a launch, is killed when that one says that it is ready, and leaves its pipe to it.
PARENT = """
import os, signal, subprocess, sys
os.environ.update({"FAIRSEQ_KNNLM_ENDINGS": "/nowhere", "FAIRSEQ_KNNLM_LAUNCHER": str(os.getpid())})
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stderr=subprocess.PIPE)
child.stderr.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""
CHILD = """
import signal, sys, time
from fairseq.runtime.endings import end_with_launcher

def stop(*_):
    print("stopped", flush=True)
    sys.exit()

signal.signal(signal.SIGTERM, stop)
end_with_launcher()
print("ready", file=sys.stderr, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system's own signal is Linux's")
def test_a_process_is_told_to_stop_when_its_launcher_is_killed() -> None:
    done = subprocess.run([sys.executable, "-c", PARENT, CHILD], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "stopped\n")


@pytest.mark.parametrize(
    ("ranks", "done", "expected"),
    [
        ([1], "after update 3", "rank 1 of 4 has ended after update 3; begin again"),
        ([1, 3], "", "ranks 1, 3 of 4 have ended; begin again"),
    ],
)
def test_lost_processes_are_named(ranks: list[int], done: str, expected: str) -> None:
    error = LostProcessError(ranks, 4, done, "begin again")
    assert (str(error), error.done, error.exit_code) == (expected, done, endings.LOST)
