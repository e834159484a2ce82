"""What lies beside a datastore (``PREFIX.json``) and an index (``INDEX.json``).

The files themselves do not say how many rows they have, how wide a key is, or which model and dictionary they belong
to, and a wrong combination yields numbers that only look right. So each carries a small JSON manifest. A datastore's
identity is its ``store_id``, the SHA-256 of every field that says what is in it (not of how far the writing has come).
Forgetting rows changes it, but not the rows in the files: an index records the ``rows_id`` that it was built from,
which leaves that out.

Where the rows come from, its segments say, one for each source that was written into it:

    rows     0 ──────────── 5000 ─────── 7400
    segment  train           valid             what a source gave, in order
    spans    [0, 1200)       [0, 2400)         which of the source's own rows are left after a compaction
             [1700, 5500)

A source is a text and the way it was cut into blocks (``settings``); its rows are numbered from 0, as a datastore of it
alone would have them. A datastore that was written in one go and never compacted records no segments: it has one, of
all its rows. Appending adds a segment and leaves the earlier ones as they were, so an index that was built before is
known by the id that the datastore had then (``DatastoreManifest.earlier_states``).
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from msgspec import UNSET, Meta, UnsetType

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.format import KeyDtype, Layout, ValueDtype, row_files
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.datastore.segments import Segment as Segment  # part of the manifest, one import
from fairseq.knn.datastore.segments import first_rows as first_rows
from fairseq.models.protocol import ModelIdentity
from fairseq.storage.files import file_sha256
from fairseq.storage.fingerprint import fingerprint
from fairseq.storage.records import Count, Positive, Record, as_json, read_record, write_record

# Progress is not identity, nor are the places where weights and data were found: their hashes say which they are.
_NOT_IDENTITY = ("rows_written", "state", "keys_sha256", "values_sha256", "fingerprints")
_NOT_IDENTITY_SETTINGS = ("checkpoint", "data")


class Forgotten(Record, frozen=True):
    """How many rows are forgotten, and the checksum of the file that lists them (forgotten.py)."""

    rows: Positive
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class DatastoreManifest(Record, frozen=True, kw_only=True):
    """What is in a datastore.

    Attributes:
        rows: rows when complete.
        dimension: width of a key.
        key_type: the vector that is a key.
        vocabulary_size: values are below it.
        dictionary_sha256: of the dictionary that the values index.
        weights_sha256: of the model that the keys come from.
        settings: data, blocks and context window of the run that wrote it.
        rows_written: rows that are safely on the disk.
        keys_sha256: of the keys' file, one for each chunk of rows (fairseq/knn/datastore/format.py).
        values_sha256: of the values' file, likewise.
        fingerprints: of the rows in either file (fairseq/storage/fingerprint.py); older versions left them out.
        segments: where rows come from, if not all from one source.
        forgotten: the rows that no search finds any more, if there are any.
    """

    rows: Positive
    dimension: Positive
    key_dtype: KeyDtype
    value_dtype: ValueDtype
    key_type: str
    vocabulary_size: Count | None
    dictionary_sha256: str | None
    weights_sha256: str | None
    settings: dict[str, Any]
    state: Literal["writing", "complete"] = "writing"
    rows_written: Count = 0
    keys_sha256: tuple[str, ...] = ()
    values_sha256: tuple[str, ...] = ()
    fingerprints: tuple[str, str] | UnsetType = UNSET
    segments: tuple[Segment, ...] | UnsetType = UNSET
    forgotten: Forgotten | UnsetType = UNSET
    kind: Literal["datastore"] = "datastore"
    version: Literal[1] = 1

    def __post_init__(self) -> None:
        rows = sum(segment.rows for segment in self.segments or ())
        if self.segments and rows != self.rows:
            raise ValueError(f"must have segments of its {self.rows} rows, but they have {rows}")

    @property
    def layout(self) -> Layout:
        """The layout of its files."""
        return Layout(self.rows, self.dimension, self.key_dtype, self.value_dtype)

    @property
    def has_keys(self) -> bool:
        """Whether it has keys: a datastore of others may be adopted without."""
        return not self.fingerprints or self.fingerprints[0] != ""

    @property
    def model(self) -> ModelIdentity:
        """The model that it was written with, as far as it says."""
        return ModelIdentity(
            self.dictionary_sha256,
            self.weights_sha256,
            self.vocabulary_size,
            self.dimension,
            self.key_type,
            self.settings.get("tokenizer_sha256"),
            # What is adopted does not say: rows of others have BOS where their text had it.
            None if "adopted_by" in self.settings else bool(self.settings.get("bos_in_front")),
        )

    def of_files(self, prefix: Path) -> "DatastoreManifest":
        """Returns the manifest with the fingerprints of its rows in the files."""
        keys, values = (
            fingerprint(path, self.rows * size) if path.exists() else ""  # adopted without keys
            for path, size in row_files(prefix, self.layout)
        )
        return self.replace(fingerprints=(keys, values))

    @property
    def store_id(self) -> str:
        """SHA-256 of the fields that say what is in the datastore."""
        identity = {name: value for name, value in as_json(self).items() if name not in _NOT_IDENTITY}
        for record in (identity, *identity.get("segments", ())):
            record["settings"] = {k: v for k, v in record["settings"].items() if k not in _NOT_IDENTITY_SETTINGS}
        return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def rows_id(self) -> str:
        """The ``store_id`` of the rows that the files hold, forgotten or not."""
        return self.replace(forgotten=UNSET).store_id

    @property
    def all_segments(self) -> tuple[Segment, ...]:
        """Its segments, in the order of the rows: without ``segments`` a single one, of all rows."""
        whole = RowRanges.of([[0, self.rows]])
        return self.segments or (Segment(settings=self.settings, source_rows=self.rows, spans=whole),)

    def with_segments(self, segments: Sequence[Segment]) -> "DatastoreManifest":
        """Returns the manifest of other rows: those of ``segments``."""
        first, rows = segments[0], sum(segment.rows for segment in segments)
        is_whole = len(segments) == 1 and first.rows == first.source_rows
        return self.replace(rows=rows, settings=first.settings, segments=UNSET if is_whole else tuple(segments))

    def earlier_states(self) -> Iterator["DatastoreManifest"]:
        """Yields the datastore as it is, then as it was before each of its appended segments, the latest first."""
        segments = self.all_segments
        for count in range(len(segments), 0, -1):
            yield self.with_segments(segments[:count])


class IndexShard(Record, frozen=True):
    """Which part of an index in several files a file is.

    Attributes:
        number: from 0.
        count: how many there are.
        set_id: what all shards of one index share (``ShardsManifest.set_id``).
    """

    number: Count
    count: Positive
    set_id: str


class ListsFile(Record, frozen=True):
    """The inverted lists of an index, where they are a file of their own (``INDEX.ivfdata``)."""

    num_bytes: Count
    sha256: str
    fingerprint: str

    @classmethod
    def of_file(cls, path: Path) -> "ListsFile":
        """Returns size, checksum and fingerprint of a file."""
        return cls(path.stat().st_size, file_sha256(path), fingerprint(path))


class IndexManifest(Record, frozen=True, kw_only=True):
    """What an index was built from, and how.

    Attributes:
        spec: FAISS factory string.
        metric: l2 or ip (inner product).
        dimension: width of a key.
        rows: keys in the index; 0 while it is only trained.
        nlist: inverted lists, 0 without any.
        nprobe: lists that a search visits, unless it says otherwise.
        store_id: of the datastore's rows (``rows_id``).
        seed: of the training sample.
        sample: rows that it was trained on.
        faiss_version: that built it.
        effort: quick or thorough training; thorough where an older version of this program left it out.
        trained_on: the rows that it was trained on, where more have been added since.
        datastore: prefix of the datastore that it was built from, relative to its own directory.
        num_bytes: size of its file.
        sha256: of its file.
        fingerprint: of its file (fairseq/storage/fingerprint.py); older versions of this program left it out.
        shard: which shard of an index it is, if it is one.
        rows_fingerprints: of the shard's own keys and values, where they lie beside it.
        lists: the file that its inverted lists are in, where that is another one.
    """

    spec: str
    metric: Literal["l2", "ip"]
    dimension: Positive
    rows: Count
    nlist: Count
    nprobe: Count
    store_id: str
    seed: Count
    sample: Count
    faiss_version: str
    effort: Literal["quick", "thorough"] = "thorough"
    trained_on: str | UnsetType = UNSET
    datastore: str | UnsetType = UNSET
    num_bytes: Count
    sha256: str
    fingerprint: str | UnsetType = UNSET
    shard: IndexShard | UnsetType = UNSET
    rows_fingerprints: tuple[str, str] | UnsetType = UNSET
    lists: ListsFile | UnsetType = UNSET
    kind: Literal["index"] = "index"
    version: Literal[1] = 1

    @property
    def size(self) -> int:
        """Bytes of its file, and of its lists where those are another."""
        return self.num_bytes + (self.lists.num_bytes if self.lists else 0)

    def of_file(self, path: Path) -> "IndexManifest":
        """Returns the manifest with size, checksum and fingerprint of a file."""
        return self.replace(num_bytes=path.stat().st_size, sha256=file_sha256(path), fingerprint=fingerprint(path))

    def of_no_file(self) -> "IndexManifest":
        """Returns what the manifest says of the index, whatever its file is."""
        return self.replace(num_bytes=0, sha256="", fingerprint=UNSET, rows_fingerprints=UNSET, lists=UNSET)


M = TypeVar("M", DatastoreManifest, IndexManifest)


def manifest_path(prefix: str | Path) -> Path:
    """Returns where the manifest of a datastore's prefix, or of an index, lies."""
    return Path(f"{prefix}.json")


def write_manifest(path: Path, manifest: DatastoreManifest | IndexManifest) -> None:
    """Writes a manifest atomically."""
    write_record(path, manifest)


def read_manifest(path: Path, cls: type[M]) -> M | None:
    """Returns the manifest at ``path``, or None where there is no file.

    Raises:
        DatastoreError: it is not a manifest of this kind and version.
    """
    try:
        return read_record(path, cls, DatastoreError, "restore it, or write it again")
    except FileNotFoundError:
        return None
