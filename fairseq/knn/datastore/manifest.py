"""What lies beside a datastore (``PREFIX.json``) and an index (``INDEX.json``).

The files themselves say nothing of rows, width, dtypes, model or dictionary, and a wrong combination yields numbers
that only look right. So each carries a small JSON manifest. A datastore's identity is its ``store_id``, the SHA-256 of
every field that says what is in it (not of how far the writing has come). Forgetting rows changes it, but not the rows
in the files; an index records the ``rows_id`` that it was built from, which leaves that out.
"""

import dataclasses
import hashlib
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.manifest_fields import checked_field
from fairseq.runtime.files import write_json

VERSION = 1
# Progress is not identity, nor are the places where weights and data were found: their hashes say which they are.
_NOT_IDENTITY = ("rows_written", "state", "keys_sha256", "values_sha256")
_NOT_IDENTITY_SETTINGS = ("checkpoint", "data")
_CHOICES = {
    "state": ("writing", "complete"),
    "key_dtype": ("float32", "float16"),
    "value_dtype": ("int64", "int32", "int16"),
    "metric": ("l2", "ip"),
    "effort": ("quick", "thorough"),
}
# Fields that manifests of this version have not always had; the second ones are written only where they say something.
_LATER = ("effort", "segments", "forgotten", "trained_on")
_OPTIONAL = ("segments", "forgotten", "trained_on")


@dataclass(frozen=True)
class DatastoreManifest:
    """What is in a datastore.

    Attributes:
        rows: rows when complete.
        dimension: width of a key.
        key_dtype: float32 or float16.
        value_dtype: int64, int32 or int16.
        key_type: the vector that is a key.
        vocabulary_size: values are below it.
        dictionary_sha256: of the dictionary that the values index.
        weights_sha256: of the model that the keys come from.
        settings: data, blocks and context window of the run that wrote it.
        state: ``writing`` or ``complete``.
        rows_written: rows that are safely on the disk.
        keys_sha256: of the keys' file, one for each chunk of rows (fairseq/knn/datastore/checksums.py).
        values_sha256: of the values' file, likewise.
        segments: where rows come from, if not all from one source (fairseq/knn/datastore/segments.py).
        forgotten: count and checksum of the rows that are forgotten (fairseq/knn/datastore/forgotten.py).
    """

    rows: int
    dimension: int
    key_dtype: str = "float32"
    value_dtype: str = "int64"
    key_type: str = "last_ffn_input"
    vocabulary_size: int | None = None
    dictionary_sha256: str | None = None
    weights_sha256: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    state: str = "writing"
    rows_written: int = 0
    keys_sha256: tuple[str, ...] = ()
    values_sha256: tuple[str, ...] = ()
    segments: tuple[dict[str, Any], ...] = ()
    forgotten: dict[str, Any] = field(default_factory=dict)
    kind: str = "datastore"
    version: int = VERSION

    @property
    def key_bytes(self) -> int:
        """Bytes of a row's key."""
        return self.dimension * (2 if self.key_dtype == "float16" else 4)

    @property
    def value_bytes(self) -> int:
        """Bytes of a row's value."""
        return {"int64": 8, "int32": 4, "int16": 2}[self.value_dtype]

    @property
    def store_id(self) -> str:
        """SHA-256 of the fields that say what is in the datastore."""
        identity = {name: value for name, value in _recorded(self).items() if name not in _NOT_IDENTITY}
        identity["settings"] = _identifying(self.settings)
        if self.segments:  # one source without any of it left out has none, and the id that it always had
            segments = [{**record, "settings": _identifying(record.get("settings"))} for record in self.segments]
            identity["segments"] = segments
        return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def rows_id(self) -> str:
        """The ``store_id`` of the rows that the files hold, forgotten or not."""
        return dataclasses.replace(self, forgotten={}).store_id


