"""Makes a data directory from texts: ``dict.txt``, NAME.bin and NAME.idx for each text, and ``preprocess.json``.

At any moment, all ids in a directory are of its ``dict.txt``: the files to be replaced are removed before another
dictionary is written. While a run lasts, the record holds its settings as ``unfinished``.
"""

import codecs
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import UNSET, UnsetType

from fairseq.data.binarizer import binarize, count_words
from fairseq.data.config import PreprocessConfig
from fairseq.data.dictionary import Dictionary
from fairseq.data.encoding import warn_of_mark
from fairseq.data.indexed_dataset import IndexedDatasetWriter
from fairseq.errors import ConfigError, DataError, did_you_mean
from fairseq.storage.files import file_sha256, locked
from fairseq.storage.outputs import claim_all, claim_directory, reads
from fairseq.storage.records import Record, read_record, write_record
from fairseq.storage.stores import data_names

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """One text to binarise: its name, the flag that gave it, where it is and where it goes (without suffix)."""

    name: str
    flag: str
    text: Path
    prefix: Path

    @property
    def outputs(self) -> tuple[Path, Path]:
        """The files that it becomes; the index first, since without it the other is nothing."""
        return Path(f"{self.prefix}.idx"), Path(f"{self.prefix}.bin")


class PreprocessRecord(Record, frozen=True):
    """What ``preprocess.json`` says.

    Attributes:
        dictionary: its size and checksum.
        splits: by name, where a text came from, its counts and checksums.
        settings: of the last run that came to its end.
        unfinished: of a run that has not.
    """

    dictionary: dict[str, Any] | UnsetType = UNSET
    splits: dict[str, dict[str, Any]] | UnsetType = UNSET
    settings: dict[str, Any] | UnsetType = UNSET
    unfinished: dict[str, Any] | UnsetType = UNSET


def preprocess(config: PreprocessConfig) -> bool:
    """Makes the dictionary and binarises each text; returns False if that was done already.

    Raises:
        ConfigError: something would be replaced, and ``--overwrite`` is not given.
        DataError: a text or dictionary that cannot be read, or ids that another dictionary would be left beside.
    """
    named = find_splits(config)
    splits = [] if config.dict_only else named
    for split in named:
        if split in splits or (split.name == "train" and config.srcdict is None):
            _check_text(split)
    _claim(config, named, splits)
    given = Dictionary.load(config.srcdict) if config.srcdict is not None else None
    destdir, settings = Path(config.destdir), _deciding(dataclasses.asdict(config))
    with locked(destdir / "preprocess"):
        earlier = _earlier(destdir)
        if not config.overwrite and _is_done(destdir, splits, settings, earlier):
            logger.info("%s holds these texts already, binarised with these settings; nothing to do", destdir)
            return False
        if earlier.unfinished == settings:
            logger.info("an earlier run of this command was stopped; starting over")
        elif not config.overwrite:
            _refuse_to_replace(destdir, splits, given)
        dictionary = given if given is not None else _count(config)
        logger.info("Dictionary: %d types", len(dictionary))
        _check_other_texts(destdir, splits, dictionary)
        write_record(_record_path(destdir), earlier.replace(unfinished=settings))
        for output in (output for split in splits for output in split.outputs):
            output.unlink(missing_ok=True)
        if not _is_there(dictionary, destdir):
            dictionary.save(destdir / "dict.txt")
        records = {split.name: _binarize(split, dictionary, config.workers) for split in splits}
        _write_record(config, dictionary, records, earlier)
    return True


def _claim(config: PreprocessConfig, named: Sequence[Split], splits: Sequence[Split]) -> None:
    """Raises ConfigError where the run would write what is not its own, or a text that it reads."""
    directory = claim_directory("--destdir", config.destdir)
    names = data_names(directory, [split.name for split in splits])
    given = (Path(config.srcdict),) if config.srcdict is not None else ()
    dictionary = directory / "dict.txt"
    if given and dictionary.is_file() and dictionary.read_bytes() == given[0].read_bytes():
        names = [(path, kind) for path, kind in names if path != dictionary]  # it stays
        given = ()
    reads(*(split.text for split in named), *given)
    claim_all("--destdir", names)


def find_splits(config: PreprocessConfig) -> list[Split]:
    """Returns the texts that the flags name: train, valid, valid1, …, test, test1, …."""
    train = [config.trainpref] if config.trainpref else []
    lists = {"train": train, "valid": _comma_list(config.validpref), "test": _comma_list(config.testpref)}
    splits = []
    for kind, texts in lists.items():
        for number, text in enumerate(texts):
            name = f"{kind}{number or ''}"
            splits.append(Split(name, f"--{kind}pref", Path(text), Path(config.destdir) / name))
    return splits


def _comma_list(value: str | None) -> list[str]:
    return [part for part in (value or "").split(",") if part]


def _check_text(split: Split) -> None:
    if not split.text.is_file():
        is_there = split.text.exists()
        problem = "is not a regular file" if is_there else "does not exist"
        advice = "" if is_there else _beside(split.text)
        raise DataError(
            f"{split.flag} must name a text file, but {split.text} {problem}{advice or '; give the path of one'}"
        )
    with split.text.open("rb") as file:  # one that may not be read fails before anything is written
        warn_of_mark(file.read(len(codecs.BOM_UTF8)), str(split.text))


