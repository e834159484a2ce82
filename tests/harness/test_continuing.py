"""Texts that go on, against transformers' own and against one token at a time in float64."""

from typing import Any

import numpy as np
import pytest
import torch

from fairseq.config.common import DeviceConfig
from fairseq.errors import ConfigError
from fairseq.evaluate.mixture import NextTokenMixture
from fairseq.harness.continuing import Continuation, Continuer
from fairseq.harness.texts import TokenizerTexts
from fairseq.models.huggingface.loading import load_model
from fairseq.runtime.precision import Precision
from fairseq.text.model_tokenizer import SHIFT
from knnlm import KNN
from tests.builders.harness_model import LMBDA, LONGEST, TEMPERATURE, K, TinyModel

CPU = Precision(DeviceConfig(), torch.device("cpu"))
PROMPTS = ("The children", "for name in names:", "A language model reads", "The")
SEEDS = [(1, number) for number in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def texts(llama: TinyModel) -> TokenizerTexts:
    return TokenizerTexts(llama.path)


def continuer(llama: TinyModel, texts: TokenizerTexts, *, knn: bool = False, **settings: Any) -> Continuer:
    """Returns what continues prompts, with neighbours or without."""
    memories = []
    if knn:
        opened = KNN(llama.prefix, llama.index, k=K, lmbda=LMBDA, knn_temp=TEMPERATURE).open_for(llama.identity)
        memories.append(opened)
    ends = [texts.eot_id + SHIFT]
    named: dict[str, Any] = {"end_ids": ends, "longest_row": LONGEST, **settings}
    return Continuer(load_model(llama.path), CPU, texts, NextTokenMixture(memories), **named)


def test_greedy_texts_are_those_of_transformers(llama: TinyModel, texts: TokenizerTexts) -> None:
    prompts = [texts.encode(prompt) for prompt in PROMPTS]
    found = continuer(llama, texts).continued(prompts, Continuation(most_tokens=9), SEEDS)
    for prompt, text in zip(prompts, found, strict=True):
        ids = llama.model.generate(torch.tensor([prompt]), max_new_tokens=9, do_sample=False, pad_token_id=0)
        assert text == texts.decode(ids[0, len(prompt) :].tolist())


@pytest.mark.parametrize("batch_size", [None, 2])
def test_texts_with_neighbours_take_the_most_probable_word_of_the_mixture(
    llama: TinyModel, texts: TokenizerTexts, batch_size: int | None
) -> None:
    prompts = [texts.encode(prompt) for prompt in PROMPTS]
    how = Continuation(most_tokens=6)
    found = continuer(llama, texts, knn=True, batch_size=batch_size).continued(prompts, how, SEEDS)
    assert found != continuer(llama, texts).continued(prompts, how, SEEDS)
    for prompt, text in zip(prompts, found, strict=True):
        ids = list(prompt)
        for _ in range(6):
            ids.append(int(llama.log_p(ids)[-1].argmax()))
        assert text == texts.decode(ids[len(prompt) :])


def test_a_text_ends_before_the_first_string_that_ends_it(llama: TinyModel, texts: TokenizerTexts) -> None:
    """Also where the string goes over several tokens, or begins within one."""
    prompts = [texts.encode(prompt) for prompt in PROMPTS]
    make = continuer(llama, texts, knn=True)
    whole = make.continued(prompts, Continuation(most_tokens=12), SEEDS)
    for text in whole:
        for first, size in ((0, 1), (2, 1), (3, 5)):
            stop = text[first : first + size]
            found = make.continued(prompts, Continuation((stop, "never there"), 12), SEEDS)
            assert found == [each.split(stop)[0] for each in whole]


def test_the_end_token_ends_a_text(llama: TinyModel, texts: TokenizerTexts) -> None:
    prompts = [texts.encode(prompt) for prompt in PROMPTS[:1]]
    whole = continuer(llama, texts).continued(prompts, Continuation(most_tokens=12), SEEDS[:1])[0]
    ids = llama.model.generate(torch.tensor(prompts), max_new_tokens=12, do_sample=False, pad_token_id=0)
    third = int(ids[0, len(prompts[0]) + 2])
    found = continuer(llama, texts, end_ids=[third + SHIFT]).continued(prompts, Continuation(most_tokens=12), SEEDS[:1])
    assert found[0] == texts.decode(ids[0, len(prompts[0]) :].tolist()[:2]) and found[0] != whole


def test_a_long_prompt_loses_its_beginning(llama: TinyModel, texts: TokenizerTexts) -> None:
    prompt = texts.encode(" ".join(PROMPTS) * 3)
    how = Continuation(most_tokens=9)
    make = continuer(llama, texts)
    assert len(prompt) > LONGEST
    assert make.continued([prompt], how, SEEDS[:1]) == make.continued([prompt[-(LONGEST - 9) :]], how, SEEDS[:1])
    with pytest.raises(ConfigError, match=f"max_gen_toks must be below {LONGEST}.* but is {LONGEST}; lower it"):
        make.continued([prompt], Continuation(most_tokens=LONGEST), SEEDS[:1])


def test_an_empty_prompt_begins_as_a_text_does(llama: TinyModel, texts: TokenizerTexts) -> None:
    make, how = continuer(llama, texts), Continuation(most_tokens=5)
    assert make.continued([[]], how, SEEDS[:1]) == make.continued([[texts.prefix_id]], how, SEEDS[:1])


def test_draws_follow_the_distribution(llama: TinyModel, texts: TokenizerTexts) -> None:
    """One token of 4,000 copies of a prompt, of T = 0.7 and the three most probable words."""
    prompt, count = texts.encode(PROMPTS[0]), 4000
    make = continuer(llama, texts, knn=True, batch_size=count)
    how = Continuation(most_tokens=1, temperature=0.7, top_k=3)
    found = make.continued([prompt] * count, how, [(5, number) for number in range(count)])
    log_p_V = llama.log_p(prompt)[-1]
    best = np.argsort(-log_p_V)[:3]
    p = np.exp(log_p_V[best] / 0.7)
    p /= p.sum()
    shares = np.array([found.count(texts.decode([int(word)])) for word in best]) / count
    assert shares.sum() == 1
    assert shares == pytest.approx(p, abs=4 * np.sqrt(0.25 / count))


def test_draws_are_a_function_of_seed_and_number(llama: TinyModel, texts: TokenizerTexts) -> None:
    prompts = [texts.encode(prompt) for prompt in PROMPTS]
    how = Continuation(most_tokens=6, temperature=1.0, top_p=0.9)
    whole = continuer(llama, texts).continued(prompts, how, SEEDS)
    assert whole == continuer(llama, texts, batch_size=1).continued(prompts, how, SEEDS)
    assert whole != continuer(llama, texts).continued(prompts, how, [(2, number) for number in range(len(prompts))])


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, Continuation()),
        ({"until": "x"}, Continuation(("x",))),
        ({"until": ["x", "", "y"], "max_gen_toks": 5}, Continuation(("x", "y"), 5)),
        ({"until": None, "max_new_tokens": 5}, Continuation((), 5)),
        ({"temperature": 0.5}, Continuation(temperature=0.5)),
        ({"temperature": 0.5, "do_sample": False}, Continuation()),
        ({"do_sample": True, "top_k": 3, "top_p": 0.5}, Continuation(temperature=1.0, top_k=3, top_p=0.5)),
        ({"do_sample": True, "temperature": 0.0}, Continuation()),
        ({"num_beams": 1}, Continuation()),
    ],
)
def test_settings_of_a_task(given: dict[str, Any], found: Continuation) -> None:
    assert Continuation.of(given, 256) == found


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"repetition_penalty": 1.2}, "'repetition_penalty' is not a setting of generation_kwargs"),
        ({"num_beams": 4}, "num_beams must be 1 here, but is 4"),
        ({"until": [3]}, "until must be a string, or several"),
        ({"max_gen_toks": 0}, "max_gen_toks must be at least 1"),
        ({"top_p": 1.5}, "top_p from 0 to 1"),
        ({"temperature": -1}, "temperature at least 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Continuation.of(given, 256)