@dataclass(frozen=True)
class IndexManifest:
    """What an index was built from, and how.

    Attributes:
        spec: FAISS factory string.
        metric: l2 or ip.
        dimension: width of a key.
        rows: keys in the index.
        nlist: inverted lists, 0 without any.
        nprobe: lists that a search visits, unless it says otherwise.
        store_id: of the datastore's rows (``rows_id``).
        seed: of the training sample.
        sample: rows that it was trained on.
        faiss_version: that built it.
        effort: quick or thorough training; thorough where an older version of this program left it out.
        trained_on: the rows that it was trained on, where more have been added since; empty where they are its own.
        num_bytes: size of its file.
        sha256: of its file.
    """

    spec: str
    metric: str
    dimension: int
    rows: int
    nlist: int
    nprobe: int
    store_id: str
    seed: int
    sample: int
    faiss_version: str
    effort: str = "thorough"
    trained_on: str = ""
    num_bytes: int = 0
    sha256: str = ""
    kind: str = "index"
    version: int = VERSION


M = TypeVar("M", DatastoreManifest, IndexManifest)


def _recorded(manifest: DatastoreManifest | IndexManifest) -> dict[str, Any]:
    """Returns the fields as they are written: those that say nothing, and were not always there, are left out."""
    fields = dataclasses.asdict(manifest)
    return {name: value for name, value in fields.items() if value or name not in _OPTIONAL}


def _identifying(settings: Any) -> Any:
    if not isinstance(settings, dict):
        return settings
    return {k: v for k, v in settings.items() if k not in _NOT_IDENTITY_SETTINGS}


def manifest_path(prefix: str | Path) -> Path:
    """Returns where the manifest of a datastore's prefix, or of an index, lies."""
    return Path(f"{prefix}.json")


def write_manifest(path: Path, manifest: DatastoreManifest | IndexManifest) -> None:
    """Writes a manifest atomically."""
    write_json(path, _recorded(manifest))


def read_manifest(path: Path, cls: type[M]) -> M | None:
    """Returns the manifest at ``path``, or None where there is no file.

    Raises:
        DatastoreError: it is not a manifest of this kind and version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as err:
        raise DatastoreError(f"{path} must be JSON, but is not ({err}); restore it, or move it away") from err
    kind = _kind(cls)
    if not isinstance(record, dict) or record.get("kind") != kind:
        found = record.get("kind") if isinstance(record, dict) else type(record).__name__
        raise DatastoreError(f"{path} must be a manifest of kind {kind!r}, but its kind is {found!r}; check the path")
    if record.get("version") != VERSION:
        raise DatastoreError(
            f"{path} is a {kind} manifest of version {record.get('version')!r}, but this program reads version"
            f" {VERSION}; update it"
        )
    return _from_record(cls, record, path)


def _from_record(cls: type[M], record: dict[str, Any], path: Path) -> M:
    kinds = typing.get_type_hints(cls)
    unknown = sorted(set(record) - set(kinds))
    if unknown:
        raise DatastoreError(f"{path} has unknown fields ({', '.join(unknown)}); restore it, or update this program")
    values: dict[str, Any] = {}
    for name in cls.__dataclass_fields__:
        if name not in record and name in _LATER:
            continue
        if name not in record:
            raise DatastoreError(f"{path} lacks the field {name!r}; restore it, or write the {_kind(cls)} again")
        values[name] = checked_field(record[name], kinds[name], f"{path}: {name!r}")
        if name in _CHOICES and values[name] not in _CHOICES[name]:
            raise DatastoreError(f"{path}: {name!r} must be {' or '.join(_CHOICES[name])}, but is {values[name]!r}")
    # An index may be trained and hold no rows yet; a datastore without any, or keys without width, cannot be.
    for name in ("dimension", "rows") if cls is DatastoreManifest else ("dimension",):
        if not values[name]:
            raise DatastoreError(f"{path}: {name!r} must be at least 1, but is 0; restore it, or write it again")
    return cls(**values)


def _kind(cls: type[M]) -> str:
    """Returns ``datastore`` or ``index``."""
    return str(cls.__dataclass_fields__["kind"].default)
