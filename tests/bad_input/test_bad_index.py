"""Indexes that are torn, of another datastore or another program, and manifests that lie about them."""

import json
import struct
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np

from fairseq.storage.marks import INDEX_MARK
from tests.builders.cases import BUILD, EVAL, Call, Case, Place, check, parametrise

WIDTH = 16


def with_bytes(change: Callable[[bytes], bytes]) -> Callable[[Place], list[object]]:
    """Returns an evaluation with neighbours from an index whose file has been changed."""

    def make(place: Place) -> list[object]:
        path = place.index()
        path.write_bytes(change(path.read_bytes()))
        return place.neighbours(index=path)

    return make


def without_manifest(change: Callable[[bytes], bytes]) -> Callable[[Place], list[object]]:
    """Returns an evaluation with such an index that no manifest speaks of, as other programs leave one."""

    def make(place: Place) -> list[object]:
        argv = with_bytes(change)(place)
        (place / "knn.index.json").unlink()
        return argv

    return make


def at(start: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:start] + new + data[start + len(new) :]


def with_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Place], list[object]]:
    """Returns an evaluation with an index whose manifest has been changed."""

    def make(place: Place) -> list[object]:
        index = place.index()
        path = place / "knn.index.json"
        record = json.loads(path.read_bytes())
        change(record)
        path.write_text(json.dumps(record), encoding="utf-8")
        return place.neighbours(index=index)

    return make


def manifest_bytes(content: bytes) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        index = place.index()
        (place / "knn.index.json").write_bytes(content)
        return place.neighbours(index=index)

    return make


def foreign(build: Callable[[np.ndarray], Any]) -> Callable[[Place], list[object]]:
    """Returns an evaluation with an index that another program made from the datastore's keys."""

    def make(place: Place) -> list[object]:
        keys = np.fromfile(f"{place.good.store}_keys.npy", np.float32).reshape(-1, WIDTH)
        faiss.write_index(build(keys), str(place / "knn.index"))
        return place.neighbours(index=place / "knn.index")

    return make


def flat(keys: np.ndarray, width: int = WIDTH, metric: int = faiss.METRIC_L2) -> Any:
    index = faiss.index_factory(width, "Flat", metric)
    index.add(np.ascontiguousarray(keys[:, :width]))
    return index


def with_ids(first: int) -> Callable[[np.ndarray], Any]:
    """Returns what makes an index whose ids are not row numbers."""

    def build(keys: np.ndarray) -> Any:
        index = faiss.index_factory(WIDTH, "IDMap,Flat")
        index.add_with_ids(keys, np.arange(first, first + len(keys)))
        return index

    return build


def inverted_with_ids(first: int) -> Callable[[np.ndarray], Any]:
    def build(keys: np.ndarray) -> Any:
        index = faiss.index_factory(WIDTH, "IVF2,Flat")
        index.train(keys)
        index.add_with_ids(keys, np.arange(first, first + len(keys)))
        return index

    return build


def ids_twice(keys: np.ndarray) -> Any:
    """Two rows are there twice and two are not, so that the ids' number and sum are right."""
    index = faiss.index_factory(WIDTH, "IDMap,Flat")
    ids = np.arange(len(keys))
    ids[[0, 3]] = [1, 2]
    index.add_with_ids(keys, ids)
    return index


def untrained(keys: np.ndarray) -> Any:
    return faiss.index_factory(WIDTH, "IVF2,Flat")


def of_another_store(place: Place) -> list[object]:
    index = place.index()
    path = place / "knn.index.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"store_id": "', '"store_id": "f'), encoding="utf-8")
    return place.neighbours(index=index)


def index_is_a_directory(place: Place) -> list[object]:
    (place / "knn.index").mkdir()
    return place.neighbours(index=place / "knn.index")


def manifest_is_a_directory(place: Place) -> list[object]:
    index = place.index()
    (place / "knn.index.json").unlink()
    (place / "knn.index.json").mkdir()
    return place.neighbours(index=index)


