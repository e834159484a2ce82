"""An index's file is compared with its manifest before FAISS reads it."""

import contextlib
import json
import logging
import os
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest

from fairseq.errors import DatastoreError, MismatchError
from fairseq.knn.config import KNNConfig
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.index.append import append_to_index
from fairseq.knn.index.build import build_index
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.index.index_file import look_at
from fairseq.knn.index.trial import IndexInChild
from fairseq.knn.inspect.check import check_all
from fairseq.knn.inspect.config import CheckConfig
from fairseq.knn.inspect.findings import Finding
from fairseq.storage.files import file_sha256
from fairseq.storage.fingerprint import fingerprint
from knnlm import KNN_Dstore, open_neighbours
from tests.builders.small_store import clustered_keys, grow, values_of, write_store

SPEC = "IVF8,SQ8"


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Two datastores of one size, with an index each: the second index is as long as the first."""
    for name, seed in (("a", 0), ("b", 8)):
        store = write_store(tmp_path, name, clustered_keys(seed=seed), settings={"data": name})
        build_index(store, BuildConfig("d", "i", index_spec=SPEC), tmp_path / f"{name}.index")
    assert (tmp_path / "a.index").stat().st_size == (tmp_path / "b.index").stat().st_size
    return tmp_path


def opened(root: Path, **more) -> KNN_Dstore:
    return KNN_Dstore.open(root / "a", root / "a.index", KNNConfig(k=4, **more))


def edited(path: Path, **changes) -> None:
    record = {**json.loads(path.read_bytes()), **changes}
    path.write_text(json.dumps({k: v for k, v in record.items() if v is not None}), encoding="utf-8")


@pytest.mark.pitfall(31)
def test_an_exchanged_index_is_refused(two: Path, caplog) -> None:
    own = opened(two).identity()
    assert own["index_sha256"] == file_sha256(two / "a.index")
    assert own["index_fingerprint"] == fingerprint(two / "a.index")
    shutil.copy(two / "b.index", two / "a.index")
    with pytest.raises(MismatchError, match=r"a\.index is not the file that its manifest was written for"):
        opened(two)
    found = opened(two, allow_mismatch=True).identity()
    assert "was exchanged" in caplog.text
    assert found["index_sha256"] is None and found["index_fingerprint"] == fingerprint(two / "b.index")


@pytest.mark.pitfall(31)
@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: d[: len(d) // 2]])
def test_a_file_of_another_length_is_refused(two: Path, change) -> None:
    path = two / "a.index"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(MismatchError, match=r"must have .* bytes by its manifest, but has"):
        opened(two)


@pytest.mark.pitfall(31)
def test_a_manifest_of_an_older_version_has_every_byte_compared(two: Path, caplog) -> None:
    edited(two / "a.index.json", fingerprint=None)
    with caplog.at_level(logging.INFO):
        assert opened(two).identity()["index_sha256"] == file_sha256(two / "a.index")
    assert "every byte is compared" in caplog.text
    data = bytearray((two / "a.index").read_bytes())
    data[len(data) // 2] ^= 1
    (two / "a.index").write_bytes(data)
    with pytest.raises(MismatchError, match="was exchanged"):
        opened(two)


def checked(root: Path, *flags: str) -> list[Finding]:
    findings: list[Finding] = []
    config = CheckConfig(dstore_filename=str(root / "a"), indexfile=str(root / "a.index"), fast="fast" in flags)
    with contextlib.suppress(DatastoreError):
        check_all(config, findings.append)
    return findings


def status(findings: list[Finding], what: str) -> str:
    return next(finding.status for finding in findings if finding.what == what)


def test_check_reads_every_byte(two: Path) -> None:
    """A byte between the blocks of a large file's fingerprint; this file is small, so the manifest is told another."""
    assert status(checked(two), "index sha256") == status(checked(two, "fast"), "index fingerprint") == "ok"
    data = bytearray((two / "a.index").read_bytes())
    data[400] ^= 1  # a number of a centroid
    (two / "a.index").write_bytes(data)
    edited(two / "a.index.json", fingerprint=fingerprint(two / "a.index"))
    assert opened(two).search(clustered_keys(2))[0].shape == (2, 4)
    assert status(checked(two), "index sha256") == "FAILED"
    assert status(checked(two, "fast"), "index fingerprint") == "ok"


def test_the_fingerprint_follows_the_index_as_rows_are_added(two: Path) -> None:
    store = grow(Datastore.open(two / "a"), clustered_keys(60, seed=3), values_of(60))
    append_to_index(store, BuildConfig("d", "i", append=True), two / "a.index")
    assert look_at(two / "a.index").is_ours and opened(two).datastore.rows == 1560


