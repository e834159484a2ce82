"""The flags of ``fairseq-knnlm``'s subcommands about datastores; imports neither torch nor FAISS."""

import dataclasses
from dataclasses import dataclass

from fairseq.config import flag
from fairseq.data.config import BREAK_MODES
from fairseq.errors import ConfigError
from fairseq.knn.config import paired_names, several_sizes


@dataclass(frozen=True)
class CheckConfig:
    """What is checked: any of these."""

    data: str | None = flag(None, "directory of binarised data, or of a saved retrieval", positional=True)
    retrieval: str | None = flag(None, "directory of a saved retrieval, beside other things that are checked")
    path: str | None = flag(None, "checkpoint")
    dstore_filename: str | None = flag(
        None, "prefix of the datastore's files: PREFIX_keys.npy, PREFIX_vals.npy; several, separated by colons"
    )  # fmt: skip
    indexfile: str | None = flag(None, "FAISS index of the datastore; of several one each, in their order")
    gen_subset: str | None = flag(None, "names of the splits, comma-separated; every one that is there if left out")
    dstore_size: int | None = flag(None, "rows of a datastore without a manifest", minimum=1)
    dimension: int | None = flag(None, "width of a key, for a datastore without a manifest", minimum=1)
    dstore_fp16: bool = flag(False, "keys are float16, for a datastore without a manifest")
    k: int = flag(1024, "neighbours of a query", minimum=1)
    probe: int | None = flag(None, "inverted lists that a search visits; the index's own if left out", minimum=1)
    sample: int = flag(100, "rows whose keys are searched for in the index, evenly spaced", minimum=1)
    fast: bool = flag(False, "leave out the checksums, which read every byte")
    json: str | None = flag(None, "write the findings to this file as well")

    def __post_init__(self) -> None:
        if not (self.data or self.retrieval or self.path or self.dstore_filename or self.indexfile):
            raise ConfigError(
                "there is nothing to check; give a data directory, --retrieval, --path, --dstore-filename or"
                " --indexfile, or several"
            )
        if len(self.pairs) > 1 and self.dstore_size is not None:
            raise ConfigError(several_sizes(self.dstore_size, len(self.pairs)))

    @property
    def pairs(self) -> tuple[tuple[str | None, str | None], ...]:
        """Each datastore's prefix and index; None for what was not given."""
        if self.dstore_filename is None or self.indexfile is None:
            names = (self.dstore_filename or self.indexfile or "").split(":")
            return tuple((name, None) if self.dstore_filename is not None else (None, name) for name in names)
        return paired_names(self.dstore_filename, self.indexfile)


@dataclass(frozen=True)
class InfoConfig:
    """What is described."""

    files: tuple[str, ...] = flag(
        dataclasses.MISSING,
        "dictionaries, data, checkpoints, datastores (prefix or file), indexes, retrievals, manifests, results",
        positional=True,
    )


@dataclass(frozen=True)
class AdoptConfig:
    """The datastore of another tool, and the one to make of it."""

    source: str = flag(
        dataclasses.MISSING, "prefix of the datastore's files, or its file of keys or values", positional=True
    )
    dstore_mmap: str | None = flag(None, "prefix of the new datastore; where the old one is, if left out")
    dstore_size: int | None = flag(None, "rows, where neither names nor sizes of the files tell", minimum=1)
    dimension: int | None = flag(None, "width of a key, likewise", minimum=1)
    dstore_fp16: bool = flag(False, "keys are float16, likewise")
    copy: bool = flag(False, "copy files that stay as they are, instead of linking them")
    overwrite: bool = flag(False, "replace what stands in the way; never the old datastore's files")


@dataclass(frozen=True)
class OriginConfig:
    """The run that wrote it: values are checked against the text, and mended from it; keys against the model."""

    data: str | None = flag(None, "directory of the binarised text")
    gen_subset: str = flag("train", "name of the text")
    path: str | None = flag(None, "checkpoint that made the keys")
    context_window: int = flag(0, "--context-window of that run", minimum=0)
    tokens_per_sample: int | None = flag(
        None, "tokens_per_sample of the checkpoint, context window included; --path tells", minimum=1
    )
    sample_break_mode: str = flag("none", "how the token stream was cut into blocks", choices=BREAK_MODES)

    def __post_init__(self) -> None:
        if self.path and not self.data:
            raise ConfigError("--path says which keys to expect only together with the text; give --data as well")
        if self.data and self.context_window and not self.path and self.tokens_per_sample is None:
            raise ConfigError(
                f"--context-window {self.context_window} skips whole blocks at the start of the text; give"
                " --tokens-per-sample or --path, which say how long a block is"
            )
        if self.tokens_per_sample is not None and self.context_window >= self.tokens_per_sample:
            raise ConfigError(
                f"--context-window {self.context_window} must be smaller than --tokens-per-sample"
                f" {self.tokens_per_sample}"
            )
