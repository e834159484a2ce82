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

Further columns may have any name. ``manifest.json`` says what it all belongs to; it is marked as done last. Rows are
written by their number, so that tokens may be scored in any order. docs/formats.md has the whole format.

Legend: N tokens · K neighbours.
"""

import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fairseq.errors import DatastoreError
from fairseq.knn.retrieval_format import MANIFEST, Column, array_path, columns_of, read_record
from fairseq.knn.retrieval_writer import RetrievalWriter as RetrievalWriter  # reader and writer, one import

Array = npt.NDArray[Any]

# What every finished manifest says, and as what.
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "num_tokens": int, "k": int, "vocabulary_size": int, "split": str, "data": str, "dictionary": str,
    "settings": dict, "lmbda": (int, float), "knn_temp": (int, float), "identity": dict, "datastore": dict,
    "files": dict,
}  # fmt: skip


class Retrieval:
    """A finished retrieval, read only.

    Attributes:
        directory: of the files.
        manifest: what it belongs to.
        columns: every array by name, mapped.
        target_N, position_N, block_N, lm_log_p_N: int32, int64, int32, float64.
        ids_NK, distances_NK: int32 or int64, float32; nearest first.
    """

    def __init__(self, directory: Path, manifest: dict[str, Any], columns: dict[str, Array]) -> None:
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
        manifest = read_record(directory)
        if manifest.get("state") != "done":
            raise DatastoreError(f"{directory} is unfinished; run its fairseq-eval-lm --save-retrieval again")
        for name, kind in _FIELDS.items():
            if not isinstance(manifest.get(name), kind) or isinstance(manifest.get(name), bool):
                raise DatastoreError(f"{directory / MANIFEST} lacks a sound {name!r}; save the retrieval again")
        num_tokens, k = manifest["num_tokens"], manifest["k"]
        if num_tokens < 1 or k < 1:
            raise DatastoreError(f"{directory / MANIFEST}: 'num_tokens' and 'k' must be at least 1; save it again")
        columns = {name: _mapped(directory, name) for name in _names(manifest["files"], directory)}
        for column in columns_of(k, 0):
            _check_column(directory, column, columns.get(column.name), num_tokens)
        smallest, largest = int(columns["targets"].min()), int(columns["targets"].max())
        if smallest < 0 or largest >= manifest["vocabulary_size"]:
            raise DatastoreError(
                f"{array_path(directory, 'targets')}: ids must be from 0 to {manifest['vocabulary_size'] - 1}, but are"
                f" from {smallest} to {largest}; save the retrieval again"
            )
        return cls(directory, manifest, columns)

    def __len__(self) -> int:
        return len(self.target_N)

    @property
    def k(self) -> int:
        """Neighbours of a token."""
        return int(self.ids_NK.shape[1])

    def hits_NK(self, rows: slice = slice(None)) -> npt.NDArray[np.bool_]:  # noqa: N802 - an array by its shape
        """Returns, for some tokens, which neighbours' values are the target."""
        bits = np.unpackbits(self.columns["hits"][rows], axis=1, count=self.k, bitorder="little")
        return bits.view(np.bool_)


def _names(files: Mapping[str, Any], directory: Path) -> Iterator[str]:
    for file in files:
        if Path(file).name != file or not file.endswith(".npy"):
            raise DatastoreError(f"{directory / MANIFEST} names the file {file!r}, which is no column; save it again")
        yield file[: -len(".npy")]


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


def _check_column(directory: Path, column: Column, array: Array | None, num_tokens: int) -> None:
    path, shape = array_path(directory, column.name), column.shape(num_tokens)
    if array is None:
        raise DatastoreError(f"{directory / MANIFEST} does not name {path.name}; save the retrieval again")
    dtypes = (column.dtype, "<i8") if column.name == "ids" else (column.dtype,)
    if array.shape != shape or array.dtype.str not in dtypes:
        raise DatastoreError(
            f"{path} must be {np.dtype(column.dtype)} of shape {shape}, but is {array.dtype} of shape {array.shape};"
            " save the retrieval again"
        )
