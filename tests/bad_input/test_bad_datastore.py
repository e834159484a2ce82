"""Datastores that are torn, unfinished, of another model, or whose manifests lie."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.builders.cases import BUILD, EVAL, Call, Case, Place, check, parametrise

WIDTH = 16


def with_manifest(command: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Place], list[object]]:
    """Returns a command that reads a datastore whose manifest has been changed."""

    def make(place: Place) -> list[object]:
        store = place.store()
        record = json.loads((place / "dstore.json").read_bytes())
        change(record)
        (place / "dstore.json").write_text(json.dumps(record), encoding="utf-8")
        return place.build(store=store) if command == BUILD else place.neighbours(store=store)

    return make


def with_file(
    name: str, change: Callable[[bytes], bytes], *, manifest: bool = True, more: tuple[object, ...] = ()
) -> Callable[[Place], list[object]]:
    """Returns the building of an index from a datastore with a changed file, with its manifest or without."""

    def make(place: Place) -> list[object]:
        store = place.store()
        path = place / f"dstore{name}"
        path.write_bytes(change(path.read_bytes()))
        if not manifest:
            (place / "dstore.json").unlink()
        return place.build(store=store, more=more)

    return make


def of_older_version(store: Path) -> None:
    """Makes a manifest one of an older version, which has no fingerprints to tell changed files by."""
    path = Path(f"{store}.json")
    record = json.loads(path.read_bytes())
    del record["fingerprints"]
    path.write_text(json.dumps(record), encoding="utf-8")


def with_value(value: int) -> Callable[[Place], list[object]]:
    """Returns the evaluation with a datastore, complete by its manifest, whose last value is this."""

    def make(place: Place) -> list[object]:
        store = place.store()
        path = place / "dstore_vals.npy"
        path.write_bytes(path.read_bytes()[:-8] + np.int64(value).tobytes())
        of_older_version(store)
        return place.neighbours(store=store)

    return make


def without(name: str) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        store = place.store()
        (place / f"dstore{name}").unlink()
        return place.neighbours(store=store)

    return make


def directory(name: str) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        store = place.store()
        (place / f"dstore{name}").unlink()
        (place / f"dstore{name}").mkdir()
        return place.neighbours(store=store)

    return make


def nan_in(place: Place) -> Path:
    """Returns the prefix of a datastore with a key that is no number."""
    store = place.store()
    keys = np.fromfile(f"{store}_keys.npy", np.float32)
    keys[5 * WIDTH + 3] = np.nan
    keys.tofile(f"{store}_keys.npy")
    of_older_version(store)
    return store


def dump(place: Place, *more: object) -> list[object]:
    words = ["--gen-subset", "test", "--save-knnlm-dstore", "--dstore-mmap", place / "new", "--context-window", 8]
    return [*place.evaluate(), *words, *more]


def dump_over_one(suffix: str, content: bytes) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        (place / f"new{suffix}").write_bytes(content)
        return dump(place)

    return make


def dump_over_another(place: Place) -> list[object]:
    for suffix in ("_keys.npy", "_vals.npy", ".json"):
        shutil.copy(f"{place.good.store}{suffix}", f"{place / 'new'}{suffix}")
    return dump(place)


def append_to_another(place: Place) -> list[object]:
    store = place.store()
    record = json.loads((place / "dstore.json").read_bytes())
    (place / "dstore.json").write_text(json.dumps({**record, "weights_sha256": "0" * 64}), encoding="utf-8")
    return dump(place, "--append", "--dstore-mmap", store)


def append_to_bare(place: Place) -> list[object]:
    store = place.store()
    (place / "dstore.json").unlink()
    keys = np.zeros((10, WIDTH * 64), np.float32)  # of the width that is taken where nothing says another
    keys.tofile(place / "dstore_keys.npy")
    np.full(10, 5, np.int64).tofile(place / "dstore_vals.npy")
    return dump(place, "--append", "--dstore-mmap", store)


def forgotten_case(name: str, content: bytes, expect: str) -> Case:
    """Returns the evaluation with a datastore of which three rows are said to be forgotten, by such a file."""

    def make(place: Place) -> list[object]:
        store = place.store()
        record = json.loads((place / "dstore.json").read_bytes())
        sha256 = hashlib.sha256(content).hexdigest()
        record["forgotten"] = {"rows": 3, "sha256": sha256}
        (place / "dstore.json").write_text(json.dumps(record), encoding="utf-8")
        (place / f"dstore.forgotten.{sha256[:16]}.json").write_bytes(content)
        return place.neighbours(store=store)

    return Case(name, EVAL, make, expect)


def rewrite(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda record: record.update(values)


def of_manifest(name: str, values: dict[str, Any], expect: str, command: str = EVAL) -> Case:
    return Case(name, command, with_manifest(command, rewrite(**values)), expect)


CASES = [
    Case("keys-empty", BUILD, with_file("_keys.npy", lambda _: b""), "dstore_keys.npy must have"),
    Case("keys-one-byte-short", BUILD, with_file("_keys.npy", lambda d: d[:-1]), "dstore_keys.npy must have"),
    Case("keys-half", BUILD, with_file("_keys.npy", lambda d: d[: len(d) // 2]), "dstore_keys.npy must have"),
    Case("keys-one-row-more", BUILD, with_file("_keys.npy", lambda d: d + bytes(64)), "dstore_keys.npy must have"),
    Case("values-empty", BUILD, with_file("_vals.npy", lambda _: b""), "dstore_vals.npy must have"),
    Case("values-one-byte-short", BUILD, with_file("_vals.npy", lambda d: d[:-1]), "dstore_vals.npy must have"),
    Case("keys-are-missing", EVAL, without("_keys.npy"), "dstore_keys.npy does not exist"),
    Case("values-below-0", EVAL, with_value(-5), "dstore_vals.npy: ids must be from 0 to"),
    Case("values-beyond-the-vocabulary", EVAL, with_value(10**6), "dstore_vals.npy: ids must be from 0 to"),
    Case("values-are-missing", EVAL, without("_vals.npy"), "dstore_vals.npy does not exist"),
    Case("keys-are-a-directory", EVAL, directory("_keys.npy"), "dstore_keys.npy"),
    Case("values-are-a-directory", EVAL, directory("_vals.npy"), "dstore_vals.npy"),
    Case("manifest-is-a-directory", EVAL, directory(".json"), "dstore.json"),
    Case("manifest-empty", BUILD, with_file(".json", lambda _: b""), "dstore.json must be JSON"),
    Case("manifest-torn", BUILD, with_file(".json", lambda d: d[:50]), "dstore.json must be JSON"),
    Case("manifest-latin-1", BUILD, with_file(".json", lambda _: b'{"kind": "\xe9"}'), "dstore.json must be JSON"),
    Case("manifest-deep", BUILD, with_file(".json", lambda _: b'{"a":' * 99_999), "dstore.json must be JSON"),
    Case("manifest-huge-number", BUILD, with_file(".json", lambda _: b"9" * 9999), "dstore.json must be"),
    Case("manifest-is-a-number", BUILD, with_file(".json", lambda _: b"7"), "dstore.json must be of kind"),
    Case("manifest-is-null", BUILD, with_file(".json", lambda _: b"null"), "dstore.json must be of kind"),
    of_manifest(
        "manifest-of-an-index",
        {"kind": "index"},
        "dstore.json must be of kind 'datastore', but is of kind 'index'",
        BUILD,
    ),
    of_manifest("manifest-of-version-9", {"version": 9}, "is of version 9"),
    of_manifest("manifest-of-version-true", {"version": [1]}, "is of version [1]"),
    of_manifest("manifest-unknown-field", {"colour": 1}, "has the unknown field 'colour'"),
    of_manifest("rows-negative", {"rows": -5}, "'rows' must be at least 1, but is -5"),
    of_manifest("rows-zero", {"rows": 0}, "'rows' must be at least 1, but is 0"),
    of_manifest("width-zero", {"dimension": 0}, "'dimension' must be at least 1, but is 0"),
    of_manifest("rows-fraction", {"rows": 1.5}, "'rows' must be a whole number"),
    of_manifest("rows-null", {"rows": None}, "'rows' must be a whole number"),
    of_manifest("rows-too-many", {"rows": 10**9}, "must have 8000000000 bytes by its manifest"),
    of_manifest("rows-beyond-64-bits", {"rows": 10**30}, "'rows' must be at most"),
    of_manifest("rows-infinite", {"rows": float("inf")}, "dstore.json"),
    of_manifest("width-lies", {"dimension": 8}, "dstore_keys.npy must have", BUILD),
    of_manifest("width-of-another-model", {"dimension": 32}, "written with keys of width 32, but this run has 16"),
    of_manifest("width-negative", {"dimension": -16}, "'dimension' must be at least 1, but is -16"),
    of_manifest("key-type-unknown", {"key_dtype": "float8"}, "'key_dtype' must be float32 or float16"),
    of_manifest("key-type-is-code", {"key_dtype": "O"}, "'key_dtype' must be float32 or float16", BUILD),
    of_manifest("key-type-lies", {"key_dtype": "float16"}, "dstore_keys.npy must have", BUILD),
    of_manifest("value-type-is-code", {"value_dtype": "object"}, "'value_dtype' must be int64 or int32 or int16"),
    of_manifest("value-type-lies", {"value_dtype": "int32"}, "dstore_vals.npy must have", BUILD),
    of_manifest("state-unknown", {"state": "done"}, "'state' must be writing or complete"),
    of_manifest("store-unfinished", {"state": "writing"}, "dstore is unfinished"),
    of_manifest("settings-are-a-list", {"settings": []}, "'settings' must be an object"),
    of_manifest("vocabulary-of-another", {"vocabulary_size": 99}, "a vocabulary of 99, but this run has 40"),
    of_manifest("dictionary-of-another", {"dictionary_sha256": "0" * 64}, "written with dictionary 000000000000"),
    of_manifest("weights-of-another", {"weights_sha256": "0" * 64}, "written with model weights 000000000000"),
    of_manifest("keys-of-another-type", {"seed": 1}, "has the unknown field 'seed'"),
    Case(
        "bare-width-does-not-divide",
        BUILD,
        with_file("_keys.npy", lambda d: d, manifest=False, more=("--dimension", 7)),
        "check --dimension",
    ),
    Case(
        "bare-both-empty",
        BUILD,
        with_file("_keys.npy", lambda _: b"", manifest=False, more=("--dimension", 16)),
        "dstore_keys.npy has 0 bytes",
    ),
    Case(
        "bare-values-negative",
        BUILD,
        with_file("_vals.npy", lambda d: b"\xff" * len(d), manifest=False, more=("--dimension", 16)),
        "dstore_vals.npy holds ids outside the vocabulary",
    ),
    Case(
        "bare-too-many-rows",
        BUILD,
        with_file("_keys.npy", lambda d: d, manifest=False, more=("--dimension", 16, "--dstore-size", 10**6)),
        "--dstore-size 1000000 is larger than",
    ),
    Case("store-is-missing", EVAL, lambda p: p.neighbours(store=p / "none"), "none_vals.npy does not exist"),
    Case("store-to-build-is-missing", BUILD, lambda p: p.build(store=p / "none"), "none_vals.npy does not exist"),
    Case("store-size-too-large", EVAL, lambda p: [*p.neighbours(), "--dstore-size", 10**7], "--dstore-size 10000000"),
    Case("store-is-not-fp16", EVAL, lambda p: [*p.neighbours(), "--dstore-fp16"], "--dstore-fp16"),
    Case(
        "dump-over-bare-keys", EVAL, dump_over_one("_keys.npy", b"mine"), "new_keys.npy is there, and is not the keys"
    ),
    Case(
        "dump-over-bare-values",
        EVAL,
        dump_over_one("_vals.npy", b"mine"),
        "new_vals.npy is there, and is not the values",
    ),
    Case("dump-over-a-torn-manifest", EVAL, dump_over_one(".json", b"{"), "new.json is there, and is not"),
    Case("dump-over-another-store", EVAL, dump_over_another, "new"),
    Case("dump-size-too-large", EVAL, lambda p: dump(p, "--dstore-size", 10**7), "--dstore-size 10000000 is larger"),
    Case("dump-without-a-place", EVAL, lambda p: [*p.evaluate(), "--save-knnlm-dstore"], "--save-knnlm-dstore needs"),
    Case(
        "dump-of-no-named-split",  # the default of --gen-subset would be the test split
        EVAL,
        lambda p: [*p.evaluate(), "--save-knnlm-dstore", "--dstore-mmap", p / "new"],
        "which split to write; give --gen-subset, usually --gen-subset train",
    ),
    Case("dump-into-a-file", EVAL, lambda p: dump(p, "--dstore-mmap", p.good.index / "x"), "knn.index"),
    of_manifest("segments-are-text", {"segments": "train"}, "'segments' must be a list, but is 'train'"),
    of_manifest("segments-of-nothing", {"segments": [{}]}, "'segments[0]' lacks the field 'settings'"),
    of_manifest(
        "segments-of-fewer-rows",
        {"segments": [{"settings": {}, "source_rows": 9, "spans": [[0, 9]]}]},
        "must have segments of its",
    ),
    of_manifest(
        "segments-overlap",
        {"segments": [{"settings": {}, "source_rows": 9, "spans": [[0, 5], [4, 9]]}]},
        "'segments[0].spans' must be ranges of rows, sorted and apart",
    ),
    of_manifest("forgotten-is-a-list", {"forgotten": [1]}, "'forgotten' must be an object"),
    of_manifest("forgotten-without-checksum", {"forgotten": {"rows": 3}}, "'forgotten' lacks the field 'sha256'"),
    of_manifest(
        "forgotten-is-gone", {"forgotten": {"rows": 3, "sha256": "a" * 64}}, "dstore.forgotten.aaaaaaaaaaaaaaaa.json"
    ),
    of_manifest(
        "forgotten-elsewhere", {"forgotten": {"rows": 3, "sha256": "../../etc/passwd"}}, "'forgotten.sha256' must match"
    ),
    forgotten_case("forgotten-torn", b'{"kind": "forgotten", "version": 1', "must be JSON"),
    forgotten_case(
        "forgotten-of-other-kind", b'{"kind": "x", "version": 1, "ranges": [[0, 3]]}', "must be of kind 'forgotten'"
    ),
    forgotten_case("forgotten-of-more", b'{"kind": "forgotten", "version": 1, "ranges": [[0, 4]]}', "must hold 3 of"),
    forgotten_case(
        "forgotten-unsorted",
        b'{"kind": "forgotten", "version": 1, "ranges": [[4, 5], [0, 2]]}',
        "'ranges' must be ranges of rows, sorted",
    ),
    Case("append-to-nothing", EVAL, lambda p: dump(p, "--append"), "new_vals.npy does not exist"),
    Case("append-and-overwrite", EVAL, lambda p: dump(p, "--append", "--overwrite"), "--append and --overwrite"),
    Case("append-to-another-model", EVAL, append_to_another, "dstore was written with model weights 000000000000"),
    Case("append-to-bare-files", EVAL, append_to_bare, "dstore has no manifest"),
    Case("append-in-ranges", EVAL, lambda p: dump(p, "--num-shards", 2, "--append"), "--append adds rows behind"),
]


def build_from_nan(place: Place) -> list[object]:
    return place.build(store=nan_in(place))


def search_in_nan(place: Place) -> list[object]:
    return place.neighbours(store=nan_in(place))


NOT_FINITE = [
    Case("keys-nan-build", BUILD, build_from_nan, "dstore_keys.npy"),
    Case("keys-nan-search", EVAL, search_in_nan, "dstore_keys.npy"),
]


@parametrise(NOT_FINITE)
def test_keys_that_are_no_numbers(case: Case, place: Place, call: Call) -> None:
    check(case, place, call)


@parametrise(CASES)
def test_bad_datastore(case: Case, place: Place, call: Call) -> None:
    check(case, place, call)
