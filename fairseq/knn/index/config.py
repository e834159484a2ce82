"""Flags of ``build_dstore.py``."""

import os
from dataclasses import dataclass
from pathlib import Path

from fairseq.config.flags import flag
from fairseq.errors import ConfigError
from fairseq.knn.datastore.config import DEFAULT_KEY_DIMENSION

AUTO = "auto"
EFFORTS = ("quick", "thorough")


@dataclass(frozen=True)
class BuildConfig:
    """Datastore and index."""

    dstore_mmap: str | None = flag(None, "prefix of the datastore's files: PREFIX_keys.npy, PREFIX_vals.npy")
    faiss_index: str | None = flag(None, "file to write the index to")
    dstore_size: int | None = flag(None, "rows; the manifest knows them", minimum=1)
    dimension: int | None = flag(
        None, f"width of a key; the manifest knows it, else {DEFAULT_KEY_DIMENSION}", minimum=1
    )
    dstore_fp16: bool = flag(False, "keys are float16; the manifest knows")
    index_spec: str | None = flag(
        None,
        "FAISS factory string, such as Flat or OPQ32,IVF2048,PQ32; auto chooses one and says why; inverted lists"
        " of product codes if left out",
    )
    recall: float = flag(
        0.8, "for --index-spec auto: share of the 1024 nearest rows to find with --probe lists", minimum=0, maximum=1
    )
    ncentroids: int = flag(4096, "inverted lists", minimum=1)
    code_size: int = flag(64, "bytes of a key's product code", minimum=1)
    probe: int = flag(8, "inverted lists that a search visits, unless it says otherwise", minimum=1)
    effort: str = flag(
        "quick", "training and filling of inverted lists: quick finds as much, thorough is FAISS's own", choices=EFFORTS
    )
    gpu_index: bool = flag(False, "train and fill inverted lists on the GPU (needs the GPU build of FAISS)")
    train_sample: int = flag(1_000_000, "most rows that the index is trained on", minimum=1)
    num_keys_to_add_at_a_time: int = flag(1_000_000, "most rows that are added at a time", minimum=1)
    save_interval_s: float = flag(600.0, "seconds of adding between two files to resume from", minimum=0)
    append: bool = flag(False, "add the rows that were appended to the datastore since the index was built")
    retrain: bool = flag(False, "with --append: train the index anew on all rows, to its own specification")
    drift_warning: float = flag(
        1.25,
        "with --append: warn where new rows lie farther from the index's centroids or codes than the old ones, by"
        " this factor",
        minimum=1,
    )
    starting_point: int = flag(0, "accepted, no effect: an interrupted build resumes by itself", minimum=0)
    overwrite: bool = flag(False, "replace an index that stands in the way")
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
        if self.retrain and not self.append:
            raise ConfigError(
                "--retrain trains an index anew to which rows are appended; give --append, or --overwrite"
            )
