"""The results of a saved retrieval: one file beside it, with a section for each command that has looked at it.

    DIR/results.json        {"kind": "results", "version": 1, "retrieval": SHA-256 of DIR/manifest.json,
                             "sections": {"evaluation": …, "sweep": …, "sweep_cache": …, "lmbda": …}}
    DIR/results.time.json   the same for what no repetition gives again: the command, seconds

Sections are plain values; the same commands give the same bytes in any order. A retrieval that was written anew has
another manifest: sections about the old one are not read, and are gone when the file is next written.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fairseq.errors import DatastoreError
from fairseq.knn.config import LEAST_TEMPERATURE
from fairseq.knn.retrieval.format import MANIFEST
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.storage.files import file_sha256, locked
from fairseq.storage.records import Record, as_json, read_record, write_record

logger = logging.getLogger(__name__)

RESULTS, TIMES = "results.json", "results.time.json"
# Another command that ends at the same moment has the lock for as long as two small files take.
_PATIENCE_S = 10.0


class Results(Record, frozen=True, kw_only=True):
    """The sections of a retrieval's results, and the checksum of its manifest."""

    kind: Literal["results"] = "results"
    version: Literal[1] = 1
    retrieval: str
    sections: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Kept:
    """What a command has found: the retrieval, the section's name, its plain values, and what else it is about."""

    directory: Path
    section: str
    record: Mapping[str, Any]
    others: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Choice:
    """Weight λ, k and T of the neighbours that a command has chosen for a retrieval, and which one that was."""

    lmbda: float
    k: int
    knn_temp: float
    words: str


def swept_choice(retrieval: Retrieval, names: Sequence[str] = ("sweep", "sweep_cache")) -> Choice | None:
    """Returns the choice of the first of some sweeps that has made one; None where none ran, or λ 0 was best.

    Args:
        retrieval: that was swept.
        names: of the sections; a cache sweep's choice is that of the neighbours alone.

    Raises:
        DatastoreError: the results are broken.
    """
    sections = read_results(retrieval.directory)
    for name in (name for name in names if name in sections):
        command, section = f"fairseq-knnlm {name.replace('_', '-')}", sections[name]
        try:
            best = section["best"]
            weight, search = (best, best) if name == "sweep" else (best["+ neighbours"], section["neighbours"])
            words = f"as {command} has chosen on {section['chosen_on']['split']}"
            choice = Choice(float(weight["lmbda"]), int(search["k"]), float(search["knn_temp"]), words)
            if not (0 <= choice.lmbda <= 1 and 1 <= choice.k <= retrieval.k and choice.knn_temp >= LEAST_TEMPERATURE):
                raise ValueError(f"{choice.lmbda:g}, {choice.k}, {choice.knn_temp:g} are no λ, k and T of it")
        except (KeyError, TypeError, ValueError, OverflowError) as err:
            raise unsound(retrieval.directory, name, command, err) from err
        if choice.lmbda > 0:
            return choice
    return None


def unsound(directory: Path, name: str, command: str, err: Exception) -> DatastoreError:
    """Returns the error of a section that is not what its command writes."""
    return DatastoreError(
        f"{directory / RESULTS}: the section {name!r} is not sound ({type(err).__name__}: {err}); run {command} again"
    )


def text_record(retrieval: Retrieval) -> dict[str, Any]:
    """Returns what a result says of the text that it is about."""
    said = as_json(retrieval.manifest)
    kept = {name: said[name] for name in ("split", "data", "num_tokens", "k", "identity", "settings")}
    return {"directory": str(retrieval.directory), **kept}


def plain(value: Any) -> Any:
    """Returns the value with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_results(directory: Path) -> dict[str, dict[str, Any]]:
    """Returns the sections of a retrieval's results; none where nothing was kept of this retrieval.

    Raises:
        DatastoreError: the file is broken, or of another version.
    """
    return _sections(directory / RESULTS, file_sha256(directory / MANIFEST))


def check_results(directory: Path) -> None:
    """Raises what ``read_results`` does, before the work rather than after it; there may be no retrieval yet."""
    for name in (RESULTS, TIMES):
        _sections(directory / name, "")


def keep(found: Kept, command: list[str], speed: Mapping[str, float]) -> None:
    """Puts a section into the results of the retrievals that it is of, in place of an earlier one.

    A directory that cannot be written is no failure: what the command itself writes is there already.

    Args:
        found: the section.
        command: words of the command that found it.
        speed: seconds, and whatever else is no result.

    Raises:
        DatastoreError: the file is broken, or of another version.
        FairseqError: another process goes on writing it.
    """
    for directory in (found.directory, *found.others):
        path = directory / RESULTS
        try:
            with locked(path, timeout_s=_PATIENCE_S):
                retrieval = file_sha256(directory / MANIFEST)
                for file, section in (
                    (path, dict(found.record)),
                    (path.with_name(TIMES), {"command": command, **speed}),
                ):
                    sections = {**_sections(file, retrieval), found.section: section}
                    write_record(file, Results(retrieval=retrieval, sections=dict(sorted(sections.items()))))
        except PermissionError as err:
            why = "%s cannot be written (%s): fairseq-knnlm report will not show this result"
            logger.warning(why, path, err.strerror)


def _sections(path: Path, retrieval: str) -> dict[str, dict[str, Any]]:
    try:
        results = read_record(path, Results, DatastoreError, "remove it, and run its commands again")
    except FileNotFoundError:
        return {}
    return results.sections if results.retrieval == retrieval else {}
