"""The flags of ``fairseq-knnlm``'s subcommands about datastores; imports neither torch nor FAISS."""

import dataclasses
from dataclasses import dataclass

from fairseq.config.flags import flag
from fairseq.config.path_lists import split_paths, unescaped
from fairseq.data.config import BREAK_MODES
from fairseq.errors import ConfigError
from fairseq.knn.config import check_temperature, paired_names, several_sizes
from fairseq.knn.index.config import EFFORTS


@dataclass(frozen=True)
class CheckConfig:
    """What is checked: any of these."""

    data: str | None = flag(None, "directory of binarised data, or of a saved retrieval", positional=True)
    retrieval: str | None = flag(None, "directory of a saved retrieval, beside other things that are checked")
    path: str | None = flag(None, "checkpoint")
    dstore_filename: str | None = flag(
        None,
        "prefix of the datastore's files: PREFIX_keys.npy, PREFIX_vals.npy; several, separated by colons"
        r" (\: is a colon in a name)",
    )
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
    """What is described."""

    files: tuple[str, ...] = flag(
        dataclasses.MISSING,
        "dictionaries, data, checkpoints, datastores (prefix or file), indexes, retrievals, manifests, results",
        positional=True,
    )


@dataclass(frozen=True)
class RecallConfig:
    """Datastore, indexes and how they are searched."""

    dstore_filename: str = flag(
        dataclasses.MISSING, "prefix of the datastore's files: PREFIX_keys.npy, PREFIX_vals.npy"
    )
    index_spec: str | None = flag(
        None, "FAISS factory strings of indexes to build, with ; between them: 'IVF1024,SQ8;IVF1024,PQ32'; or auto"
    )
    indexfile: tuple[str, ...] = flag((), "indexes that are there, comma-separated")
    k: int = flag(1024, "neighbours of a query", minimum=1)
    probe: tuple[int, ...] = flag((8, 32), "inverted lists that a search visits, each in turn", minimum=1)
    sample: int = flag(2000, "queries", minimum=1)
    lmbda: float = flag(0.25, "weight λ of the neighbours", minimum=0, maximum=1)
    knn_temp: float = flag(1.0, "temperature T: a neighbour's weight is exp(−distance / T)")
    effort: str = flag("quick", "training of the lists, as build_dstore.py has it", choices=EFFORTS)
    keep_in: str | None = flag(None, "directory to keep the indexes in that are built, and to look for them first")
    dstore_size: int | None = flag(None, "rows of a datastore without a manifest", minimum=1)
    dimension: int | None = flag(None, "width of a key, for a datastore without a manifest", minimum=1)
    dstore_fp16: bool = flag(False, "keys are float16, for a datastore without a manifest")
    allow_mismatch: bool = flag(False, "only warn when datastore, index, dictionary and model do not belong together")
    json: str | None = flag(None, "write the table to this file as well")
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
    """Queries from a text; without it, the datastore's own rows are queries, and there is no loss."""

    data: str | None = flag(None, "directory of binarised data", positional=True)
    path: str | None = flag(None, "checkpoint that made the datastore's keys")
    gen_subset: str = flag("valid", "name of the text")
    context_window: int = flag(0, "earlier tokens that each block sees and that are not scored again", minimum=0)
    sample_break_mode: str = flag("none", "how the token stream was cut into blocks", choices=BREAK_MODES)
    model_overrides: str = flag("{}", "a Python literal dict of settings that replace the checkpoint's")

    def __post_init__(self) -> None:
        if bool(self.data) != bool(self.path):
            have, lack = ("DATA", "--path CHECKPOINT") if self.data else ("--path", "DATA")
            raise ConfigError(f"{have} gives queries only together with {lack}; give both, or neither")
        if len(split_paths(self.path or "")) > 1:
            raise ConfigError("--path names several checkpoints, but a datastore belongs to one; give one")


@dataclass(frozen=True)
class RowsConfig:
    """Which rows of which datastore."""

    prefix: str = flag(
        dataclasses.MISSING, "prefix of the datastore's files: PREFIX_keys.npy, PREFIX_vals.npy", positional=True
    )
    rows: tuple[str, ...] = flag((), "rows: numbers, or ranges FIRST:STOP", positional=True)
    documents: bool = flag(False, "list the documents instead: number, rows, title")
    context: int = flag(12, "words that are shown before and after each row's", minimum=0, maximum=1000)
    json: str | None = flag(None, "write what is shown to this file as well")
    overwrite: bool = flag(False, "with --json: replace the file of another command")

    def __post_init__(self) -> None:
        if bool(self.rows) == self.documents:
            raise ConfigError("rows: give numbers such as 12345 or 100:120, or --documents, which lists the documents")
