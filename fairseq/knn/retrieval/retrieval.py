"""A saved retrieval: what the language model and its neighbours said of every scored token of a split.

One search serves every λ, k and temperature, and whatever looks into single tokens. A directory holds one .npy file for
each column, a row for each scored token in stream order (blocks in order, then within the block):

    targets        int32 [N]       the token
    positions      int64 [N]       its index in the split's token stream
    blocks         int32 [N]       its block
    lm_log_prob    float64 [N]     ln p_LM(target)
    ids            int32 [N, K]    rows of the datastore, −1 for none (int64 from 2³¹ rows on)
    distances      float32 [N, K]  those that p_kNN uses, nearest first, +inf for none
    hits           uint8 [N, ⌈K/8⌉]  bit k (the lowest first) is set where neighbour k's value is the target

Three more say what was known of each token before it was seen:

    lm_max_log_prob   float32 [N]   ln of the language model's largest next-token probability
    lm_entropy        float32 [N]   of its next-token distribution, nats
    last_tokens       int32 [N]     the last token of the context

Further columns may have any name. ``manifest.json`` says what it all belongs to; it is marked as done last.

Legend: N tokens · K neighbours.
"""

import tokenize
from pathlib import Path

import numpy as np

from fairseq.arrays import Array, Bools
from fairseq.errors import ConfigError, DatastoreError
from fairseq.evaluate.mixture import Known
from fairseq.knn.retrieval.datastores import RetrievalPart, parts_of
from fairseq.knn.retrieval.format import Column, RetrievalManifest, array_path, columns_of
from fairseq.knn.retrieval.job_array import how_far
from fairseq.knn.retrieval.writer import RetrievalWriter as RetrievalWriter  # reader and writer, one import

KNOWN_COLUMNS = (Column("lm_max_log_prob", "<f4"), Column("lm_entropy", "<f4"), Column("last_tokens", "<i4"))


class Retrieval:
    """A finished retrieval, read only.

    Attributes:
        directory: of the files.
        manifest: what it belongs to.
        columns: every array by name, mapped.
        target_N, position_N, block_N, lm_log_p_N: int32, int64, int32, float64.
        ids_NK, distances_NK: int32 or int64, float32; nearest first.
    """

    def __init__(self, directory: Path, manifest: RetrievalManifest, columns: dict[str, Array]) -> None:
        self.directory, self.manifest, self.columns = directory, manifest, columns
        self.target_N, self.position_N, self.block_N = columns["targets"], columns["positions"], columns["blocks"]
        self.lm_log_p_N = columns["lm_log_prob"]
        self.ids_NK, self.distances_NK = columns["ids"], columns["distances"]

    @classmethod
    def open(cls, directory: str | Path) -> "Retrieval":
        """Returns the retrieval in a directory.

        Raises:
            DatastoreError: there is none, it is unfinished, or its files are not what its manifest says.
        """
        directory = Path(directory)
        manifest = RetrievalManifest.read(directory)
        if manifest.state != "done":
            how_to_go_on = how_far(directory, manifest) or "run its fairseq-eval-lm --save-retrieval again"
            raise DatastoreError(f"{directory} is unfinished; {how_to_go_on}")
        columns = {name: _mapped(directory, name) for name in (file.removesuffix(".npy") for file in manifest.files)}
        for column in columns_of(manifest.k, 0):
            _check_column(directory, column, columns, manifest.num_tokens)
        _check_ids(directory, "targets", columns, manifest.vocabulary_size)
        return cls(directory, manifest, columns)

    def __len__(self) -> int:
        return len(self.target_N)

    @property
    def k(self) -> int:
        """Neighbours of a token."""
        return self.manifest.k

    @property
    def rows(self) -> int | None:
        """Rows of the datastore, of all of them together; None where the manifest does not say."""
        return self.manifest.datastore.rows

    @property
    def parts(self) -> tuple[RetrievalPart, ...]:
        """The datastores that ids are rows of, by offset."""
        return parts_of(self.manifest.datastore, self.manifest.identity.store_id)

    def check_k(self, k: int) -> None:
        """Raises ConfigError when fewer than ``k`` neighbours were saved."""
        if k > self.k:
            raise ConfigError(
                f"--k {k} is more than the {self.k} neighbours of each token in {self.directory};"
                " give fewer, or save it again with as many"
            )

    def hits_NK(self, rows: slice = slice(None)) -> Bools:  # noqa: N802 - an array by its shape
        """Returns, for some tokens, which neighbours' values are the target."""
        bits = np.unpackbits(self.columns["hits"][rows], axis=1, count=self.k, bitorder="little")
        return bits.view(np.bool_)


