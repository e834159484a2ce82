"""Opening a FAISS index, with the checks that FAISS does not make.

``nprobe`` lives on the inverted file, which may sit behind a transform (OPQ, PCA), an id map or a refinement; setting
it on the outer object has no effect and raises nothing. An index knows its metric, width and number of keys; they must
be the datastore's.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from fairseq.arrays import Array, Float32s, Int64s, UInt8s
from fairseq.errors import ConfigError, DatastoreError, MismatchError
from fairseq.knn.config import KNNConfig
from fairseq.knn.index.index_file import IndexFile, look_at, require_file, require_ours
from fairseq.knn.index.reading import faiss_reason, read_by_faiss
from fairseq.knn.index.trial import IndexInChild
from fairseq.storage.files import atomic_write
from fairseq.storage.marks import INDEX_MARK

logger = logging.getLogger(__name__)


def read_index(path: str | Path, *, mapped: bool = False) -> Any:
    """Returns the FAISS index in a file.

    Args:
        path: its file.
        mapped: leave codes, ids and graphs in the file, mapped, as far as FAISS can (``require_mapped``).

    Raises:
        DatastoreError: there is none, or it cannot be read.
    """
    require_file(path)
    try:
        if mapped:
            with suppress(RuntimeError):  # there are lists that can only be read whole
                return read_by_faiss(path, mapped=True)
        return read_by_faiss(path)
    except (RuntimeError, MemoryError) as err:
        raise DatastoreError(
            f"{path} must be a FAISS index, but cannot be read ({faiss_reason(err)}); make it again with"
            " fairseq-build-dstore --overwrite"
        ) from err


def write_index(index: Any, path: Path) -> None:
    """Writes a FAISS index atomically.

    Through our own file: FAISS does not look at what closing its file says, and on a full disk leaves a shorter one.
    """
    with atomic_write(path) as file:
        failures: list[OSError] = []

        def write(data: bytes) -> None:
            try:
                file.write(data)
            except OSError as err:
                failures.append(err)
                raise

        try:
            faiss.write_index(index, faiss.PyCallbackIOWriter(write))  # type: ignore[attr-defined]
            write(INDEX_MARK)  # behind what FAISS reads
        except Exception:
            if failures:
                raise failures[0] from None
            raise


def metric_name(index: Any) -> str:
    """Returns ``l2`` or ``ip``; raises DatastoreError for another metric."""
    names = {faiss.METRIC_L2: "l2", faiss.METRIC_INNER_PRODUCT: "ip"}
    if index.metric_type not in names:
        raise DatastoreError(f"the index must be of metric l2 or ip, but FAISS calls it {index.metric_type}")
    return names[index.metric_type]


def inner_index(index: Any) -> Any:
    """Returns the index behind its transforms (OPQ, PCA), in its own class; itself without any."""
    inner = faiss.downcast_index(index)
    while isinstance(inner, faiss.IndexPreTransform):
        inner = faiss.downcast_index(inner.index)
    return inner


def transformed(index: Any, rows_ND: Float32s) -> Float32s:
    """Returns rows as they reach the lists of an index: behind its transforms, wherever these are."""
    outer: Any = faiss.downcast_index(index)
    while isinstance(outer, (faiss.IndexPreTransform, faiss.IndexRefine, faiss.IndexIDMap)):
        if isinstance(outer, faiss.IndexPreTransform):
            chain: Any = outer.chain  # a C++ vector, which its stubs call a list
            for number in range(chain.size()):
                rows_ND = faiss.downcast_VectorTransform(chain.at(number)).apply(rows_ND)
        outer = faiss.downcast_index(outer.base_index if isinstance(outer, faiss.IndexRefine) else outer.index)
    return np.ascontiguousarray(rows_ND)


def stored_ids(index: Any) -> Iterator[Int64s]:
    """Yields the ids that an index stores, as arrays over its own memory; nothing where ids are positions."""
    inner = inner_index(index)
    if isinstance(inner, faiss.IndexIDMap):
        yield view(inner.id_map.data(), inner.id_map.size())
        return
    inverted: Any = faiss.try_extract_index_ivf(index)
    for number in range(inverted.nlist) if inverted is not None else ():
        size = inverted.invlists.list_size(number)
        if size:
            pointer = inverted.invlists.get_ids(number)
            yield view(pointer, size)
            inverted.invlists.release_ids(number, pointer)


def num_lists(index: Any) -> int:
    """Returns the number of inverted lists, 0 for an index without any."""
    if isinstance(index, IndexInChild):
        return index.nlist
    inverted = faiss.try_extract_index_ivf(index)
    return int(inverted.nlist) if inverted is not None else 0


def nprobe_of(index: Any) -> int:
    """Returns the lists that a search visits, 0 for an index without any."""
    inverted = faiss.try_extract_index_ivf(index)
    return int(inverted.nprobe) if inverted is not None else 0


def lists_visited(index: Any) -> tuple[int, int]:
    """Returns the number of inverted lists and how many a search visits; (0, 0) for an index without any."""
    if isinstance(index, IndexInChild):
        return index.nlist, min(index.nprobe, index.nlist)
    if not isinstance(index, faiss.Index):  # one that passes over forgotten rows
        return lists_visited(index.index)
    count = num_lists(index)
    return count, min(nprobe_of(index), count)


def code_bytes(index: Any) -> int | None:
    """Returns the bytes of a key's code; None where FAISS does not say, as of graphs."""
    try:
        return int(index.sa_code_size())
    except (AttributeError, RuntimeError):
        return None