def test_append_compares_every_byte(two: Path) -> None:
    """Rows that are added to a damaged index would give it a sound manifest."""
    store = grow(Datastore.open(two / "a"), clustered_keys(60, seed=3), values_of(60))
    data = bytearray((two / "a.index").read_bytes())
    data[400] ^= 1  # a number of a centroid
    (two / "a.index").write_bytes(data)
    edited(two / "a.index.json", fingerprint=fingerprint(two / "a.index"))
    with pytest.raises(DatastoreError, match="is damaged: it is not what its manifest says"):
        append_to_index(store, BuildConfig("d", "i", append=True), two / "a.index")


def test_an_old_manifest_is_gone_while_a_new_index_is_written(two: Path, monkeypatch) -> None:
    """Killed there, the new file must not be taken for the old one."""
    from fairseq.knn.index import build

    seen = []
    whole = build.write_index
    monkeypatch.setattr(build, "write_index", lambda *a: (seen.append((two / "a.index.json").exists()), whole(*a)))
    store = Datastore.open(two / "a")
    build_index(store, BuildConfig("d", "i", index_spec="Flat", overwrite=True), two / "a.index")
    assert seen == [False]


CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
HANG = "import time; time.sleep(600)"


@pytest.mark.parametrize(("code", "words"), [(CRASH, "signal 11"), (HANG, "still busy")])
def test_a_crash_or_a_hang_of_faiss_is_one_line(two: Path, monkeypatch, code: str, words: str) -> None:
    """Where FAISS is made to crash and to hang: a module of that name is found first, in the child alone."""
    (two / "stand-in").mkdir()
    (two / "stand-in" / "faiss.py").write_text(f"def read_index(path):\n    {code}\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(two / "stand-in"))
    monkeypatch.setattr("fairseq.knn.index.trial.LEAST_TIME_S", 60.0 if code == CRASH else 2.0)
    (two / "a.index.json").unlink()
    os.utime(two / "a.index")
    with pytest.raises(DatastoreError, match=words):
        opened(two)
    findings = checked(two)
    assert status(findings, "index") == "FAILED" and any(words in finding.text for finding in findings)


@pytest.mark.pitfall(17)
def test_a_child_imports_nothing_from_where_the_user_stands(two: Path, monkeypatch) -> None:
    """As in a checkout of another fairseq, or beside files of anybody."""
    for name in ("fairseq", "numpy", "faiss"):
        (two / "here" / name).mkdir(parents=True)
        (two / "here" / name / "__init__.py").write_text("open('ran', 'w')\n", encoding="utf-8")
    monkeypatch.chdir(two / "here")
    (two / "a.index.json").unlink()
    assert opened(two).identity()["index_fingerprint"] == fingerprint(two / "a.index")
    assert not (two / "here" / "ran").exists()


def test_an_index_that_says_it_is_not_trained(two: Path) -> None:
    index = faiss.read_index(str(two / "a.index"))
    index.is_trained = False
    faiss.write_index(index, str(two / "a.index"))
    (two / "a.index.json").unlink()
    with pytest.raises(DatastoreError, match=r"cannot be read \(.*trained"):
        opened(two)
    assert status(checked(two), "index") == "FAILED"


def test_an_index_of_another_program_finds_the_same_in_a_child(two: Path) -> None:
    own, child = faiss.read_index(str(two / "a.index")), IndexInChild(two / "a.index")
    assert (child.d, child.ntotal, child.nlist, child.type) == (16, 1500, 8, "IndexIVFScalarQuantizer")
    queries = clustered_keys(7, seed=4)
    faiss.extract_index_ivf(own).nprobe = child.nprobe = 3
    for found, expected in zip(child.search(queries, 5), own.search(queries, 5), strict=True):
        assert np.array_equal(found, expected)
    (two / "a.index.json").unlink()
    findings = checked(two)
    assert {status(findings, what) for what in ("index", "index rows", "index keys")} == {"ok"}


def test_results_of_several_name_what_was_read(two: Path) -> None:
    names = {"dstore_filename": f"{two}/a:{two}/b", "indexfile": f"{two}/a.index:{two}/b.index"}
    found = open_neighbours(KNNConfig(knnlm=True, k=4, **names)).identity()
    assert [one["index_fingerprint"] for one in found["datastores"]] == [
        fingerprint(two / f"{name}.index") for name in "ab"
    ]
