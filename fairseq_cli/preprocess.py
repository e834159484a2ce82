"""``fairseq-preprocess``: count the words of a text, make the dictionary, binarise train, valid and test."""

import dataclasses
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairseq.config.command_line import parse
from fairseq.config.common import CommonConfig, DeviceConfig
from fairseq.config.flags import flag_name
from fairseq.data.config import PreprocessConfig
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import IndexedDatasetWriter
from fairseq.errors import ConfigError, DataError
from fairseq.runtime.files import file_sha256, locked, write_json
from fairseq_cli.run import run

if TYPE_CHECKING:
    from fairseq.data.binarizer import TextSummary

logger = logging.getLogger(__name__)

DESCRIPTION = """Count the words of a text and write dict.txt, then the ids of train, valid and test (NAME.bin,
NAME.idx). Words are what whitespace separates; </s> is appended to each line."""


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


def flag_groups() -> tuple[type, ...]:
    """Returns every config dataclass that the command's flags come from."""
    return (PreprocessConfig, CommonConfig, DeviceConfig)


def main(argv: Sequence[str]) -> None:
    """Parses the flags, makes the dictionary, binarises each text, and records what was done."""
    flags = parse("fairseq-preprocess", DESCRIPTION, flag_groups(), argv)
    config = flags.build(PreprocessConfig)
    flags.build(CommonConfig)
    flags.warn_unused("fairseq-preprocess reads and writes files only")
    for name in ("thresholdsrc", "nwordssrc", "padding_factor"):
        if config.srcdict is not None and name in flags.typed:
            logger.warning("%s has no effect: --srcdict is taken as it is", flag_name(name))
    splits = [] if config.dict_only else find_splits(config)
    check_texts(config, splits)
    given = Dictionary.load(config.srcdict) if config.srcdict is not None else None
    with locked(Path(config.destdir) / "preprocess"):
        earlier = read_record(config)
        if is_done(config, splits, earlier):
            logger.info("%s holds these texts already, binarised with these settings; nothing to do", config.destdir)
            return
        if earlier.get("unfinished") == identity(config):
            logger.info("an earlier run of this command was stopped; starting over")
        else:
            check_outputs(config, splits, given)
        preprocess(config, splits, given, earlier)
    logger.info("Wrote preprocessed data to %s", config.destdir)


def preprocess(
    config: PreprocessConfig,
    splits: Sequence[Split],
    given: Dictionary | None,
    earlier: dict[str, Any],
) -> None:
    """Makes the dictionary, binarises each text, and records it; a run that is stopped in between is known by it."""
    dictionary = given if given is not None else build_dictionary(config)
    logger.info("Dictionary: %d types", len(dictionary))
    check_dictionary(dictionary, Path(config.destdir), splits)
    write_json(record_path(config), {**earlier, "unfinished": identity(config)})
    install_dictionary(dictionary, Path(config.destdir), splits)
    records = {split.name: binarize_split(split, dictionary, config.workers) for split in splits}
    write_record(config, dictionary, records, earlier)


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


def check_texts(config: PreprocessConfig, splits: Sequence[Split]) -> None:
    """Checks that every text is there; raises DataError."""
    texts = [(split.flag, split.text) for split in splits]
    if config.srcdict is None and config.trainpref is not None:
        texts.append(("--trainpref", Path(config.trainpref)))
    for flag, text in texts:
        if not text.is_file():
            problem = "is not a regular file" if text.exists() else "does not exist"
            raise DataError(f"{flag} must name a text file, but {text} {problem}; give the path of one")
        with text.open("rb"):
            pass  # one that may not be read fails before anything is written


def check_outputs(config: PreprocessConfig, splits: Sequence[Split], given: Dictionary | None) -> None:
    """Checks that nothing is there that the run would replace, unless ``--overwrite``; raises ConfigError.

    A ``dict.txt`` that equals ``--srcdict`` is not in the way: this is how a text joins a data directory.
    """
    if config.overwrite:
        return
    dict_path = Path(config.destdir) / "dict.txt"
    existing = [path for split in splits for path in split.outputs if path.exists()]
    if dict_path.exists() and (given is None or dict_path.read_bytes() != given.to_bytes()):
        existing.insert(0, dict_path)
    if existing:
        names = ", ".join(path.name for path in existing)
        hint = "" if given is not None else f", or --srcdict {dict_path} to add texts to it"
        raise ConfigError(
            f"--destdir {config.destdir} must not hold results yet, but has {names}; give --overwrite to replace them,"
            f" another --destdir{hint}"
        )


def build_dictionary(config: PreprocessConfig) -> Dictionary:
    """Returns the dictionary of the training text."""
    from fairseq.data.binarizer import count_words

    assert config.trainpref is not None
    counts = count_words(config.trainpref, config.workers)
    if not counts:
        raise DataError(f"--trainpref must name a text with words to count, but {config.trainpref} has none")
    return Dictionary.from_counts(counts, config.thresholdsrc, config.nwordssrc, config.padding_factor)


