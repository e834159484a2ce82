"""Text of a Hugging Face model: with what it keeps and without, its beginning, its ends."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairseq.errors import ConfigError
from fairseq.generate.config import GenerationConfig
from fairseq.generate.frame import Frame
from fairseq.generate.generator import Generator
from fairseq.generate.hypotheses import Hypothesis
from tests.builders.small_model import CPU
from tests.builders.tiny_llama import write_tiny_llama

pytest.importorskip("transformers")

# Two layers in float32; a text's sums are of tens of tokens.
FLOAT32_ATOL = 1e-5
SHIFT, EOS = 4, 2
END = 0 + SHIFT  # <|endoftext|>
PROMPTS = [np.array(ids, np.int64) for ids in ([50, 91, 130], [], [111, 40, 14, 77, 211, 80], [139], [17, 60])]
GREEDY = GenerationConfig(beam=1, max_len_b=12, min_len=0)
OPTIONS = {
    "greedy": GREEDY,
    "beam": replace(GREEDY, beam=4, nbest=4),
    "drawn": replace(GREEDY, beam=2, nbest=2, sampling=True, sampling_topk=20),
}


@pytest.fixture(scope="module", params=["no token in front", "a token in front"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Any:
    from fairseq.models.huggingface.loading import load_model

    if request.param == "no token in front":
        return load_model(tiny_llama)
    return load_model(write_tiny_llama(tmp_path_factory.mktemp("bos") / "model", add_bos=True))


class Anew:
    """A model that keeps nothing of what it has read."""

    def __init__(self, model: Any) -> None:
        self.log_prob, self.max_positions, self._model = model.log_prob, model.max_positions, model
        self.opening_id = model.opening_id

    def __call__(self, *inputs: Any) -> Any:
        return self._model(*inputs)


def texts(model: Any, config: GenerationConfig, ends: tuple[int, ...] = (END,)) -> list[list[Hypothesis]]:
    return Generator(model, CPU, config, ends=ends).generate(PROMPTS)


@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_kept_changes_nothing(model: Any, name: str) -> None:
    assert model.new_cache(2, 30) is not None
    for kept, anew in zip(texts(model, OPTIONS[name]), texts(Anew(model), OPTIONS[name]), strict=True):
        for one, other in zip(kept, anew, strict=True):
            assert one.tokens_T.tolist() == other.tokens_T.tolist()
            np.testing.assert_allclose(one.log_p_T, other.log_p_T, atol=FLOAT32_ATOL)


def test_each_token_has_its_probability_behind_those_before_it(model: Any) -> None:
    for prompt_T, (text, *_) in zip(PROMPTS, texts(model, GREEDY), strict=True):
        row = [*prompt_T.tolist(), *text.tokens_T.tolist()] if len(prompt_T) else [EOS, *text.tokens_T.tolist()]
        with torch.no_grad():
            log_p_TV = model.log_prob(model(torch.tensor([row[:-1]])).features_BSC[0])
        expected = log_p_TV[range(-len(text.tokens_T), 0), text.tokens_T]
        np.testing.assert_allclose(text.log_p_T, expected, atol=FLOAT32_ATOL)


def test_any_of_its_ends_ends_a_text(model: Any) -> None:
    most_probable = texts(model, GREEDY)
    stop = {int(text.tokens_T[3]) for text, *_ in most_probable}
    for before, after in zip(most_probable, texts(model, GREEDY, tuple(stop)), strict=True):
        at = next(i for i, token in enumerate(before[0].tokens_T.tolist()) if token in stop)
        assert after[0].tokens_T.tolist() == before[0].tokens_T[: at + 1].tolist()
    least = replace(GREEDY, min_len=6)
    for text, *_ in texts(model, least, tuple(stop)):
        assert not stop & set(text.tokens_T[:6].tolist())


def test_fairseqs_four_ids_are_never_generated(model: Any) -> None:
    drawn = texts(model, replace(GREEDY, beam=5, nbest=5, sampling=True, temperature=3.0))
    assert min(int(text.tokens_T.min()) for each in drawn for text in each) >= SHIFT


def test_an_empty_prompt_needs_a_beginning(model: Any) -> None:
    bare = Anew(model)
    bare.opening_id = None
    with pytest.raises(ConfigError, match="a prompt is empty"):
        Generator(bare, CPU, GREEDY, ends=(END,)).generate(PROMPTS)
    assert len(Generator(bare, CPU, GREEDY, ends=(END,)).generate(PROMPTS[:1])) == 1


def test_frames() -> None:
    words = Frame.of(object(), add_bos=True)
    assert words.row(np.array([7])).tolist() == [0, 2, 7]
    assert words.opens(0) == words.opens(5) == 2
    tokens = Frame((EOS,), frozenset({9}), only_empty=True)
    assert tokens.row(np.array([], np.int64)).tolist() == [EOS]
    assert tokens.row(np.array([7]), np.array([8])).tolist() == [7, 8]
