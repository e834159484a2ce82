"""What lies beside an index in several files (``INDEX.shards.json``), and what the files are called.

    INDEX.shards.json                the index as a whole, and the rows of each shard
    INDEX.trained(.json)             the trained index without rows: transforms and centroids, by which lists are chosen
    INDEX.shard-0-of-4(.json)        a shard: ids in its lists are the datastore's row numbers
    INDEX.shard-0-of-4_keys.npy      its own rows' keys and values, ascending by row number, where they were copied
    INDEX.shard-0-of-4_vals.npy

``--indexfile INDEX`` names the whole: where INDEX itself is no file and ``INDEX.shards.json`` is there, shards are
searched.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.manifest import IndexManifest, IndexShard
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.storage.records import Count, Positive, Record, read_record, write_record
from fairseq.storage.stores import shards_name

ShardCount = Annotated[int, Meta(ge=1, le=1 << 20)]


class ShardsManifest(Record, frozen=True, kw_only=True):
    """An index in several files.

    Attributes:
        index: what one index of all rows would say of itself, without a file.
        trained_sha256: of the trained index.
        block_rows: rows of a block.
        deal_seed: of the dealing.
        rows_of_shards: the row map, which rows each shard has.
        has_rows: keys and values of each shard lie beside it.
    """

    index: IndexManifest
    trained_sha256: str
    block_rows: Positive
    deal_seed: Count
    rows_of_shards: tuple[RowRanges, ...]
    has_rows: bool = False
    kind: Literal["index-shards"] = "index-shards"
    version: Literal[1] = 1

    def __post_init__(self) -> None:
        if sum(rows.num_rows for rows in self.rows_of_shards) != self.index.rows:
            raise ValueError(f"must deal its {self.index.rows} rows, each once, to shards")

    @property
    def num_shards(self) -> int:
        """How many shards there are."""
        return len(self.rows_of_shards)

    def of_shard(self, number: int) -> IndexManifest:
        """Returns what a shard says of itself, without its file."""
        shard = IndexShard(number, self.num_shards, self.set_id)
        return self.index.replace(rows=self.rows_of_shards[number].num_rows, shard=shard)

    @property
    def set_id(self) -> str:
        """SHA-256 that all shards of one index share, and no others."""
        rows = [shard.pairs for shard in self.rows_of_shards]
        text = f"{self.index.store_id} {self.index.spec} {self.index.metric} {self.trained_sha256} {rows}"
        return hashlib.sha256(text.encode()).hexdigest()


def shards_path(index: str | Path) -> Path:
    """Returns where the manifest of an index in several files lies."""
    return shards_name(index)


def shard_path(index: str | Path, number: int, count: int) -> Path:
    """Returns the file of a shard; its manifest, keys and values are named after it."""
    return Path(f"{index}.shard-{number}-of-{count}")


def is_sharded(index: str | Path) -> bool:
    """Returns whether an ``--indexfile`` names an index in several files."""
    return not Path(index).exists() and shards_path(index).is_file()


def read_shards(index: str | Path) -> ShardsManifest:
    """Returns the manifest of an index in several files.

    Raises:
        DatastoreError: there is none, or it is not sound.
    """
    path = shards_path(index)
    try:
        return read_record(path, ShardsManifest, DatastoreError, "build the shards again")
    except FileNotFoundError as err:
        raise DatastoreError(
            f"{path} is not there: {index} is no index in shards; fairseq-build-dstore --num-shards makes one"
        ) from err


def write_shards(index: str | Path, manifest: ShardsManifest) -> None:
    """Writes the manifest atomically."""
    write_record(shards_path(index), manifest)
