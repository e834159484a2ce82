"""Measuring indexes of a datastore: what each finds, how fast, and what that does to the loss.

    queries ──┬── exact search ─── ids, loss
              └── each index, nprobe and kind of distances ── ids: recall · seconds · loss: gap

Queries are the contexts of a text with the tokens that came next, as an evaluation sees them, or rows of the datastore
itself, each left out of its own neighbours. An index is searched through ``KNN_Dstore``, as an evaluation searches it.
Recall is what ``recall_of`` says (fairseq/knn/search/recall.py).

In the table a row is worth having (Pareto-optimal) if no other is at least as good in bytes per key, queries per second
and quality, and better in one of them. Quality is the loss where it was measured, else the recall.

Legend: N queries · K neighbours · D key width.
"""

import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairseq.arrays import Array, Float32s, Int64s
from fairseq.config.common import DeviceConfig
from fairseq.config.flags import as_dict, flag_name
from fairseq.errors import ConfigError, MismatchError
from fairseq.evaluate.mixture import interpolate
from fairseq.knn.config import AUTO, KNNConfig
from fairseq.knn.datastore.store import Datastore, gather_rows
from fairseq.knn.index.build import build_index
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.index.faiss_index import metric_name, num_lists, open_index, read_index, set_nprobe
from fairseq.knn.index.identity import require_index
from fairseq.knn.index.index_file import look_at, require_readable
from fairseq.knn.inspect.config import QueriesConfig, RecallConfig
from fairseq.knn.inspect.queries import Queries, text_queries
from fairseq.knn.neighbours.distribution import log_prob_of, votes_for
from fairseq.knn.neighbours.dstore import KNN_Dstore
from fairseq.knn.neighbours.parts import StorePart
from fairseq.knn.neighbours.temperature import auto_share, measure_unit, temperature_of
from fairseq.knn.search.exact import exact_neighbours
from fairseq.knn.search.recall import recall_of
from fairseq.runtime.log import logger
from fairseq.runtime.progress import Progress
from fairseq.runtime.resources import require_memory
from fairseq.storage.files import write_json
from fairseq.storage.marks import RECALL
from fairseq.storage.outputs import claim_directory, claim_index, claim_record

# Distances and ids of the exact search, of a search, and what comparing them takes.
BYTES_A_NEIGHBOUR = 100

# What nothing but the loss depends on, and only the queries of a text have one.
SETTINGS_OF_THE_LOSS = ("lmbda", "knn_temp", *(field.name for field in fields(QueriesConfig)))
# An index to measure: its name, the index, bytes of a key, seconds of training and adding where it was not there yet.
Candidate = tuple[str, Any, float, float | None, float | None]


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


def run_recall(config: RecallConfig, text: QueriesConfig, device: DeviceConfig, seed: int) -> str:
    """Measures indexes of a datastore, writes the table where that was asked for, and returns it as text."""
    record_of = {name: value for name, value in as_dict(config, text).items() if name != "overwrite"}
    _claim(config, record_of)
    store = Datastore.open(
        config.prefix, rows=config.dstore_size, dimension=config.dimension, key_fp16=config.dstore_fp16
    )
    if text.path is None:
        queries = own_rows(store, config.sample)
        for settings in (text, config):
            for field in fields(settings):
                if field.name in SETTINGS_OF_THE_LOSS and getattr(settings, field.name) != field.default:
                    logger.warning("%s has no effect: without DATA and --path there is no loss", flag_name(field.name))
    else:
        config = replace(
            config,
            knn_temp=temperature_of(config.knn_temp, lambda: exact_unit(store), auto_share([StorePart(store, 0)])),
        )
        queries = text_queries(text, config, store, device)
    rows = list(measure(store, queries, config, seed))
    if config.json is not None:
        record = {
            "kind": "recall",
            "queries": len(queries.vectors_ND),
            "queries_from": queries.source,
            "lm_loss_base2": None if queries.log_p_N is None else float(-queries.log_p_N.mean() / np.log(2)),
            "rows": [{**asdict(row), "pareto": best} for row, best in zip(rows, pareto(rows), strict=True)],
            "threads": torch.get_num_threads(),
            "settings": record_of,
            "knn_temp": config.knn_temp,
        }
        write_json(config.json, record)
    return "\n".join([f"{len(queries.vectors_ND)} queries: {queries.source}; k {config.k}", *lines(rows)])


