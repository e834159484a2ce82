"""Logging and progress: how a long run shows how far it is, how fast it goes and how long it will take.

``Progress`` counts units (tokens, rows, lines) up to a total. In a terminal it is a tqdm bar; elsewhere a line every
few seconds, plain or JSON. ``at_work`` is for what cannot be counted. Everything goes to stderr; results go to stdout,
printed by the command that owns them.
With ``--log-file`` the lines go to a file as well, also those that a bar stands for.
"""

import json
import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

logger = logging.getLogger("fairseq")

LINE_INTERVAL_S = 10.0
_FORMAT, _DATE = "%(asctime)s | %(levelname)s | %(name)s | %(message)s", "%Y-%m-%d %H:%M:%S"
_file: logging.FileHandler | None = None
_format: str | None = None


def setup_logging(level: int = logging.INFO) -> None:
    """Sends log records of INFO and above to stderr, one dated line each; a second call changes nothing."""
    root = logging.getLogger()
    if root.handlers:
        root.setLevel(level)
        return
    logging.basicConfig(level=level, stream=sys.stderr, format=_FORMAT, datefmt=_DATE)


@contextmanager
def log_to(path: str | None) -> Iterator[None]:
    """Appends what is logged while the block runs to a file, where one is given; raises OSError if it cannot be."""
    global _file
    if path is None:
        yield
        return
    _file = logging.FileHandler(path, encoding="utf-8")
    _file.setFormatter(logging.Formatter(_FORMAT, _DATE))
    logging.getLogger().addHandler(_file)
    try:
        yield
    except (Exception, KeyboardInterrupt) as err:
        words = f"{type(err).__name__}: {' '.join(str(err).split())}"
        _file.handle(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, words, (), None))
        raise
    finally:
        logging.getLogger().removeHandler(_file)
        _file.close()
        _file = None


def set_log_format(name: str | None, *, no_bar: bool = False) -> None:
    """Sets the form of progress for the whole run: json, simple, tqdm or none; None is for what ``log_format`` says."""
    global _format
    _format = "simple" if name is None and no_bar else name


def log_format() -> str:
    """Returns the form of progress in force: the one that was set, else a bar in a terminal and lines elsewhere."""
    return _format or ("tqdm" if sys.stderr.isatty() else "simple")


def peak_memory_gib() -> float:
    """Returns the largest resident set of this process so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform != "darwin" else peak / 2**30


def format_duration(seconds: float) -> str:
    """Returns seconds as ``h:mm:ss``, or ``m:ss`` below an hour."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def _shown_rate(rate: float) -> str:
    """Returns a rate in two digits at least: 1,234, 12 or 0.034."""
    return f"{rate:,.0f}" if rate >= 10 or rate == 0 else f"{rate:.2g}"


def _shape() -> dict[str, Any]:
    """Returns what tqdm is told of its terminal: one without a size, as some containers have, would get no bar."""
    with suppress(OSError, ValueError):
        if os.get_terminal_size(sys.stderr.fileno()).columns == 0:
            return {"ncols": 80, "nrows": 24}
    return {"dynamic_ncols": True}


class Progress:
    """Progress of one stage, as a context manager.

    Args:
        stage: what is being done: ``"evaluate"``.
        total: units in all.
        unit: what is counted: ``"tokens"``.
        done: units that an earlier run had finished; they do not count towards the rate.
        interval_s: seconds between two lines.
        every: advances between two lines, instead of seconds.
        shown: False counts in silence.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        unit: str,
        *,
        done: int = 0,
        interval_s: float = LINE_INTERVAL_S,
        every: int | None = None,
        shown: bool = True,
    ) -> None:
        self.stage, self.total, self.unit = stage, total, unit
        self.log_format = log_format() if shown else "none"
        self.done = self._before = done
        self.interval_s = interval_s
        self.every = every
        self._num_advances = 0
        self._start = self._last_line = time.monotonic()
        self._bar: Any = None
        if self.log_format == "tqdm":
            from tqdm import tqdm  # a tenth of a second, which only a bar is worth

            self._bar = tqdm(
                desc=stage,
                total=total,
                initial=done,
                unit=f" {unit}",
                unit_scale=True,
                **_shape(),
                leave=False,
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self._start

    @property
    def rate(self) -> float:
        """Units per second in this run."""
        return (self.done - self._before) / max(self.elapsed_s, 1e-9)

    def advance(self, count: int, **stats: float) -> None:
        """Counts ``count`` further units; ``stats`` are shown beside them."""
        self.done += count
        self._num_advances += 1
        if self._bar is not None:
            if stats:
                self._bar.set_postfix({name: f"{value:.4g}" for name, value in stats.items()}, refresh=False)
            self._bar.update(count)
        if self.log_format == "none" or (self._bar is not None and _file is None) or not self._line_is_due():
            return
        self._last_line = time.monotonic()
        line = self._line(stats)
        if self._bar is None:
            logger.info("%s", line)
        else:  # on the terminal it would tear the bar
            assert _file is not None
            _file.handle(logger.makeRecord(logger.name, logging.INFO, __file__, 0, line, (), None))

    def _line_is_due(self) -> bool:
        if self.every is not None:
            return self._num_advances % self.every == 0
        return time.monotonic() - self._last_line >= self.interval_s

    def _line(self, stats: dict[str, float]) -> str:
        left_s = (self.total - self.done) / self.rate if self.rate > 0 else 0.0
        if self.log_format == "json":
            record = {
                "stage": self.stage,
                "done": self.done,
                "total": self.total,
                "unit": self.unit,
                "per_second": round(self.rate, 2),
                "seconds_left": round(left_s, 1),
                **stats,
            }
            return json.dumps(record)
        shown = "".join(f" | {name} {value:.4g}" for name, value in stats.items())
        return (
            f"{self.stage}: {self.done:,} / {self.total:,} {self.unit} ({100 * self.done / max(self.total, 1):.0f} %)"
            f" | {_shown_rate(self.rate)} {self.unit}/s | {format_duration(left_s)} left{shown}"
        )


@contextmanager
def at_work(stage: str, *, interval_s: float = LINE_INTERVAL_S) -> Iterator[None]:
    """Says every few seconds that a stage goes on: one that another library does in a single call, uncounted."""
    form = log_format()
    if form == "none":
        yield
        return
    start, done = time.monotonic(), threading.Event()

    def tell() -> None:
        while not done.wait(interval_s):
            seconds = time.monotonic() - start
            record = json.dumps({"stage": stage, "seconds": round(seconds, 1)})
            logger.info("%s", record if form == "json" else f"{stage}: {format_duration(seconds)} so far")

    teller = threading.Thread(target=tell, name=stage, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
