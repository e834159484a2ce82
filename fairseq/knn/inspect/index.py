"""Checks of a FAISS index: its file, that it belongs to the datastore, and how well it finds neighbours.

Recall is measured on keys of the datastore itself, evenly spaced. A key whose own row is not found, nor one equal to
it, says that the index was built from other keys.

Legend: N queries · K neighbours · D key width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.identity import short
from fairseq.knn.datastore.manifest import IndexManifest, manifest_path, read_manifest
from fairseq.knn.datastore.store import Datastore, gather_rows
from fairseq.knn.index.faiss_index import metric_name, num_lists, read_index, set_nprobe
from fairseq.knn.index.identity import index_differences, indexed_part, missing_rows
from fairseq.knn.index.index_file import look_at, problem_of_lists, require_file
from fairseq.knn.index.trial import IndexInChild
from fairseq.knn.index.without_rows import without_rows
from fairseq.knn.inspect.config import CheckConfig
from fairseq.knn.inspect.findings import OK, SKIPPED, WARNING, Findings
from fairseq.knn.inspect.store import KEYS_FINITE
from fairseq.knn.search.by_index import search
from fairseq.knn.search.distances import recompute_distances
from fairseq.knn.search.exact import exact_neighbours
from fairseq.knn.search.recall import recall_of
from fairseq.knn.shards.manifest import read_shards
from fairseq.knn.shards.verify import row_map_problem, shard_problem, trained_problem
from fairseq.runtime.progress import Progress
from fairseq.storage.stores import lists_name

# Of the index of these very keys, the list of a key's own code is always visited; only codes that cannot be told apart
# hide it. An index of other keys finds a row about as often as chance does.
SELF_FOUND_LEAST = 0.5
# A row must be found among so small a share of all rows, so that chance finds few even where k is nearly all of them.
NEAREST_SHARE = 20
# Below this, a larger nprobe is cheap and worth it; no error, for the exact search may be too slow for what it gains.
RECALL_LOW = 0.5


@dataclass(frozen=True)
class IndexPart:
    """An index that could be read, and its manifest if it has a sound one."""

    path: Path
    index: Any
    manifest: IndexManifest | None


@dataclass(frozen=True)
class Recall:
    """How well an index finds neighbours: shares of what was asked for, 0 to 1.

    Attributes:
        queries: keys that were searched for.
        k: neighbours of each.
        recall: found among the k nearest.
        missing: ids −1.
        found_itself: queries that found their own row, or one equal to it, among the nearest.
    """

    queries: int
    k: int
    recall: float
    missing: float
    found_itself: float


def check_index(findings: Findings, path: Path) -> IndexPart | None:
    """Checks an index and its manifest, and returns them where the index can be read."""
    what = "index manifest"
    manifest = findings.opened(what, lambda: read_manifest(manifest_path(path), IndexManifest))
    if manifest is not None:
        findings.add(OK, what, f"{manifest.spec} of store {manifest.store_id[:12]}")
        if path.is_file():
            size = path.stat().st_size
            problem = f"{path} must have {manifest.num_bytes} bytes by its manifest, but has {size}; build it again"
            findings.judge("index size", problem if size != manifest.num_bytes else None, f"{size} bytes")
            if size == manifest.num_bytes:
                if findings.fast:  # else the checksum says more
                    findings.judge("index fingerprint", look_at(path).problem, short(manifest.fingerprint or "none"))
                findings.checksum_of_files("index", {path: manifest.sha256}, "restore it or build it again")
        if manifest.lists and path.is_file():
            wrong = problem_of_lists(path, manifest.lists)
            findings.judge("index lists", wrong, f"{manifest.lists.num_bytes} bytes in {lists_name(path).name}")
            if wrong is None:
                recorded = {lists_name(path): manifest.lists.sha256}
                findings.checksum_of_files("index lists", recorded, "restore it or build it again")
    elif not findings.failed(what):
        findings.add(WARNING, what, "there is none: what it was built from is not known")
    failed = any(findings.failed(f"index {part}") for part in ("size", "fingerprint", "sha256", "lists"))
    index = findings.opened("index", lambda: _read(path, manifest, is_ours=manifest is not None and not failed))
    if index is None:
        return None
    name = index.type if isinstance(index, IndexInChild) else type(index).__name__
    text = f"{index.ntotal} keys of width {index.d}, metric {metric_name(index)}, {num_lists(index)} lists"
    findings.add(OK, "index", f"{name}, {text}")
    return IndexPart(path, index, manifest)


def check_shards(findings: Findings, path: Path, store: Datastore | None) -> None:
    """Checks an index in shards: each is there, whole and of the same index, and each row is in one."""
    plan = findings.opened("index shards", lambda: read_shards(path))
    if plan is None:
        return
    of = plan.index
    findings.add(OK, "index shards", f"{plan.num_shards}, of {of.rows} keys, {of.spec} of store {of.store_id[:12]}")
    findings.judge("index row map", row_map_problem(path, plan), "each row is in one shard")
    findings.judge("index trained", trained_problem(path, plan), "as the shards began with it")
    for number, rows in enumerate(plan.rows_of_shards):
        problem = shard_problem(path, plan, number, fast=findings.fast)
        findings.judge(f"index shard {number}", problem, f"{rows.num_rows} keys")
    if store is None or store.rows_id is None:
        findings.add(SKIPPED, "index and datastore", "needs a datastore that can be opened")
        return
    problem = None
    if of.store_id != store.rows_id:
        problem = (
            f"{path} was built from datastore {short(of.store_id)}, but {store.prefix} is datastore"
            f" {short(store.rows_id)}; build it again"
        )
    findings.judge("index store", problem, of.store_id[:12])
    findings.add(SKIPPED, "index recall", "it is measured of an index in one file")


def _read(path: Path, manifest: IndexManifest | None, *, is_ours: bool) -> Any:
    """Returns an index, in a child where it is not ours; raises DatastoreError unless it is what its manifest says."""
    require_file(path)
    index = read_index(path) if is_ours else IndexInChild(path)
    if index.ntotal == 0:
        raise DatastoreError(f"{path} has no keys (a .trained file?); give the index that was finished")
    found = (index.ntotal, index.d, metric_name(index), num_lists(index))
    own = (manifest.rows, manifest.dimension, manifest.metric, manifest.nlist) if manifest is not None else found
    if own != found:
        raise DatastoreError(
            f"{path} has keys, width, metric and lists {found}, but its manifest says {own}; the file was replaced,"
            " build it again"
        )
    return index


def check_index_of(config: CheckConfig, findings: Findings, part: IndexPart, store: Datastore | None) -> None:
    """Checks that the index is the datastore's, then how well it finds the neighbours of some of its keys."""
    if store is not None and part.manifest is not None:
        file = look_at(part.path)
        had = indexed_part(part.index, file, store)
        if had.rows < store.rows:
            findings.add(WARNING, "index of all rows", missing_rows(file, had, store.rows))
        store = had
    if store is None:
        findings.add(SKIPPED, "index and datastore", "needs a datastore that can be opened")
    elif not _fits(findings, part, store):
        findings.add(SKIPPED, "index recall", "the index is not the datastore's")
    else:
        if config.probe is not None and not set_nprobe(part.index, config.probe):
            findings.add(WARNING, "index probe", f"--probe {config.probe} has no effect: there are no inverted lists")
        if findings.failed(KEYS_FINITE):
            findings.add(SKIPPED, "index recall", "keys that are not finite have no distance")
            return
        recall = findings.opened("index keys", lambda: measure_recall(part.index, store, config.sample, config.k))
        if recall is not None:
            _judge_recall(findings, recall, store)


