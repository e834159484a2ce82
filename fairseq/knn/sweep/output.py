"""What sweeps of saved retrievals write, and where: shared by ``sweep`` and ``sweep-cache``."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fairseq.errors import ConfigError
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.sweep.bootstrap import Gain
from fairseq.runtime.files import atomic_write


def output_directory(out: str | None, retrieval: Retrieval, name: str) -> Path:
    """Returns the directory that a sweep writes to: ``out``, else ``name`` beside the retrieval.

    Raises:
        ConfigError: a file is in its place.
    """
    directory = Path(out) if out is not None else retrieval.directory / name
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"--out: {directory} must be a directory, but is a file; give another")
    return directory


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def csv_text(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table as CSV, with a line of names first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return text.getvalue()


def text_record(retrieval: Retrieval) -> dict[str, Any]:
    """Returns what a result says of the text that it is about."""
    kept = {name: retrieval.manifest[name] for name in ("split", "data", "num_tokens", "k", "identity", "settings")}
    return {"directory": str(retrieval.directory), **kept}


def interval_words(gain: Gain) -> str:
    """Returns the interval of a gain in perplexity, or that there is none."""
    return "none" if gain.ppl_interval is None else f"{gain.ppl_interval[0]:.2f} to {gain.ppl_interval[1]:.2f}"


def resamples_words(gains: Sequence[Gain]) -> str:
    """Returns how intervals were made; ``gains`` has one for each text."""
    drawn = " and ".join(f"{gain.num_blocks:,}" for gain in gains)
    return f"Interval: percentiles of {gains[0].num_resamples:,} paired resamples of {drawn} blocks."


def plain(value: Any) -> Any:
    """Returns the value with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
