"""Flags of a datastore: where it is, what goes into it, and the texts that its rows come from."""

import re
from dataclasses import dataclass

from fairseq.config.flags import flag
from fairseq.config.kinds import Dir, KeyType, Prefix, Regex
from fairseq.errors import ConfigError
from fairseq.models.key_types import KINDS, parse_key_type

DEFAULT_KEY_DIMENSION = 1024


@dataclass(frozen=True)
class DatastoreConfig:
    """Format of the datastore, when it is written or has no manifest."""

    knn_keytype: KeyType | None = flag(
        None,
        "vector that is the key [default: last_ffn_input, the datastore's own when it is read]; of a Hugging Face model"
        f" also {', '.join(KINDS)}, and such as ffn_input:15 for layer 15 of 0, 1, ... (-2: the last but one)",
    )
    dstore_size: int | None = flag(None, "number of rows: write, or search, only the first N [default: all]", minimum=1)
    dstore_fp16: bool = flag(False, "write keys in float16, half the size; with --knnlm, only checked")

    def __post_init__(self) -> None:
        if self.knn_keytype is not None:
            object.__setattr__(self, "knn_keytype", parse_key_type(self.knn_keytype).name)


@dataclass(frozen=True)
class DumpConfig:
    """Writing a datastore."""

    save_knnlm_dstore: bool = flag(False, "write the datastore of the split, instead of evaluating it")
    dstore_mmap: Prefix | None = flag(
        None, "prefix of the datastore to write: PREFIX_keys.npy, PREFIX_vals.npy, PREFIX.json"
    )
    append: bool = flag(False, "add the split's rows to the existing datastore; it stays usable meanwhile")
    overwrite: bool = flag(False, "replace existing files, if this program wrote them")
    save_interval_s: float = flag(60.0, "seconds between two states from which a stopped run resumes", minimum=0)

    def __post_init__(self) -> None:
        if self.append and self.overwrite:
            raise ConfigError("--append and --overwrite exclude each other: one keeps what is there, one replaces it")
        if self.save_knnlm_dstore and not self.dstore_mmap:
            raise ConfigError("--save-knnlm-dstore needs to know where; give --dstore-mmap PREFIX")


@dataclass(frozen=True)
class TextsConfig:
    """The texts that the rows were written from."""

    data: Dir | None = flag(None, "directory of the texts, if they have moved")
    document_start: Regex | None = flag(
        None, "regular expression of a document's first line [default: WikiText's headings = … =, else empty lines]"
    )


def parse_rows(word: str) -> tuple[int, int]:
    """Returns the rows that ``A:B`` or a single number names: the first, and the one after the last.

    Raises:
        ConfigError: it names none.
    """
    match = re.fullmatch(r"(\d{1,18})(?::(\d{1,18}))?", word)
    if match is None:
        raise ConfigError(f"rows must be a number or a range FIRST:STOP of numbers, but are {word[:80]!r}")
    start = int(match[1])
    stop = int(match[2]) if match[2] is not None else start + 1
    if start >= stop:
        raise ConfigError(f"rows {word}: the second number, after the last row, must be greater than the first")
    return start, stop
