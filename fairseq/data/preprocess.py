"""Makes a data directory from texts: ``dict.txt``, NAME.bin and NAME.idx for each text, and ``preprocess.json``.

At any moment, all ids in a directory are of its ``dict.txt``: the files to be replaced are removed before another
dictionary is written. Where the dictionary stays, the files of a text do so until the new ones are whole. While a run
lasts, the record holds its settings as ``unfinished``.
"""

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import UNSET

from fairseq.data.binarizer import binarize, count_words
from fairseq.data.config import PreprocessConfig
from fairseq.data.corpus.binarize import binarize_corpus
from fairseq.data.corpus.files import Corpus
from fairseq.data.corpus.record import NAME, PreprocessRecord
from fairseq.data.corpus.splits import Split, check_text, find_splits
from fairseq.data.corpus.symbols import dictionary_of
from fairseq.data.corpus.words import Words, is_there
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import IndexedDatasetWriter
from fairseq.errors import ConfigError, DataError, FairseqError
from fairseq.storage.file_kinds import is_hub_name
from fairseq.storage.files import locked
from fairseq.storage.outputs import claim_all, claim_directory, reads
from fairseq.storage.records import read_record, write_record
from fairseq.storage.stores import data_names, source_text_names
from fairseq.text.model_tokenizer import ModelTokenizer

logger = logging.getLogger(__name__)


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
            check_text(split)
    words = _given(config)
    _claim(config, named, splits)
    destdir, settings = Path(config.destdir), _deciding(dataclasses.asdict(config))
    with locked(destdir / "preprocess"):
        earlier = _earlier(destdir)
        same_words = words.dictionary is None or words.is_vocabulary_of(destdir, earlier) or config.srcdict is not None
        if not config.overwrite and same_words and _is_done(destdir, splits, settings, earlier):
            logger.info("%s holds these texts already, binarised with these settings; nothing to do", destdir)
            return False
        if earlier.unfinished == settings:
            logger.info("an earlier run of this command was stopped; starting over")
        elif not config.overwrite:
            _refuse_to_replace(destdir, splits, words, earlier)
        if words.dictionary is None:
            words = Words(_count(config))
        _write(config, splits, words, earlier)
    return True


def _given(config: PreprocessConfig) -> Words:
    """Returns what is given to decide the ids."""
    directory = config.tokenizer_directory
    if directory is not None and not Path(directory).exists():
        beyond = "left out, words are what whitespace separates: tokenise the text beforehand"
        if is_hub_name(directory):
            beyond = f"a model of the Hugging Face hub: hf download {directory} --local-dir DIR, and give DIR"
        raise ConfigError(
            f"--tokenizer must be space, or the directory of a model's tokenizer.json, but is {directory!r}, which does"
            f" not exist; {beyond}"
        )
    if directory is not None:
        tokenizer = ModelTokenizer(directory)
        return Words(dictionary_of(tokenizer.symbols()), tokenizer)
    return Words(Dictionary.load(config.srcdict) if config.srcdict is not None else None)


def _write(config: PreprocessConfig, splits: Sequence[Split], words: Words, earlier: PreprocessRecord) -> None:
    """Writes the dictionary, the texts and the record."""
    destdir, dictionary = Path(config.destdir), words.dictionary
    assert dictionary is not None
    logger.info("Dictionary: %d types", len(dictionary))
    _check_other_texts(destdir, splits, words, earlier)
    unfinished = earlier.replace(unfinished=_deciding(dataclasses.asdict(config)))
    stays = words.is_vocabulary_of(destdir, earlier)
    write_record(_record_path(destdir), unfinished)
    if not stays:
        for split in splits:
            _remove(_old_files(destdir, split))
    if not is_there(dictionary, destdir):
        dictionary.save(destdir / "dict.txt")
    records: dict[str, dict[str, Any]] = {}
    try:
        for split in splits:
            records[split.name] = _binarize(split, words, config.workers)
    except FairseqError:
        if stays and earlier.dictionary is not UNSET:  # each text is as it was, or as it is to be
            write_record(_record_path(destdir), earlier.replace(splits={**(earlier.splits or {}), **records}))
        raise
    _write_record(config, words, records, earlier)


def _old_files(destdir: Path, split: Split) -> list[Path]:
    """Returns the files of a split, and its source text, that an earlier run has written; the index first."""
    names = source_text_names(destdir, [split.name])
    return [*split.outputs, *(path for path, kind in names if path.is_file() and kind.is_ours(path))]


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _claim(config: PreprocessConfig, named: Sequence[Split], splits: Sequence[Split]) -> None:
    """Raises ConfigError where the run would write what is not its own, or a text that it reads."""
    directory = claim_directory("--destdir", config.destdir)
    names = data_names(directory, [split.name for split in splits])
    names += source_text_names(directory, [split.name for split in splits if split.corpus is not None])
    given = (Path(config.srcdict),) if config.srcdict is not None else ()
    dictionary = directory / "dict.txt"
    if given and dictionary.is_file() and dictionary.read_bytes() == given[0].read_bytes():
        names = [(path, kind) for path, kind in names if path != dictionary]  # it stays
        given = ()
    reads(*(split.text for split in named if split.text.is_file()), *given)
    claim_all("--destdir", names)