def _fits(findings: Findings, part: IndexPart, store: Datastore) -> bool:
    """Checks rows, width, metric and identity, and returns whether all of them fit."""
    index = part.index
    differing = index_differences(index, part.manifest, part.path, store)
    findings.judge("index rows", differing.get("rows"), f"{store.rows}")
    findings.judge("index width", differing.get("width"), f"{store.dimension}")
    name = metric_name(index)
    findings.add(OK, "index metric", name if name == "l2" else f"{name}: evaluate with --faiss-metric-type {name}")
    if part.manifest is None or store.rows_id is None:
        findings.add(SKIPPED, "index store", "no manifest says which datastore it was built from")
    else:
        findings.judge("index store", differing.get("store"), part.manifest.store_id[:12])
    return not differing


def measure_recall(index: Any, store: Datastore, sample: int, k: int) -> Recall:
    """Returns how well the index finds the neighbours of ``sample`` keys, evenly spaced over the datastore.

    Raises:
        DatastoreError: the index returns rows that are not there.
    """
    keys_ND = store.keys_ND
    assert keys_ND is not None
    inner_product = metric_name(index) == "ip"
    row_ids = store.left.spaced(sample)
    queries_ND = gather_rows(keys_ND, row_ids)
    k = min(k, store.rows_left)
    _, ids_NK = search(without_rows(index, store.forgotten, store.rows_left), queries_ND, k)
    if ids_NK.max() >= store.rows:
        raise DatastoreError(
            f"the index returns row {ids_NK.max()} of {store.rows} rows; it is damaged, build it again"
        )
    with Progress("exact search", store.rows, "rows") as progress:
        _, exact_NK = exact_neighbours(
            keys_ND, queries_ND, k, progress, inner_product=inner_product, forgotten=store.forgotten
        )
    first_NK = ids_NK[:, : max(store.rows // NEAREST_SHARE, 1)]
    itself = (first_NK == row_ids[:, None]).any(axis=1)
    if not inner_product:
        itself |= (recompute_distances(keys_ND, queries_ND, first_NK) == 0).any(axis=1)
    recall = recall_of(keys_ND, queries_ND, ids_NK, exact_NK, inner_product=inner_product)
    return Recall(len(row_ids), k, recall, float((ids_NK < 0).mean()), float(itself.mean()))


def _judge_recall(findings: Findings, recall: Recall, store: Datastore) -> None:
    asked = f"{recall.queries} queries, k {recall.k}"
    own = f"{recall.found_itself:.1%} of {recall.queries} rows find themselves"
    problem = f"only {own}; it was built from other keys, build it again from {store.prefix}"
    findings.judge("index keys", problem if recall.found_itself < SELF_FOUND_LEAST else None, own)
    text = f"{recall.missing:.1%} of the neighbours asked for ({asked})"
    if recall.missing:
        text += "; the lists that are visited hold too few keys, raise --probe or lower --k"
    findings.add(WARNING if recall.missing else OK, "index −1", text)
    low = recall.recall < RECALL_LOW
    advice = "; raise --probe, or build with more bytes per key" if low else ""
    findings.add(WARNING if low else OK, "index recall", f"{recall.recall:.1%} of the nearest ({asked}){advice}")
