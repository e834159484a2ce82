"""One measured run of a command: wall time, peak resident memory, and what it printed, with the time of every line."""

import fcntl
import math
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Run:
    """What a command did.

    ``others`` is how many CPUs worked for something else meanwhile, ``read_gib`` came from the disk, ``lines`` are
    (seconds since the start, text) of stdout and stderr together.
    """

    command: tuple[str, ...]
    code: int
    wall_s: float
    peak_rss_gib: float
    others: float
    read_gib: float
    lines: list[tuple[float, str]] = field(repr=False)

    @property
    def text(self) -> str:
        """Returns all that was printed."""
        return "\n".join(text for _, text in self.lines)

    @property
    def last_line(self) -> str:
        """Returns the last line that says anything."""
        return next((text for _, text in reversed(self.lines) if text.strip()), "")


@contextmanager
def turn(lock: Path | None) -> Iterator[None]:
    """Waits for the lock, so that benchmarks that share a machine take turns."""
    if lock is None:
        yield
    else:
        with lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # as flock(1) does; it ends when the file is closed
            yield


def busy_seconds() -> float:
    """Returns the seconds, since the machine started, that its CPUs were busy or taken by its host; NaN if unknown."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return math.nan
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    lock: Path | None = None,
    log: Path | None = None,
    cwd: Path | None = None,
) -> Run:
    """Returns the run of a command, its own processes and threads included.

    Args:
        command: program and arguments.
        env: variables besides those in force.
        lock: a file whose lock is held meanwhile.
        log: a file to write the output to.
        cwd: the directory to run in.
    """
    words = tuple(str(word) for word in command)
    with turn(lock):
        busy_s = busy_seconds()
        start = time.perf_counter()
        with subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=cwd,
            env={**os.environ, **(env or {})},
        ) as process:
            assert process.stdout is not None
            lines = [(time.perf_counter() - start, line.rstrip("\n")) for line in process.stdout]
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)  # it is waited for: Popen need not
        wall_s = time.perf_counter() - start
        others = max(busy_seconds() - busy_s - usage.ru_utime - usage.ru_stime, 0.0) / wall_s
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("\n".join([" ".join(words), *(f"{s:9.3f}  {text}" for s, text in lines)]) + "\n")
    return Run(words, process.returncode, wall_s, usage.ru_maxrss / 2**20, others, usage.ru_inblock / 2**21, lines)