def _refuse_to_replace(destdir: Path, splits: Sequence[Split], words: Words, earlier: PreprocessRecord) -> None:
    """Raises ConfigError if the run would replace results.

    A ``dict.txt`` that equals ``--srcdict`` or is the tokenizer's is not in the way: so a text joins a data directory.
    """
    dict_path = destdir / "dict.txt"
    existing = [path for split in splits for path in split.outputs if path.exists()]
    if dict_path.exists() and not words.is_vocabulary_of(destdir, earlier):
        existing.insert(0, dict_path)
    if not dict_path.exists() and _record_path(destdir).exists():
        existing.insert(0, _record_path(destdir))
    if existing:
        names = ", ".join(path.name for path in existing) + words.difference_from(earlier)
        has_words = words.dictionary is None and earlier.tokenizer is UNSET
        hint = "" if not has_words else f", --srcdict {dict_path} to add texts to it"
        raise ConfigError(
            f"--destdir {destdir} must not hold results yet, but has {names}; give --overwrite to replace them"
            f"{hint}, or another --destdir"
        )


def _count(config: PreprocessConfig) -> Dictionary:
    """Returns the dictionary of the training text."""
    assert config.trainpref is not None
    counts = count_words(Path(config.trainpref), config.workers)
    if not counts:
        raise DataError(f"--trainpref must name a text with words to count, but {config.trainpref} has none")
    return Dictionary.from_counts(counts, config.thresholdsrc, config.nwordssrc, config.padding_factor)


def _check_other_texts(destdir: Path, splits: Sequence[Split], words: Words, earlier: PreprocessRecord) -> None:
    """Raises DataError if ids of a text that is not part of this run would be left beside a new dictionary."""
    others = sorted(set(destdir.glob("*.idx")) - {output for split in splits for output in split.outputs})
    if others and not words.is_vocabulary_of(destdir, earlier):
        names = ", ".join(other.stem for other in others)
        raise DataError(
            f"{destdir} must hold ids of one dictionary, but {names} would stay beside a new one; give their texts too,"
            " or another --destdir"
        )


def _binarize(split: Split, words: Words, workers: int) -> dict[str, Any]:
    """Binarises one text, logs the line that users know, and returns its record."""
    dictionary = words.dictionary
    assert dictionary is not None
    if split.corpus is not None and words.tokenizer is not None:
        return _tokenize(split, split.corpus, words.tokenizer, len(dictionary), workers)
    start, old = time.monotonic(), _old_files(split.prefix.parent, split)
    with IndexedDatasetWriter(split.prefix, len(dictionary)) as writer:
        summary = binarize(split.text, dictionary, writer, workers)
        _remove(old)
    lines_per_s = summary.num_sentences / max(time.monotonic() - start, 1e-9)
    logger.info("%s: %s (%s lines/s)", split.text, summary, f"{lines_per_s:,.0f}")
    if summary.specials:
        named = ", ".join(f"{word} {count:,} times" for word, count in summary.specials.items())
        logger.warning("%s holds special symbols of the dictionary, which are read as these: %s", split.text, named)
    return {
        "text": str(split.text),
        "text_sha256": split.sha256,
        **dataclasses.asdict(summary),
        "bin_sha256": writer.sha256(),
    }


def _tokenize(split: Split, corpus: Corpus, tokenizer: ModelTokenizer, size: int, workers: int) -> dict[str, Any]:
    """Binarises documents with a model's tokenizer, says so, and returns their record."""
    start = time.monotonic()
    remove = partial(_remove, _old_files(split.prefix.parent, split))
    summary, hashes = binarize_corpus(corpus, split.files, split.prefix, tokenizer, size, workers, remove)
    mb_per_s = summary.num_bytes / 1e6 / max(time.monotonic() - start, 1e-9)
    logger.info("%s: %s (%.2f MB/s)", split.text, summary, mb_per_s)
    if summary.skipped:
        named = ", ".join(summary.skipped[:3]) + (", …" if len(summary.skipped) > 3 else "")
        logger.warning("%s: left out %d files that are no UTF-8 text: %s", split.text, len(summary.skipped), named)
    if summary.specials:
        named = ", ".join(f"{token} {count:,} times" for token, count in summary.specials.items())
        logger.warning("%s holds special tokens of the tokenizer, which are read as these: %s", split.text, named)
    counts = {**dataclasses.asdict(summary), "skipped": len(summary.skipped)}
    return {"text": str(split.text), "text_sha256": split.sha256, **counts, **hashes}


def _record_path(destdir: Path) -> Path:
    return destdir / NAME


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
    return all(output.exists() for output in outputs) and recorded == [split.sha256 for split in splits]


def _write_record(
    config: PreprocessConfig, words: Words, records: Mapping[str, dict[str, Any]], earlier: PreprocessRecord
) -> None:
    """Writes ``preprocess.json``; texts of earlier runs stay in it if the dictionary and the tokenizer are the same."""
    assert words.dictionary is not None
    sha256 = words.dictionary.sha256()
    is_same = (earlier.dictionary or {}).get("sha256") == sha256 and words.has_tokenizer_of(earlier)
    kept = (earlier.splits or {}) if is_same else {}
    own = {"types": len(words.dictionary), "sha256": sha256}
    record = PreprocessRecord(own, {**kept, **records}, dataclasses.asdict(config), tokenizer=words.record or UNSET)
    write_record(_record_path(Path(config.destdir)), record)
