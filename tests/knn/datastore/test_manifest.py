"""Manifests: ids, what is written, and what is refused; the bytes are written by hand."""

import hashlib
import json
from pathlib import Path

import pytest
from msgspec import UNSET

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.manifest import (
    DatastoreManifest,
    IndexManifest,
    Segment,
    first_rows,
    manifest_path,
    read_manifest,
    write_manifest,
)
from fairseq.knn.datastore.ranges import RowRanges
from tests.builders.small_store import small_index_manifest


def test_store_id_is_of_the_content(manifest):
    assert manifest.store_id == manifest.replace(rows_written=7, state="complete").store_id
    for change in (dict(rows=7), dict(weights_sha256="0"), dict(settings={}), dict(key_dtype="float16")):
        assert manifest.replace(**change).store_id != manifest.store_id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2, but this program reads version 1"),
        ({"kind": "index"}, "must be of kind 'datastore', but is of kind 'index'"),
        ({"rows": "many"}, "'rows' must be a whole number, but is 'many'"),
        ({"rows": -1}, "'rows' must be at least 1, but is -1"),
        ({"rows": 1.5}, "'rows' must be"),
        ({"settings": 3}, "'settings' must be an object"),
        ({"state": "done"}, "'state' must be writing or complete"),
        ({"extra": 1}, "has the unknown field 'extra'"),
        ({"rows": ...}, "lacks the field 'rows'"),
    ],
)
def test_manifests_that_are_refused(tmp_path, manifest, change, message):
    path = manifest_path(tmp_path / "d")
    write_manifest(path, manifest)
    assert read_manifest(path, DatastoreManifest) == manifest
    record = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({name: value for name, value in record.items() if value is not ...}))
    with pytest.raises(DatastoreError, match=message):
        read_manifest(path, DatastoreManifest)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\x01", "3"])
def test_manifests_that_are_no_json_objects(tmp_path, text):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(DatastoreError, match=r"d\.json must be"):
        read_manifest(tmp_path / "d.json", DatastoreManifest)


# A datastore of two texts, of which 3 rows are forgotten, and its index, to which rows were added.
STORE = """{
  "rows": 30,
  "dimension": 4,
  "key_dtype": "float16",
  "value_dtype": "int64",
  "key_type": "last_ffn_input",
  "vocabulary_size": 40,
  "dictionary_sha256": "dd",
  "weights_sha256": null,
  "settings": {
    "data": "bin/é",
    "context_window": 8
  },
  "state": "complete",
  "rows_written": 30,
  "keys_sha256": [
    "k1"
  ],
  "values_sha256": [
    "v1"
  ],
  "segments": [
    {
      "settings": {
        "data": "bin/é",
        "context_window": 8
      },
      "source_rows": 20,
      "spans": [
        [
          0,
          20
        ]
      ]
    },
    {
      "settings": {
        "data": "x"
      },
      "source_rows": 15,
      "spans": [
        [
          0,
          4
        ],
        [
          9,
          15
        ]
      ]
    }
  ],
  "forgotten": {
    "rows": 3,
    "sha256": "FFF"
  },
  "kind": "datastore",
  "version": 1
}
""".replace("FFF", "f" * 64)
INDEX = """{
  "spec": "IVF8,Flat",
  "metric": "l2",
  "dimension": 4,
  "rows": 30,
  "nlist": 8,
  "nprobe": 8,
  "store_id": "ss",
  "seed": 1,
  "sample": 20,
  "faiss_version": "1.9",
  "effort": "quick",
  "trained_on": "tt",
  "num_bytes": 100,
  "sha256": "ii",
  "kind": "index",
  "version": 1
}
"""


