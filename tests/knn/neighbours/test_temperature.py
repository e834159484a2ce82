"""``--knn-temp auto``: T from the distances between a datastore's rows, whatever is asked of them later."""

import dataclasses
import shutil

import numpy as np
import pytest

from fairseq.errors import ConfigError
from fairseq.knn.config import AUTO_SHARE, KNNConfig
from fairseq.knn.datastore.config import TextsConfig
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.index.build import build_index
from fairseq.knn.index.config import BuildConfig
from fairseq.knn.inspect.recall import exact_unit
from fairseq.knn.maintain.config import ForgetConfig
from fairseq.knn.maintain.forget import forget
from fairseq.knn.neighbours import parts, temperature
from fairseq.knn.neighbours.parts import StorePart
from fairseq.models.protocol import ModelIdentity
from knnlm import KNN, KNN_Dstore, open_neighbours
from tests.builders.small_store import clustered_keys, write_store

FEW = 90
KEYS = clustered_keys(FEW)
OWN = {"no_load_keys": True, "knn_sim_func": "do_not_recomp_l2"}


def unit_of(keys, rows, others=None):
    """Returns the median squared distance of some rows to the nearest other one that is not at the same place."""
    keys = keys.astype(np.float64)
    nearest = []
    for row in rows:
        squares = [((keys[row] - keys[other]) ** 2).sum() for other in (others if others is not None else rows)]
        nearest.append(min(square for square in squares if square > 1e-5))
    return float(f"{np.median(nearest):.3g}")


def indexed(root, name, keys, **changes):
    store = write_store(root, name, keys, **changes)
    build_index(store, BuildConfig(str(root / name), "i", index_spec="Flat"), root / f"{name}.index")
    return root / name, root / f"{name}.index"


@pytest.fixture
def small(tmp_path):
    return indexed(tmp_path, "small", KEYS)


@pytest.mark.parametrize("flags", [{}, OWN, {"move_dstore_to_mem": True, "drop_top1": True, "k": 3, "rerank": 9}])
def test_auto_is_a_share_of_the_median_distance_to_the_nearest_other_row(small, flags):
    found = KNN_Dstore.open(*small, knn_temp="auto", **{"k": 20, **flags})
    assert found.distance_unit == exact_unit(Datastore.open(small[0])) == unit_of(KEYS, range(FEW))
    assert found.temperature == float(f"{found.distance_unit * AUTO_SHARE:.3g}")
    auto = {"knn_temp_asked": "auto", "distance_unit": found.distance_unit}
    assert found.temperature_record() == {"knn_temp": found.temperature, **auto}
    queries, target = clustered_keys(9, seed=4), np.full(9, 39995)
    typed = KNN_Dstore.open(*small, knn_temp=found.temperature, **{"k": 20, **flags})
    assert typed.temperature_record() == {"knn_temp": found.temperature}
    assert np.array_equal(found.log_prob(queries, target), typed.log_prob(queries, target))


def test_the_rows_are_evenly_spaced_and_none_is_forgotten(small, monkeypatch):
    monkeypatch.setattr(temperature, "SAMPLE", 30)
    forget(ForgetConfig(str(small[0]), rows="10:50"), TextsConfig(), lambda line: None)
    left = [*range(10), *range(50, FEW)]
    rows = [left[place] for place in np.linspace(0, len(left) - 1, 30).astype(int)]
    assert KNN_Dstore.open(*small).distance_unit == unit_of(KEYS, rows, left)


def test_rows_that_are_there_twice_are_not_apart(tmp_path):
    twice = KNN_Dstore.open(*indexed(tmp_path, "twice", np.concatenate([KEYS, KEYS])), knn_temp="auto")
    assert twice.distance_unit == unit_of(KEYS, range(FEW))