def check_dictionary(dictionary: Dictionary, destdir: Path, splits: Sequence[Split]) -> None:
    """Raises DataError if ids of a text that is not part of this run would be left beside a new dictionary."""
    others = sorted(set(destdir.glob("*.idx")) - {output for split in splits for output in split.outputs})
    if others and not is_there(dictionary, destdir):
        names = ", ".join(other.stem for other in others)
        raise DataError(
            f"{destdir} must hold ids of one dictionary, but {names} would stay beside a new one; give their texts too,"
            " or another --destdir"
        )


def is_there(dictionary: Dictionary, destdir: Path) -> bool:
    """Returns whether ``dict.txt`` is this dictionary."""
    path = destdir / "dict.txt"
    return path.exists() and path.read_bytes() == dictionary.to_bytes()


def install_dictionary(dictionary: Dictionary, destdir: Path, splits: Sequence[Split]) -> None:
    """Writes ``dict.txt`` where it differs from the one there, after removing what the run will replace.

    So ids of one dictionary never lie beside another one, wherever the run is stopped.
    """
    for split in splits:
        for output in split.outputs:
            output.unlink(missing_ok=True)
    if not is_there(dictionary, destdir):
        dictionary.save(destdir / "dict.txt")


def binarize_split(split: Split, dictionary: Dictionary, workers: int) -> dict[str, Any]:
    """Binarises one text, logs the line that users know, and returns its record."""
    from fairseq.data.binarizer import binarize

    start = time.monotonic()
    with IndexedDatasetWriter(split.prefix, len(dictionary)) as writer:
        summary = binarize(split.text, dictionary, writer, workers)
    seconds = max(time.monotonic() - start, 1e-9)
    logger.info("%s (%s lines/s)", describe(split.text, summary), f"{summary.num_sentences / seconds:,.0f}")
    return {
        "text": str(split.text),
        "text_sha256": file_sha256(split.text),
        **dataclasses.asdict(summary),
        "bin_sha256": writer.sha256(),
    }


def describe(text: Path, summary: "TextSummary") -> str:
    """Returns ``PATH: N sents, N tokens, P% replaced by <unk>``."""
    percent = 100 * summary.num_replaced / max(summary.num_tokens, 1)
    return f"{text}: {summary.num_sentences} sents, {summary.num_tokens} tokens, {percent:.3}% replaced by <unk>"


def record_path(config: PreprocessConfig) -> Path:
    """Returns where the record of a data directory lies."""
    return Path(config.destdir) / "preprocess.json"


def identity(config: PreprocessConfig) -> dict[str, Any]:
    """Returns the settings that decide what is written."""
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in ("workers", "overwrite")}


def read_record(config: PreprocessConfig) -> dict[str, Any]:
    """Returns the record of earlier runs; one that cannot be read counts for nothing, and is written anew."""
    try:
        record = json.loads(record_path(config).read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def is_done(config: PreprocessConfig, splits: Sequence[Split], record: dict[str, Any]) -> bool:
    """Returns whether the last run did the same with the same texts, and came to its end."""
    done, settings = record.get("splits"), record.get("settings")
    if config.overwrite or "unfinished" in record or not isinstance(done, dict) or not isinstance(settings, dict):
        return False
    same = {**settings, "workers": None, "overwrite": None} == {**identity(config), "workers": None, "overwrite": None}
    return same and (Path(config.destdir) / "dict.txt").exists() and all(_is_split_done(s, done) for s in splits)


def _is_split_done(split: Split, done: dict[str, Any]) -> bool:
    if not all(path.exists() for path in split.outputs) or not isinstance(done.get(split.name), dict):
        return False
    return bool(done[split.name].get("text_sha256") == file_sha256(split.text))


def write_record(
    config: PreprocessConfig, dictionary: Dictionary, records: dict[str, dict[str, Any]], earlier: dict[str, Any]
) -> None:
    """Writes ``preprocess.json``; records of earlier runs stay while the dictionary is theirs."""
    sha256 = dictionary.sha256()
    before, known = earlier.get("splits"), earlier.get("dictionary")
    kept = before if isinstance(before, dict) and isinstance(known, dict) and known.get("sha256") == sha256 else {}
    record = {
        "dictionary": {"types": len(dictionary), "sha256": sha256},
        "splits": {**kept, **records},
        "settings": dataclasses.asdict(config),
    }
    write_json(record_path(config), record)


def cli_main() -> None:
    """Entry point of the console script."""
    sys.exit(run("fairseq-preprocess", main))


if __name__ == "__main__":
    cli_main()
