"""Checks of a FAISS index: its file, that it belongs to the datastore, and how well it finds neighbours.

Recall is measured on keys of the datastore itself, evenly spaced. A neighbour that the index returned counts if it is
no farther than the k-th nearest key, both distances computed from the stored keys in the same way, so that ties count.
A key whose own row is not found, nor one equal to it, says that the index was built from other keys.

Legend: N queries · K neighbours · D key width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.manifest import IndexManifest, manifest_path, read_manifest
from fairseq.knn.datastore.store import Datastore, gather_rows
from fairseq.knn.index.faiss_index import metric_name, num_lists, read_index, set_nprobe
from fairseq.knn.index.without_rows import without_rows
from fairseq.knn.inspect.config import CheckConfig
from fairseq.knn.inspect.findings import FAILED, OK, SKIPPED, WARNING, Findings
from fairseq.knn.inspect.store import KEYS_FINITE
from fairseq.knn.search.distances import recompute_distances, search
from fairseq.knn.search.exact import exact_neighbours
from fairseq.runtime.files import file_sha256
from fairseq.runtime.progress import Progress

# Of the index of these very keys, the list of a key's own code is always visited; only codes that cannot be told apart
# hide it. An index of other keys finds a row about as often as chance does.
SELF_FOUND_LEAST = 0.5
# A row must be found among so small a share of all rows, so that chance finds few even where k is nearly all of them.
NEAREST_SHARE = 20
# Below this, a larger nprobe is cheap and worth it; no error, for the exact search may be too slow for what it gains.
RECALL_LOW = 0.5


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


def check_index_file(config: CheckConfig, findings: Findings) -> Any | None:
    """Checks an index and its manifest, and returns the index where it can be read."""
    assert config.indexfile is not None
    path = Path(config.indexfile)
    manifest: IndexManifest | None = None
    with findings.failing("index manifest"):
        manifest = read_manifest(manifest_path(path), IndexManifest)
        if manifest is None:
            findings.add(WARNING, "index manifest", "there is none: what it was built from is not known")
        else:
            findings.add(OK, "index manifest", f"{manifest.spec} of store {manifest.store_id[:12]}")
    if manifest is not None and path.is_file():
        _check_bytes(config, findings, path, manifest)
    index: Any = None
    with findings.failing("index"):
        index = read_index(path)
        name = type(index).__name__
        if not index.is_trained or index.ntotal == 0:
            findings.add(FAILED, "index", f"{path} has no keys (a .trained file?); give the index that was finished")
            return None
        if manifest is not None:
            own = (manifest.rows, manifest.dimension, manifest.metric, manifest.nlist)
            found = (index.ntotal, index.d, metric_name(index), num_lists(index))
            if own != found:
                problem = f"{path} has keys, width, metric and lists {found}, but its manifest says {own}"
                findings.add(FAILED, "index", f"{problem}; the file was replaced, build it again")
                return None
        text = f"{name}, {index.ntotal} keys of width {index.d}, metric {metric_name(index)}, {num_lists(index)} lists"
        findings.add(OK, "index", text)
        return index
    return None


def _check_bytes(config: CheckConfig, findings: Findings, path: Path, manifest: IndexManifest) -> None:
    size = path.stat().st_size
    problem = f"{path} must have {manifest.num_bytes} bytes by its manifest, but has {size}; build it again"
    if not findings.judge("index size", problem if size != manifest.num_bytes else None, f"{size} bytes"):
        return
    if config.fast:
        findings.add(SKIPPED, "index sha256", "--fast")
        return
    sha256 = file_sha256(path)
    problem = f"{path} has {sha256[:12]}, but its manifest records {manifest.sha256[:12]}; restore it or build it again"
    findings.judge("index sha256", problem if sha256 != manifest.sha256 else None, sha256[:12])


def check_recall(config: CheckConfig, findings: Findings, index: Any, store: Datastore | None) -> None:
    """Checks that the index is the datastore's, then how well it finds the neighbours of some of its keys."""
    if store is None:
        findings.add(SKIPPED, "index and datastore", "needs a datastore that can be opened")
        return
    assert config.indexfile is not None and store.keys_ND is not None
    fits = _check_fit(findings, index, config.indexfile, store)
    if not fits:
        findings.add(SKIPPED, "index recall", "the index is not the datastore's")
        return
    if config.probe is not None and not set_nprobe(index, config.probe):
        findings.add(WARNING, "index probe", f"--probe {config.probe} has no effect: there are no inverted lists")
    if findings.failed(KEYS_FINITE):
        findings.add(SKIPPED, "index recall", "keys that are not finite have no distance")
        return
    with findings.failing("index keys"):
        _judge_recall(findings, measure_recall(index, store, config.sample, config.k), store)


def _check_fit(findings: Findings, index: Any, path: str, store: Datastore) -> bool:
    problem = f"{path} has {index.ntotal} keys, but {store.prefix} {store.rows} rows; build the index again"
    fits = findings.judge("index rows", problem if index.ntotal != store.rows else None, f"{store.rows}")
    problem = f"{path} has keys of width {index.d}, but {store.prefix} of {store.dimension}; build the index again"
    fits &= findings.judge("index width", problem if index.d != store.dimension else None, f"{store.dimension}")
    name = metric_name(index)
    findings.add(OK, "index metric", name if name == "l2" else f"{name}: evaluate with --faiss-metric-type {name}")
    try:
        manifest = read_manifest(manifest_path(path), IndexManifest)
    except DatastoreError:
        manifest = None  # has failed above
    if manifest is None or store.rows_id is None:
        findings.add(SKIPPED, "index store", "no manifest says which datastore it was built from")
        return fits
    problem = f"{path} was built from store {manifest.store_id[:12]}, but {store.prefix} is {store.rows_id[:12]}"
    same = manifest.store_id == store.rows_id
    remedy = "give the datastore's own, or build it with build_dstore.py"
    return fits & findings.judge("index store", None if same else f"{problem}; {remedy}", manifest.store_id[:12])


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
    distances_NK = recompute_distances(keys_ND, queries_ND, ids_NK, inner_product=inner_product)
    limit_N = recompute_distances(keys_ND, queries_ND, exact_NK, inner_product=inner_product).max(axis=1)
    hits = (distances_NK <= limit_N[:, None]) & (ids_NK >= 0)
    first = slice(0, max(store.rows // NEAREST_SHARE, 1))
    itself = (ids_NK[:, first] == row_ids[:, None]).any(axis=1)
    if not inner_product:
        itself |= (distances_NK[:, first] == 0).any(axis=1)
    return Recall(len(row_ids), k, float(hits.mean()), float((ids_NK < 0).mean()), float(itself.mean()))


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
