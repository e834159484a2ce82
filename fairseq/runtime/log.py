"""The log of a run: where its lines go, the form of its progress, and how time and memory are shown.

Everything goes to stderr, and with ``--log-file`` to that file as well; results go to stdout, printed by the command
that owns them. Progress itself is in ``progress.py``, since tqdm takes too long to import for ``--help``.
"""

import logging
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("fairseq")

_FORMAT, _DATE = "%(asctime)s | %(levelname)s | %(name)s | %(message)s", "%Y-%m-%d %H:%M:%S"
_file: logging.FileHandler | None = None
_format: str | None = None


def setup_logging() -> None:
    """Sends log records of INFO and above to stderr, one dated line each; a second call changes nothing."""
    logging.basicConfig(stream=sys.stderr, format=_FORMAT, datefmt=_DATE)
    logging.getLogger().setLevel(logging.INFO)


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


def peak_memory_gib() -> float:
    """Returns the largest resident set of this process so far, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform != "darwin" else peak / 2**30


def format_duration(seconds: float) -> str:
    """Returns seconds as ``h:mm:ss``, or ``m:ss`` below an hour."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
