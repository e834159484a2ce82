"""Choosing an index for a datastore: ``--index-spec auto``.

Two things decide what an inverted file finds of the k nearest rows: how many rows it looks at, and how well their codes
rank them,

    recall ≈ coverage(rows visited / k) × fidelity(code)

both measured with ``fairseq-knnlm recall`` on keys of a language model (docs/indexes.md). For each code, the recall
that is wanted says which coverage it needs, and that how long lists must be, since ``--probe`` of them are visited.
Codes are tried from the most faithful to the smallest; the first whose index takes no more than half of the free memory
is chosen. A build that was begun keeps its choice, whatever memory is free when it goes on.

The time that is printed is an upper bound. It counts the products of the build (choosing centroids, finding each row's
list, writing its code) at the rate that this machine reaches on one of them; quick training works in fewer directions
than a key has numbers (fairseq/knn/index/training.py).
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from fairseq.errors import ConfigError
from fairseq.knn.datastore.manifest import IndexManifest, manifest_path, read_manifest
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.index.config import AUTO, BuildConfig
from fairseq.knn.index.faiss_index import inner_index
from fairseq.knn.index.reading import faiss_reason
from fairseq.knn.index.training import CODE_WORDS, LIST_POINTS, LIST_ROUNDS, WORD_POINTS, WORD_ROUNDS
from fairseq.runtime.resources import free_memory_bytes

logger = logging.getLogger(__name__)

K = 1024
# Below, an exact search takes no longer than one of inverted lists.
FLAT_ROWS = 1 << 15
ID_BYTES = 8
MEMORY_SHARE = 0.5
# More lists than 4 √rows, or than this, cost more to choose among than their shortness saves.
LISTS_PER_ROOT, MOST_LISTS, LEAST_LISTS = 4, 1 << 14, 16
# Rows visited / k, and the share of the k nearest among them.
VISITED = (0.29, 0.57, 1.1, 2.3, 4.6, 9.1, 18, 36)
COVERAGE = (0.26, 0.41, 0.59, 0.75, 0.85, 0.91, 0.955, 0.99)
# (code, numbers of a key for a byte of it, share of the covered that it ranks among the nearest)
CODES = (("SQ8", 1, 0.99), ("PQ", 4, 0.94), ("PQ", 8, 0.88))


@dataclass(frozen=True)
class Choice:
    """An index that is expected to find as much as was asked for.

    Attributes:
        spec: FAISS factory string.
        bytes_per_key: code and id.
        index_bytes: of all keys, and the centroids.
        recall: expected share of the 1024 nearest.
        build_flops: operations of the products that building takes, at most.
    """

    spec: str
    bytes_per_key: int
    index_bytes: int
    recall: float
    build_flops: float = 0.0


def choices(rows: int, dimension: int, *, recall: float, probe: int) -> list[Choice]:
    """Returns the indexes that suit, from the most faithful to the smallest; at least one."""
    flat = Choice("Flat", 4 * dimension, 4 * dimension * rows, 1.0)
    if rows <= FLAT_ROWS or recall >= 1:
        return [flat]
    options = [_with_code(rows, dimension, recall, probe, *code) for code in CODES]
    return [choice for choice in options if choice is not None] or [flat]


def _with_code(
    rows: int, dimension: int, recall: float, probe: int, code: str, numbers_a_byte: int, fidelity: float
) -> Choice | None:
    code_bytes = max(n for n in range(1, max(dimension // numbers_a_byte, 1) + 1) if dimension % n == 0)
    if recall / fidelity > COVERAGE[-1]:  # more than was measured
        return None
    visited = np.interp(recall / fidelity, COVERAGE, VISITED)
    most = min(LISTS_PER_ROOT * math.isqrt(rows), MOST_LISTS)
    lists = max(min(int(probe * rows / (visited * K)), most), LEAST_LISTS)
    expected = fidelity * float(np.interp(min(probe / lists, 1) * rows / K, VISITED, COVERAGE))
    spec = f"IVF{lists},{code}" + ("" if code == "SQ8" else str(code_bytes))
    size = rows * (code_bytes + ID_BYTES) + lists * dimension * 4
    flops = _flops(rows, dimension, lists, LIST_POINTS, LIST_ROUNDS)
    if code == "PQ":
        flops += _flops(rows, dimension, CODE_WORDS, WORD_POINTS, WORD_ROUNDS)
    return Choice(spec, code_bytes + ID_BYTES, size, expected, flops)


def _flops(rows: int, dimension: int, centroids: int, points: int, rounds: int) -> float:
    """Returns the operations of comparing sampled rows with all centroids in each round, and then every row once."""
    compared = min(points * centroids, rows) * rounds + rows
    return 2.0 * compared * centroids * dimension


def products_per_s() -> float:
    """Returns the operations a second of float32 products on this machine, the best of a few."""
    side, best_s = 512, math.inf
    a, b = torch.ones(side, side), torch.ones(side, side)
    for _ in range(8):
        start = time.perf_counter()
        torch.mm(a, b)
        best_s = min(best_s, time.perf_counter() - start)
    return 2.0 * side**3 / best_s


def choose(options: Sequence[Choice], memory_bytes: int | None) -> Choice:
    """Returns the first that takes no more than half of the memory, else the smallest."""
    if memory_bytes is None:
        return options[0]
    fitting = (choice for choice in options if choice.index_bytes <= MEMORY_SHARE * memory_bytes)
    return next(fitting, min(options, key=lambda choice: choice.index_bytes))


def resolved(config: BuildConfig, store: Datastore, path: Path) -> BuildConfig:
    """Returns the settings with ``auto`` replaced by what it stands for, and says why."""
    if config.index_spec != AUTO:
        return config
    options = choices(store.rows, store.dimension, recall=config.recall, probe=config.probe)
    earlier = next(_earlier_specs(config, store, path), None)
    same = next((choice for choice in options if choice.spec == earlier), None)
    free = free_memory_bytes()
    choice = same or choose(options, free)
    why = ""
    if same is not None:
        why = ", as the build that was begun"
    elif choice != options[0] and free is not None:
        why = f", for half of the {free / 2**30:.1f} GiB that are free holds no larger one"
    logger.info(
        "--index-spec auto: %s (%d bytes per key, %.2f GiB, recall about %.0f %%%s)%s",
        choice.spec,
        choice.bytes_per_key,
        choice.index_bytes / 2**30,
        100 * choice.recall,
        _time_words(choice, config),
        why,
    )
    if choice.recall < config.recall - 0.005:
        logger.warning("--recall %g is more than is expected of %s; raise --probe", config.recall, choice.spec)
    return replace(config, index_spec=choice.spec)


def _time_words(choice: Choice, config: BuildConfig) -> str:
    """Returns how long the build will take; nothing with FAISS's own training, which does more."""
    if not choice.build_flops or config.effort != "quick":
        return ""
    seconds = math.ceil(choice.build_flops / products_per_s())
    return f", at most {f'{seconds} s' if seconds < 60 else timedelta(seconds=seconds)} to build"


