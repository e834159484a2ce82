"""What ``check``, ``info`` and ``forget`` say of an index in shards, and of one with its lists on the disk."""

from pathlib import Path

import pytest

from fairseq.errors import ConfigError, DatastoreError
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.inspect.directory import things_in
from fairseq.knn.inspect.info import describe
from fairseq.knn.shards.build import build_in_shards
from fairseq.knn.shards.manifest import read_shards, shard_path
from fairseq.knn.shards.verify import row_map_problem, shard_problem, trained_problem
from fairseq_cli.knnlm import main
from tests.builders.small_store import clustered_keys, write_store


def built(store: Datastore, path: Path, **more: object) -> Path:
    settings = {"dstore_mmap": str(store.prefix), "faiss_index": str(path), "index_spec": "IVF8,SQ8", "num_shards": 3}
    build_in_shards(store, BuildConfig(**{**settings, **more}), path)  # type: ignore[arg-type]
    return path


@pytest.fixture
def store(tmp_path: Path) -> Datastore:
    return write_store(tmp_path, keys=clustered_keys(600))


def check(*words: object) -> None:
    main(["check", *map(str, words), "--log-format", "none"])


def test_check_looks_at_every_shard(store: Datastore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = built(store, tmp_path / "i", with_rows=True)
    check("--dstore-filename", store.prefix, "--indexfile", path)
    said = capsys.readouterr().out
    assert "index row map" in said and "index shard 2" in said and "FAILED" not in said
    other = write_store(tmp_path, "other", keys=clustered_keys(600, seed=4), weights_sha256="o" * 64)
    with pytest.raises(DatastoreError, match=r"1 of .* checks failed"):
        check("--dstore-filename", other.prefix, "--indexfile", path)
    assert "was built from datastore" in capsys.readouterr().out
    shard = shard_path(path, 1, 3)
    shard.rename(tmp_path / "elsewhere")
    with pytest.raises(DatastoreError, match=r"1 of .* checks failed"):
        check("--dstore-filename", store.prefix, "--indexfile", path)
    assert "--num-shards 3 --shard-id 1 --overwrite" in capsys.readouterr().out


def test_an_index_in_place_of_data_is_told(store: Datastore, tmp_path: Path) -> None:
    path = built(store, tmp_path / "i")
    with pytest.raises(ConfigError, match=r"i is an index in shards, not a directory of data; give it as --indexfile "):
        check(path)


def test_what_is_wrong_with_a_shard(store: Datastore, tmp_path: Path) -> None:
    path = built(store, tmp_path / "i", with_rows=True)
    plan = read_shards(path)
    assert row_map_problem(path, plan) is None and trained_problem(path, plan) is None
    assert all(shard_problem(path, plan, number, fast=fast) is None for number in range(3) for fast in (True, False))
    # Two shards that have changed places, each with a manifest of its own.
    names = [shard_path(path, number, 3) for number in (0, 1)]
    for suffix in ("", ".json"):
        first, second, aside = Path(f"{names[0]}{suffix}"), Path(f"{names[1]}{suffix}"), tmp_path / "aside"
        first.rename(aside), second.rename(first), aside.rename(second)
    assert "is of another index" in str(shard_problem(path, plan, 0, fast=True))
    keys = Path(f"{shard_path(path, 2, 3)}_keys.npy")
    keys.write_bytes(bytes(keys.stat().st_size))
    assert "is not there, or is another file" in str(shard_problem(path, plan, 2, fast=True))
    dealt = (plan.rows_of_shards[0], plan.rows_of_shards[0])
    twice = plan.replace(rows_of_shards=dealt, index=plan.index.replace(rows=2 * dealt[0].num_rows))
    assert "the row map of" in str(row_map_problem(path, twice)), "a shard's rows twice, others not at all"
    (tmp_path / "i.trained").write_bytes(b"")
    assert "is not what the shards began with" in str(trained_problem(path, plan))


def test_info_shows_one_index(store: Datastore, tmp_path: Path) -> None:
    path = built(store, tmp_path / "i", with_rows=True)
    built(store, tmp_path / "d", merge="disk")
    for name in (path, Path(f"{path}.shards.json")):
        kind, lines = describe(str(name))
        assert kind == "FAISS index in 3 shards" and dict(lines)["keys"] == 600
    assert describe(str(shard_path(path, 2, 3)))[0] == "shard 2 of 3 of a FAISS index"
    assert describe(str(tmp_path / "d"))[0] == "FAISS index with its lists in d.ivfdata"
    there = dict(things_in(tmp_path))
    assert there["i"] == "FAISS index in 3 shards, 600 keys, IVF8,SQ8"
    assert there["d"] == "FAISS index, 600 keys, IVF8,SQ8"
    assert set(there) == {"i", "d", "dstore", "i.trained", "d.trained"}


@pytest.mark.parametrize(("more", "words"), [({}, "in shards"), ({"merge": "disk"}, "on the disk")])
def test_compaction_refuses_lists_that_cannot_give_up_rows(
    store: Datastore, tmp_path: Path, more: dict[str, str], words: str
) -> None:
    path = built(store, tmp_path / "i", **more)
    main(["forget", str(store.prefix), "--rows", "3:9"])
    before = {other.name: other.read_bytes() for other in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=f"has its lists {words}, which cannot give up rows; leave it out of --index"):
        main(["forget", str(store.prefix), "--compact", "--indexfile", str(path)])
    assert {other.name: other.read_bytes() for other in tmp_path.iterdir()} == before
