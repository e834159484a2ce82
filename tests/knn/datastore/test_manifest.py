"""Manifests: ids, what is written, and what is refused; the bytes are written by hand."""

import json

import pytest

from fairseq.errors import DatastoreError
from fairseq.knn.datastore.manifest import (
    DatastoreManifest,
    manifest_path,
    read_manifest,
    write_manifest,
)


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
