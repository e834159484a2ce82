"""Measuring indexes of a datastore: what each finds, how fast, and what that does to the loss.

    queries ──┬── exact search ─── ids, loss
              └── each index, nprobe and kind of distances ── ids: recall · seconds · loss: gap

Queries are the contexts of a text with the tokens that came next, as an evaluation sees them, or rows of the datastore
itself, each left out of its own neighbours. An index is searched through the object that an evaluation would use, which
the caller gives. Recall is the share of the k nearest, by exact distances, that the index returned.

Legend: N queries · K neighbours · D key width.

What was measured of indexes, as a table in which the ones worth having are marked.

A row is worth having (Pareto-optimal) if no other is at least as good in bytes per key, queries per second and
quality, and better in one of them. Quality is the loss where it was measured, else the recall.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairseq.arrays import Array, Float32s, Int64s
from fairseq.config.common import DeviceConfig
from fairseq.config.flags import flag_name
from fairseq.errors import ConfigError, MismatchError
from fairseq.evaluate.mixture import interpolate
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.identity import require_index
from fairseq.knn.datastore.manifest import IndexManifest, manifest_path, read_manifest
from fairseq.knn.datastore.store import Datastore, gather_rows
from fairseq.knn.index.build import build_index
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.index.faiss_index import check_index_fits, metric_name, num_lists, open_index, read_index, set_nprobe
from fairseq.knn.inspect.config import QueriesConfig, RecallConfig
from fairseq.knn.inspect.queries import Queries, text_queries
from fairseq.knn.neighbours.distribution import log_prob_of, votes_for
from fairseq.knn.search.exact import exact_neighbours
from fairseq.runtime.files import write_json
from fairseq.runtime.log import logger
from fairseq.runtime.progress import Progress
from fairseq.runtime.resources import require_memory

# Distances and ids of the exact search, of a search, and what sorting them takes.
BYTES_A_NEIGHBOUR = 80
# What nothing but the loss depends on, and only the queries of a text have one.
SETTINGS_OF_THE_LOSS = (
    "gen_subset",
    "context_window",
    "sample_break_mode",
    "model_overrides",
    "lmbda",
    "knn_temp",
)

# From a datastore, an index and settings to what finds distances and ids ``[N, K]``: ``knnlm.KNN_Dstore.search``.
Search = Callable[[Float32s, int], tuple[Float32s, Int64s]]
Opener = Callable[[Datastore, Any, KNNConfig], Search]


@dataclass(frozen=True)
class Measured:
    """One index, searched in one way.

    Attributes:
        name: specification, or file.
        distances: ``own`` (the index's) or ``keys`` (recomputed from the stored keys).
        probe: lists visited, 0 for an index without any.
        bytes_per_key: of its file.
        train_s: seconds, None where it was there already.
        add_s: likewise.
        recall: share of the k nearest that it found.
        queries_per_s: of the search, distances included.
        loss: mean bits of the mixture; None without targets.
        gap: loss less that of an exact search.
    """

    name: str
    distances: str
    probe: int
    bytes_per_key: float
    train_s: float | None
    add_s: float | None
    recall: float
    queries_per_s: float
    loss: float | None = None
    gap: float | None = None

    def costs(self) -> tuple[float, float, float]:
        """Returns what should be small."""
        return self.bytes_per_key, -self.queries_per_s, -self.recall if self.loss is None else self.loss


@dataclass(frozen=True)
class _Index:
    """An index to measure."""

    name: str
    index: Any
    bytes_per_key: float
    train_s: float | None = None
    add_s: float | None = None


@dataclass(frozen=True)
class _Truth:
    """What an exact search finds: ids ``[N, K]`` and the loss of the mixture in bits."""

    ids_NK: Int64s
    loss: float | None


def run_recall(config: RecallConfig, text: QueriesConfig, device: DeviceConfig, seed: int, opener: Opener) -> str:
    """Measures indexes of a datastore, writes the table where that was asked for, and returns it as text."""
    store = Datastore.open(
        config.dstore_filename, rows=config.dstore_size, dimension=config.dimension, key_fp16=config.dstore_fp16
    )
    if text.path is None:
        queries = own_rows(store, config.sample)
        for settings in (text, config):
            for field in fields(settings):
                if field.name in SETTINGS_OF_THE_LOSS and getattr(settings, field.name) != field.default:
                    logger.warning("%s has no effect: without DATA and --path there is no loss", flag_name(field.name))
    else:
        queries = text_queries(text, config, store, device)
    rows = list(measure(store, queries, config, seed, opener))
    if config.json is not None:
        write_table(config.json, rows, queries, [config, text])
    return "\n".join([f"{len(queries.vectors_ND)} queries: {queries.source}; k {config.k}", *lines(rows)])


def measure(store: Datastore, queries: Queries, config: RecallConfig, seed: int, opener: Opener) -> Iterator[Measured]:
    """Yields a row for the exact search, then one for each index, nprobe and kind of distances."""
    assert store.keys_ND is not None
    k = _num_neighbours(store, queries, config)
    require_memory(
        f"{len(queries.vectors_ND)} queries", len(queries.vectors_ND) * k * BYTES_A_NEIGHBOUR, "lower --sample or --k"
    )
    start = time.monotonic()
    with Progress("exact search", store.rows, "rows") as progress:
        near_NK, ids_NK = exact_neighbours(
            store.keys_ND, queries.vectors_ND, _asked(queries, k), progress, forgotten=store.forgotten
        )
    seconds = time.monotonic() - start
    near_NK, ids_NK = queries.without_themselves(near_NK, ids_NK)
    truth = _Truth(np.sort(ids_NK, axis=1), loss_of(store, queries, near_NK, ids_NK, config))
    size = store.dimension * store.keys_ND.dtype.itemsize
    rate = len(ids_NK) / max(seconds, 1e-9)
    yield Measured("exact", "keys", 0, size, None, None, 1.0, rate, truth.loss, None if truth.loss is None else 0.0)
    with ExitStack() as stack:
        directory = Path(config.keep_in or stack.enter_context(tempfile.TemporaryDirectory()))
        for candidate in _candidates(store, config, directory, seed):
            yield from _measured(store, queries, config, candidate, truth, opener)


def _num_neighbours(store: Datastore, queries: Queries, config: RecallConfig) -> int:
    most = store.rows_left - (queries.row_ids_N is not None)
    if config.k > most:
        raise ConfigError(f"--k {config.k} is more than the {most} rows that can be neighbours; lower it")
    return config.k


def _asked(queries: Queries, k: int) -> int:
    return k + (queries.row_ids_N is not None)


def _candidates(store: Datastore, config: RecallConfig, directory: Path, seed: int) -> Iterator[_Index]:
    for path in config.indexfile:
        if metric_name(read_index(path, mapped=True)) != "l2":
            raise MismatchError(f"--indexfile {path} must be of metric l2, but is of inner products; give another")
        index = open_index(path)
        check_index_fits(index, path, rows=store.rows, dimension=store.dimension, prefix=store.prefix)
        manifest = read_manifest(manifest_path(path), IndexManifest)
        require_index(manifest, path, store.rows_id, store.prefix, allow_mismatch=config.allow_mismatch)
        yield _Index(path, index, Path(path).stat().st_size / store.rows)
    directory.mkdir(parents=True, exist_ok=True)
    for spec in config.specs:
        path = str(directory / f"{spec.replace('/', '_')}.index")
        build = BuildConfig(
            dstore_mmap=str(store.prefix),
            faiss_index=path,
            index_spec=spec,
            probe=config.probe[0],
            seed=seed,
            effort=config.effort,
        )
        times: dict[str, float] = {}
        made = build_index(store, build, path, times)
        yield _Index(made.spec, open_index(path), made.num_bytes / made.rows, times.get("train"), times.get("add"))
        if config.keep_in is None:
            for leftover in directory.glob("*"):
                leftover.unlink()


def _measured(
    store: Datastore, queries: Queries, config: RecallConfig, candidate: _Index, truth: _Truth, opener: Opener
) -> Iterator[Measured]:
    for distances in ("own", "keys"):
        sim_func = "do_not_recomp_l2" if distances == "own" else None
        search = opener(store, candidate.index, KNNConfig(k=config.k, knn_sim_func=sim_func))
        for probe in config.probe if num_lists(candidate.index) else (0,):
            if probe:
                set_nprobe(candidate.index, probe)
            search(queries.vectors_ND[:1], config.k)  # what is prepared once is no part of a query
            start = time.monotonic()
            near_NK, ids_NK = search(queries.vectors_ND, _asked(queries, config.k))
            rate = len(ids_NK) / max(time.monotonic() - start, 1e-9)
            near_NK, ids_NK = queries.without_themselves(near_NK, ids_NK)
            loss = loss_of(store, queries, near_NK, ids_NK, config)
            gap = None if loss is None or truth.loss is None else loss - truth.loss
            yield Measured(
                candidate.name,
                distances,
                probe,
                candidate.bytes_per_key,
                candidate.train_s,
                candidate.add_s,
                recall_of(ids_NK, truth.ids_NK),
                rate,
                loss,
                gap,
            )


def recall_of(ids_NK: Int64s, truth_NK: Int64s) -> float:
    """Returns the share of the rows in ``truth_NK`` that ``ids_NK`` holds, query by query."""
    hits = sum(len(np.intersect1d(ids, truth)) for ids, truth in zip(ids_NK, truth_NK, strict=True))
    return float(hits / truth_NK.size)


def loss_of(
    store: Datastore, queries: Queries, near_NK: Float32s, ids_NK: Int64s, config: RecallConfig
) -> float | None:
    """Returns the mean bits of the mixture's targets; None where queries have no targets."""
    if queries.target_N is None or queries.log_p_N is None:
        return None
    values_NK: Array = store.values_N[np.maximum(ids_NK, 0)]
    log_p_N = log_prob_of(votes_for(near_NK, ids_NK, values_NK, queries.target_N), config.knn_temp)
    mixed_N = interpolate(torch.from_numpy(queries.log_p_N), torch.from_numpy(log_p_N), config.lmbda)
    return float(-mixed_N.mean()) / math.log(2)


def write_table(path: str, rows: list[Measured], queries: Queries, settings: list[Any]) -> None:
    """Writes what was measured as JSON."""
    merged = {name: value for config in settings for name, value in asdict(config).items()}
    lm_loss = None if queries.log_p_N is None else float(-queries.log_p_N.mean() / np.log(2))
    record = {
        "queries": len(queries.vectors_ND),
        "queries_from": queries.source,
        "lm_loss_base2": lm_loss,
        "rows": records(rows),
        "threads": torch.get_num_threads(),
        "settings": merged,
    }
    write_json(path, record)


def own_rows(store: Datastore, sample: int) -> Queries:
    """Returns evenly spaced rows of a datastore as queries."""
    assert store.keys_ND is not None
    row_ids_N = store.left.spaced(sample)
    return Queries("the datastore's own rows", gather_rows(store.keys_ND, row_ids_N), row_ids_N=row_ids_N)


COLUMNS = ("", "index", "distances", "probe", "bytes/key", "train s", "add s", "recall", "queries/s", "loss", "gap")


def pareto(rows: Sequence[Measured]) -> list[bool]:
    """Returns which rows no other row beats."""
    return [not any(_beats(other.costs(), row.costs()) for other in rows) for row in rows]


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def lines(rows: Sequence[Measured]) -> list[str]:
    """Returns the table, a line each; the rows worth having begin with a star."""
    cells = [COLUMNS, *(_cells(row, best) for row, best in zip(rows, pareto(rows), strict=True))]
    widths = [max(len(line[n]) for line in cells) for n in range(len(COLUMNS))]
    return [
        "  ".join(cell.ljust(width) if n < 3 else cell.rjust(width) for n, (cell, width) in enumerate(pairs)).rstrip()
        for pairs in (list(zip(line, widths, strict=True)) for line in cells)
    ]


def _cells(row: Measured, best: bool) -> tuple[str, ...]:
    return (
        "*" if best else "",
        row.name,
        row.distances,
        str(row.probe) if row.probe else "",
        f"{row.bytes_per_key:.1f}",
        _number(row.train_s, ".1f"),
        _number(row.add_s, ".1f"),
        f"{row.recall:.4f}",
        f"{row.queries_per_s:.0f}",
        _number(row.loss, ".4f"),
        _number(row.gap, "+.4f"),
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def records(rows: Sequence[Measured]) -> list[dict[str, Any]]:
    """Returns the table as plain values for JSON."""
    return [{**asdict(row), "pareto": best} for row, best in zip(rows, pareto(rows), strict=True)]
