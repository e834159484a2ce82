"""What reading an index with FAISS takes: a limit to the memory that a file can ask for, and FAISS's words.

It imports faiss alone, since the child of trial.py does.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import faiss

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


def faiss_reason(err: BaseException) -> str:
    """Returns what FAISS complains of, without the place in its source."""
    return re.sub(r"^Error in .*? at \S+?:\d+: ", "", str(err), flags=re.DOTALL).strip() or type(err).__name__