def _beside(missing: Path) -> str:
    """Returns a hint at the file that a missing one may be: of the same name and a suffix, or a similar one."""
    beside = [path for path in missing.parent.iterdir() if path.is_file()] if missing.parent.is_dir() else []
    longer = [path for path in beside if path.stem == missing.name]
    return f"; did you mean {longer[0]}?" if len(longer) == 1 else did_you_mean(str(missing), map(str, beside))


def _refuse_to_replace(destdir: Path, splits: Sequence[Split], given: Dictionary | None) -> None:
    """Raises ConfigError if the run would replace results.

    A ``dict.txt`` that equals ``--srcdict`` is not in the way: this is how a text joins a data directory.
    """
    dict_path = destdir / "dict.txt"
    existing = [path for split in splits for path in split.outputs if path.exists()]
    if dict_path.exists() and (given is None or not _is_there(given, destdir)):
        existing.insert(0, dict_path)
    if not dict_path.exists() and _record_path(destdir).exists():
        existing.insert(0, _record_path(destdir))
    if existing:
        names = ", ".join(path.name for path in existing)
        hint = "" if given is not None else f", or --srcdict {dict_path} to add texts to it"
        raise ConfigError(
            f"--destdir {destdir} must not hold results yet, but has {names}; give --overwrite to replace them,"
            f" another --destdir{hint}"
        )


def _count(config: PreprocessConfig) -> Dictionary:
    """Returns the dictionary of the training text."""
    assert config.trainpref is not None
    counts = count_words(Path(config.trainpref), config.workers)
    if not counts:
        raise DataError(f"--trainpref must name a text with words to count, but {config.trainpref} has none")
    return Dictionary.from_counts(counts, config.thresholdsrc, config.nwordssrc, config.padding_factor)


def _check_other_texts(destdir: Path, splits: Sequence[Split], dictionary: Dictionary) -> None:
    """Raises DataError if ids of a text that is not part of this run would be left beside a new dictionary."""
    others = sorted(set(destdir.glob("*.idx")) - {output for split in splits for output in split.outputs})
    if others and not _is_there(dictionary, destdir):
        names = ", ".join(other.stem for other in others)
        raise DataError(
            f"{destdir} must hold ids of one dictionary, but {names} would stay beside a new one; give their texts too,"
            " or another --destdir"
        )


def _is_there(dictionary: Dictionary, destdir: Path) -> bool:
    path = destdir / "dict.txt"
    return path.exists() and path.read_bytes() == dictionary.to_bytes()


def _binarize(split: Split, dictionary: Dictionary, workers: int) -> dict[str, Any]:
    """Binarises one text, logs the line that users know, and returns its record."""
    start = time.monotonic()
    with IndexedDatasetWriter(split.prefix, len(dictionary)) as writer:
        summary = binarize(split.text, dictionary, writer, workers)
    lines_per_s = summary.num_sentences / max(time.monotonic() - start, 1e-9)
    logger.info("%s: %s (%s lines/s)", split.text, summary, f"{lines_per_s:,.0f}")
    if summary.specials:
        named = ", ".join(f"{word} {count:,} times" for word, count in summary.specials.items())
        logger.warning("%s holds special symbols of the dictionary, which are read as these: %s", split.text, named)
    return {
        "text": str(split.text),
        "text_sha256": file_sha256(split.text),
        **dataclasses.asdict(summary),
        "bin_sha256": writer.sha256(),
    }


def _record_path(destdir: Path) -> Path:
    return destdir / "preprocess.json"


def _deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that decide what is written."""
    return {name: value for name, value in settings.items() if name not in ("workers", "overwrite")}


def _earlier(destdir: Path) -> PreprocessRecord:
    """Returns the record of earlier runs, empty if there is none that can be read."""
    try:
        return read_record(_record_path(destdir), PreprocessRecord, DataError, "")
    except (FileNotFoundError, DataError):
        return PreprocessRecord()


def _is_done(destdir: Path, splits: Sequence[Split], settings: Mapping[str, Any], earlier: PreprocessRecord) -> bool:
    """Returns whether an earlier run with the same settings and texts was finished."""
    if earlier.unfinished is not UNSET or _deciding(earlier.settings or {}) != settings:
        return False
    outputs = [destdir / "dict.txt", *(output for split in splits for output in split.outputs)]
    recorded = [(earlier.splits or {}).get(split.name, {}).get("text_sha256") for split in splits]
    return all(output.exists() for output in outputs) and recorded == [file_sha256(split.text) for split in splits]


def _write_record(
    config: PreprocessConfig, dictionary: Dictionary, records: Mapping[str, dict[str, Any]], earlier: PreprocessRecord
) -> None:
    """Writes ``preprocess.json``; texts of earlier runs stay in it if the dictionary is the same."""
    sha256 = dictionary.sha256()
    kept = (earlier.splits or {}) if (earlier.dictionary or {}).get("sha256") == sha256 else {}
    own = {"types": len(dictionary), "sha256": sha256}
    record = PreprocessRecord(own, {**kept, **records}, dataclasses.asdict(config))
    write_record(_record_path(Path(config.destdir)), record)
