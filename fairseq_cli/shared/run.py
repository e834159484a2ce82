"""``run``, which every command is run by: logging, plugins, one-line errors, exit codes, time and memory."""

import errno
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence

from fairseq.config.command_line import early_value, hyphens, load_plugins
from fairseq.errors import FairseqError, UnknownFlagError
from fairseq.runtime.endings import (
    EndedError,
    Ending,
    be_silent,
    end_with_launcher,
    is_launched,
    is_silent,
    leave_ending,
)
from fairseq.runtime.interrupts import Interrupted, handled
from fairseq.runtime.log import format_duration, log_to, logger, peak_memory_gib, set_log_format, setup_logging
from fairseq.storage.outputs import one_run
from fairseq_cli.shared.commands import elsewhere
from fairseq_cli.shared.processes import alone, local_rank, rank
from fairseq_knnlm import clash, other_fairseqs

EXIT_USER_ERROR = 2
_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_LESS = "give it less at once: --max-tokens or --batch-size, --softmax-batch, --k, or a smaller model"
RUN_AGAIN = "no file is half-written; the same command starts again, from what was saved"


def run(
    prog: str,
    main: Callable[[Sequence[str]], None],
    argv: Sequence[str] | None = None,
    *,
    knows_ranks: bool = False,
) -> int:
    """Runs a command and returns its exit code.

    0; 2 for what the user can put right; 130 after SIGINT (Ctrl-C) and 143 after SIGTERM. A command that does not know
    ranks is refused under torchrun, where each process would do all of the work.
    """
    with handled():
        return _run(prog, main if knows_ranks else alone(prog, main), list(sys.argv[1:] if argv is None else argv))


def _run(prog: str, main: Callable[[Sequence[str]], None], words: list[str]) -> int:
    setup_logging()
    # Until processes have joined (runtime/distributed.py), one of each machine says what it has met.
    be_silent(not is_launched() and local_rank() > 0)
    speaks, start = rank() == 0, time.monotonic()
    if not speaks:  # of several processes that do the same, one tells of it
        logging.getLogger().setLevel(logging.ERROR)
    if others := other_fairseqs():
        logger.warning(clash(others))
    try:
        end_with_launcher()
        log_format = early_value("--log-format", words) if speaks else "none"
        set_log_format(log_format, no_bar="--no-progress-bar" in map(hyphens, words))
        with one_run(), log_to(early_value("--log-file", words) if speaks else None, prog):
            load_plugins(words)
            main(words)
            if not is_launched():
                time_s = format_duration(time.monotonic() - start)
                logger.info("%s: %s, peak memory %.2f GiB", prog, time_s, peak_memory_gib())
    except (FairseqError, OSError, MemoryError, RuntimeError) as err:
        if isinstance(err, RuntimeError) and not _is_out_of_memory(err):
            raise
        if isinstance(err, BrokenPipeError):
            # The reader of our output has gone; give the interpreter a stdout that it can flush at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        if "--traceback" in words:
            traceback.print_exc()
        code = err.exit_code if isinstance(err, FairseqError) else EXIT_USER_ERROR
        return _end(Ending(code, f"{prog}: error: {describe(err)}", getattr(err, "done", "")), speaks=not is_silent())
    except EndedError as err:
        return _end(Ending(err.exit_code, err.line))
    except KeyboardInterrupt as err:
        stop = err if isinstance(err, Interrupted) else Interrupted(signal.SIGINT)
        name = signal.Signals(stop.signum).name
        line = f"{prog}: stopped by {name}; {stop.advice or RUN_AGAIN}"
        return _end(Ending(128 + stop.signum, line), speaks=speaks)
    return 0


def _end(ending: Ending, *, speaks: bool = True) -> int:
    """Says the last line of a run, or leaves it to what launched this process, and returns the exit code."""
    if not leave_ending(ending) and speaks:
        sys.stderr.write(ending.line + "\n")  # at once, since several processes may write
    return ending.exit_code


def describe(err: Exception) -> str:
    """Returns an error as one line; an OSError is named by its file and reason."""
    if isinstance(err, (MemoryError, RuntimeError)) and not isinstance(err, FairseqError):
        return f"out of memory ({' '.join(str(err).split())[:160]}); {_LESS}"
    if isinstance(err, OSError) and err.strerror:
        advice = "; make room, then run the same command again" if err.errno in _NO_ROOM else ""
        if err.errno == errno.EISDIR and err.filename:
            return f"{err.filename} is a directory; give the path of a file"
        return f"{err.filename}: {err.strerror}{advice}" if err.filename else err.strerror + advice
    return " ".join(str(err).split()) + (elsewhere(err.flag) if isinstance(err, UnknownFlagError) else "")


def _is_out_of_memory(err: RuntimeError) -> bool:
    """Returns whether torch had no memory; on a CPU it says so in words only."""
    return type(err).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(err)