@pytest.mark.parametrize("spec", ["SQ8", "SQfp16"])
def test_a_row_is_not_apart_from_its_own_code(tmp_path, spec):
    """By codes, a row that is there twice is a little away from the other one. Two datastores share the rows."""
    names = []
    for name, keys in (("a", KEYS), ("b", KEYS[::-1])):
        store = write_store(tmp_path, name, keys, settings={"data_sha256": name})
        build_index(store, BuildConfig(str(tmp_path / name), "i", index_spec=spec), tmp_path / f"{name}.index")
        names.append((str(tmp_path / name), str(tmp_path / f"{name}.index")))
    prefixes, indexes = (":".join(words) for words in zip(*names, strict=True))
    config = KNNConfig(knnlm=True, dstore_filename=prefixes, indexfile=indexes, knn_temp="auto", **OWN)
    found = open_neighbours(config)
    assert len(found.parts) == 2 and found.distance_unit == pytest.approx(unit_of(KEYS, range(FEW)), rel=0.05)


def test_several_datastores_are_one_in_whatever_order(tmp_path):
    indexed(tmp_path, "a", KEYS[:50], settings={"data": "a"})
    indexed(tmp_path, "b", KEYS[50:], settings={"data": "b"})
    for order in ("ab", "ba"):
        names = [":".join(str(tmp_path / f"{one}{end}") for one in order) for end in ("", ".index")]
        config = KNNConfig(knnlm=True, dstore_filename=names[0], indexfile=names[1], knn_temp="auto")
        assert open_neighbours(config).distance_unit == unit_of(KEYS, range(FEW))


def test_what_python_opens_by_itself(small):
    """``KNN`` takes T from the distances; ``KNN_Dstore`` has the commands' T of 1."""
    by_name, _ = KNN(*small).open_for(ModelIdentity())
    assert by_name.temperature == pytest.approx(AUTO_SHARE * unit_of(KEYS, range(FEW)), rel=5e-3)
    assert KNN(*small, knn_temp=3).open_for(ModelIdentity())[0].temperature == 3
    assert KNN(*small, knn_sim_func="dot").open_for(ModelIdentity())[0].temperature == 1
    assert KNN_Dstore.open(*small).temperature == 1


def test_what_auto_cannot_be_taken_from_is_refused_by_name(small, tmp_path):
    for flags in ({"knn_sim_func": "dot"}, {"faiss_metric_type": "ip"}):
        with pytest.raises(ConfigError, match="inner products here; give a number"):
            KNNConfig(knn_temp="auto", **flags)
    for word in ("abc", "Auto", "nan", ""):
        with pytest.raises(ConfigError, match="must be a number or auto, but is"):
            KNN(*small, knn_temp=word)
    with pytest.raises(ConfigError, match=r"no two rows of .*same that are apart; give a number"):
        KNN_Dstore.open(*indexed(tmp_path, "same", np.ones((9, 4), np.float32)), knn_temp="auto")
    forget(ForgetConfig(str(small[0]), rows=f"0:{FEW - 1}"), TextsConfig(), lambda line: None)
    with pytest.raises(ConfigError, match=r"no two rows of .*small that are apart; give a number"):
        KNN_Dstore.open(*small, knn_temp="auto")
    (tmp_path / "small_keys.npy").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"keys of .*small_keys.npy are not there; give a number"):
        KNN_Dstore.open(*small, knn_temp="auto", **OWN)
    shutil.copy(tmp_path / "elsewhere", tmp_path / "small_keys.npy")
    bare = dataclasses.replace(Datastore.open(small[0], load_keys=False), manifest=None)
    with pytest.raises(ConfigError, match="were not loaded, and no manifest says how they lie there"):
        temperature.measure_unit([StorePart(bare, 0)], KNN_Dstore.open(*small).found)


def test_of_a_file_that_memory_does_not_hold_no_more_is_read_than_the_rows_that_were_found(small, monkeypatch):
    """A thousand rows and 16 neighbours of each, whatever the size of the file."""
    asked = []
    monkeypatch.setattr("fairseq.knn.search.distances.fits_memory", lambda size: False)
    gather = parts.gather_rows
    monkeypatch.setattr(parts, "gather_rows", lambda keys, rows: asked.append(len(rows)) or gather(keys, rows))
    monkeypatch.setattr(temperature, "SAMPLE", 3)
    monkeypatch.setattr(temperature, "ASKED", 2)
    rows = np.linspace(0, FEW - 1, 3).astype(int)
    assert KNN_Dstore.open(*small, **OWN).distance_unit == unit_of(KEYS, rows, range(FEW))
    assert asked[0] == 3 and asked[1] <= 9