def _claim(config: RecallConfig, settings: Mapping[str, Any]) -> None:
    """Raises ConfigError where the table or an index would be written in place of something else."""
    if config.json is not None:
        claim_record("--json", config.json, RECALL, settings, overwrite=config.overwrite)
    if config.keep_in is not None:
        directory = claim_directory("--keep-in", config.keep_in)
        for spec in config.specs:
            claim_index("--keep-in", _kept(directory, spec), overwrite=False)


def exact_unit(store: Datastore) -> float:
    """Returns the unit of a datastore's distances, by exact search: no index that is measured has a part in it."""
    keys_ND = store.keys_ND
    assert keys_ND is not None

    def search(queries_ND: Float32s, k: int) -> tuple[Float32s, Int64s]:
        with Progress("distances between rows", store.rows, "rows") as progress:
            k = min(k, store.rows_left)
            return exact_neighbours(keys_ND, queries_ND, k, progress, forgotten=store.forgotten)

    return measure_unit([StorePart(store, 0)], search)


def _kept(directory: Path, spec: str) -> Path:
    return directory / f"{spec.replace('/', '_')}.index"


def measure(store: Datastore, queries: Queries, config: RecallConfig, seed: int) -> Iterator[Measured]:
    """Yields a row for the exact search, then one for each index, nprobe and kind of distances."""
    assert store.keys_ND is not None
    vectors_ND, more = queries.vectors_ND, int(queries.row_ids_N is not None)  # a row finds itself as well
    count, most = len(vectors_ND), store.rows_left - more
    if config.k > most:
        raise ConfigError(f"--k {config.k} is more than the {most} rows that can be neighbours; lower it")
    require_memory(f"{count} queries", count * config.k * BYTES_A_NEIGHBOUR, "lower --sample or --k")
    start = time.monotonic()
    with Progress("exact search", store.rows, "rows") as progress:
        found = exact_neighbours(store.keys_ND, vectors_ND, config.k + more, progress, forgotten=store.forgotten)
    rate = count / max(time.monotonic() - start, 1e-9)
    near_NK, exact_NK = queries.without_themselves(*found)
    least = loss_of(store, queries, near_NK, exact_NK, config)
    key_bytes, gap = store.dimension * store.keys_ND.dtype.itemsize, None if least is None else 0.0
    yield Measured("exact", "keys", 0, key_bytes, None, None, 1.0, rate, least, gap)
    with ExitStack() as stack:
        directory = Path(config.keep_in or stack.enter_context(tempfile.TemporaryDirectory()))
        for name, index, size, train_s, add_s in _candidates(store, config, directory, seed):
            for distances, probe, rate, near_NK, ids_NK in _searched(store, queries, config, index):
                recall = recall_of(store.keys_ND, vectors_ND, ids_NK, exact_NK)
                loss = loss_of(store, queries, near_NK, ids_NK, config)
                gap = None if loss is None or least is None else loss - least
                yield Measured(name, distances, probe, size, train_s, add_s, recall, rate, loss, gap)