def set_nprobe(index: Any, nprobe: int) -> bool:
    """Sets the lists that a search visits, wherever the inverted file sits; returns whether there is one."""
    inverted: Any = index if isinstance(index, IndexInChild) else faiss.try_extract_index_ivf(index)
    if inverted is None or not inverted.nlist:
        return False
    inverted.nprobe = nprobe
    return True


def open_index(
    file: str | Path | IndexFile,
    *,
    nprobe: int | None = None,
    metric: str = "l2",
    gpu: bool = False,
    mapped: bool = False,
    allow_mismatch: bool = False,
) -> Any:
    """Returns the index in a file, ready to be searched.

    Args:
        file: its name, or what is known of it.
        nprobe: inverted lists that a search visits; None leaves the file's.
        metric: what it must have been built for, l2 or ip.
        gpu: move it to the GPUs, if FAISS has any.
        mapped: leave it in its file; nothing may change such an index, FAISS would end the process.
        allow_mismatch: only warn of a file that its manifest was not written for.

    Raises:
        DatastoreError: it cannot be read, or is empty.
        MismatchError: it is not its manifest's, has another metric, or ids that are not row numbers.
    """
    file = file if isinstance(file, IndexFile) else look_at(file)
    if file.manifest is not None and (shard := file.manifest.shard):
        raise MismatchError(
            f"{file.path} has some of the rows only, as shard {shard.number} of {shard.count}; give --indexfile the"
            " name of the whole, without .shard-…"
        )
    require_ours(file, allow_mismatch=allow_mismatch, mapped=mapped)
    path, index = file.path, read_index(file.path, mapped=mapped)
    if mapped:
        require_mapped(index, path)
    if metric_name(index) != metric:
        raise MismatchError(
            f"{path} was built for the metric {metric_name(index)}, but --faiss-metric-type is {metric}; give"
            f" --faiss-metric-type {metric_name(index)}"
        )
    if index.ntotal == 0:
        raise DatastoreError(
            f"{path} has no keys (a .trained file?); give the index that fairseq-build-dstore finished"
        )
    if not (mapped or (file.is_ours and lists_on_disk(index))):  # else it is ours, and ids take a pass over the disk
        _check_ids(index, path)
    if nprobe is not None and not set_nprobe(index, nprobe) and nprobe != KNNConfig.probe:  # else nobody asked for it
        logger.info("%s has no inverted lists: --probe %d has no effect", path, nprobe)
    return on_gpus(index) if gpu else index


def lists_on_disk(index: Any) -> bool:
    """Returns whether an index has its inverted lists in a file of their own, which is mapped."""
    inverted: Any = faiss.try_extract_index_ivf(index) if isinstance(index, faiss.Index) else None
    return inverted is not None and isinstance(
        faiss.downcast_InvertedLists(inverted.invlists), faiss.OnDiskInvertedLists
    )


def require_mapped(index: Any, path: Path) -> None:
    """Raises ConfigError where FAISS has read an index's codes into memory, although they should stay in the file."""
    inner = inner_index(index)
    if isinstance(inner, faiss.IndexRefine):
        inner = inner_index(inner.base_index)
    if isinstance(inner, (faiss.IndexFastScan, faiss.IndexIVFFastScan)):
        raise ConfigError(
            f"--map-index cannot leave {path} in its file: FAISS reads codes for FastScan whole; leave --map-index out,"
            " or build an index of other codes (--index-spec IVF4096,PQ64)"
        )


def _check_ids(index: Any, path: str | Path) -> None:
    """Raises MismatchError where an index has given its N keys other ids than the row numbers 0 to N − 1, each once."""
    n, low, high = int(index.ntotal), 0, -1
    count = sum(map(len, stored_ids(index)))
    if not count:
        return
    seen_N = np.zeros(n if count == n else 0, bool)
    for ids in stored_ids(index):
        low, high = min(low, int(ids.min())), max(high, int(ids.max()))
        if low >= 0 and high < len(seen_N):
            seen_N[ids] = True
    if count != n or not seen_N.all():
        raise MismatchError(
            f"{path} must number its keys by the rows of a datastore, 0 to {n - 1}, each once, but has {count} ids from"
            f" {low} to {high}; give --indexfile an index that fairseq-build-dstore made"
        )


def on_gpus(index: Any) -> Any:
    """Returns an index on the GPUs, if FAISS has any; else warns and returns it as it is."""
    if getattr(faiss, "get_num_gpus", lambda: 0)() == 0 or not hasattr(faiss, "index_cpu_to_all_gpus"):
        logger.warning("--gpu-index has no effect: FAISS sees no GPU (its GPU build is a package of its own)")
        return index
    return faiss.index_cpu_to_all_gpus(index)


def decoder(inverted: Any) -> Callable[[UInt8s], Tensor]:
    """Returns what makes vectors ``[S, D]`` of the codes ``[S, bytes]`` of an inverted file's rows."""
    if isinstance(inverted, faiss.IndexIVFFlat):
        return lambda codes: torch.tensor(codes.view(np.float32))
    coder: Any = inverted.pq if isinstance(inverted, faiss.IndexIVFPQ) else inverted.sq
    return lambda codes: torch.from_numpy(coder.decode(codes))


def view(pointer: Any, count: int) -> Array:
    """Returns the numbers that a pointer of FAISS's points to, where they lie."""
    return faiss.rev_swig_ptr(pointer, count) if count else np.empty(0, np.uint8)
