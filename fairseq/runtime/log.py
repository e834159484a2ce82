"""The log of a run: where its lines go, the form of its progress, and how time and memory are shown.

Everything goes to stderr, and with ``--log-file`` to that file as well; results go to stdout, printed by the command
that owns them. Progress itself is in ``progress.py``, since tqdm takes too long to import for ``--help``.
"""

import io
import logging
import os
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

from fairseq.storage.files import encoded, is_stream, open_stream
from fairseq.storage.marks import LOG, LOG_MARK
from fairseq.storage.outputs import claim

logger = logging.getLogger("fairseq")

_FORMAT, _DATE = "%(asctime)s | %(levelname)s | %(name)s | %(message)s", "%Y-%m-%d %H:%M:%S"
_file: "_LogFile | None" = None
_format: str | None = None


def setup_logging() -> None:
    """Sends log records of INFO and above to stderr, one dated line each; a second call changes nothing.

    A file's name that is not UTF-8 is shown with escapes, there and on stdout.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(handlers=[_BesideBars(sys.stderr)], format=_FORMAT, datefmt=_DATE)
    logging.getLogger().setLevel(logging.INFO)


class _BesideBars(logging.StreamHandler):  # type: ignore[type-arg] # Python 3.10 takes none at run time
    """Writes records to a terminal above the bars that are drawn there."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record as a line; where tqdm is not loaded there is no bar."""
        tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
        with tqdm.external_write_mode(self.stream) if tqdm is not None else nullcontext():
            super().emit(record)


class _LogFile(logging.Handler):
    """Appends records to a log of ours, or to a stream.

    What cannot be written, of a full disk or a pipe that nobody reads any more, is said once, and the run goes on.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self._failed = path, False
        if is_stream(path):
            with open_stream(path) as stream:
                self._descriptor = os.dup(stream.fileno())
        else:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o666)
        self.setFormatter(logging.Formatter(_FORMAT, _DATE))

    def emit(self, record: logging.LogRecord) -> None:
        """Appends a record as a line."""
        if self._failed:
            return
        left = encoded(self.format(record) + "\n")
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as err:
            self._failed = True
            logger.warning("--log-file %s: %s; the run goes on without it", self.path, err.strerror)

    def close(self) -> None:
        """Closes the file."""
        super().close()
        os.close(self._descriptor)


@contextmanager
def log_to(path: str | None, prog: str = "") -> Iterator[None]:
    """Appends what is logged while the block runs to a file, where one is given.

    Args:
        path: of a log that this program wrote, of an empty or a new file, or of a stream.
        prog: the command.

    Raises:
        ConfigError: something else is there.
        OSError: it cannot be opened.
    """
    global _file
    if path is None:
        yield
        return
    _file = _LogFile(claim("--log-file", path, LOG))
    log_to_file_alone(f"{LOG_MARK}: {prog}")
    logging.getLogger().addHandler(_file)
    try:
        yield
    except (Exception, KeyboardInterrupt) as err:
        log_to_file_alone(f"{type(err).__name__}: {' '.join(str(err).split())}", logging.ERROR)
        raise
    finally:
        logging.getLogger().removeHandler(_file)
        _file.close()
        _file = None


def log_to_file_alone(line: str, level: int = logging.INFO) -> None:
    """Appends a line to the file of ``log_to``, where there is one, and to nothing else."""
    if _file is not None:
        _file.handle(logger.makeRecord(logger.name, level, __file__, 0, line, (), None))


def set_log_format(name: str | None, *, no_bar: bool = False) -> None:
    """Sets the form of progress for the whole run: json, simple, tqdm or none; None lets ``log_format`` choose."""
    global _format
    _format = "simple" if name is None and no_bar else name


def log_format() -> str:
    """Returns the form of progress in force: the one that was set, else a bar in a terminal and lines elsewhere."""
    return _format or ("tqdm" if sys.stderr.isatty() else "simple")


def prefixed(part: str, values: Mapping[str, float]) -> dict[str, str]:
    """Returns values as fairseq writes them in JSON: ``{"loss": 6.5}`` of valid is ``{"valid_loss": "6.5"}``."""
    return {f"{part}_{name}": str(v) if isinstance(v, int) else f"{v:.6g}" for name, v in values.items()}


def peak_memory_gib() -> float:
    """Returns the largest resident set so far, of this process or of one that it started and that has ended, in GiB."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak / 2**20 if sys.platform != "darwin" else peak / 2**30


def format_duration(seconds: float) -> str:
    """Returns seconds as ``h:mm:ss``, or ``m:ss`` below an hour."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
