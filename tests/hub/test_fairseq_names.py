"""What fairseq's scripts ask of a loaded model, beyond scores and texts."""

from typing import Any

import pytest
import torch

from fairseq.errors import ConfigError
from fairseq.hub import LanguageModelHub
from fairseq.models.protocol import DecoderOutput
from tests.builders.cases import Artefacts
from tests.builders.hub_model import load
from tests.builders.small_model import SMALL, small_model

IDS = torch.tensor([[2, 4, 9, 30, 7], [2, 30, 30, 4, 5]])


def test_the_dictionary_has_fairseqs_names(lm: LanguageModelHub) -> None:
    task = lm.task
    for found in (lm.src_dict, lm.tgt_dict, task.dictionary, task.source_dictionary, task.target_dictionary):
        assert found is lm.dictionary


def test_the_settings_are_the_checkpoints(artefacts: Artefacts) -> None:
    lm = load(artefacts, max_target_positions=64)
    saved = torch.load(artefacts.checkpoint, weights_only=False)["args"]
    for name in ("decoder_embed_dim", "decoder_layers", "tokens_per_sample", "add_bos_token"):
        expected = getattr(saved, name)
        assert getattr(lm.args, name) == getattr(lm.cfg.model, name) == getattr(lm.cfg.task, name) == expected
    assert lm.args.max_target_positions == 64


def test_parts_that_a_model_has_and_has_not(lm: LanguageModelHub) -> None:
    assert lm.tokenizer is None and lm.bpe is None
    assert lm.max_positions == lm.models[0].max_positions
    with pytest.raises(
        AttributeError, match=r"^a loaded model has no extract; it has apply_bpe, args, .* torch\.nn\.Module has$"
    ):
        _ = lm.extract
    assert not hasattr(lm, "anything") and hasattr(lm, "models")


@pytest.mark.parametrize(
    "settings",
    [
        {"verbose": True},
        {"verbose": False, "skip_invalid_size_inputs": True},
        {"prefix_allowed_tokens_fn": None, "inference_step_args": None},
    ],
)
def test_arguments_that_change_nothing_are_taken(lm: LanguageModelHub, settings: dict[str, Any]) -> None:
    assert lm.sample("w1 w2", max_len_b=4, **settings) == lm.sample("w1 w2", max_len_b=4)
    taken, plain = (lm.generate("w1", max_len_b=4, **more)[0] for more in (settings, {}))
    assert list(taken.tokens_T) == list(plain.tokens_T)


def test_the_beam_may_come_second(lm: LanguageModelHub) -> None:
    assert lm.sample("w1 w2", 3, max_len_b=4) == lm.sample("w1 w2", beam=3, max_len_b=4)
    assert len(lm.generate("w1", 3, nbest=3, max_len_b=4)) == 3
    with pytest.raises(ConfigError, match=r"^beam must be at least 1"):
        lm.sample("w1", 0)


@pytest.mark.parametrize(
    ("settings", "expect"),
    [
        ({"prefix_allowed_tokens_fn": lambda batch, tokens: [4]}, "prefix_allowed_tokens_fn must be None"),
        ({"inference_step_args": {"prefix": 1}}, "inference_step_args must be None"),
        ({"verbose": "no"}, "verbose must be True or False"),
        ({"verbos": True}, "'verbos' is not a setting of generating text"),
    ],
)
def test_those_that_would_are_refused(lm: LanguageModelHub, settings: dict[str, Any], expect: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lm.generate("w1", **settings)
    assert expect in str(caught.value) and "\n" not in str(caught.value)


def test_an_adaptive_model_is_called_as_fairseqs(lm: LanguageModelHub) -> None:
    """Its scores are its features, as in fairseq; get_normalized_probs makes probabilities of them."""
    model = lm.models[0]
    net_output = model(src_tokens=IDS, src_lengths=torch.tensor([5, 5]))
    features, extra = model.extract_features(IDS)
    assert torch.equal(net_output[0], features) and features.shape == (2, 5, 16)
    found = model.get_normalized_probs(net_output, log_probs=True)
    torch.testing.assert_close(found.detach(), lm(IDS).logits)
    torch.testing.assert_close(model.get_normalized_probs((features, extra), log_probs=False), found.exp())


def test_a_model_with_a_full_softmax_is_called_as_fairseqs() -> None:
    model = small_model(SMALL).eval()
    scores, extra = model(IDS)
    assert torch.equal(model(IDS)[0], scores) and len(model(IDS)) == 2
    features = model(IDS, 0).features_BSC
    expected = features.double() @ model.decoder.embed_out.double().T
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-5)
    log_p = model.get_normalized_probs((scores, extra), log_probs=True)
    torch.testing.assert_close(log_p.double(), expected.log_softmax(-1), rtol=1e-5, atol=1e-5)
    assert torch.equal(extra["features"], features)


def test_an_output_without_scores_says_what_makes_some() -> None:
    output = DecoderOutput(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))
    with pytest.raises(TypeError, match=r"; model\.log_prob\("):
        _ = output[0]
    with pytest.raises(IndexError, match=r"scores \(0\) and more \(1\), but is asked for 2"):
        _ = output[2]


@pytest.mark.parametrize("name", ["replace_newlines_with_eos", "replace_newline_with_eos"])
def test_new_lines_end_lines_unless_a_text_is_to_be_one_line(lm: LanguageModelHub, name: str) -> None:
    text = "w1 w2\nw3\n"
    ends = lm.score(text, shorten_method="truncate", **{name: True})["positional_scores"]
    assert ends.tolist() == lm.score(text)["positional_scores"].tolist()
    assert len(ends) == 4  # the last line's </s> is left out, as in fairseq
    one_line = lm.score(text, **{name: False})
    assert one_line.positional_scores.tolist() == lm.score("w1 w2 w3").positional_scores.tolist()
    with pytest.raises(ConfigError, match="'replace_newlines' is not a setting of scoring a text"):
        lm.score(text, replace_newlines=True)


def test_settings_of_generating_may_be_given_with_the_model(artefacts: Artefacts, lm: LanguageModelHub) -> None:
    given = load(artefacts, min_len=3, max_len_b=4, beam=2)
    (best,) = given.generate("w1")
    (other,) = lm.generate("w1", 2, min_len=3, max_len_b=4)
    assert best.tokens_T.tolist() == other.tokens_T.tolist()
    assert 3 <= len(best.tokens_T) <= 5
    assert len(given.generate("w1", 1, min_len=1, max_len_b=1)[0].tokens_T) == 1
    with pytest.raises(ConfigError, match=r"min_len=9 must be at most max_len_b=4"):
        load(artefacts, min_len=9, max_len_b=4)