def _earlier_specs(config: BuildConfig, store: Datastore, path: Path) -> Iterator[str]:
    """Yields the specifications of what earlier runs of the same build left."""
    for stage in (f"{path}.partial", f"{path}.trained", path):
        manifest = read_manifest(manifest_path(stage), IndexManifest)
        same = manifest is not None and (manifest.store_id, manifest.seed) == (store.rows_id, config.seed)
        if manifest is not None and same and manifest.effort == config.effort:
            yield manifest.spec


def new_index(config: BuildConfig, dimension: int) -> Any:
    """Returns an untrained index.

    Raises:
        ConfigError: the specification cannot be built for keys of this width.
    """
    if config.index_spec is None:
        if dimension % config.code_size:
            raise ConfigError(
                f"--code-size {config.code_size} must divide the key width {dimension};"
                f" try {max(size for size in range(1, config.code_size) if dimension % size == 0)},"
                " or --index-spec auto"
            )
        return faiss.IndexIVFPQ(faiss.IndexFlatL2(dimension), dimension, config.ncentroids, config.code_size, 8)
    try:
        return faiss.index_factory(dimension, config.index_spec)
    except RuntimeError as err:
        raise ConfigError(
            f"--index-spec {config.index_spec} must be a FAISS factory string for keys of width {dimension}, but"
            f" FAISS says: {faiss_reason(err)}; give auto, Flat or inverted lists, such as IVF1024,SQ8"
        ) from err


def check_kind(index: Any, spec: str, rows: int, at_a_time: int) -> None:
    """Refuses, before anything is done, an index that does not take a datastore's rows in order, some at a time.

    Args:
        index: that rows will be added to.
        spec: what it is called.
        rows: how many it will have.
        at_a_time: how many are added at a time.

    Raises:
        ConfigError: it wants ids with them, keeps equal rows once or none, or wants all of them at once.
    """
    inner = inner_index(index)
    if isinstance(inner, faiss.IndexIDMap):
        raise ConfigError(f"{spec} takes no rows in order, but with ids; leave IDMap out: ids are row numbers anyway")
    if isinstance(inner, getattr(faiss, "IndexIVFFlatDedup", ())):
        raise ConfigError(
            f"{spec} keeps equal keys once, so that it cannot be seen whether every row is there; give Flat instead"
        )
    if isinstance(inner, faiss.IndexLattice):
        raise ConfigError(
            f"{spec} writes no rows into its file, so that it cannot be read again; give PQ or SQ instead"
        )
    if isinstance(inner, faiss.IndexNSG) and (index.ntotal or rows > at_a_time):
        raise ConfigError(
            f"{spec} takes all {rows} rows at once and none later, but {at_a_time} are added at a time; give HNSW"
            " instead, or build it with --overwrite where rows were appended"
        )
