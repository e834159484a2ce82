"""What a directory of ``--save-retrieval`` holds: its columns and its manifest. docs/formats.md has the whole format.

Legend: N scored tokens · K neighbours · S settings of the cache.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from msgspec import UNSET, Meta, UnsetType

from fairseq.errors import DatastoreError
from fairseq.evaluate.cache import CacheSetting
from fairseq.knn.config import LEAST_TEMPERATURE
from fairseq.knn.neighbours.own_rows import OwnText
from fairseq.knn.retrieval.datastores import StoreRecord
from fairseq.runtime.shares import Share
from fairseq.storage.file_kinds import kind_at
from fairseq.storage.marks import is_of_kind
from fairseq.storage.records import Count, Positive, Record, read_record
from fairseq.storage.stores import RETRIEVAL_RANGE_NAME

MANIFEST = "manifest.json"
# A temperature, or the unit of one.
Above0 = Annotated[float, Meta(ge=LEAST_TEMPERATURE, le=sys.float_info.max)]


@dataclass(frozen=True)
class Column:
    """An array: its name, its dtype, and how many entries a token has in it; 0 for a single one."""

    name: str
    dtype: str
    width: int = 0

    def shape(self, num_tokens: int) -> tuple[int, ...]:
        """Returns the array's shape."""
        return (num_tokens, self.width) if self.width else (num_tokens,)

    def num_bytes(self, num_tokens: int) -> int:
        """Returns the size of the array's entries."""
        return int(np.prod(self.shape(num_tokens), dtype=np.int64)) * np.dtype(self.dtype).itemsize


def columns_of(k: int, datastore_rows: int) -> tuple[Column, ...]:
    """Returns the columns that every retrieval has."""
    return (
        Column("targets", "<i4"),
        Column("positions", "<i8"),
        Column("blocks", "<i4"),
        Column("lm_log_prob", "<f8"),
        Column("ids", "<i4" if datastore_rows < 1 << 31 else "<i8", k),
        Column("distances", "<f4", k),
        Column("hits", "|u1", -(-k // 8)),
    )


def range_path(directory: Path, share: Share) -> Path:
    """Returns the record of what a job of an array has written."""
    return directory / f"range-{share.number}-of-{share.count}.json"


def range_paths(directory: Path) -> list[Path]:
    """Returns the records of jobs that are there."""
    return sorted(path for path in directory.glob("range-*.json") if re.fullmatch(RETRIEVAL_RANGE_NAME, path.name))


def array_path(directory: Path, name: str) -> Path:
    """Returns the file of a column."""
    return directory / f"{name}.npy"


class RetrievalSettings(Record, frozen=True):
    """How blocks were cut and neighbours found; None where it was not recorded."""

    probe: int | None = None
    rerank: int | None = None
    knn_sim_func: str | None = None
    metric: str | None = None
    drop_top1: bool | None = None
    exclude_own_row: bool | None = None
    context_window: int | None = None
    tokens_per_sample: int | None = None
    sample_break_mode: str | None = None
    computed_in: str | None = None


class StoreIdentity(Record, frozen=True):
    """The ids of a datastore and of its index, as far as they have any."""

    store_id: str | None = None
    index_sha256: str | None = None
    index_fingerprint: str | None = None


class Identity(Record, frozen=True):
    """The hashes of everything that went in; ``datastores`` are the single ones where there are several."""

    weights_sha256: str | None = None
    dictionary_sha256: str | None = None
    data_sha256: str | None = None
    store_id: str | None = None
    index_sha256: str | None = None
    index_fingerprint: str | None = None
    datastores: list[StoreIdentity] | UnsetType = UNSET


class Loss(Record, frozen=True):
    """Bits per token, and perplexity; either may be infinite."""

    loss_base2: float | None
    ppl: float | None


class CacheRecord(Record, frozen=True):
    """The settings of the columns of ``cache_log_prob``, and the cache's weight in the run."""

    settings: Annotated[list[CacheSetting], Meta(min_length=1)]
    cache_lmbda: float | UnsetType = UNSET


class FileRecord(Record, frozen=True):
    """Size and checksum of a column's file, once it is written."""

    bytes: Count | UnsetType = UNSET
    sha256: str | UnsetType = UNSET


class RetrievalManifest(Record, frozen=True, kw_only=True):
    """What a retrieval belongs to.

    Attributes:
        vocabulary_size: targets are below it.
        dictionary: its file.
        split: name of the scored text.
        data: its files, without suffix.
        lmbda: weight of the neighbours in the run.
        knn_temp: temperature of the run.
        knn_temp_asked: ``auto`` where it was taken from the unit.
        distance_unit: the median squared distance from a row to the nearest other row, if it was measured.
        auto_share: which share of it ``auto`` stands for, where that is another one than for models of words.
        lm: what the language model alone gives.
        mixture: what the run gives.
        ranges: how many jobs write it, while an array of them does.
        own_text: the rows that are of the scored text and could be found, if there are any.
        files: of the columns, by name.
    """

    kind: Literal["retrieval"] = "retrieval"
    version: Literal[1] = 1
    state: Literal["writing", "done"] = "writing"
    num_tokens: Positive
    k: Positive
    vocabulary_size: Count
    dictionary: str
    split: str
    data: str
    settings: RetrievalSettings
    lmbda: float
    knn_temp: Above0
    knn_temp_asked: Literal["auto"] | UnsetType = UNSET
    distance_unit: Above0 | UnsetType = UNSET
    auto_share: Above0 | UnsetType = UNSET
    identity: Identity
    datastore: StoreRecord
    cache: CacheRecord | UnsetType = UNSET
    lm: Loss | UnsetType = UNSET
    mixture: Loss | UnsetType = UNSET
    own_text: list[OwnText] | UnsetType = UNSET
    ranges: Positive | UnsetType = UNSET
    files: dict[str, FileRecord]

    def __post_init__(self) -> None:
        for file in self.files:
            if Path(file).name != file or not file.endswith(".npy"):
                raise ValueError(f"names the file {file!r}, which is no column")

    @classmethod
    def read(cls, directory: Path) -> "RetrievalManifest":
        """Returns the manifest of a retrieval, finished or not.

        Raises:
            DatastoreError: there is none, or it is of another kind or version, or not sound.
        """
        try:
            return read_record(directory / MANIFEST, cls, DatastoreError, "save the retrieval again")
        except (FileNotFoundError, NotADirectoryError) as err:
            raise DatastoreError(f"{directory} must be a saved retrieval, but {_instead(directory)}") from err


def _instead(directory: Path) -> str:
    """Returns what a directory is that has no retrieval's manifest, and what to give."""
    inside = [found.parent for found in sorted(directory.glob(f"*/{MANIFEST}")) if is_of_kind(found, "retrieval")]
    if inside:
        return f"is a directory that has some; give {' or '.join(map(str, inside[:3]))}"
    kind = kind_at(directory)
    what = f"is {kind}" if kind and kind != "a directory" else f"has no {MANIFEST}"
    return f"{what}; fairseq-eval-lm --save-retrieval writes one"
