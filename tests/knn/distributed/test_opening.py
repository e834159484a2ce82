"""Shards that do not belong together, or are not there, refuse a run in one line."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq.errors import ConfigError, DatastoreError, FairseqError, MismatchError
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.config import TextsConfig
from fairseq.knn.datastore.manifest import DatastoreManifest, read_manifest
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.distributed import opening, shard_files
from fairseq.knn.distributed.local_backend import LocalBackend
from fairseq.knn.distributed.opening import check_identities, open_sharded
from fairseq.knn.distributed.shard import Shard
from fairseq.knn.distributed.shard_files import ShardSettings
from fairseq.knn.index.build import build_index
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.maintain.config import ForgetConfig
from fairseq.knn.maintain.forget import forget
from fairseq.knn.neighbours.opening import open_neighbours
from fairseq.knn.shards.manifest import read_shards
from fairseq.models.protocol import ModelIdentity
from tests.builders.shards import trained_index, write_in_shards
from tests.builders.small_index import small_index
from tests.builders.small_store import clustered_keys, grow, values_of, write_store

SPEC = "IVF8,SQ8"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("opening")
    store = write_store(root, settings={"data": "a", "context_window": 8})
    write_in_shards(store, trained_index(store, SPEC), root / "index", 3, SPEC, has_rows=True)
    return root


@pytest.fixture
def root(files: Path, tmp_path: Path) -> Path:
    """Returns a directory of the test's own, with a datastore and its index in three shards."""
    return Path(shutil.copytree(files, tmp_path / "own"))


def opened(root: Path, model: ModelIdentity | None = None, rows: int | None = None, **flags: Any) -> Any:
    return open_sharded(root / "dstore", root / "index", KNNConfig(**{"k": 9, **flags}), model, rows=rows)


def test_missing_files_are_named(root: Path) -> None:
    (root / "index.shard-1-of-3").rename(root / "moved")
    with pytest.raises(DatastoreError, match=r"lacks shard 1 of 3; build with .*--num-shards 3 --shard-id 1, or copy"):
        opened(root)
    (root / "moved").rename(root / "index.shard-1-of-3")
    (root / "index.shard-1-of-3.json").rename(root / "moved")
    with pytest.raises(FairseqError, match=r"shard-1-of-3"):
        opened(root)
    (root / "moved").rename(root / "index.shard-1-of-3.json")
    (root / "index.trained").rename(root / "moved")
    with pytest.raises(DatastoreError, match=r"index.trained is not there, by which lists are chosen"):
        opened(root)
    shutil.copy(root / "index.shard-0-of-3", root / "index.trained")
    with pytest.raises(MismatchError, match=r"is not the one that the shards of .* were built from"):
        opened(root)
    (root / "moved").rename(root / "index.trained")
    (root / "dstore.json").rename(root / "moved")
    with pytest.raises(DatastoreError, match=r"dstore.json is not there, which says what the rows"):
        opened(root)


def test_an_exchanged_shard_is_refused(root: Path) -> None:
    shutil.copy(root / "index.shard-0-of-3", root / "index.shard-1-of-3")
    with pytest.raises(MismatchError, match=r"shard-1-of-3 .*exchanged"):
        opened(root)


def test_rows_of_the_same_size_that_are_others_are_refused(root: Path) -> None:
    values = root / "index.shard-1-of-3_vals.npy"
    values.write_bytes(values.read_bytes()[::-1])
    with pytest.raises(DatastoreError, match=r"shard-1-of-3_vals.npy is not the copy of the shard's"):
        opened(root)


def test_a_shard_in_the_place_of_another_is_refused(root: Path) -> None:
    """Rows would be found twice, and others never."""
    for ending in ("", ".json", "_keys.npy", "_vals.npy"):
        shutil.copy(root / f"index.shard-2-of-3{ending}", root / f"index.shard-1-of-3{ending}")
    with pytest.raises(MismatchError, match=r"shard-1-of-3 is of another index, or is another shard"):
        opened(root)


def test_a_shard_of_another_training_is_refused(root: Path) -> None:
    """Its rows are the same, dealt in the same way."""
    store = Datastore.open(root / "dstore")
    trained = small_index(store.dimension, SPEC)
    trained.train(np.asarray(store.keys_ND, np.float32)[:400])
    write_in_shards(store, trained, root / "other", 3, SPEC, has_rows=True)
    for ending in ("", ".json"):
        shutil.copy(root / f"other.shard-1-of-3{ending}", root / f"index.shard-1-of-3{ending}")
    with pytest.raises(MismatchError, match=r"shard-1-of-3 is of another index"):
        opened(root)


def test_a_damaged_shard_is_to_be_removed(root: Path) -> None:
    """A build takes no file for its own that it would not have written."""
    with (root / "index.shard-1-of-3").open("ab") as file:
        file.write(b"x")
    with pytest.raises(MismatchError, match=r"truncated or exchanged; remove it, and build it with .* --shard-id 1$"):
        opened(root)


