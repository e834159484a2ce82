"""A command in a process of its own that can be killed: at a moment, or at its Nth file operation.

Processes are forked from a server that has torch and FAISS loaded, so that hundreds of them take minutes.
"""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import faiss
import torch

from fairseq_cli.shared.run import run
from tests.builders.tiny_lm import main_of

MOST_KILLS_IN_A_ROW = 6
LOADED = [
    "fairseq_cli.train",
    "fairseq_cli.eval_lm",
    "fairseq_cli.preprocess",
    "build_dstore",
    "knnlm",
    "fairseq.evaluate.evaluation",
    "fairseq.evaluate.words",
    "fairseq.train.loop",
    "fairseq.knn.index.build",
    "fairseq.knn.dump.dump",
    "fairseq.models.transformer_lm",
    "fairseq.tasks.language_modeling",
    "fairseq.optim.optimizers",
    "torch._dynamo",
    "fairseq.knn.retrieval.recorder",
    "fairseq_cli.shared.memories",
    "fairseq_cli.knnlm",
    "fairseq.knn.maintain.forget",
    "fairseq.knn.index.append",
]
# What the audit hook counts: everything that creates, renames or removes. Reads are not among them.
_OPERATIONS = ("os.rename", "os.remove", "os.link", "os.truncate", "os.mkdir", "os.rmdir", "open")


def context() -> ForkServerContext:
    """Returns the context whose server has everything imported."""
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])  # before 3.13 the server forgets it
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["pytest", "tests.builders.kill_child", *LOADED])
    return server


def child(directory: str, prog: str, words: Sequence[str], kill_at: int | None, largest_file: int | None) -> None:
    """Runs a command in ``directory``; kills itself at file operation ``kill_at``; counts them in DIRECTORY.count.

    No file can grow beyond ``largest_file`` bytes, as on a disk that is full.
    """
    os.chdir(directory)
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    log = os.open(f"{directory}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in _OPERATIONS or (event == "open" and not (args[2] & (os.O_CREAT | os.O_RDWR | os.O_WRONLY))):
            return
        seen += 1
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, limits[1]))
    code = run(prog, main_of(prog), list(words))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    Path(f"{directory}.count").write_text(str(seen), encoding="ascii")
    os._exit(code)


@dataclass(frozen=True)
class Stage:
    """A command, the files that it starts from, and what an uninterrupted run makes of them."""

    name: str
    prog: str
    words: Sequence[str]
    inputs: Path
    expected: Path
    seconds: float
    operations: int

    def run(
        self,
        directory: Path,
        *,
        after_s: float | None = None,
        kill_at: int | None = None,
        sent: int = signal.SIGKILL,
        largest_file: int | None = None,
    ) -> int:
        """Runs the command, sent a signal after so many seconds or killed at an operation; returns its exit code."""
        words = (str(directory), self.prog, self.words, kill_at, largest_file)
        process = context().Process(target=child, args=words)
        process.start()
        if after_s is not None:
            process.join(after_s)
            if process.is_alive():
                assert process.pid is not None
                with suppress(ProcessLookupError):  # it has ended in this very moment
                    os.kill(process.pid, sent)
        process.join()
        assert process.exitcode is not None
        return process.exitcode


def measure(name: str, prog: str, words: Sequence[str], inputs: Path, expected: Path) -> Stage:
    """Runs a command to its end, and returns the stage with its time and its file operations."""
    shutil.copytree(inputs, expected)
    stage = Stage(name, prog, words, inputs, expected, 0.0, 0)
    start = time.monotonic()
    code = stage.run(expected)
    seconds = time.monotonic() - start
    assert code == 0, Path(f"{expected}.log").read_text(encoding="utf-8")
    return replace(stage, seconds=seconds, operations=int(Path(f"{expected}.count").read_text(encoding="ascii")))


@dataclass
class Tally:
    """How often a stage was killed, and how often what came of it was compared."""

    kills: int = 0
    compared: int = 0
    failures: int = 0


def kill_and_compare(stage: Stage, work: Path, kills: int, seed: int) -> Tally:
    """Kills a stage at random until it has been killed ``kills`` times; what comes out must be what was expected."""
    chance, tally = random.Random(seed), Tally()
    while tally.kills < kills:
        directory = work / str(tally.compared)
        shutil.copytree(stage.inputs, directory)
        in_a_row = 0
        while in_a_row < chance.randint(1, MOST_KILLS_IN_A_ROW):
            if chance.random() < 0.5:
                code = stage.run(directory, after_s=chance.random() * stage.seconds)
            else:
                code = stage.run(directory, kill_at=chance.randint(1, stage.operations))
            if code != -signal.SIGKILL:
                break
            in_a_row += 1
            tally.kills += 1
        finish_and_compare(stage, directory)
        tally.compared += 1
        shutil.rmtree(directory)
    return tally


def finish_and_compare(stage: Stage, directory: Path) -> None:
    """Runs the stage to its end; every file, and no other, must be there to the byte."""
    code = stage.run(directory)
    assert code == 0, Path(f"{directory}.log").read_text(encoding="utf-8")
    found, expected = contents(directory), contents(stage.expected)
    differing = [name for name in {**found, **expected} if found.get(name) != expected.get(name)]
    assert not differing, f"{stage.name}: {differing} in {directory} differ from {stage.expected}"


def contents(directory: Path) -> dict[str, bytes]:
    """Returns the bytes of every file under a directory, but of those that hold times."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(directory)): b"" if path.name.endswith(".time.json") else path.read_bytes()
        for path in files
    }