def columns_of_run(k: int, datastore_rows: int) -> tuple[Column, ...]:
    """Returns the columns that a run writes, without those of a cache."""
    return (*columns_of(k, datastore_rows), *KNOWN_COLUMNS)


def known_arrays(known: Known) -> dict[str, Array]:
    """Returns the arrays of ``KNOWN_COLUMNS`` by name."""
    return {"lm_max_log_prob": known.max_log_p_N, "lm_entropy": known.entropy_N, "last_tokens": known.last_token_N}


def read_known(retrieval: Retrieval) -> Known:
    """Returns what was known of a retrieval's tokens before they were seen.

    Raises:
        DatastoreError: it was saved without these columns, or they are not what they should be.
    """
    directory, columns = retrieval.directory, retrieval.columns
    for column in KNOWN_COLUMNS:
        _check_column(directory, column, columns, len(retrieval))
    _check_ids(directory, "last_tokens", columns, retrieval.manifest.vocabulary_size)
    for name in ("lm_max_log_prob", "lm_entropy"):
        if not np.isfinite(columns[name]).all():
            raise DatastoreError(
                f"{array_path(directory, name)} must be finite, but is not everywhere; save the retrieval again, with a"
                " sound checkpoint"
            )
    max_log_p_N, entropy_N, last_N = (np.asarray(columns[column.name]) for column in KNOWN_COLUMNS)
    return Known(last_N.astype(np.int64), max_log_p_N, entropy_N)


def _mapped(directory: Path, name: str) -> Array:
    path = array_path(directory, name)
    try:
        mapped: Array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError as err:
        raise DatastoreError(f"{path} does not exist, but its manifest names it; save the retrieval again") from err
    except PermissionError:
        raise
    except (ValueError, TypeError, OverflowError, SyntaxError, tokenize.TokenError, OSError) as err:
        reason = " ".join(str(err).split())[:120]
        raise DatastoreError(
            f"{path} must be a whole .npy file, but is not ({reason}); save the retrieval again"
        ) from err
    return mapped


def _check_column(directory: Path, column: Column, columns: dict[str, Array], num_tokens: int) -> None:
    path, shape, array = array_path(directory, column.name), column.shape(num_tokens), columns.get(column.name)
    if array is None:
        raise DatastoreError(
            f"{directory} must have {path.name}, but was saved without; save it again with fairseq-eval-lm"
            " --save-retrieval"
        )
    dtypes = (column.dtype, "<i8") if column.name == "ids" else (column.dtype,)
    if array.shape != shape or array.dtype.str not in dtypes:
        raise DatastoreError(
            f"{path} must be {np.dtype(column.dtype)} of shape {shape}, but is {array.dtype} of shape {array.shape};"
            " save the retrieval again"
        )


def _check_ids(directory: Path, name: str, columns: dict[str, Array], vocabulary_size: int) -> None:
    smallest, largest = int(columns[name].min()), int(columns[name].max())
    if smallest < 0 or largest >= vocabulary_size:
        raise DatastoreError(
            f"{array_path(directory, name)}: ids must be from 0 to {vocabulary_size - 1}, but are from {smallest} to"
            f" {largest}; save the retrieval again"
        )
