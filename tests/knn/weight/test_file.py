"""The file of λ of each token: what it says, and what is refused."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from fairseq.errors import DatastoreError, MismatchError
from fairseq.knn.weight.file import check_fits, read_model
from fairseq.knn.weight.fit import fit_skip
from fairseq.knn.weight.model import LmbdaModel
from fairseq.knn.weight.report import fit_all
from fairseq.storage.records import write_record
from tests.builders.lmbda_tokens import make_tokens
from tests.oracles import lmbda as naive


@pytest.fixture(scope="module")
def models() -> dict[str, LmbdaModel]:
    tokens = make_tokens(n=500)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairseq.knn.weight.fit._STEPS", 80)  # what is to be learned here is simple
        skip = fit_skip(tokens, tokens.log_p_lm_N + tokens.features_NF[:, 0], 1)
        fitted = fit_all(tokens, 1)
    fitted_for = {"weights_sha256": "w" * 64, "store_id": None}
    return {
        kind: LmbdaModel(weights=weights, skip=skip, k=32, knn_temp=0.5, fitted_for=fitted_for, held_out={"lm": 9.0})
        for kind, weights in fitted.items()
    }


@pytest.mark.parametrize("kind", ["fixed", "buckets", "network"])
def test_a_file_says_what_was_fitted(kind: str, models: dict[str, LmbdaModel], tmp_path: Path) -> None:
    write_record(tmp_path / "m.json", models[kind])
    found, record = read_model(tmp_path / "m.json"), json.loads((tmp_path / "m.json").read_text())
    assert (found.k, found.knn_temp, found.held_out) == (32, 0.5, {"lm": 9.0})
    tokens = make_tokens(seed=3, n=50)
    tokens.features_NF[:5] *= 100  # far from all that was fitted on
    expected = [naive.weight(record["weights"], features_F) for features_F in tokens.features_NF]
    np.testing.assert_allclose(found.weights(tokens.features_NF), expected, rtol=1e-9)
    np.testing.assert_allclose(
        found.skip.network(tokens.features_NF[:, :3]),
        [naive.network(record["skip"]["network"], features_F[:3]) for features_F in tokens.features_NF],
        rtol=1e-9,
        atol=1e-9,
    )


def change(record: dict, path: str, value: object) -> None:
    *parents, last = path.split("/")
    for name in parents:
        record = record[int(name) if name.isdigit() else name]
    record[int(last) if last.isdigit() else last] = value


UNSOUND = [
    ("kind", "retrieval", "of kind"),
    ("version", 2, "version 2"),
    ("more", 1, "unknown field 'more'"),
    ("k", 0, "'k'"),
    ("k", True, "'k'"),
    ("knn_temp", 0, "'knn_temp'"),
    ("knn_temp", "1", "'knn_temp'"),
    ("knn_temp", math.nan, "'knn_temp'"),
    ("fitted_for", {"store_id": 3}, "'fitted_for'"),
    ("held_out", [], "'held_out'"),
    ("weights", None, "weights"),
    ("weights/kind", "forest", "weights"),
    ("weights/code", "1", "weights"),
    ("weights/network/features", ["lm_entropy"], "features"),
    ("weights/network/scale/0", 0, "scale"),
    ("weights/network/scale/0", 1e300, "scale"),
    ("weights/network/mean/0", 1e300, "mean"),
    ("weights/network/mean/0", -1e300, "mean"),
    ("weights/network/mean", [1.0], "mean"),
    ("weights/network/members", [], "members"),
    ("weights/network/members/0", [], "members"),
    ("weights/network/members/0/0/weight/0/0", "x", "weight"),
    ("weights/network/members/0/0/weight/0/0", math.inf, "weight"),
    ("weights/network/members/0/0/weight/0", [1.0], "weight"),
    ("weights/network/members/0/0/bias", [1.0], "must have a row of weights for each bias"),
    (
        "weights/network/members/0/2",
        {"weight": [[0.0] * 32] * 2, "bias": [0.0, 0.0]},
        "must have layers from 10 features to one output",
    ),
    ("skip/thresholds", [1.0], "thresholds"),
    ("skip/thresholds/0", 1e9, "thresholds"),
    ("skip/network/features/0", "nearest", "features"),
]


@pytest.mark.parametrize(("path", "value", "words"), UNSOUND, ids=[f"{p}={str(v)[:20]}" for p, v, _ in UNSOUND])
def test_an_unsound_file_is_refused(
    path: str, value: object, words: str, models: dict[str, LmbdaModel], tmp_path: Path
) -> None:
    file = tmp_path / "m.json"
    write_record(file, models["network"])
    record = json.loads(file.read_text())
    change(record, path, value)
    file.write_text(json.dumps(record))
    with pytest.raises(DatastoreError, match=words) as caught:
        read_model(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "words"), [("", "JSON"), ("[1]", "kind"), ("[" * 100_000, "JSON")])
def test_what_is_no_such_file_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(DatastoreError, match=words):
        read_model(tmp_path / "m.json")
    with pytest.raises(DatastoreError, match="does not exist"):
        read_model(tmp_path / "none.json")


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "buckets", "edges": [1.0], "weights": [0.1]},
        {"kind": "buckets", "edges": [1.0, 1.0], "weights": [0.1, 0.1, 0.1]},
        {"kind": "buckets", "edges": [1.0], "weights": [0.1, 1.1]},
        {"kind": "fixed", "weight": -0.1},
        {"kind": "fixed", "weight": True},
    ],
)
def test_unsound_simple_weights_are_refused(record: dict, models: dict[str, LmbdaModel], tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    write_record(file, models["fixed"])
    file.write_text(json.dumps({**json.loads(file.read_text()), "weights": record}))
    with pytest.raises(DatastoreError):
        read_model(file)


def test_a_weight_is_refused_for_what_it_was_not_fitted_for(
    models: dict[str, LmbdaModel], caplog: pytest.LogCaptureFixture
) -> None:
    model, path = models["fixed"], Path("m.json")
    same = {"weights_sha256": "w" * 64, "store_id": "any"}
    check_fits(model, path, same, 32, 0.5, allow_mismatch=False)
    check_fits(model, path, {}, 32, 0.5, allow_mismatch=False)
    for found, k, temperature, words in (
        ({"weights_sha256": "x" * 64}, 32, 0.5, "weights_sha256 wwwwwwwwwwww"),
        (same, 64, 0.5, "leave --k out, or give 32"),
        (same, 32, 1.0, "leave --knn-temp out, or give 0.5"),
    ):
        with pytest.raises(MismatchError, match=words):
            check_fits(model, path, found, k, temperature, allow_mismatch=False)
        check_fits(model, path, found, k, temperature, allow_mismatch=True)
        assert words in caplog.messages[-1]
