"""One index of all shards: in one file, or with its lists in a file of their own that a search maps.

Either way a list has its rows in ascending order, as one build of all rows leaves them. In memory, the file is that of
one build to the byte. On the disk, FAISS's own on-disk lists:

    INDEX             transforms, centroids, and where each list lies; a search reads it whole
    INDEX.ivfdata     list after list: codes [S, bytes], then ids [S] int64

    codes of list 0 │ room │ ids of list 0 │ room │ codes of list 1 │ …      each list begins at a multiple of 64 bytes

INDEX names the other file without a directory, so that both may move together. Shards are mapped, so that merging on
the disk holds one list at a time. The lists come first, then the index, then its manifest: a merge that was killed is
done again.

Legend: S rows of a list.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from fairseq.arrays import Int64s, UInt8s
from fairseq.errors import DatastoreError
from fairseq.knn.datastore.manifest import IndexManifest, ListsFile, manifest_path, write_manifest
from fairseq.knn.index.build import Build, save_index
from fairseq.knn.index.faiss_index import inner_index, read_index, set_nprobe, view, write_index
from fairseq.knn.shards.manifest import ShardsManifest, shard_path
from fairseq.knn.shards.shard import trained_index
from fairseq.runtime.interrupts import check, finish_step_first
from fairseq.runtime.progress import Progress, at_work
from fairseq.runtime.resources import require_disk, require_memory
from fairseq.storage.files import atomic_write, file_sha256
from fairseq.storage.marks import INDEX_MARK
from fairseq.storage.stores import lists_name

MERGE_AGAIN = "the shards are as they were; the same command merges them again"
# Lists begin at multiples of this, and have room for a multiple of so many rows: codes and ids lie where processors
# like to read them.
ALIGNED_BYTES, ALIGNED_ROWS = 64, 8


def merge_in_memory(build: Build, plan: ShardsManifest, shards: Sequence[IndexManifest]) -> IndexManifest:
    """Merges shards to one file, and returns its manifest.

    Args:
        build: of the whole index.
        plan: how its rows were dealt.
        shards: the manifest of each.

    Raises:
        DatastoreError: a shard is damaged.
    """
    size = sum(shard.num_bytes for shard in shards)
    require_memory(f"merging {build.path}", size, "give --merge disk, which holds one list at a time")
    require_disk(build.path, size, "make room")
    with finish_step_first("this list"):
        index, inverted = _trained(build, plan)
        for number, ids_S, codes_S in _merged_lists(build, plan, shards, inverted):
            if len(ids_S):
                inverted.invlists.add_entries(number, len(ids_S), faiss.swig_ptr(ids_S), faiss.swig_ptr(codes_S))
        _count(index, plan)
        return save_index(index, build.path, plan.index)


def merge_on_disk(build: Build, plan: ShardsManifest, shards: Sequence[IndexManifest]) -> IndexManifest:
    """Merges shards to an index whose lists are a file of their own, and returns its manifest.

    Args:
        build: of the whole index.
        plan: how its rows were dealt.
        shards: the manifest of each.

    Raises:
        DatastoreError: a shard is damaged.
    """
    path, data = build.path, lists_name(build.path)
    size = sum(shard.num_bytes for shard in shards)
    require_disk(path, size, "make room: the shards are removed when the merged index is whole")
    with finish_step_first("this list"):
        index, inverted = _trained(build, plan)
        lists: Any = faiss.OnDiskInvertedLists(inverted.nlist, inverted.code_size, data.name)
        lists.lists.clear()
        manifest_path(path).unlink(missing_ok=True)
        with atomic_write(data) as file:
            for _, ids_S, codes_S in _merged_lists(build, plan, shards, inverted):
                room = -(-len(ids_S) // ALIGNED_ROWS) * ALIGNED_ROWS
                place = faiss.OnDiskOneList()
                place.size, place.capacity, place.offset = len(ids_S), room, file.tell()
                lists.lists.push_back(place)
                file.write(codes_S.tobytes() + bytes((room - len(ids_S)) * inverted.code_size))
                file.write(ids_S.tobytes() + bytes((room - len(ids_S)) * ids_S.itemsize))
                file.write(bytes(-file.tell() % ALIGNED_BYTES))
            lists.totsize = file.tell()
            file.write(INDEX_MARK)  # behind what FAISS maps
        inverted.replace_invlists(lists, False)
        _count(index, plan)
        with at_work("write the index and its checksums"):
            write_index(index, path)
            manifest = plan.index.of_file(path).replace(lists=ListsFile.of_file(data))
        write_manifest(manifest_path(path), manifest)
    return manifest


def _trained(build: Build, plan: ShardsManifest) -> tuple[Any, Any]:
    index = trained_index(build, plan)
    return index, inner_index(index)


def _count(index: Any, plan: ShardsManifest) -> None:
    """Has an index whose lists were filled know how many rows it has, and how many lists a search visits."""
    set_nprobe(index, plan.index.nprobe)
    part = faiss.downcast_index(index)
    while True:
        part.ntotal = plan.index.rows
        if not isinstance(part, faiss.IndexPreTransform):
            return
        part = faiss.downcast_index(part.index)


def _merged_lists(
    build: Build, plan: ShardsManifest, shards: Sequence[IndexManifest], inverted: Any
) -> Iterator[tuple[int, Int64s, UInt8s]]:
    """Yields each list of all shards: its number, ids ascending, and their codes.

    Raises:
        DatastoreError: a shard is damaged, or the lists do not hold every row.
    """
    indexes = [_mapped(shard_path(build.path, n, plan.num_shards), shard) for n, shard in enumerate(shards)]
    total = 0
    with Progress("merge lists", inverted.nlist, "lists") as progress:
        for number in range(inverted.nlist):
            with _lists(indexes, number, inverted.code_size) as parts:
                ids_S = np.concatenate([ids for ids, _ in parts])
                order_S = np.argsort(ids_S, kind="stable")
                codes_S = np.concatenate([codes for _, codes in parts])[order_S]
                ids_S = ids_S[order_S]
            yield number, ids_S, codes_S
            total += len(ids_S)
            progress.advance(1)
            check(MERGE_AGAIN)
    if total != plan.index.rows:
        raise DatastoreError(
            f"the shards of {build.path} hold {total} keys, but must hold {plan.index.rows}; build them again with"
            " --overwrite"
        )


def _mapped(path: Path, manifest: IndexManifest) -> Any:
    """Returns a shard, its lists on the disk, after comparing its checksum."""
    with at_work(f"compare the checksum of {path.name}"):
        same = path.is_file() and file_sha256(path) == manifest.sha256
    if not same:
        raise DatastoreError(
            f"{path} is damaged: it is not what its manifest says; remove {manifest_path(path)} and give the same"
            " command again, which builds this shard alone"
        )
    return read_index(path, mapped=True)


@contextmanager
def _lists(indexes: Sequence[Any], number: int, code_size: int) -> Iterator[list[tuple[Int64s, UInt8s]]]:
    """Yields ids and codes of a list of each index, where they lie."""
    held, parts = [], []
    for index in indexes:
        inverted: Any = inner_index(index)
        size = inverted.invlists.list_size(number)
        ids, codes = inverted.invlists.get_ids(number), inverted.invlists.get_codes(number)
        held.append((inverted.invlists, ids, codes))
        parts.append((view(ids, size).astype(np.int64), view(codes, size * code_size).reshape(size, code_size)))
    yield parts
    for lists, ids, codes in held:
        lists.release_ids(number, ids)
        lists.release_codes(number, codes)
