"""Which two retrievals can be compared, and what is said of one whose datastores have changed."""

from pathlib import Path

import pytest

from fairseq.errors import MismatchError
from fairseq.knn.datastore.manifest import DatastoreManifest, write_manifest
from fairseq.knn.retrieval.compare import require_comparable, warn_if_outdated
from fairseq.knn.retrieval.retrieval import Retrieval
from tests.builders.small_retrieval import small_retrieval
from tests.builders.small_store import small_manifest

SETTINGS = {"probe": 8, "knn_sim_func": None, "metric": "l2", "context_window": 4, "tokens_per_sample": 8}


def saved_with(directory: Path, *stores: tuple[str, str], seed: int = 0, **changes: object) -> Retrieval:
    """Returns a retrieval of datastores, each with the ``store_id`` that it had."""
    if stores:
        parts = [
            {"prefix": str(directory.parent / name), "offset": 10 * n, "rows": 10, "data": None, "store_id": store_id}
            for n, (name, store_id) in enumerate(stores)
        ]
        changes["datastore"] = {"prefix": "several", "rows": 10 * len(parts), "parts": parts}
    small_retrieval(directory, seed=seed, **changes)
    return Retrieval.open(directory)


def written(path: Path, **changes: object) -> DatastoreManifest:
    manifest = small_manifest(state="complete", **changes)
    write_manifest(path, manifest)
    return manifest


def test_every_datastore_that_has_changed_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that is gone, broken, being written or the same as before is not; and those behind it are looked at."""
    same = written(tmp_path / "same.json")
    written(tmp_path / "changed.json", weights_sha256="0" * 64)
    written(tmp_path / "other.json", weights_sha256="3" * 64)
    write_manifest(tmp_path / "writing.json", small_manifest(weights_sha256="2" * 64))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "directory.json").mkdir()
    names = ["gone", "broken", "directory", "writing", "same", "changed", "other"]
    warn_if_outdated(saved_with(tmp_path / "r", *((name, same.store_id) for name in names)))
    assert len(caplog.messages) == 2
    for name, message in zip(("changed", "other"), caplog.messages, strict=True):
        assert f"but {tmp_path / name} is " in message and "save the retrieval again" in message


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({}, None),
        ({"settings": {**SETTINGS, "computed_in": "bfloat16"}}, None),
        ({"settings": {**SETTINGS, "probe": 9}}, "probe 9, but .* with 8"),
        ({"settings": {**SETTINGS, "rerank": 20}}, "rerank 20, but .* with None"),
        ({"settings": {**SETTINGS, "context_window": 0}}, "context_window 0"),
        ({"identity": {"weights_sha256": "v" * 64}}, "weights_sha256 vvvvvvvvvvvv,"),
    ],
)
def test_only_what_is_of_one_model_datastore_and_search_is_compared(
    tmp_path: Path, changes: dict, differs: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    one = saved_with(tmp_path / "a", settings=SETTINGS)
    two = saved_with(tmp_path / "b", seed=1, **{"settings": SETTINGS, **changes})
    if differs is None:
        require_comparable(one, two, allow_mismatch=False)
        assert not caplog.messages
        return
    with pytest.raises(MismatchError, match=f"was saved with {differs}"):
        require_comparable(one, two, allow_mismatch=False)
    require_comparable(one, two, allow_mismatch=True)
    assert caplog.messages


def test_another_number_of_neighbours_is_another_search(tmp_path: Path) -> None:
    small_retrieval(tmp_path / "b", k=15, seed=1, settings=SETTINGS)
    with pytest.raises(MismatchError, match="was saved with k 15, but"):
        require_comparable(
            saved_with(tmp_path / "a", settings=SETTINGS), Retrieval.open(tmp_path / "b"), allow_mismatch=False
        )


def test_the_same_text_is_no_test_of_a_choice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = saved_with(tmp_path / "a", settings=SETTINGS)
    require_comparable(one, saved_with(tmp_path / "b", settings=SETTINGS), allow_mismatch=False)
    assert "it is no test of the choice" in caplog.text
