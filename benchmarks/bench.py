"""What a row of the table is, and how a command's output becomes seconds and bits."""

import json
import re
import shlex
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from floors import Architecture, Floor
from peer import PEER_ENV
from runs import Run, run

ROOT = Path(__file__).resolve().parents[1]
GOLDEN_MODEL = Architecture(layers=4, width=256, ffn_width=1024, edges=(4000, 10000, 16304))
ROW, EVAL_WINDOW, DUMP_WINDOW = 256, 192, 128  # the golden model's row, and how much of it is context

# Bits. float32 sums in another order; with exact distances, whatever the index; bfloat16 keeps 8 bits of a number.
EVAL_BITS, KNN_BITS, BF16_BITS = 2e-5, 0.002, 0.005
TRAIN_PART = 0.01  # of the peer's loss: other random weights, equal updates

EVALUATE = shlex.split(
    "--sample-break-mode none --context-window 192 --softmax-batch 1024 --max-tokens 1024 --gen-subset valid"
)


@dataclass(frozen=True)
class Measured:
    """One run of a row: seconds of the work, the process's wall time and peak, and the loss in bits if there is one."""

    seconds: float
    wall_s: float
    peak_rss_gib: float
    others: float
    loss: float | None = None
    note: str = ""


class RowError(Exception):
    """A command of a row failed, or did not print what is measured."""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    ``recorded_s`` is the original's time on another machine, to be corrected by the calibration figure that ``scales``
    names; ``parts`` are the same seconds split by what they went to, each with its own figure. ``expected`` and
    ``tolerance`` are bits; with a ``tolerance_part``, the peer's loss is what is expected.
    """

    name: str
    what: str
    ours: Callable[[], Measured]
    floor: Floor
    peer: Callable[[], Measured] | None = None
    units: tuple[float, str] | None = None
    recorded_s: float | None = None
    scales: str = "gemm"
    parts: tuple[tuple[float, str], ...] = ()
    expected: float | None = None
    tolerance: float = 0.0
    tolerance_part: float = 0.0
    bf16: bool = False
    peer_name: str = "peer"


@dataclass(frozen=True)
class Bench:
    """Where things are: golden artefacts, a directory to work in, the peer's commands, and how long to train."""

    golden: Path
    work: Path
    peer: Path | None = None
    lock: Path | None = None
    updates: int = 200

    @property
    def data(self) -> Path:
        """Returns the golden data directory."""
        return self.golden / "data-bin"

    @property
    def checkpoint(self) -> Path:
        """Returns the golden model."""
        return self.golden / "checkpoint_best.pt"

    @property
    def store(self) -> Path:
        """Returns the prefix of the datastore that the dump row writes."""
        return self.work / "dstore"

    @property
    def queries(self) -> Path:
        """Returns the prefix of the datastore of the valid split."""
        return self.work / "queries"

    def expected(self) -> dict[str, Any]:
        """Returns what the original printed."""
        record: dict[str, Any] = json.loads((self.golden / "expected.json").read_text())
        return record

    def run_ours(self, name: str, *words: str | Path) -> Run:
        """Returns a successful run of one of this checkout's commands."""
        env = {"PYTHONPATH": str(ROOT)}
        log = self.work / "logs" / f"{name}.log"
        return checked(run([sys.executable, *words], env=env, lock=self.lock, log=log))

    def run_peer(self, name: str, command: str, *words: str | Path) -> Run:
        """Returns a successful run of one of the peer's commands."""
        assert self.peer is not None
        log = self.work / "logs" / f"{name}-peer.log"
        return checked(run([self.peer / command, *words], env=PEER_ENV, lock=self.lock, log=log))

    def band_counts(self, split: str) -> list[int]:
        """Returns how many of a split's tokens lie in each band."""
        tokens = np.fromfile(self.data / f"{split}.bin", "<u2")
        return [int(count) for count in np.histogram(tokens, (0, *GOLDEN_MODEL.edges))[0]]


def checked(done: Run) -> Run:
    """Returns the run if it succeeded."""
    if done.code:
        raise RowError(f"exit code {done.code}: {done.last_line[:160]}")
    return done


def timed_run(done: Run, seconds: float | None = None, loss: float | None = None, note: str = "") -> Measured:
    """Returns the run as a measurement, of the whole process where no seconds are given."""
    return Measured(
        done.wall_s if seconds is None else seconds, done.wall_s, done.peak_rss_gib, done.others, loss, note
    )


def number(pattern: str, text: str) -> float:
    """Returns the last number that the pattern's group finds.

    Raises:
        RowError: there is none.
    """
    found = re.findall(pattern, text)
    if not found:
        raise RowError(f"no line like {pattern}")
    return float(found[-1].replace(",", ""))


def update_stamps(lines: list[tuple[float, str]]) -> list[tuple[int, float]]:
    """Returns (updates done, seconds since the start) of every JSON progress line of training, ours or the peer's."""
    stamps = []
    for seconds, text in lines:
        record = _record(text)
        if str(record.get("stage", "")).startswith("epoch"):
            stamps.append((int(record["done"]), seconds))
        elif "num_updates" in record and "gnorm" in record:
            stamps.append((int(record["num_updates"]), seconds))
    return stamps


def seconds_per_update(stamps: list[tuple[int, float]]) -> float:
    """Returns the median over the intervals between progress lines, so that a moment's disturbance counts little."""
    return statistics.median((end - start) / (last - first) for (first, start), (last, end) in pairwise(stamps))


def valid_loss(lines: list[tuple[float, str]]) -> float | None:
    """Returns the last validation loss, in bits, of training's JSON lines, ours or the peer's."""
    losses = []
    for _, text in lines:
        record = _record(text)
        if "valid_loss" in record or record.get("part") == "valid":
            losses.append(float(record.get("valid_loss", record.get("loss", "nan"))))
    return losses[-1] if losses else None


def _record(text: str) -> dict[str, Any]:
    start = text.find("{")
    try:
        record = json.loads(text[start:]) if start >= 0 else {}
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def evaluated(done: Run) -> Measured:
    """Returns the seconds and the loss that an evaluation printed."""
    text = done.text
    targets = number(r"Evaluated ([\d,]+) tokens", text)
    per_second = number(r"\(([\d.,]+) tokens/s\)", text)
    loss = number(r"Loss \(base 2\): ([\d.]+)", text)
    return timed_run(done, targets / per_second, loss)


def peer_evaluation(bench: Bench, name: str) -> Measured:
    """Returns the peer's evaluation of the golden model, which takes the row from a flag and the context out of it."""
    words = [*EVALUATE, "--tokens-per-sample", str(ROW)]
    return evaluated(bench.run_peer(name, "fairseq-eval-lm", bench.data, "--path", bench.checkpoint, *words))


def with_exact_loss(measured: Measured, results: Path) -> Measured:
    """Returns the measurement with the loss of the results file, of which the command prints four decimals."""
    return Measured(**{**vars(measured), "loss": json.loads(results.read_text())["loss_base2"]})


def slug(name: str | None) -> str:
    """Returns a name for files."""
    return re.sub(r"\W+", "-", name or "default").strip("-")


def remove(directory: Path, pattern: str) -> None:
    """Deletes the files of a pattern."""
    for path in directory.glob(pattern):
        if path.is_file():
            path.unlink()
