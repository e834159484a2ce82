"""Small datastores, written for a test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import faiss
import pytest

from fairseq.knn.datastore.manifest import DatastoreManifest
from fairseq.knn.datastore.store import Datastore, DatastoreWriter
from tests.builders.small_store import clustered_keys, small_manifest, values_of


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other make tiny k-means runs slower, much slower on a busy machine."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture
def manifest() -> DatastoreManifest:
    return small_manifest()


@pytest.fixture
def make_store(tmp_path: Path, manifest: DatastoreManifest) -> Callable[..., Datastore]:
    def make(name: str = "dstore", keys=None, values=None, **changes) -> Datastore:
        keys = clustered_keys() if keys is None else keys
        values = values_of(len(keys)) if values is None else values
        with DatastoreWriter.create(
            tmp_path / name, manifest.replace(rows=len(keys), dimension=keys.shape[1], **changes)
        ) as writer:
            writer.append(keys, values)
            writer.finish()
        return Datastore.open(tmp_path / name)

    return make
