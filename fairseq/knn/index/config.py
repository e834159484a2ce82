"""Flags of ``fairseq-build-dstore``."""

import os
from dataclasses import dataclass
from pathlib import Path

from fairseq.config.flags import flag
from fairseq.config.kinds import File, Prefix, Spec
from fairseq.errors import ConfigError
from fairseq.knn.datastore.config import DEFAULT_KEY_DIMENSION

AUTO = "auto"
MERGES = {
    "none": "shards stay, for a search over them",
    "memory": "one file, the same as without shards",
    "disk": "lists in INDEX.ivfdata, which a search reads from there",
}
EFFORTS = {"quick": "same recall, faster", "thorough": "FAISS's own training"}


@dataclass(frozen=True)
class BuildConfig:
    """Datastore and index."""

    dstore_mmap: Prefix | None = flag(
        None, "prefix of the datastore's files: PREFIX_keys.npy, PREFIX_vals.npy", required=True
    )
    faiss_index: File | None = flag(None, "file to write the index to", required=True)
    dstore_size: int | None = flag(None, "number of rows [default: from the manifest]", minimum=1)
    dimension: int | None = flag(
        None, f"width of a key [default: from the manifest, else {DEFAULT_KEY_DIMENSION}]", minimum=1
    )
    dstore_fp16: bool = flag(False, "keys are float16 [default: from the manifest]")
    index_spec: Spec | None = flag(
        None,
        "kind of index: auto chooses one that fits, and says why; else a FAISS factory string, such as Flat or"
        " OPQ32,IVF2048,PQ32 [default: IVF with --ncentroids lists and codes of --code-size bytes]",
    )
    recall: float = flag(
        0.8, "with --index-spec auto: share of the 1024 nearest rows that a search must find", minimum=0, maximum=1
    )
    ncentroids: int = flag(4096, "number of inverted lists", minimum=1)
    code_size: int = flag(64, "bytes of a key's code in the index", minimum=1)
    probe: int = flag(8, "inverted lists that a search visits, unless its own --probe says otherwise", minimum=1)
    effort: str = flag("quick", "how inverted lists are trained and filled", choices=EFFORTS)
    gpu_index: bool = flag(False, "train and fill inverted lists on the GPU (needs the GPU build of FAISS)")
    train_sample: int = flag(1_000_000, "train the index on at most N rows", minimum=1)
    num_keys_to_add_at_a_time: int = flag(1_000_000, "add at most N rows at a time", minimum=1)
    save_interval_s: float = flag(600.0, "seconds between two states from which a stopped build resumes", minimum=0)
    append: bool = flag(False, "add the rows that were appended to the datastore after the index was built")
    retrain: bool = flag(False, "with --append: train the index again, on all rows")
    drift_warning: float = flag(
        1.25,
        "with --append: warn if new rows lie farther from the index's centroids or codes than old ones, by this factor",
        minimum=1,
    )
    num_shards: int | None = flag(
        None, "build the index in N shards, each of some of the rows", minimum=1, maximum=1 << 20
    )
    shard_id: int | None = flag(
        None, "with --num-shards: build this shard alone, from 0 [default: all that are not there yet]", minimum=0
    )
    merge: str = flag("none", "with --num-shards: what becomes of the shards", choices=MERGES)
    with_rows: bool = flag(
        False, "with --num-shards: copy each shard's keys and values beside it, for a machine of its own"
    )
    starting_point: int = flag(0, "row to begin with", minimum=0, no_effect="a stopped build resumes by itself")
    overwrite: bool = flag(False, "replace an existing index")
    seed: int = flag(1, "seed of the training sample", minimum=0)

    @property
    def datastore(self) -> str:
        """The datastore's prefix, relative to the index's directory: it holds where both have moved together."""
        prefix, index = os.path.realpath(self.dstore_mmap or ""), os.path.realpath(self.faiss_index or "")
        return os.path.relpath(prefix, Path(index).parent)

    def __post_init__(self) -> None:
        for name, value in (("--dstore-mmap", self.dstore_mmap), ("--faiss-index", self.faiss_index)):
            if not value:
                raise ConfigError(f"{name} is required: the datastore's prefix and the index's file must be named")
        if self.append and self.overwrite:
            raise ConfigError("--append and --overwrite exclude each other: one keeps the index, one replaces it")
        if self.num_shards is None:
            for name, typed in (
                ("--shard-id", self.shard_id is not None),
                ("--merge", self.merge != "none"),
                ("--with-rows", self.with_rows),
            ):
                if typed:
                    raise ConfigError(f"{name} needs --num-shards, in how many shards the index is built")
        else:
            self._check_shards(self.num_shards)
        if self.retrain and not self.append:
            raise ConfigError(
                "--retrain trains an index anew to which rows are appended; give --append, or --overwrite"
            )

    def _check_shards(self, num_shards: int) -> None:
        if self.append:
            raise ConfigError(
                "--append and --num-shards exclude each other: rows are dealt to shards once; build all of them again"
                " with --overwrite"
            )
        if self.shard_id is not None and self.shard_id >= num_shards:
            raise ConfigError(f"--shard-id {self.shard_id} must be from 0 to {num_shards - 1}, as --num-shards says")
        if self.shard_id is not None and self.merge != "none":
            raise ConfigError(
                f"--merge {self.merge} needs all shards; give it without --shard-id when they are there, which builds"
                " those that are missing"
            )
        if self.with_rows and self.merge != "none":
            raise ConfigError("--with-rows is for shards that stay; leave it out, or give --merge none")
