"""Adopting in parts: where rows end, which files a power cut leaves, keys and values that are not the text's."""

import json
from pathlib import Path

import numpy as np
import pytest

from fairseq.config.common import DeviceConfig
from fairseq.errors import DatastoreError, FairseqError
from fairseq.knn.datastore.format import Layout
from fairseq.knn.maintain import adopt as adopt_module
from fairseq.knn.maintain.adopt import adopt_datastore, filled_rows
from fairseq.knn.maintain.config import AdoptConfig, OriginConfig
from fairseq.knn.maintain.foreign import Foreign, find_foreign, foreign_layout, likely_layouts
from fairseq.storage.files import locked
from tests.builders.power_cut import PowerCuts
from tests.builders.small_store import clustered_keys, values_of

ROWS, WIDTH = 50, 16


def write_files(prefix: Path, keys: np.ndarray, values: np.ndarray) -> Path:
    keys.tofile(f"{prefix}_keys.npy")
    values.tofile(f"{prefix}_vals.npy")
    return prefix


@pytest.mark.parametrize("block", [1, 7, 1000])
@pytest.mark.parametrize("filled", [0, 1, 6, 7, 8, 49, 50])
def test_rows_end_behind_the_last_that_is_not_zero(filled: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zero key in between is a row."""
    monkeypatch.setattr(adopt_module, "TAIL_BLOCK_ROWS", block)
    keys = np.zeros((50, 3), np.float32)
    keys[:filled, 2] = -1e-30
    if filled > 2:
        keys[1] = 0
    assert filled_rows(keys) == filled


@pytest.mark.parametrize("more", [{}, {"copy": True}, {"zeros": 5}])
def test_a_power_cut_leaves_a_whole_datastore_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict
) -> None:
    zeros, copy = more.get("zeros", 0), more.get("copy", False)
    keys = np.concatenate([clustered_keys(ROWS), np.zeros((zeros, WIDTH), np.float32)])
    values = np.concatenate([values_of(ROWS), np.zeros(zeros, np.int64)])
    old = write_files(tmp_path / "old", keys, values)
    cuts = PowerCuts(monkeypatch, tmp_path)
    config = AdoptConfig(str(old), dstore_mmap=str(tmp_path / "new"), dimension=WIDTH, copy=copy)
    adopt_datastore(config, OriginConfig(), DeviceConfig(cpu=True))
    # Before its rows are there, a manifest says that they are being written.
    complete = [state for state in cuts.states if json.loads(state.get("new.json", "{}")).get("state") == "complete"]
    assert complete and len(cuts.states) > len(complete)
    for state in complete:
        assert state["new_keys.npy"] == clustered_keys(ROWS).tobytes()
        assert state["new_vals.npy"] == values_of(ROWS).tobytes()
    assert all(state.get("old_keys.npy") == keys.tobytes() for state in cuts.states)


def test_what_a_name_says_and_what_a_flag_says(tmp_path: Path) -> None:
    """A flag wins; without either, the published width of 1,024 does."""
    prefix = write_files(tmp_path / "d", np.ones((2, 1024), "<f4"), np.full(2, 9, "<i8"))
    named = Foreign(prefix, 2, 1024, "float32")
    whole = Layout(2, 1024, "float32", "int64")
    assert foreign_layout(named, None, None, False) == foreign_layout(Foreign(prefix), None, None, False) == whole
    assert foreign_layout(named, None, 2048, True) == Layout(2, 2048, "float16", "int64")
    for rows, dimension, key_fp16 in ((3, None, False), (None, 1000, False), (None, 1024, True)):
        with pytest.raises(DatastoreError, match="fits no layout with"):
            foreign_layout(named, rows, dimension, key_fp16)
    assert {one.dimension for one in likely_layouts(Foreign(prefix))} == {1024, 2048}


@pytest.mark.parametrize(
    ("name", "rows", "dimension", "dtype"),
    [
        ("x_size12_embed16_fp16", 12, 16, "float16"),
        ("x_size12_embed16_fp32", 12, 16, "float32"),
        ("x_size12_embed16", 12, 16, None),
        ("dstore_gpt2_12_16", 12, 16, None),
        ("plain", None, None, None),
        ("embed16_size12", None, None, None),
    ],
)
def test_names(tmp_path: Path, name: str, rows: int | None, dimension: int | None, dtype: str | None) -> None:
    write_files(tmp_path / name, np.ones((12, 16), "<f2"), np.ones(12, "<i8"))
    for given in (name, f"{name}_keys.npy", f"{name}_vals.npy"):
        found = find_foreign(str(tmp_path / given))
        assert found == Foreign(tmp_path / name, rows, dimension, dtype)  # type: ignore[arg-type]


def test_a_name_without_its_numbers_must_mean_one_datastore(tmp_path: Path) -> None:
    for name in ("x_size12_embed16", "x_size13_embed16", "y_size12_embed16", "y_other"):
        write_files(tmp_path / name, np.ones((12, 16), "<f2"), np.ones(12, "<i8"))
    assert find_foreign(str(tmp_path / "y")).prefix == tmp_path / "y_size12_embed16"
    with pytest.raises(DatastoreError, match="several begin so: x_size12_embed16, x_size13_embed16"):
        find_foreign(str(tmp_path / "x"))
    with pytest.raises(DatastoreError, match="but there is none"):
        find_foreign(str(tmp_path / "z"))
    (tmp_path / "y_size12_embed16_vals.npy").unlink()
    with pytest.raises(DatastoreError, match="does not exist, but the keys do"):
        find_foreign(str(tmp_path / "y"))


@pytest.mark.parametrize(("smallest", "fits"), [(0, True), (-1, False)])
def test_every_id_from_0_on_is_an_id(tmp_path: Path, smallest: int, fits: bool) -> None:
    values = values_of(ROWS)
    values[20] = smallest
    old = write_files(tmp_path / "old", clustered_keys(ROWS), values)
    config = AdoptConfig(str(old), dstore_mmap=str(tmp_path / "new"), dimension=WIDTH, dstore_size=ROWS)
    if fits:
        assert f"{ROWS} rows" in adopt_datastore(config, OriginConfig(), DeviceConfig(cpu=True))
        return
    with pytest.raises(DatastoreError, match="1 values are negative, the first is row 20: no id is negative"):
        adopt_datastore(config, OriginConfig(), DeviceConfig(cpu=True))


def test_one_process_at_a_time_adopts(tmp_path: Path) -> None:
    old = write_files(tmp_path / "old", clustered_keys(ROWS), values_of(ROWS))
    config = AdoptConfig(str(old), dstore_mmap=str(tmp_path / "new"), dimension=WIDTH)
    with locked(tmp_path / "new"), pytest.raises(FairseqError, match="is being written by another process"):
        adopt_datastore(config, OriginConfig(), DeviceConfig(cpu=True))
    assert {path.name for path in tmp_path.iterdir()} == {"old_keys.npy", "old_vals.npy"}
