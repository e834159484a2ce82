"""The flags of ``fairseq-knnlm``'s subcommands about datastores; imports neither torch nor FAISS."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

from fairseq.config.common import MODEL_OVERRIDES
from fairseq.config.flags import flag
from fairseq.config.kinds import Dir, File, Files, Place, Prefix, Prefixes, Settings, Spec, Split, Splits
from fairseq.config.path_lists import split_paths, unescaped
from fairseq.data.config import BREAK_MODES
from fairseq.errors import ConfigError
from fairseq.knn.config import check_temperature, paired_names, several_sizes
from fairseq.knn.index.config import EFFORTS


@dataclass(frozen=True)
class CheckConfig:
    """What to check: one of these, or several that belong together."""

    data: Dir | None = flag(None, "directory of binarised data, or of a saved retrieval", positional=True)
    retrieval: Dir | None = flag(None, "directory of a saved retrieval")
    path: Place | None = flag(None, "checkpoint, or the directory of a Hugging Face model")
    dstore_filename: Prefixes | None = flag(
        None,
        r"prefix of the datastore's files (PREFIX_keys.npy, PREFIX_vals.npy); A:B for several (a colon in a name: \:)",
    )
    indexfile: Files | None = flag(
        None, "FAISS index of the datastore; for several datastores one each, in the same order"
    )
    gen_subset: Splits | None = flag(None, "splits to check [default: all]")
    dstore_size: int | None = flag(None, "number of rows, for a datastore without a manifest", minimum=1)
    dimension: int | None = flag(None, "width of a key, for a datastore without a manifest", minimum=1)
    dstore_fp16: bool = flag(False, "keys are float16, for a datastore without a manifest")
    k: int = flag(1024, "neighbours of a key", minimum=1)
    probe: int | None = flag(None, "inverted lists that a search visits [default: the index's own]", minimum=1)
    sample: int = flag(100, "search the index for the keys of N rows, evenly spaced", minimum=1)
    fast: bool = flag(False, "skip the checksums, which read every byte")
    json: File | None = flag(None, "also write the findings to this file")
    overwrite: bool = flag(False, "with --json: replace the file of another command")

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
            names = split_paths(self.dstore_filename or self.indexfile or "")
            return tuple((name, None) if self.dstore_filename is not None else (None, name) for name in names)
        return paired_names(self.dstore_filename, self.indexfile)


@dataclass(frozen=True)
class InfoConfig:
    """What to describe."""

    files: tuple[Place, ...] = flag(
        dataclasses.MISSING,
        "any file: data, dictionary, checkpoint, datastore (or its prefix), index, manifest, results; or a directory",
        positional=True,
    )


@dataclass(frozen=True)
class RecallConfig:
    """Datastore, indexes, and how they are searched."""

    dstore_filename: Prefix = flag(
        dataclasses.MISSING, "prefix of the datastore's files: PREFIX_keys.npy, PREFIX_vals.npy"
    )
    index_spec: Spec | None = flag(
        None, "indexes to build: auto, or FAISS factory strings with ; between them: 'IVF1024,SQ8;IVF1024,PQ32'"
    )
    indexfile: tuple[File, ...] = flag((), "existing indexes to measure")
    k: int = flag(1024, "neighbours of a key", minimum=1)
    probe: tuple[int, ...] = flag((8, 32), "inverted lists that a search visits; each number is tried", minimum=1)
    sample: int = flag(2000, "number of queries", minimum=1)
    lmbda: float = flag(0.25, "weight λ of the neighbours", minimum=0, maximum=1)
    knn_temp: float | Literal["auto"] = flag(
        1.0, "temperature T: a neighbour's weight is exp(−distance / T); auto takes T from the rows' exact distances"
    )
    effort: str = flag("quick", "how inverted lists are trained and filled", choices=EFFORTS)
    keep_in: Dir | None = flag(None, "keep the indexes that are built in this directory, and use those that are there")
    dstore_size: int | None = flag(None, "rows of a datastore without a manifest", minimum=1)
    dimension: int | None = flag(None, "width of a key, for a datastore without a manifest", minimum=1)
    dstore_fp16: bool = flag(False, "keys are float16, for a datastore without a manifest")
    allow_mismatch: bool = flag(False, "only warn if datastore, index, dictionary and model do not belong together")
    json: File | None = flag(None, "also write the table to this file")
    overwrite: bool = flag(False, "with --json: replace the file of another command")

    def __post_init__(self) -> None:
        check_temperature(self.knn_temp)
        if not self.dstore_filename:
            raise ConfigError("--dstore-filename is required: the prefix of the datastore's files")
        if len(split_paths(self.dstore_filename)) > 1:
            raise ConfigError(
                f"--dstore-filename {self.dstore_filename} names several datastores, but an index is of one; measure"
                " them one after the other"
            )
        if not (self.specs or self.indexfile):
            raise ConfigError("there is no index to measure; give --index-spec 'A;B' or --indexfile, or both")

    @property
    def prefix(self) -> str:
        """The datastore's."""
        return unescaped(self.dstore_filename)

    @property
    def specs(self) -> tuple[str, ...]:
        """The indexes to build, each once."""
        parts = (part.strip() for part in (self.index_spec or "").split(";"))
        return tuple(dict.fromkeys(part for part in parts if part))


@dataclass(frozen=True)
class QueriesConfig:
    """Queries from a text [default: the datastore's own rows, and no loss]."""

    data: Dir | None = flag(None, "directory of binarised data", positional=True)
    path: File | None = flag(None, "checkpoint that the datastore was written with")
    gen_subset: Split = flag("valid", "split that the queries come from")
    context_window: int = flag(
        0, "earlier tokens that each block sees as context, without scoring them again", minimum=0
    )
    sample_break_mode: str = flag("none", "how text is cut into blocks", choices=BREAK_MODES)
    model_overrides: Settings = flag("{}", MODEL_OVERRIDES)

    def __post_init__(self) -> None:
        if bool(self.data) != bool(self.path):
            have, lack = ("DATA", "--path CHECKPOINT") if self.data else ("--path", "DATA")
            raise ConfigError(f"{have} gives queries only together with {lack}; give both, or neither")
        if len(split_paths(self.path or "")) > 1:
            raise ConfigError("--path names several checkpoints, but a datastore belongs to one; give one")


@dataclass(frozen=True)
class RowsConfig:
    """Rows to show."""

    prefix: Prefix = flag(
        dataclasses.MISSING, "prefix of the datastore's files: PREFIX_keys.npy, PREFIX_vals.npy", positional=True
    )
    rows: tuple[str, ...] = flag((), "numbers of rows, or ranges FIRST:STOP", positional=True)
    documents: bool = flag(False, "list the documents instead: number, rows, title")
    context: int = flag(12, "words to show before and after each row's", minimum=0, maximum=1000)
    json: File | None = flag(None, "also write what is shown to this file")
    overwrite: bool = flag(False, "with --json: replace the file of another command")

    def __post_init__(self) -> None:
        if bool(self.rows) == self.documents:
            raise ConfigError("rows: give numbers such as 12345 or 100:120, or --documents, which lists the documents")
