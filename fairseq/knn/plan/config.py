"""Flags of ``fairseq-knnlm plan``."""

from dataclasses import dataclass

from fairseq.config.flags import flag
from fairseq.config.kinds import Dir, File, Files, Place, Split
from fairseq.errors import ConfigError
from fairseq.knn.config import KNNConfig
from fairseq.knn.index.config import BuildConfig


@dataclass(frozen=True)
class PlanConfig:
    """What is planned."""

    data: Dir | None = flag(None, "with --path: directory of binarised data, to measure the model on", positional=True)
    tokens: float | None = flag(
        None, "rows of the datastore: tokens of the training text, such as 3e9", required=True, minimum=1
    )
    dim: int | None = flag(None, "width of a key [default: the model's, with --path]", minimum=1)
    dstore_fp16: bool = flag(False, "keys are float16")
    ncentroids: int = flag(BuildConfig.ncentroids, "inverted lists of the index", minimum=1)
    code_size: int = flag(BuildConfig.code_size, "bytes of a key's code in the index", minimum=1)
    train_sample: int = flag(BuildConfig.train_sample, "rows that the index is trained on", minimum=1)
    queries: int = flag(245_569, "tokens to evaluate [default: those of WikiText-103's test text]", minimum=1)
    k: int = flag(KNNConfig.k, "neighbours of a token", minimum=1)
    probe: int = flag(KNNConfig.probe, "inverted lists that a search visits", minimum=1)
    map_index: bool = flag(False, "the index's lists stay on the disk")
    machines: int | None = flag(
        None, "machines that share the work [default: as many as disk and memory need]", minimum=1, maximum=1 << 20
    )
    memory_gib: float | None = flag(
        None, "memory of a machine [default: that of the machine whose rates these are]", minimum=0.001
    )
    disk_gib: float | None = flag(
        None, "disk of a machine [default: what was free where rates were measured]", minimum=0.001
    )
    network_gbit: float = flag(10.0, "rate of the network, gigabits a second", minimum=0.001)
    path: Files | None = flag(None, "model that writes the datastore, to measure its rate on the split of the data")
    gen_subset: Split = flag("valid", "with --path: split to measure on")
    context_window: int = flag(0, "with --path: earlier tokens that each block sees", minimum=0)
    tokens_per_s: float | None = flag(
        None, "rate of the model on a machine, tokens a second [default: measured, with --path]", minimum=1e-9
    )
    rates: File | None = flag(None, "take the rates from this file, which --save-rates wrote, perhaps elsewhere")
    save_rates: File | None = flag(None, "write the rates that were measured here to this file")
    work: Place = flag(".", "directory on the disk that is measured")
    overwrite: bool = flag(False, "replace existing files, if this program wrote them")

    def __post_init__(self) -> None:
        if self.tokens is None:
            raise ConfigError("--tokens is required: rows of the datastore, such as 103225485")
        if self.dim is None and self.path is None:
            raise ConfigError("--dim is required, the width of a key; or --path, a model that has it")
        if self.path is not None and self.data is None:
            raise ConfigError("--path is measured on a text; give its directory of binarised data first")
        if self.path is not None and self.tokens_per_s is not None:
            raise ConfigError("--path and --tokens-per-s exclude each other: a rate is measured, or given")
        if self.path is None and (self.data or self.context_window or self.gen_subset != PlanConfig.gen_subset):
            raise ConfigError("a text, --gen-subset and --context-window are for a model to be measured; give --path")
        if self.rates is not None and self.work != PlanConfig.work:
            raise ConfigError("--work is where a disk is measured, but --rates has been measured; leave one out")
        if self.probe > self.ncentroids:
            raise ConfigError(f"--probe {self.probe} must be at most --ncentroids {self.ncentroids}; lower it")
        if self.dim is not None and self.dim % self.code_size:
            raise ConfigError(f"--code-size {self.code_size} must divide --dim {self.dim}; give another")
