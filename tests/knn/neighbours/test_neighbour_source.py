"""What every source of neighbours promises, whatever lies behind it."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairseq.data.dictionary import Dictionary
from fairseq.errors import MismatchError
from fairseq.evaluate.mixture import ScoredTokens
from fairseq.knn.index.build import build_index
from fairseq.knn.index.config import BuildConfig
from fairseq.models.protocol import ModelIdentity
from knnlm import KNN, KNN_Dstore
from tests.builders.small_store import ROWS, clustered_keys, values_of
from tests.builders.tiny_lm import write_split
from tests.oracles.knn import knn_probability, nearest

# p from float32 distances of about 30 that are exact to 1e-6 of themselves.
LOG_P_TOLERANCE = 1e-4
QUERIES, TARGET = clustered_keys()[:7], values_of()[:7]  # rows of the datastore itself, and their values


@pytest.fixture
def indexed(make_store, tmp_path):
    """Makes datastores, each with an exact index."""

    def make(name="dstore", *args: Any, **changes: Any) -> Path:
        build_index(
            make_store(name, *args, **changes), BuildConfig("d", "i", index_spec="Flat"), tmp_path / f"{name}.i"
        )
        return tmp_path / name

    return make


class Own:
    """Says of each token which rows it is: of a text that was written twice."""

    def of(self, block_idx_N: np.ndarray) -> np.ndarray:
        return np.stack([block_idx_N, np.where(block_idx_N % 2, block_idx_N + 700, -1)], axis=1)


@pytest.mark.parametrize("flags", [{"k": 20}, {"k": 5, "rerank": 40}, {"k": ROWS}, {"k": 9, "drop_top1": True}])
@pytest.mark.parametrize("block", [3, 1 << 14])
@pytest.mark.pitfall(33)
def test_k_others_stand_in_for_the_rows_that_are_not_to_be_found(indexed, monkeypatch, flags, block):
    monkeypatch.setattr("fairseq.knn.neighbours.neighbour_source.QUERY_BLOCK", block)
    prefix = indexed()
    found = KNN_Dstore.open(prefix, f"{prefix}.i", **flags)
    own = Own().of(np.arange(7))
    votes = found.votes(QUERIES, TARGET, own).nearest_first()
    log_p = found.log_prob(QUERIES, TARGET, own)
    found.own_rows = Own()
    tokens = ScoredTokens(
        block_idx_N=np.arange(7),
        query_ND=torch.tensor(QUERIES),
        target_N=torch.tensor(TARGET),
        log_p_N=torch.zeros(7),
        known=None,
    )
    assert np.array_equal(found.scores(tokens).log_p_N.numpy(), log_p)
    keys, values, skip = clustered_keys(), values_of(), int("drop_top1" in flags)
    for n in range(7):
        others = np.setdiff1d(np.arange(ROWS), own[n])
        distances, place = nearest(keys[others], QUERIES[n], flags["k"] + skip)
        distances, ids = distances[skip:], others[place[skip:]]
        assert votes.ids_NK[n][votes.ids_NK[n] >= 0].tolist() == ids.tolist()
        assert np.array_equal(votes.hits_NK[n][: len(ids)], values[ids] == TARGET[n])
        p = knn_probability(distances, ids, values[ids], TARGET[n], 1.0)
        with np.errstate(divide="ignore"):
            assert log_p[n] == pytest.approx(np.log(p), rel=LOG_P_TOLERANCE, abs=LOG_P_TOLERANCE)


def test_passages_of_two_datastores_and_of_a_text_that_was_moved(indexed, tmp_path):
    """Row 7 of the second is token 17 of its text, as its first full context is that of token 10."""
    (tmp_path / "dict.txt").write_text("".join(f"w{i} 1\n" for i in range(36)))
    cut = {"sample_break_mode": "none", "context_window": 10, "tokens_per_sample": 10}
    texts, prefixes = {"a": np.arange(4, 34), "b": np.arange(39, 9, -1)}, []
    sha256 = Dictionary.load(tmp_path / "dict.txt").sha256()
    for name, text in texts.items():
        write_split(tmp_path / name, [text.tolist()])
        written = hashlib.sha256((tmp_path / f"{name}.bin").read_bytes()).hexdigest()
        settings = {**cut, "data": str(tmp_path / name), "data_sha256": written}
        more = {"vocabulary_size": 40, "dictionary_sha256": sha256}
        prefixes.append(indexed(f"store-{name}", clustered_keys(20), text[10:], settings=settings, **more))
    names = ":".join(map(str, prefixes)), ":".join(f"{prefix}.i" for prefix in prefixes)
    two, weight = KNN(*names, k=3).open_for(ModelIdentity(vocabulary_size=40))
    assert weight == 0.25 and two.config.k == 3 and two.rows == 40
    for row, at, text in ((0, 10, "a"), (19, 29, "a"), (20, 10, "b"), (27, 17, "b")):
        passage, words = two.passage(row, 4, 3), [f"w{idx - 4}" for idx in texts[text].tolist()]
        assert passage is not None
        assert passage.before.split() == words[at - 4 : at] and passage.after.split() == words[at + 1 : at + 4]
        assert passage.value == words[at]
    (tmp_path / "moved").mkdir()
    for file in (tmp_path / "dict.txt", *tmp_path.glob("b.*")):
        file.rename(tmp_path / "moved" / file.name)
    a_only, _ = KNN(*names, k=3, lmbda=0.5).open_for(ModelIdentity())
    assert a_only.passage(20, 4, 3) is None
    moved, weight = KNN(prefixes[1], Path(f"{prefixes[1]}.i"), data=tmp_path / "moved", lmbda=0.5).open_for(
        ModelIdentity()
    )
    assert weight == 0.5 and moved.passage(7, 1, 1).before == f"w{texts['b'][16] - 4}"


@pytest.mark.parametrize("allow", [False, True])
def test_an_open_source_knows_the_models_that_it_is_for(indexed, caplog, allow):
    prefix = indexed()
    found = KNN_Dstore.open(prefix, f"{prefix}.i", lmbda=0.4, allow_mismatch=allow)
    assert found.open_for(ModelIdentity(weights_sha256="w" * 64)) == (found, 0.4)
    another = ModelIdentity(weights_sha256="o" * 64)
    if allow:
        assert found.open_for(another) == (found, 0.4) and "was written with" in caplog.text
    else:
        with pytest.raises(MismatchError, match="was written with"):
            found.open_for(another)
