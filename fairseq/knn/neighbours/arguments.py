"""Queries and targets as callers give them: checked once, used as NumPy, given back as what came.

Legend: N queries · D key width.
"""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fairseq.arrays import Array, Float32s, Integers
from fairseq.errors import ConfigError, MismatchError, shown

AnyArray = Tensor | Array
A = TypeVar("A", Tensor, Array)


def checked_queries(queries_ND: AnyArray, dimension: int) -> Float32s:
    """Returns queries as float32 ``[N, D]`` in C order.

    Args:
        queries_ND: of any floating-point type.
        dimension: D, width of the keys.

    Raises:
        ConfigError: not a matrix of floating-point numbers.
        MismatchError: of another width than the keys.
    """
    if isinstance(queries_ND, Tensor):
        is_floating = torch.is_floating_point(queries_ND)
    else:
        queries_ND = np.asarray(queries_ND)
        is_floating = np.issubdtype(queries_ND.dtype, np.floating)
    if not is_floating:
        raise ConfigError(f"queries must be floating-point vectors, but are {queries_ND.dtype}; give context vectors")
    if queries_ND.ndim != 2 or queries_ND.shape[1] != dimension:
        raise MismatchError(
            f"queries must be of shape (queries, {dimension}), the width of the keys, but are"
            f" {tuple(queries_ND.shape)}; give one row for each query, made by the model that wrote the datastore"
        )
    if isinstance(queries_ND, Tensor):
        return queries_ND.detach().float().cpu().contiguous().numpy()
    return np.ascontiguousarray(queries_ND, dtype=np.float32)


def checked_targets(target_N: AnyArray, count: int, vocabulary_size: int | None) -> Integers:
    """Returns target ids, ``[N]``.

    Args:
        target_N: whole numbers.
        count: N, how many queries there are.
        vocabulary_size: ids are below it; None where that is not known.

    Raises:
        ConfigError: not one id for each query, or an id that is no word.
    """
    array = _whole_numbers(target_N, 0, vocabulary_size, "targets", "ids of the datastore's dictionary")
    if array.shape != (count,):
        raise ConfigError(f"targets must be of shape ({count},), one for each query, but are {array.shape}")
    return array


def checked_rows(ids: AnyArray, num_rows: int) -> Integers:
    """Returns row numbers, of any shape; raises ConfigError for what is neither a row nor −1, which is none."""
    return _whole_numbers(ids, -1, num_rows, "rows", "the ids that search returns, where -1 is none")


def _whole_numbers(numbers: AnyArray, first: int, stop: int | None, what: str, which: str) -> Integers:
    array = numbers.cpu().numpy() if isinstance(numbers, Tensor) else np.asarray(numbers)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ConfigError(f"{what} must be whole numbers, but are {array.dtype}; give {which}")
    bad = array[(array < first) | (array >= (np.inf if stop is None else stop))]
    if bad.size:
        last = "on" if stop is None else f"to {stop - 1}"
        raise ConfigError(f"{what} must be from {first} {last}, but one is {bad[0]}; give {which}")
    return array


def checked_k(k: object) -> int:
    """Returns a number of neighbours; raises ConfigError for what is none."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k < 1 << 31:
        raise ConfigError(f"k must be a whole number from 1 on, but is {shown(k)}")
    return int(k)


def checked_vocabulary(size: object, known: int | None, values: Integers) -> int:
    """Returns the number of words to tell probabilities of.

    Args:
        size: as given; ``known`` if None.
        known: what the datastore's manifest says, None where it says nothing.
        values: of the rows that were found.

    Raises:
        ConfigError: none is given or known, or it leaves out a word that is needed.
    """
    size = known if size is None else size
    if size is None:
        raise ConfigError(
            "vocabulary_size must be given, for the datastore has no manifest that tells it; give the size of the"
            " model's dictionary, len(lm.dictionary)"
        )
    least = max(known or 1, int(values.max(initial=0)) + 1)
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < least:
        raise ConfigError(
            f"vocabulary_size must be a whole number from {least} on, for the datastore has such words, but is"
            f" {shown(size)}; give the size of the model's dictionary"
        )
    return int(size)


def like(array: Array, model: A) -> A:
    """Returns an array as the kind of the other, on its device."""
    return torch.from_numpy(array).to(model.device) if isinstance(model, Tensor) else array
