"""Whether an index belongs to a datastore: as wide, of as many rows, and built from these rows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fairseq.errors import MismatchError
from fairseq.knn.datastore.identity import mismatch, short
from fairseq.knn.datastore.manifest import DatastoreManifest, IndexManifest
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.index.index_file import IndexFile


def index_differences(
    index: Any, manifest: IndexManifest | None, indexfile: str | Path, store: Datastore
) -> dict[str, str]:
    """Returns what is wrong with an index, as far as is known: its ``width``, its ``rows``, its ``store``."""
    found = {}
    if index.d != store.dimension:
        found["width"] = (
            f"{indexfile} has keys of width {index.d}, but {store.prefix} of {store.dimension}; give --indexfile the"
            " datastore's own"
        )
    if index.ntotal != store.rows:
        found["rows"] = (
            f"{indexfile} has {index.ntotal} keys, but {store.prefix} was opened with {store.rows} rows; give"
            " --indexfile the datastore's own, and --dstore-size to both commands or to neither; fairseq-build-dstore"
            " --append adds rows that were appended"
        )
    if manifest is not None and store.rows_id not in (None, manifest.store_id):
        found["store"] = (
            f"{indexfile} was built from datastore {short(manifest.store_id)}, but {store.prefix} is datastore"
            f" {short(store.rows_id)}; give --indexfile the datastore's own, or build it with fairseq-build-dstore"
        )
    return found


def indexed_part(index: Any, file: IndexFile, store: Datastore) -> Datastore:
    """Returns what an index has of its datastore: the rows before the last were appended, or all of them.

    An index goes on serving while rows are appended to its datastore, and until they are added to it.
    """
    if file.manifest is None or store.manifest is None or index.ntotal > store.rows:
        return store
    for state in store.manifest.earlier_states():
        if state.rows_id == file.manifest.store_id and state.rows == index.ntotal < store.manifest.rows:
            return _as_it_was(store, state)
    return store


def _as_it_was(store: Datastore, state: DatastoreManifest) -> Datastore:
    """Returns a datastore's first rows, of which ``state`` is the manifest."""
    return replace(
        store,
        rows=state.rows,
        keys_ND=None if store.keys_ND is None else store.keys_ND[: state.rows],
        values_N=store.values_N[: state.rows],
        manifest=state,
        store_id=state.store_id,
        rows_id=state.rows_id,
        forgotten=store.forgotten.within(0, state.rows),
    )


def missing_rows(file: IndexFile, part: Datastore, rows: int) -> str:
    """Returns that an index lacks the last of a datastore's ``rows``."""
    return (
        f"{file.path} has the first {part.rows} of {rows} rows of {part.prefix}: the {rows - part.rows} that were"
        " appended since are not found; fairseq-build-dstore --append adds them"
    )


def require_index(index: Any, file: IndexFile, store: Datastore, *, allow_mismatch: bool = False) -> None:
    """Checks that an index belongs to the datastore.

    Raises:
        MismatchError: another width or number of rows; or, without ``allow_mismatch``, other rows.
    """
    for name, problem in index_differences(index, file.manifest, file.path, store).items():
        if name != "store":
            raise MismatchError(problem)
        mismatch(problem, allow_mismatch)