def binary(place: Place) -> list[object]:
    index = faiss.IndexBinaryFlat(WIDTH)
    index.add(np.zeros((4, WIDTH // 8), np.uint8))
    faiss.write_index_binary(index, str(place / "knn.index"))
    return place.neighbours(index=place / "knn.index")


def build_over_one(place: Place) -> list[object]:
    (place / "new.index").write_bytes(b"mine")
    return place.build()


def build_over_a_directory(place: Place) -> list[object]:
    (place / "new.index").mkdir()
    return place.build(more=["--overwrite"])


def partial_is_torn(place: Place) -> list[object]:
    (place / "new.index.partial.json").write_bytes(b'{"kind": "index", "vers')
    return place.build()


EXCHANGED = "knn.index is not the file that its manifest was written for"
TORN = "knn.index must be a FAISS index, but cannot be read"
CASES = [
    Case("index-empty", EVAL, without_manifest(lambda _: b""), TORN),
    Case("index-empty-by-its-manifest", EVAL, with_bytes(lambda _: b""), "knn.index must have "),
    Case("index-four-bytes", EVAL, without_manifest(lambda d: d[:4]), TORN),
    Case("index-four-bytes-by-its-manifest", EVAL, with_bytes(lambda d: d[:4]), "knn.index must have "),
    Case("index-half", EVAL, without_manifest(lambda d: d[: len(d) // 2]), TORN),
    Case("index-half-by-its-manifest", EVAL, with_bytes(lambda d: d[: len(d) // 2]), "knn.index must have "),
    Case("index-one-byte-short", EVAL, without_manifest(lambda d: d.removesuffix(INDEX_MARK)[:-1]), TORN),
    Case("index-one-byte-short-by-its-manifest", EVAL, with_bytes(lambda d: d[:-1]), "knn.index must have "),
    Case("index-wrong-magic", EVAL, without_manifest(at(0, b"NOPE")), TORN),
    Case("index-wrong-magic-by-its-manifest", EVAL, with_bytes(at(0, b"NOPE")), EXCHANGED),
    Case("index-is-text", EVAL, without_manifest(lambda _: b"the cat sat on the mat\n" * 9), "is a text, not"),
    Case(
        "index-is-text-by-its-manifest",
        EVAL,
        with_bytes(lambda _: b"the cat sat on the mat\n" * 9),
        "knn.index must have ",
    ),
    Case("index-is-a-checkpoint", EVAL, lambda p: p.neighbours(index=p.good.checkpoint), "is a checkpoint, not"),
    Case(
        "index-is-the-keys",
        EVAL,
        lambda p: p.neighbours(index=f"{p.good.store}_keys.npy"),
        "is a file of a datastore, not",
    ),
    Case("index-is-binary", EVAL, binary, TORN),
    Case("index-width-lies", EVAL, without_manifest(at(4, struct.pack("<i", 8))), "knn.index"),
    Case("index-width-negative", EVAL, without_manifest(at(4, struct.pack("<i", -16))), "knn.index"),
    Case("index-count-lies", EVAL, without_manifest(at(8, struct.pack("<q", 7))), "knn.index"),
    Case("index-count-negative", EVAL, without_manifest(at(8, struct.pack("<q", -1))), "knn.index"),
    Case("index-count-huge", EVAL, without_manifest(at(8, struct.pack("<q", 2**40))), "knn.index"),
    Case("index-lists-huge", EVAL, without_manifest(at(37, struct.pack("<Q", 2**40))), "knn.index"),
    Case("index-metric-unknown", EVAL, without_manifest(at(33, struct.pack("<i", 3))), TORN),
    Case("index-metric-unknown-by-its-manifest", EVAL, with_bytes(at(33, struct.pack("<i", 3))), EXCHANGED),
    Case("index-is-missing", EVAL, lambda p: p.neighbours(index=p / "none"), "none does not exist"),
    Case("index-is-a-directory", EVAL, index_is_a_directory, "knn.index is a directory, not a FAISS index"),
    Case("index-untrained", EVAL, foreign(untrained), "knn.index has no keys"),
    Case("index-of-other-width", EVAL, foreign(lambda k: flat(k, 8)), "knn.index has keys of width 8"),
    Case("index-of-fewer-keys", EVAL, foreign(lambda k: flat(k[:-1])), "knn.index has "),
    Case("index-of-other-metric", EVAL, foreign(lambda k: flat(k, metric=faiss.METRIC_L1)), "be of metric l2 or ip"),
    Case("index-ip", EVAL, foreign(lambda k: flat(k, metric=faiss.METRIC_INNER_PRODUCT)), "--faiss-metric-type is l2"),
    Case("index-ids-beyond", EVAL, foreign(with_ids(5)), "knn.index must number its keys"),
    Case("index-ids-negative", EVAL, foreign(with_ids(-9)), "knn.index must number its keys"),
    Case("index-ids-twice", EVAL, foreign(ids_twice), "each once"),
    Case("index-lists-hold-ids-beyond", EVAL, foreign(inverted_with_ids(10**12)), "knn.index must number its keys"),
    Case("index-of-another-store", EVAL, of_another_store, "knn.index was built from datastore f"),
    Case("index-json-empty", EVAL, manifest_bytes(b""), "knn.index.json must be JSON, but is not"),
    Case("index-json-torn", EVAL, manifest_bytes(b'{"kind": "ind'), "knn.index.json must be JSON, but is not"),
    Case("index-json-binary", EVAL, manifest_bytes(b"\xff\xfe\0"), "knn.index.json must be JSON, but is not"),
    Case("index-json-deep", EVAL, manifest_bytes(b"[" * 100_000), "knn.index.json must be JSON, but is not"),
    Case("index-json-is-a-list", EVAL, manifest_bytes(b"[]"), "knn.index.json must be of kind 'index'"),
    Case("index-json-of-a-datastore", EVAL, with_manifest(lambda r: r.update(kind="datastore")), "knn.index.json must"),
    Case("index-json-of-version-2", EVAL, with_manifest(lambda r: r.update(version=2)), "is of version 2"),
    Case("index-json-lacks-a-field", EVAL, with_manifest(lambda r: r.pop("store_id")), "lacks the field 'store_id'"),
    Case("index-json-unknown-field", EVAL, with_manifest(lambda r: r.update(x=1)), "has the unknown field 'x'"),
    Case(
        "index-json-rows-negative",
        EVAL,
        with_manifest(lambda r: r.update(rows=-1)),
        "'rows' must be at least 0, but is -1",
    ),
    Case(
        "index-json-rows-text",
        EVAL,
        with_manifest(lambda r: r.update(rows="9")),
        "'rows' must be a whole number, but is '9'",
    ),
    Case("index-json-metric", EVAL, with_manifest(lambda r: r.update(metric="cos")), "'metric' must be l2 or ip"),
    Case("index-json-is-a-directory", EVAL, manifest_is_a_directory, "knn.index.json"),
    Case("build-over-another-file", BUILD, build_over_one, "new.index is there, and is not an index that"),
    Case("build-over-a-directory", BUILD, build_over_a_directory, "new.index"),
    Case("build-partial-is-torn", BUILD, partial_is_torn, "new.index.partial.json is there, and is not"),
    Case("build-spec-unknown", BUILD, lambda p: p.build(more=["--index-spec", "Flut"]), "--index-spec Flut must be a"),
    Case("build-spec-empty", BUILD, lambda p: p.build(more=["--index-spec", ""]), "--index-spec"),
    Case("build-spec-too-many-lists", BUILD, lambda p: p.build(more=["--index-spec", "IVF9999,Flat"]), "--index-spec"),
    Case("build-spec-odd-codes", BUILD, lambda p: p.build(more=["--index-spec", "PQ7"]), "--index-spec PQ7"),
    Case("build-into-a-file", BUILD, lambda p: p.build(more=["--faiss-index", p.good.index / "x"]), "knn.index"),
]


@parametrise(CASES)
def test_bad_index(case: Case, place: Place, call: Call) -> None:
    check(case, place, call)