def _candidates(store: Datastore, config: RecallConfig, directory: Path, seed: int) -> Iterator[Candidate]:
    for path in config.indexfile:
        file = look_at(path)
        require_readable(file)
        if metric_name(read_index(path, mapped=True)) != "l2":
            raise MismatchError(f"--indexfile {path} must be of metric l2, but is of inner products; give another")
        index = open_index(file, allow_mismatch=config.allow_mismatch)
        require_index(index, file, store, allow_mismatch=config.allow_mismatch)
        yield path, index, Path(path).stat().st_size / store.rows, None, None
    directory.mkdir(parents=True, exist_ok=True)
    for spec in config.specs:
        path = str(_kept(directory, spec))
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
        yield made.spec, open_index(path), made.num_bytes / made.rows, times.get("train"), times.get("add")
        if config.keep_in is None:
            for leftover in directory.glob("*"):
                leftover.unlink()


def _searched(
    store: Datastore, queries: Queries, config: RecallConfig, index: Any
) -> Iterator[tuple[str, int, float, Float32s, Int64s]]:
    """Yields distances' kind, lists visited, queries per second, and neighbours of each way to search an index."""
    for distances, sim_func in (("own", "do_not_recomp_l2"), ("keys", None)):
        search = KNN_Dstore(store, index, KNNConfig(knn_sim_func=sim_func), distinct_ids=True).search
        for probe in config.probe if num_lists(index) else (0,):
            set_nprobe(index, probe)
            search(queries.vectors_ND[:1], config.k)  # what is prepared once is no part of a query
            start = time.monotonic()
            found = search(queries.vectors_ND, config.k + (queries.row_ids_N is not None))
            rate = len(queries.vectors_ND) / max(time.monotonic() - start, 1e-9)
            yield distances, probe, rate, *queries.without_themselves(*found)


def loss_of(
    store: Datastore, queries: Queries, near_NK: Float32s, ids_NK: Int64s, config: RecallConfig
) -> float | None:
    """Returns the mean bits of the mixture's targets; None where queries have no targets."""
    if queries.target_N is None or queries.log_p_N is None:
        return None
    values_NK: Array = store.values_N[np.maximum(ids_NK, 0)]
    assert config.knn_temp != AUTO
    log_p_N = log_prob_of(votes_for(near_NK, ids_NK, values_NK, queries.target_N), config.knn_temp)
    mixed_N = interpolate(torch.from_numpy(queries.log_p_N), torch.from_numpy(log_p_N), config.lmbda)
    return float(-mixed_N.mean()) / math.log(2)


def own_rows(store: Datastore, sample: int) -> Queries:
    """Returns evenly spaced rows of a datastore as queries."""
    assert store.keys_ND is not None
    row_ids_N = store.left.spaced(sample)
    return Queries("the datastore's own rows", gather_rows(store.keys_ND, row_ids_N), row_ids_N=row_ids_N)


# Heading, field and form of each column; the first three are words.
COLUMNS = (
    ("", "best", ""),
    ("index", "name", ""),
    ("distances", "distances", ""),
    ("probe", "probe", ""),
    ("bytes/key", "bytes_per_key", ".1f"),
    ("train s", "train_s", ".1f"),
    ("add s", "add_s", ".1f"),
    ("recall", "recall", ".4f"),
    ("queries/s", "queries_per_s", ".0f"),
    ("loss", "loss", ".4f"),
    ("gap", "gap", "+.4f"),
)


def pareto(rows: Sequence[Measured]) -> list[bool]:
    """Returns which rows no other row beats."""
    return [not any(_beats(other.costs(), row.costs()) for other in rows) for row in rows]


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def lines(rows: Sequence[Measured]) -> list[str]:
    """Returns the table, a line each; the rows worth having begin with a star."""
    cells = [[heading for heading, _, _ in COLUMNS]]
    for row, best in zip(rows, pareto(rows), strict=True):
        values = {**asdict(row), "probe": row.probe or None, "best": "*" if best else None}
        cells.append(["" if values[name] is None else format(values[name], form) for _, name, form in COLUMNS])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(widths[n]) if n < 3 else cell.rjust(widths[n]) for n, cell in enumerate(line)).rstrip()
        for line in cells
    ]
