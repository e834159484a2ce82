"""What ``preprocess.json`` says of a data directory, and of the tokenizer that its texts have. Loads nothing heavy."""

from pathlib import Path
from typing import Any

from msgspec import UNSET, UnsetType

from fairseq.errors import DataError
from fairseq.storage.records import Count, Positive, Record, read_record

NAME = "preprocess.json"


class TokenizerRecord(Record, frozen=True):
    """The tokenizer of a model, as a data directory's texts have it. Ids are those here.

    Attributes:
        sha256: of its ``tokenizer.json``.
        num_tokens: that it has.
        opening: id of what the model reads before a text's first token; None where it reads nothing.
        bos: id of the token that begins a text, None where there is none.
        eos: id of the token that ends one, likewise.
        add_bos: whether the tokenizer itself puts ``bos`` in front of a text. The ids on the disk are without it.
        directory: that it came from, as it was typed.
    """

    sha256: str
    num_tokens: Positive
    opening: Count | None
    bos: Count | None
    eos: Count | None
    add_bos: bool
    directory: str


class PreprocessRecord(Record, frozen=True):
    """What ``preprocess.json`` says.

    Attributes:
        dictionary: its size and checksum.
        splits: by name, where a text came from, its counts and checksums.
        settings: of the last run that came to its end.
        unfinished: of a run that has not.
        tokenizer: that the texts have, where it is a model's.
    """

    dictionary: dict[str, Any] | UnsetType = UNSET
    splits: dict[str, dict[str, Any]] | UnsetType = UNSET
    settings: dict[str, Any] | UnsetType = UNSET
    unfinished: dict[str, Any] | UnsetType = UNSET
    tokenizer: TokenizerRecord | UnsetType = UNSET


def tokenizer_record(directory: str | Path) -> TokenizerRecord | None:
    """Returns the tokenizer of a data directory; None where its texts are words, or it has no record.

    Raises:
        DataError: ``preprocess.json`` cannot be read.
    """
    path = Path(directory) / NAME
    if not path.is_file():
        return None
    found = read_record(path, PreprocessRecord, DataError, "remove it, or binarise again").tokenizer
    return None if found is UNSET else found