@pytest.mark.parametrize(("text", "cls"), [(STORE, DatastoreManifest), (INDEX, IndexManifest)])
def test_a_manifest_is_written_as_it_was_read(text: str, cls: type, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    write_manifest(tmp_path / "b.json", read_manifest(tmp_path / "a.json", cls))
    assert (tmp_path / "b.json").read_text(encoding="utf-8") == text


def test_what_says_nothing_is_left_out(manifest, tmp_path: Path) -> None:
    write_manifest(tmp_path / "a.json", manifest)
    assert not {"segments", "forgotten"} & set(json.loads((tmp_path / "a.json").read_text()))
    write_manifest(tmp_path / "i.json", small_index_manifest())
    assert "trained_on" not in json.loads((tmp_path / "i.json").read_text())


def test_the_store_id_is_a_hash_of_what_is_in_it(tmp_path: Path) -> None:
    """Not of the progress, nor of where texts lie; of the rows' id, what is forgotten is no part."""
    (tmp_path / "a.json").write_text(STORE, encoding="utf-8")
    identity = json.loads(STORE)
    for name in ("state", "rows_written", "keys_sha256", "values_sha256"):
        del identity[name]
    for settings in (identity["settings"], *(segment["settings"] for segment in identity["segments"])):
        settings.pop("data")
    found = read_manifest(tmp_path / "a.json", DatastoreManifest)
    assert found.store_id == sha256_of(identity)
    del identity["forgotten"]
    assert found.rows_id == sha256_of(identity)
    (whole, first) = found.earlier_states()
    assert whole.store_id == found.store_id
    del identity["segments"]
    assert first.replace(forgotten=UNSET).store_id == sha256_of({**identity, "rows": 20})


def sha256_of(record: dict) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 31}, "must have segments of its 31 rows, but they have 30"),
        (
            {"segments": [{"settings": {}, "source_rows": 29, "spans": [[0, 30]]}]},
            "spans of its 29 source_rows, but th",
        ),
        (
            {"segments": [{"settings": {}, "source_rows": 30, "spans": []}]},
            "'segments[0].spans' must be ranges of rows",
        ),
        ({"forgotten": {"rows": 0, "sha256": "f" * 64}}, "'forgotten.rows' must be at least 1, but is 0"),
        ({"forgotten": {"rows": 3, "sha256": "../x"}}, "'forgotten.sha256' must match"),
    ],
)
def test_segments_and_forgotten_rows_that_are_refused(change: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({**json.loads(STORE), **change}))
    with pytest.raises(DatastoreError) as caught:
        read_manifest(tmp_path / "a.json", DatastoreManifest)
    assert message in str(caught.value) and str(caught.value).endswith("; restore it, or write it again")


def rows_of(segments: list[Segment]) -> list[tuple[str, int]]:
    """Returns which row of which source each row is."""
    return [(one.settings["data"], row) for one in segments for row in one.spans.ids().tolist()]


SEGMENTS = [
    Segment(settings={"data": "a"}, source_rows=9, spans=RowRanges.of([[2, 5], [7, 9]])),
    Segment(settings={"data": "b"}, source_rows=4, spans=RowRanges.of([[0, 4]])),
    Segment(settings={"data": "c"}, source_rows=8, spans=RowRanges.of([[1, 2], [3, 7]])),
]


@pytest.mark.parametrize("count", range(1, 15))
def test_the_first_rows_are_those_of_the_first_segments(count: int) -> None:
    assert rows_of(first_rows(SEGMENTS, count)) == rows_of(SEGMENTS)[:count]


@pytest.mark.parametrize("gone", [[], [[0, 1]], [[1, 3], [4, 5]], [[0, 2], [3, 5]], [[4, 9]]])
def test_a_segment_without_some_of_its_rows_has_the_others(gone: list[list[int]]) -> None:
    """They are numbered from the segment's first; its source's own numbers stay."""
    left = SEGMENTS[0].without(RowRanges.of(gone))
    out = {row for start, stop in gone for row in range(start, stop)}
    assert left.spans.ids().tolist() == [row for n, row in enumerate([2, 3, 4, 7, 8]) if n not in out]
    assert (left.source_rows, left.settings) == (9, {"data": "a"})


def test_a_segment_is_called_by_the_end_of_its_path() -> None:
    segment = Segment(settings={"data": "/x/bin/train"}, source_rows=1, spans=RowRanges.of([[0, 1]]))
    assert segment.name == "train"
    assert all(segment.is_called(name) for name in ("train", "bin/train", "x/bin/train", "/x/bin/train"))
    assert not any(segment.is_called(name) for name in ("rain", "bin", "other/train", "", "bin/valid"))
    assert SEGMENTS[0].replace(settings={}).name == "a text that is not recorded"


@pytest.mark.parametrize("field", ["sample_break_mode", "tokens_per_sample", "context_window", "add_bos_token"])
def test_a_source_is_a_text_and_the_way_it_was_cut(field: str) -> None:
    settings = {"data_sha256": "h", "data": "here", "sample_break_mode": "none", "tokens_per_sample": 8}
    segment = SEGMENTS[0].replace(settings=settings)
    assert segment.is_of({**settings, "data": "moved"})
    assert not segment.is_of({**settings, field: "another"}) and not segment.is_of({**settings, "data_sha256": "g"})
    unknown = {**settings, "data_sha256": None}
    assert not segment.replace(settings=unknown).is_of(unknown), "two texts that nothing is known of need not be one"


def test_only_a_whole_source_goes_without_segments(manifest) -> None:
    """Of a part of one, the manifest must say which rows are left."""
    whole = Segment(settings={"data": "a"}, source_rows=9, spans=RowRanges.of([[0, 9]]))
    assert manifest.with_segments([whole]).segments is UNSET
    for some in ([SEGMENTS[0]], [whole, SEGMENTS[1]], SEGMENTS):
        found = manifest.with_segments(some)
        assert found.segments == tuple(some) and found.rows == len(rows_of(some))
        assert found.settings == some[0].settings
