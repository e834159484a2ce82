"""The texts that fairseq-preprocess is given: train, valid and test, and what each becomes."""

import codecs
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fairseq.data.config import PreprocessConfig
from fairseq.data.corpus.files import Corpus
from fairseq.data.encoding import warn_of_mark
from fairseq.errors import DataError, did_you_mean
from fairseq.storage.files import file_sha256
from fairseq.storage.stores import SOURCE_TEXT_SUFFIXES


@dataclass(frozen=True)
class Split:
    """One text to binarise: its name, the flag that gave it, where it is and where it goes (without suffix).

    With a model's tokenizer it is the documents of ``corpus``.
    """

    name: str
    flag: str
    text: Path
    prefix: Path
    corpus: Corpus | None = None

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The files that it becomes; the index first, since without it the others are nothing."""
        suffixes = (".idx", ".bin", *(SOURCE_TEXT_SUFFIXES if self.corpus is not None else ()))
        return tuple(Path(f"{self.prefix}{suffix}") for suffix in suffixes)

    @cached_property
    def files(self) -> list[Path]:
        """The files of the text."""
        return [self.text] if self.corpus is None else self.corpus.files()

    @cached_property
    def sha256(self) -> str:
        """The hash of the text."""
        return file_sha256(self.text) if self.corpus is None else self.corpus.sha256(self.files)


def find_splits(config: PreprocessConfig) -> list[Split]:
    """Returns the texts that the flags name: train, valid, valid1, …, test, test1, …."""
    train = [config.trainpref] if config.trainpref else []
    lists = {"train": train, "valid": _comma_list(config.validpref), "test": _comma_list(config.testpref)}
    splits = []
    for kind, texts in lists.items():
        for number, text in enumerate(texts):
            name, path, flag = f"{kind}{number or ''}", Path(text), f"--{kind}pref"
            corpus = None
            if config.tokenizer_directory is not None:
                globs = tuple(_comma_list(config.document_glob))
                own = Path(config.destdir)
                corpus = Corpus(path, config.documents, config.jsonl_field, globs, flag, own)
            splits.append(Split(name, flag, path, Path(config.destdir) / name, corpus))
    return splits


def _comma_list(value: str | None) -> list[str]:
    return [part for part in (value or "").split(",") if part]


def check_text(split: Split) -> None:
    """Raises DataError where a split names no text."""
    if split.corpus is not None and split.text.is_dir():
        assert split.files  # there are some
        return
    if not split.text.is_file():
        is_there = split.text.exists()
        problem = "is not a regular file" if is_there else "does not exist"
        advice = "" if is_there else _beside(split.text)
        if split.text.is_dir():
            problem = "is a directory"
            advice = "; add --tokenizer MODEL, a Hugging Face model's directory, which encodes its files, or give one"
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