def test_rows_of_another_size_are_refused(root: Path) -> None:
    with (root / "index.shard-1-of-3_keys.npy").open("ab") as file:
        file.write(b"0000")
    with pytest.raises(DatastoreError, match=r"shard-1-of-3_keys.npy is not the copy of the shard's \d+ rows"):
        opened(root)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"set_id": "e" * 64}, "shard 1 of .*index on there belongs to the index eeeeeeeeeeee, but here it is"),
        ({"rows_id": "e" * 64}, "shard 1 of .* has rows of datastore eeeeeeeeeeee, but here it is"),
        ({"forgotten_sha256": "e" * 64}, "leaves out the forgotten rows eeeeeeeeeeee, but here it is none"),
        ({"number": 2}, "says that it is shard 2 of"),
        ({"rows": 3}, "says that it is shard 1 of 3 rows, but must have"),
        ({"versions": {"FAISS": "1.0"}}, "runs FAISS 1.0, but this machine"),
    ],
)
def test_any_difference_of_a_shard_refuses_the_run(files: Path, changes: dict[str, Any], words: str) -> None:
    backend = LocalBackend.open(files / "dstore", files / "index", 3, ShardSettings())
    found = list(backend.identities())
    manifest = read_manifest(files / "dstore.json", DatastoreManifest)
    assert manifest is not None
    check_identities(found, files / "index", read_shards(files / "index"), manifest)
    versions = {**found[1].versions, **changes.pop("versions", {})}
    found[1] = dataclasses.replace(found[1], node="there", versions=versions, **changes)
    with pytest.raises(MismatchError, match=words) as refused:
        check_identities(found, files / "index", read_shards(files / "index"), manifest)
    assert "\n" not in str(refused.value)


def test_flags_that_shards_do_not_have(files: Path) -> None:
    with pytest.raises(ConfigError, match="--gpu-index searches an index in one file"):
        opened(files, gpu_index=True)
    with pytest.raises(ConfigError, match=r"--dstore-size 700: .* has 1500 rows"):
        opened(files, rows=700)
    assert len(opened(files, rows=1500)) == 1500
    with pytest.raises(MismatchError, match="--faiss-metric-type l2"):
        opened(files, faiss_metric_type="ip")
    with pytest.raises(MismatchError, match="vocabulary"):
        opened(files, ModelIdentity(vocabulary_size=7))
    with pytest.raises(DatastoreError, match=r"shard-\d-of-3_vals.npy: ids must be from 0 to 39999"):
        opened(files, ModelIdentity(vocabulary_size=40000), allow_mismatch=True)


def test_another_datastore_is_refused_and_an_appended_one_is_not(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = write_store(tmp_path, "other", weights_sha256="x" * 64)
    with pytest.raises(MismatchError, match=r"was built from datastore .* but .*other is datastore"):
        open_sharded(other.prefix, root / "index", KNNConfig(k=9), None)
    from fairseq.knn.datastore.store import Datastore

    before = opened(root).search(clustered_keys(5))[1]
    grow(Datastore.open(root / "dstore"), clustered_keys(50), values_of(50))
    after = opened(root)
    assert "has the first 1500 of 1550 rows" in caplog.text and len(after) == 1500
    assert after.search(clustered_keys(5))[1].tolist() == before.tolist()
    forget(ForgetConfig(str(root / "dstore"), rows="1400:1520"), TextsConfig(), lambda _: None)
    assert len(opened(root)) == 1400


def test_what_is_refused_or_done_with_is_let_go(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    class Noting(LocalBackend):
        def close(self) -> None:
            closed.append(self)

    monkeypatch.setattr(opening, "LocalBackend", Noting)
    names = KNNConfig(dstore_filename=f"{root}/dstore:{root}/other", indexfile=f"{root}/index:{root}/index2", k=9)
    for path in [*root.glob("dstore*"), *root.glob("index.*")]:
        name = path.name.replace("dstore", "other").replace("index.", "index2.")
        shutil.copy(path, root / name)
    both = open_neighbours(names)
    assert not closed
    both.close()
    assert len(closed) == 2
    monkeypatch.setattr(opening, "versions", lambda: {"FAISS": "1.0"})
    with pytest.raises(MismatchError, match="install the same versions everywhere"):
        opened(root)
    assert len(closed) == 3


def test_settings_of_no_effect_are_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    in_shards = KNNConfig(dstore_filename=str(root / "dstore"), indexfile=str(root / "index"), k=9)
    open_neighbours(in_shards)
    assert not caplog.messages
    open_neighbours(
        dataclasses.replace(in_shards, ray_address="host:1", knn_timeout=5.0, map_index=True, knn_in_flight=3)
    )
    assert [message.split(" has no effect ")[0] for message in caplog.messages] == [
        "--ray-address",
        "--knn-timeout",
        "--map-index",
    ]
    caplog.clear()
    store = Datastore.open(root / "dstore")
    build = BuildConfig(dstore_mmap=str(store.prefix), faiss_index=str(root / "whole"), index_spec="Flat")
    build_index(store, build, root / "whole")
    caplog.clear()
    open_neighbours(dataclasses.replace(in_shards, indexfile=str(root / "whole"), knn_in_flight=3))
    assert [message for message in caplog.messages if "effect" in message] == [
        "--knn-in-flight has no effect on an index that is not in shards"
    ]


@pytest.mark.parametrize("measure", ["exact", "index"])
def test_in_memory_a_shard_has_its_own_rows_alone(root: Path, measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Datastore.open(root / "dstore")
    assert store.keys_ND is not None
    for path in root.glob("index.shard-*-of-3_*"):  # else these are read
        path.unlink()
    plan = read_shards(root / "index")
    for number, rows in enumerate(plan.rows_of_shards):
        shard = Shard.open(root / "dstore", root / "index", number, ShardSettings(measure=measure, in_memory=True))
        ids = rows.ids()[::7]
        assert len(shard.files.values_N) == rows.num_rows and type(shard.files.values_N) is np.ndarray
        assert np.array_equal(shard.values_of(ids), store.values_N[ids])
        assert np.array_equal(shard.keys_of(ids), store.keys_ND[ids])
    monkeypatch.setattr(shard_files, "require_memory", refuse)
    with pytest.raises(
        ConfigError, match=r"reading .*index\.shard-0-of-3 and its rows; leave --move-dstore-to-mem out"
    ):
        opened(root, move_dstore_to_mem=True)


def refuse(what: str, needed: int, remedy: str) -> None:
    raise ConfigError(f"{what}; {remedy}")
