"""What reading an index with FAISS takes: a limit to the memory that a file can ask for, flags, and FAISS's words.

It imports little but faiss, since the child of trial.py does.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss

from fairseq.storage.stores import lists_name

# What FAISS may compute beside an index's file when it reads one with product codes: its own bound for that table.
COMPUTED_TABLE_BYTES = 1 << 31


@contextmanager
def memory_limit(path: str | Path) -> Iterator[None]:
    """Keeps FAISS from taking more memory for one array than a file can fill, whatever it says of its length."""
    get = getattr(faiss, "get_deserialization_vector_byte_limit", None)
    if get is None:  # older FAISS
        yield
        return
    before = get()
    faiss.set_deserialization_vector_byte_limit(Path(path).stat().st_size + COMPUTED_TABLE_BYTES)
    try:
        yield
    finally:
        faiss.set_deserialization_vector_byte_limit(before)


def read_by_faiss(path: str | Path, *, mapped: bool = False) -> Any:
    """Returns the index in a file.

    Lists in a file of their own (``INDEX.ivfdata``) are mapped in any case, from beside the index: FAISS's own flag for
    that (``IO_FLAG_ONDISK_SAME_DIR``) prints where it finds them, and one for mapping as well ends the process.

    Args:
        path: its file.
        mapped: leave codes, ids and graphs in the file, mapped.

    Raises:
        RuntimeError: FAISS cannot read it.
    """
    data, name = lists_name(path), str(path)
    with memory_limit(path):
        if not data.is_file() and not mapped:
            return faiss.read_index(name)
        if not data.is_file():  # every array of the file is mapped; older FAISS maps inverted lists alone
            lists_alone = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
            return faiss.read_index(name, getattr(faiss, "IO_FLAG_MMAP_IFC", lists_alone))
        index = faiss.read_index(name, faiss.IO_FLAG_SKIP_IVF_DATA)
        inverted: Any = faiss.try_extract_index_ivf(index)
        lists: Any = None if inverted is None else faiss.downcast_InvertedLists(inverted.invlists)
        if not isinstance(lists, faiss.OnDiskInvertedLists):  # the other file is another's
            return faiss.read_index(name)
        lists.filename, lists.read_only = str(data), True
        lists.do_mmap()
        return index


def faiss_reason(err: BaseException) -> str:
    """Returns what FAISS complains of, without the place in its source."""
    return re.sub(r"^Error in .*? at \S+?:\d+: ", "", str(err), flags=re.DOTALL).strip() or type(err).__name__
