"""SIGINT and SIGTERM: a run that is told to stop finishes its step, saves, and says how to go on.

A signal raises ``Interrupted`` where it comes. Work that has something to save runs its steps inside
``finish_step_first``, and calls ``check`` between them: there the first signal waits for the check, and only a second
one stops at once. The exit code is 128 + the signal's number, as shells have it.

A process that torchrun has started may get SIGTERM twice though the user sent it once: a cluster's queue tells all
processes, and torchrun, which has been told as well, tells its own. There a second SIGTERM changes nothing. Nor is the
first one told of at once: torchrun sends it as well where another process has died.
"""

import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal told the run to stop.

    Attributes:
        signum: the signal.
        advice: how to go on.
        between_steps: whether ``check`` raised it, between two steps; else the handler did, anywhere.
    """

    def __init__(self, signum: int, advice: str = "", *, between_steps: bool = False) -> None:
        super().__init__(signum)
        self.signum, self.advice, self.between_steps = signum, advice, between_steps


_steps: list[str] = []  # what is finished first, the innermost last
_asked: int | None = None


@contextmanager
def handled() -> Iterator[None]:
    """Handles SIGINT and SIGTERM while the block runs; outside of the main thread it does nothing."""
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _on_signal) for number in SIGNALS}
    try:
        yield
    finally:
        _asked = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def finish_step_first(step: str = "this step") -> Iterator[None]:
    """Makes the first signal wait for ``check`` while the block runs; ``step`` is what is finished, in words."""
    _steps.append(step)
    try:
        yield
    finally:
        _steps.pop()


def ignore_signals() -> None:
    """Has SIGINT and SIGTERM change nothing until ``handled`` ends: the run is over, and only says why."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def asked_to_stop() -> bool:
    """Returns whether a signal waits for ``check``."""
    return _asked is not None


def check(advice: str) -> None:
    """Raises ``Interrupted`` if a signal has come; ``advice`` says how to go on."""
    if _asked is not None:
        raise Interrupted(_asked, advice, between_steps=True)


@contextmanager
def advising(advice: str) -> Iterator[None]:
    """Has a stop while the block runs say this, unless it says itself how to go on."""
    try:
        yield
    except Interrupted as err:
        err.advice = err.advice or advice
        raise


def checked(items: Iterable[T]) -> Iterator[T]:
    """Yields the items, with a check before each."""
    for item in items:
        check("")
        yield item


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _asked
    by_torchrun = number == signal.SIGTERM and "TORCHELASTIC_RUN_ID" in os.environ
    if not _steps or (_asked is not None and not by_torchrun):
        raise Interrupted(number)
    _asked = _asked or number
    if by_torchrun:
        return
    name = signal.Signals(number).name
    logger.warning("%s: stopping after %s; a second signal stops at once", name, _steps[-1])
