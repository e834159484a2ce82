"""How a process among several ends: its exit code, and who says why.

A run of several processes ends with one line, whichever of them met the error. Processes of our own launcher
(``launcher.py``) leave their lines to it. Among those of ``torchrun``, the first that meets an error says so
(``distributed.joined``), and the others are silent; before they have joined, the first one of each machine.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fairseq.errors import FairseqError

# Where the processes of a launch leave how they ended.
DIRECTORY = "FAIRSEQ_KNNLM_ENDINGS"
# The process that has launched them.
LAUNCHER = "FAIRSEQ_KNNLM_LAUNCHER"
LOST = 3  # exit code of a process that could not go on because another one had ended

_PR_SET_PDEATHSIG = 1  # of prctl(2)
_silent = False


class LostProcessError(FairseqError):
    """Other processes have ended, and the run cannot go on without them.

    Attributes:
        done: what the processes had done together, such as ``after update 12``.
    """

    exit_code = LOST

    def __init__(self, ranks: Sequence[int], world_size: int, done: str, go_on: str) -> None:
        names = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
        has = "has" if len(ranks) == 1 else "have"
        super().__init__(f"{names} of {world_size} {has} ended {done}".rstrip() + f"; {go_on}")
        self.done = done


class DeadProcessError(FairseqError):
    """A process that was launched has died.

    Attributes:
        exit_code: its own; 128 + the signal's number where one has killed it.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class EndedError(Exception):
    """The processes of a launch have ended, and one of them has left the last line of the run.

    Attributes:
        line: that line.
        exit_code: of the process.
    """

    def __init__(self, line: str, exit_code: int) -> None:
        super().__init__(line)
        self.line, self.exit_code = line, exit_code


@dataclass(frozen=True)
class Ending:
    """How a process of a launch has ended.

    Attributes:
        exit_code: as the name says.
        line: what it would have said.
        done: what the processes had done together, where it knows.
    """

    exit_code: int
    line: str
    done: str = ""


def is_launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Returns whether this process is one of a launch of ours."""
    return DIRECTORY in environment


def end_with_launcher() -> None:
    """Has the system send SIGTERM to this process, if it is one of a launch, when the launcher is killed (on Linux)."""
    if not is_launched() or LAUNCHER not in os.environ or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if not _has_launcher():  # killed before that
        os.kill(os.getpid(), signal.SIGTERM)


def _has_launcher() -> bool:
    return os.environ.get(LAUNCHER, "") == str(os.getppid())


def leave_ending(ending: Ending) -> bool:
    """Leaves how this process ends to the launcher; returns False where there is none that could read it."""
    directory = Path(os.environ.get(DIRECTORY, ""))
    if not is_launched() or not directory.is_dir() or not _has_launcher():
        return False
    (directory / f"{os.environ['RANK']}.json").write_text(json.dumps(asdict(ending)), encoding="utf-8")
    return True


def read_endings(directory: str) -> dict[int, Ending]:
    """Returns how processes ended, by their ranks; those that were killed have left nothing."""
    paths = sorted(Path(directory).glob("*.json"), key=lambda path: int(path.stem))
    return {int(path.stem): Ending(**json.loads(path.read_text(encoding="utf-8"))) for path in paths}


def be_silent(silent: bool) -> None:
    """Says whether another process has told why the run ends."""
    global _silent
    _silent = silent


def is_silent() -> bool:
    """Returns whether another process has told why the run ends, so that this one need not."""
    return _silent
