"""Random continuations: which words are left, and how often each is drawn."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from fairseq.generate.config import GenerationConfig
from fairseq.generate.hypotheses import Partial
from fairseq.generate.search import NUCLEUS_AT_FIRST, BeamSearch, Sampler, kept
from tests.oracles.generation import allowed, beam_search, most_probable, nucleus

LOG_P = torch.randn(6, 30, generator=torch.Generator().manual_seed(1)).double().log_softmax(1)


@pytest.mark.parametrize("k", [1, 2, 7, 30, 100])
def test_the_k_most_probable_are_left(k: int) -> None:
    left = kept(LOG_P, k, -1)
    for row, log_p in zip(left, LOG_P, strict=True):
        assert set(torch.isfinite(row).nonzero()[:, 0].tolist()) == most_probable(log_p.tolist(), k)
        assert torch.equal(row[torch.isfinite(row)], log_p[torch.isfinite(row)])


def test_every_word_of_a_large_vocabulary_is_left_where_nothing_is_said() -> None:
    log_p = torch.randn(2, 3 * NUCLEUS_AT_FIRST, generator=torch.Generator().manual_seed(1)).double().log_softmax(1)
    assert torch.equal(kept(log_p, -1, -1), log_p) and torch.isfinite(kept(log_p, -1, 1.0)).all()


@pytest.mark.parametrize("share", [1e-9, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("at_first", [1, 4, 1000])
def test_the_fewest_that_have_the_share_are_left(share: float, at_first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairseq.generate.search.NUCLEUS_AT_FIRST", at_first)
    for row, log_p in zip(kept(LOG_P - 3.0, -1, share), LOG_P, strict=True):  # need not be normalised
        assert set(torch.isfinite(row).nonzero()[:, 0].tolist()) == nucleus(log_p.tolist(), share)


@pytest.mark.parametrize(
    ("temperature", "topk", "topp"),
    [(1.0, -1, -1.0), (0.5, -1, -1.0), (2.0, 3, -1.0), (2.0, -1, 0.65), (0.5, -1, 0.65)],
)
def test_words_are_drawn_as_often_as_they_should(temperature: float, topk: int, topp: float) -> None:
    """The temperature comes first: 0.65 of the probability is 2 words as they are, 3 of T = 2, and 2 of T = 0.5."""
    draws = 4000
    config = GenerationConfig(
        beam=draws, sampling=True, temperature=temperature, sampling_topk=topk, sampling_topp=topp
    )
    log_p = torch.tensor([[0.4, 0.0, 0.1, 0.3, 0.2]]).log()
    going_on, done = Sampler(config, seed=3, ids=[7]).step([Partial(0)], log_p, log_p)
    assert len(going_on) + len(done) == draws
    assert all(text.tokens == (2,) for text in done) and all(text.tokens != (2,) for text in going_on)
    counts = np.bincount([text.tokens[0] for text in (*going_on, *done)], minlength=5)
    weight = np.array([0.4, 0.0, 0.1, 0.3, 0.2]) ** (1 / temperature)
    weight *= [w in most_probable(log_p[0].tolist(), topk if topk != -1 else 5) for w in range(5)]
    if topp != -1:
        weight *= [w in nucleus(np.log(np.maximum(weight, 1e-99) / weight.sum()).tolist(), topp) for w in range(5)]
    p = weight / weight.sum()
    assert (np.abs(counts - draws * p) <= 5 * np.sqrt(draws * p * (1 - p))).all(), "five sigma"
    assert (counts[p == 0] == 0).all()


class Draws:
    """Random numbers that are all the same one."""

    def __init__(self, number: float) -> None:
        self.number = number

    def random(self) -> float:
        return self.number


@pytest.mark.parametrize(("number", "token"), [(0.0, 1), (0.25, 3), (0.25 - 2**-40, 1), (1 - 2**-53, 4)])
def test_no_number_draws_a_word_of_probability_0(number: float, token: int) -> None:
    """Words 0, 2 and 5 have none: of the others each takes the numbers from its lower end on."""
    log_p = torch.tensor([[0.0, 0.25, 0.0, 0.25, 0.5, 0.0]], dtype=torch.float64).log()
    sampler = Sampler(GenerationConfig(beam=1, sampling=True), seed=1, ids=[0])
    sampler._random = [[Draws(number)]]  # type: ignore[list-item]
    [text], [] = sampler.step([Partial(0)], log_p, log_p)
    assert text.tokens == (token,)


def test_every_text_has_random_numbers_of_its_own() -> None:
    """Three texts of two prompts, for three steps: each goes where its own numbers send it, whatever row it is in."""
    p = torch.tensor([0.25, 0.0, 0.0, 0.25, 0.25, 0.25], dtype=torch.float64)
    numbers = [[0.1, 0.3, 0.6], [0.9, 0.6, 0.1]]
    words = {0.1: 0, 0.3: 3, 0.6: 4, 0.9: 5}
    sampler = Sampler(GenerationConfig(beam=3, sampling=True), seed=1, ids=[0, 1])
    sampler._random = [[Draws(number) for number in some] for some in numbers]  # type: ignore[misc]
    live = [Partial(0), Partial(1)]
    for _ in range(3):
        log_p = p.log().expand(len(live), -1)
        live, done = sampler.step(live[::-1], log_p, log_p)
        assert not done
    expected = {(prompt, (words[number],) * 3) for prompt, some in enumerate(numbers) for number in some}
    assert {(text.prompt, text.tokens) for text in live} == expected and len(live) == 6


@pytest.mark.parametrize("beam", [1, 2, 4])
def test_beam_search_equals_the_naive_one_over_tables_of_any_probabilities(beam: int) -> None:
    """Texts end early and late: what is done counts against the beam, and two prompts do not."""
    most, ended_early = 5, 0
    for seed in range(20):

        def log_p(row: Sequence[int], seed: int = seed) -> np.ndarray:
            rng = np.random.default_rng([seed, *row])
            return np.log(rng.dirichlet([0.5, 0.5, rng.choice([0.1, 3.0]), 1, 1, 1]))

        search, live, texts = BeamSearch(beam, 2), [Partial(0), Partial(1)], list[Partial]()
        for size in range(most):
            worth = [allowed(log_p, [text.prompt, *text.tokens], size, 1, 1, 2) for text in live]
            log_p_RV = torch.from_numpy(np.array(worth))
            live, done = search.step(live, log_p_RV, log_p_RV)
            texts += done
            if not live:
                break
        for prompt in (0, 1):
            expected = beam_search(log_p, [prompt], beam, most)
            own = [text for text in (*texts, *live) if text.prompt == prompt]
            found = sorted(((text.total / len(text.tokens), [*text.tokens]) for text in own), key=lambda one: -one[0])
            assert [tokens for _, tokens in found] == [tokens for _, tokens in expected]
            assert [score for score, _ in found] == pytest.approx([score for score, _ in expected])
            ended_early += max(len(text.tokens) for text in own) < most
    assert ended_early
