"""Starts the processes of a run on this machine, by torch's elastic launcher (that of ``torchrun``).

    this process ── starts ──▶ rank 0, rank 1, …      each runs the same command, and has its rank in the environment
         ▲                          │
         └──── how each has ended ──┘                 one line, one exit code

A signal is passed on to all processes. Where one dies, the others are stopped, and all are started again, as often as
the caller allows. What the user can put right, and a stop, are no reason to start again. Where this process itself is
killed, the others get SIGTERM (``endings.end_with_launcher``).
"""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from fairseq.runtime.endings import DIRECTORY, LAUNCHER, LOST, DeadProcessError, EndedError, read_endings
from fairseq.runtime.interrupts import Interrupted

logger = logging.getLogger(__name__)

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_BECAUSE_OF_ANOTHER = (LOST, 128 + signal.SIGTERM, -signal.SIGTERM)
_SECONDS_TO_SAVE = 300  # before a process that was told to stop is killed


def launch(
    module: str, argv: Sequence[str], processes: int, *, max_restarts: int = 0, go_on: Callable[[], str]
) -> None:
    """Runs ``python -m module argv`` in several processes, and returns when all have done their work.

    Args:
        module: the command.
        argv: what was typed behind it.
        processes: how many there are.
        max_restarts: how often all are started again after one has died.
        go_on: returns how to go on, for the last line of a run that failed.

    Raises:
        DeadProcessError: one has died, once more than ``max_restarts``.
        EndedError: one has met an error that it has described, or was told to stop.
        Interrupted: this process was told to stop before the others could describe it.
    """
    with _quiet(), _same_handlers():
        for restart in range(max_restarts + 1):
            try:
                _run(module, argv, processes)
                return
            except DeadProcessError as err:
                if restart == max_restarts:
                    raise DeadProcessError(f"{err}; {go_on()}", err.exit_code) from err
                logger.warning("%s; starting again, %d of %d times", err, restart + 1, max_restarts)


def _run(module: str, argv: Sequence[str], processes: int) -> None:
    """Runs all processes once; raises as ``launch``."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max((os.cpu_count() or 1) // processes, 1))
    patience = os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT") or str(_SECONDS_TO_SAVE)
    with TemporaryDirectory(prefix="fairseq-") as logs, TemporaryDirectory(prefix="fairseq-") as endings:
        try:
            with _environment(
                {
                    DIRECTORY: endings,
                    LAUNCHER: str(os.getpid()),
                    "OMP_NUM_THREADS": threads,
                    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": patience,
                }
            ):
                config = LaunchConfig(
                    min_nodes=1,
                    max_nodes=1,
                    nproc_per_node=processes,
                    logs_specs=DefaultLogsSpecs(logs),
                    run_id=uuid.uuid4().hex,
                    rdzv_backend="c10d",
                    rdzv_endpoint="localhost:0",
                    local_addr="localhost",
                    max_restarts=0,
                )
                elastic_launch(config, sys.executable)("-m", module, *argv)
        except SignalException as err:
            for ending in read_endings(endings).values():
                if ending.exit_code == 128 + err.sigval:
                    raise EndedError(ending.line, ending.exit_code) from err
            raise Interrupted(err.sigval) from err
        except ChildFailedError as err:
            _tell(err.failures, endings, processes)


def _tell(failures: Mapping[int, ProcessFailure], directory: str, processes: int) -> None:
    """Raises what the first process that failed has met.

    Those are not looked at that could not go on without it, or that the launcher has stopped because of it.
    """
    endings = read_endings(directory)
    own = {rank: failure for rank, failure in failures.items() if failure.exitcode not in _BECAUSE_OF_ANOTHER}
    rank, failure = min((own or failures).items(), key=lambda item: (item[1].timestamp, item[0]))
    if rank in endings:
        raise EndedError(endings[rank].line, endings[rank].exit_code)
    done = next((f" {ending.done}" for ending in endings.values() if ending.done), "")
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        raise DeadProcessError(f"rank {rank} of {processes} was killed by {name}{hint}{done}", 128 - failure.exitcode)
    raise DeadProcessError(
        f"rank {rank} of {processes} ended with exit code {failure.exitcode}{done}", failure.exitcode
    )


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Has processes that are started while the block runs find these variables."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch's launcher from logging what is told here in one line."""
    elastic, nothing = logging.getLogger("torch.distributed.elastic"), logging.NullHandler()
    elastic.addHandler(nothing)
    elastic.propagate = False
    try:
        yield
    finally:
        elastic.propagate = True
        elastic.removeHandler(nothing)


@contextmanager
def _same_handlers() -> Iterator[None]:
    """Takes the launcher's handlers of signals away again; a signal that comes late is one that stops the run."""
    before = {number: signal.getsignal(number) for number in _PASSED_ON}
    try:
        yield
    except SignalException as err:
        raise Interrupted(err.sigval) from err
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
