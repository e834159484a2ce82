"""A loaded model is used as an ``nn.Module``: its weights, its place, its number format, and calls with ids."""

import copy
import pickle
from argparse import Namespace
from typing import Any

import numpy as np
import pytest
import torch

from fairseq.errors import ConfigError
from fairseq.hub import LanguageModelHub, from_pretrained
from knnlm import KNN_Dstore
from tests.builders.cases import Artefacts
from tests.builders.hub_model import LMBDA, K, load, load_with_neighbours
from tests.oracles.adaptive_softmax import all_log_probs
from tests.oracles.knn import knn_probability, mixture, nearest
from tests.oracles.transformer import decode, under

IDS = [2, 4, 9, 1, 30, 7, 2, 5]  # a text begins behind </s>; <pad> is a word of it
FLOAT32 = 3e-5
EDGES = [0, 10, 30, 40]


def naive(lm: LanguageModelHub, ids: list[int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Returns ln p_LM of every word behind each token, and the context vectors, in float64."""
    state = under({name: value.double().numpy() for name, value in lm.state_dict().items()}, "models.0.decoder.")
    features_TC, vectors_TC = decode(state, ids, EDGES, 2)
    softmax = under(state, "adaptive_softmax.")
    log_ps = [all_log_probs(softmax, feature_C, EDGES, tied_projections=True) for feature_C in features_TC]
    return np.array(log_ps), vectors_TC


def test_a_call_tells_what_comes_next(lm: LanguageModelHub) -> None:
    log_p_TV, vectors_TC = naive(lm, IDS)
    logits, extra = lm(torch.tensor(IDS))
    assert logits.dtype == torch.float32 and logits.shape == (8, 40)
    np.testing.assert_allclose(logits.numpy(), log_p_TV, atol=FLOAT32)
    np.testing.assert_allclose(extra["context_vectors"].numpy(), vectors_TC, atol=FLOAT32)
    rows = [IDS, [2, 30, 30, 4, 2, 2, 2, 2]]
    of_rows = lm(rows).logits
    assert of_rows.shape == (2, 8, 40)
    np.testing.assert_allclose(of_rows[1, 3].numpy(), naive(lm, rows[1][:4])[0][3], atol=FLOAT32)
    for same in (rows, np.array(rows, np.int32), torch.tensor(rows, dtype=torch.int32)):
        assert torch.equal(lm(same).logits, of_rows)


def test_a_call_mixes_neighbours_in(knn_lm: LanguageModelHub, artefacts: Artefacts) -> None:
    keys = np.fromfile(f"{artefacts.store}_keys.npy", np.float32).reshape(-1, 16)
    values = np.fromfile(f"{artefacts.store}_vals.npy", np.int64)
    log_p_TV, vectors_TC = naive(knn_lm, IDS)
    found = knn_lm(IDS).logits.exp().numpy()
    for t in (0, 5):
        distances, ids = nearest(keys, vectors_TC[t], K)
        for word in range(40):
            p_knn = knn_probability(distances, ids, values[ids], word, 1.0)
            assert found[t, word] == pytest.approx(mixture(np.exp(log_p_TV[t, word]), p_knn, LMBDA), abs=1e-4)


def test_an_ensemble_averages_probabilities_of_every_word(artefacts: Artefacts, lm: LanguageModelHub) -> None:
    name = artefacts.checkpoint.name
    both = from_pretrained(artefacts.checkpoint.parent, f"{name}:{name}", artefacts.data)
    with torch.no_grad():
        for weight in both.models[1].parameters():
            weight *= 1.5
    alone = load(artefacts)
    alone.models = both.models[1:]
    expected = (lm(IDS).logits.double().exp() + alone(IDS).logits.double().exp()) / 2
    np.testing.assert_allclose(both(IDS).logits.exp().numpy(), expected.numpy(), atol=1e-6)
    assert both(IDS).extra == {}


def test_weights_are_those_of_a_module(lm: LanguageModelHub, artefacts: Artefacts) -> None:
    with torch.serialization.safe_globals([Namespace]):
        saved = torch.load(artefacts.checkpoint, weights_only=True)["model"]
    state = lm.state_dict()
    assert {f"models.0.{name}" for name in saved} == set(state)
    assert all(torch.equal(state[f"models.0.{name}"], value) for name, value in saved.items())
    assert {name for name, _ in lm.named_parameters()} <= set(state)
    assert sum(p.numel() for p in lm.parameters()) > 40 * 16
    assert isinstance(lm, torch.nn.Module) and not lm.training
    assert lm.requires_grad_(True) is lm


def test_a_copy_has_weights_of_its_own_and_the_same_datastore(artefacts: Artefacts, lm: LanguageModelHub) -> None:
    """A datastore may be larger than memory: its files are not read, neither by a copy nor by pickle."""
    knn_lm, text = load_with_neighbours(artefacts), "w1 w2 w3"
    copied = copy.deepcopy(knn_lm)
    assert copied.knn is knn_lm.knn and copy.copy(knn_lm.knn) is knn_lm.knn
    assert copied.score(text).positional_scores.tolist() == knn_lm.score(text).positional_scores.tolist()
    with torch.no_grad():
        for weight in copied.parameters():
            weight.zero_()
    assert lm.score(text).positional_scores.tolist() == knn_lm.score(text).lm_scores.tolist()
    unpickled = pickle.loads(pickle.dumps(lm))
    assert unpickled.score(text).positional_scores.tolist() == lm.score(text).positional_scores.tolist()
    with pytest.raises(ConfigError, match="a datastore with its index cannot be pickled; open it in each process"):
        pickle.dumps(knn_lm)


def test_it_stays_in_evaluation_mode(lm: LanguageModelHub) -> None:
    assert lm.eval() is lm.train(False) is lm
    with pytest.raises(ConfigError, match="--finetune-from-model"):
        lm.train()
    assert not any(module.training for module in lm.modules())


def test_place_and_format(artefacts: Artefacts, caplog: pytest.LogCaptureFixture) -> None:
    lm = load(artefacts)
    assert lm.cpu() is lm.float() is lm.to("cpu") is lm.to(torch.zeros(1)) is lm.to(device="cpu", dtype=torch.float32)
    assert (lm.device.type, lm.dtype) == ("cpu", torch.float32)
    assert lm.half() is lm.type(torch.float16) is lm
    assert lm.dtype == torch.float32, "what it computes in"
    assert "no instructions for torch.float16: the model computes in float32" in caplog.text
    assert {p.dtype for p in lm.parameters()} == {torch.float32}
    for ask in (lm.double, lambda: lm.to(torch.int8)):
        with pytest.raises(ConfigError, match=r"computes in torch.float32, torch.float16, torch.bfloat16, but not"):
            ask()
    with pytest.raises(ConfigError, match="device must be cpu, or cuda"):
        lm.to("nowhere")
    if not torch.cuda.is_available():
        for ask in (lm.cuda, lambda: lm.to("cuda:1"), lambda: lm.to(0)):
            with pytest.raises(ConfigError, match=r"^device is \S+, but torch sees no GPU here; give cpu$"):
                ask()


def test_bfloat16_is_what_products_are_computed_in(artefacts: Artefacts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its step is 2⁻⁸; weights of order 1 in two layers of 16."""
    monkeypatch.setattr("fairseq.hub.module.cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr("fairseq.runtime.precision.cpu_has_bfloat16", lambda: True)
    lm = load(artefacts)
    exact = lm(IDS).logits
    rough = lm.bfloat16()(IDS).logits
    assert lm.dtype == torch.bfloat16 and rough.dtype == torch.float32
    assert 0 < float((rough - exact).abs().max()) < 0.1
    assert torch.equal(lm.float()(IDS).logits, exact)


@pytest.mark.parametrize(
    ("given", "expect"),
    [
        ("w1 w2", "lm.score(text) scores it"),
        (["w1"], "lm.score(text) scores it"),
        ([[1, 2], [3]], "in rows of one length, but are [[1, 2], [3]]"),
        (torch.zeros(3), "but are float32 of shape (3,)"),
        ([True, False], "but are bool"),
        ([], "of shape (0,)"),
        (torch.zeros(2, 2, 2, dtype=torch.int64), "of shape (2, 2, 2)"),
        ([4, 40], "an id from 0 to 39, but is 40"),
        ([4, -1], "an id from 0 to 39, but is -1"),
        ({4}, "ids must be whole numbers"),
    ],
)
def test_what_are_no_ids_is_refused(lm: LanguageModelHub, given: Any, expect: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lm(given)
    assert expect in str(caught.value) and "\n" not in str(caught.value)


# Prompts


def test_ids_are_continued_as_their_text_is(knn_lm: LanguageModelHub) -> None:
    settings: dict[str, Any] = {"beam": 2, "nbest": 2, "max_len_b": 3}
    text = "w1 w2 w9"
    expected = [hypothesis.tokens_T.tolist() for hypothesis in knn_lm.generate(text, **settings)]
    assert len(expected) == 2
    ids = knn_lm.encode(text)  # ends in </s>
    filled = torch.cat([torch.ones(2, dtype=torch.int64), ids[:-1], torch.ones(1, dtype=torch.int64)])
    for one in (ids, ids.tolist(), ids.numpy(), ids[:-1], filled):
        assert [h.tokens_T.tolist() for h in knn_lm.generate(one, **settings)] == expected
    for several in ([text], [ids], [ids.tolist(), "w3"], ids[None], ids.numpy()[None]):
        found = knn_lm.generate(several, **settings)
        assert [h.tokens_T.tolist() for h in found[0]] == expected
    two = [*ids.tolist(), 2]
    assert knn_lm.generate(two, max_len_b=1)[0].prompt_T.tolist() == ids.tolist(), "one </s> is left off"
    assert knn_lm.generate([]) == []


def test_a_generated_text_answers_as_fairseqs_do(lm: LanguageModelHub) -> None:
    best = lm.generate("w1 w2", max_len_b=3)[0]
    assert best["tokens"].tolist() == best.tokens_T.tolist()
    assert best["positional_scores"].tolist() == best.log_p_T.tolist()
    assert best["score"].item() == pytest.approx(float(best.log_p_T.mean()))
    rows = [[2, *best.prompt_T.tolist(), *best.tokens_T.tolist()]]
    behind = lm(rows).logits[0, 2:-1].gather(1, best["tokens"][:, None])[:, 0]
    assert best["positional_scores"].tolist() == pytest.approx(behind.tolist(), abs=FLOAT32)
    with pytest.raises(KeyError, match="attention"):
        best["attention"]


@pytest.mark.parametrize(
    ("given", "expect"),
    [
        (7, "a text must be a string"),
        ([["w1"]], "a text must be a string"),
        (torch.tensor([0.5]), "but are float32"),
        ([4, 40], "from 0 to 39, but is 40"),
        ([torch.tensor(4)], "a text must be a string"),
    ],
)
def test_what_is_no_prompt_is_refused(lm: LanguageModelHub, given: Any, expect: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lm.generate(given)
    assert expect in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "expect"),
    [
        ({"temperature": 2}, "temperature has an effect only with sampling=True"),
        ({"nbest": 4}, "nbest=4 must be at most beam=1"),
        ({"max_new_tokens": 4}, "did you mean max_len_b? (settings: beam, lenpen, "),
        ({"num_beams": 4}, "did you mean beam?"),
    ],
)
def test_settings_go_by_pythons_words(lm: LanguageModelHub, settings: dict[str, Any], expect: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lm.sample("w1", **settings)
    assert expect in str(caught.value) and "--" not in str(caught.value)


def test_a_prompt_without_room_is_told_how_to_make_some(lm: LanguageModelHub) -> None:
    with pytest.raises(ConfigError, match=r"make room with from_pretrained\(…, max_target_positions=N\)$"):
        lm.generate("w1 " * 30)


def test_what_it_is_stands_in_its_repr(knn_lm: LanguageModelHub, artefacts: Artefacts) -> None:
    store = f"KNN_Dstore({artefacts.store}, {len(knn_lm.knn):,} rows of 16)"  # type: ignore[arg-type]
    expected = f"LanguageModelHub({artefacts.checkpoint}, 40 words, rows of 16, cpu, {store} with λ = {LMBDA})"
    assert repr(knn_lm) == expected
    assert isinstance(knn_lm.knn, KNN_Dstore)
