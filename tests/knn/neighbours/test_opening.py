"""``KNN`` and ``KNN_Dstore.open`` take what users of Python give, and name keywords where they refuse."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq.errors import ConfigError, FairseqError, MismatchError
from fairseq.knn.index.build import build_index
from fairseq.knn.index.config import BuildConfig
from fairseq.models.protocol import ModelIdentity
from knnlm import KNN, KNN_Dstore
from tests.builders.small_store import ROWS, VOCABULARY, WIDTH, clustered_keys


@pytest.fixture
def files(make_store: Any, tmp_path: Path) -> tuple[Path, Path]:
    build_index(make_store(), BuildConfig("d", "i", index_spec="Flat"), tmp_path / "i")
    return tmp_path / "dstore", tmp_path / "i"


def test_k_and_the_weight_go_by_place_and_temperature_by_either_word() -> None:
    knn = KNN("d", "i", 16, 0.5, temperature=10)
    assert (knn.config.k, knn.config.lmbda, knn.config.knn_temp) == (16, 0.5, 10.0)
    assert KNN("d", "i", lmbda=0.5, k=16, knn_temp=10).config == knn.config
    assert repr(KNN(Path("d"), "i", probe=8)) == "KNN('d', 'i', k=1024, lmbda=0.25, knn_temp='auto')"
    assert repr(KNN("d", "i", 4, 0.1, probe=32, temperature=1)) == "KNN('d', 'i', k=4, lmbda=0.1, probe=32)"
    assert KNN("d", "i", temperature="auto").config == KNN("d", "i").config
    assert eval(repr(knn), {"KNN": KNN}).config == knn.config


@pytest.mark.parametrize(
    ("settings", "expect"),
    [
        ({"temperature": 0}, "temperature must be above 0"),
        ({"knn_temp": 0}, "knn_temp must be above 0"),
        ({"temperature": 1, "knn_temp": 1}, "two words for the same number"),
        ({"rerank": 4, "k": 8}, "rerank=4 must be at least k=8"),
        (
            {"no_load_keys": True},
            "no_load_keys=True leaves nothing to compute distances from; add knn_sim_func='do_not_",
        ),
        ({"temp": 1}, "did you mean temperature? (settings: allow_mismatch, "),
        ({"lambda_": 1}, "did you mean lmbda? (settings: "),
        ({"nprobe": 1}, "did you mean probe? (settings: "),
        ({"n_neighbors": 1}, "did you mean k? (settings: "),
    ],
)
def test_what_is_no_setting_is_named_in_pythons_words(settings: dict[str, Any], expect: str) -> None:
    for call in (lambda: KNN("d", "i", **settings), lambda: KNN_Dstore.open("d", "i", **settings)):
        with pytest.raises(ConfigError) as caught:
            call()
        assert expect in str(caught.value) and "--" not in str(caught.value)


def test_files_are_named_by_keyword_too(files: tuple[Path, Path]) -> None:
    prefix, index = files
    with pytest.raises(ConfigError, match=r"^indexfile must be a path, but is 16"):
        KNN("d", 16)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^indexfile is required, the index that .* made of d; give KNN\(prefix"):
        KNN("d")
    with pytest.raises(ConfigError, match=r"^prefix names 2, but indexfile 1; "):
        KNN("a:b", "i").open_for(ModelIdentity())
    with pytest.raises(ConfigError, match=r"must be a KNNConfig, but is 16; .*k=16"):
        KNN_Dstore.open(prefix, index, 16)  # type: ignore[arg-type]
    with pytest.raises(MismatchError, match="and rows to both commands"):
        KNN_Dstore.open(prefix, index, rows=ROWS - 5)
    for call in (
        lambda: KNN_Dstore.open(prefix, index, model=ModelIdentity(dictionary_sha256="e" * 64)),
        lambda: KNN(prefix, index).open_for(ModelIdentity(dictionary_sha256="e" * 64)),
        lambda: KNN(prefix, index).open_for(ModelIdentity(weights_sha256="e" * 64)),
    ):
        with pytest.raises(FairseqError) as caught:
            call()
        assert "allow_mismatch=True" in str(caught.value) and "--" not in str(caught.value)
    with pytest.raises(MismatchError, match=r"; use the model that wrote it$") as caught:
        KNN(prefix, index).open_for(ModelIdentity(key_dimension=7))
    assert "--" not in str(caught.value)


def test_the_constructor_given_names_points_to_open(files: tuple[Path, Path]) -> None:
    """``KNN_Dstore(args, dictionary)`` is what the original code has."""
    args = Namespace(dstore_filename="ds", indexfile="knn.index", k=8, probe=32, dstore_size=5, lmbda=0.25)
    for given, expect in (
        (("ds", Path("knn.index")), r"KNN_Dstore\.open\('ds', 'knn\.index'\)$"),
        ((args, object()), r"KNN_Dstore\.open\('ds', 'knn\.index', k=8, probe=32\)$"),
    ):
        with pytest.raises(ConfigError, match=expect):
            KNN_Dstore(*given)  # type: ignore[arg-type]


def test_what_it_is(files: tuple[Path, Path]) -> None:
    store = KNN_Dstore.open(*files, k=4)
    assert len(store) == ROWS and store
    assert repr(store) == f"KNN_Dstore({files[0]}, {ROWS:,} rows of {WIDTH})"


def test_the_manifest_knows_how_many_words_there_are(files: tuple[Path, Path], tmp_path: Path) -> None:
    queries = clustered_keys(3, seed=4)
    known = KNN_Dstore.open(*files, k=4)
    assert known.next_log_prob(queries).shape == (3, VOCABULARY)
    assert np.array_equal(known.next_log_prob(queries), known.next_log_prob(queries, VOCABULARY))
    assert known.next_log_prob(queries, VOCABULARY + 5).shape == (3, VOCABULARY + 5)
    for record in files:
        Path(f"{record}.json").unlink()
    unknown = KNN_Dstore.open(*files, k=4, rows=ROWS)
    with pytest.raises(ConfigError, match="vocabulary_size must be given, for the datastore has no manifest"):
        unknown.next_log_prob(queries)
    assert np.array_equal(unknown.next_log_prob(queries, VOCABULARY), known.next_log_prob(queries))
    largest = int(np.max(known.values(known.search(queries)[1])))
    with pytest.raises(ConfigError, match=f"a whole number from {largest + 1} on"):
        unknown.next_log_prob(queries, largest)


def test_a_file_in_place_of_the_prefix_is_told_by_keyword(files: tuple[Path, Path]) -> None:
    with pytest.raises(FairseqError, match=r"^prefix takes a datastore's prefix"):
        KNN(f"{files[0]}_keys.npy", files[1]).open_for(ModelIdentity())
