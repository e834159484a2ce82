"""Generating: against naive loops, against the scorer, with and without what the model has kept."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from fairseq.data.block_dataset import Batch
from fairseq.errors import CheckpointError, ConfigError
from fairseq.evaluate.mixture import NextTokenMixture
from fairseq.evaluate.sequence_scorer import SequenceScorer
from fairseq.generate.config import GenerationConfig, GenerationRunConfig
from fairseq.generate.generator import Generator
from fairseq.generate.hypotheses import Hypothesis
from fairseq.generate.search import repeating_tokens
from fairseq.models.transformer_config import TransformerConfig
from fairseq.models.transformer_lm import TransformerLanguageModel
from tests.builders.small_model import BANDS, CPU, SMALL, small_model
from tests.oracles.generation import beam_search, best_text, holds_twice

# Two layers in float32; a text's sums are of tens of tokens.
FLOAT32_ATOL = 2e-5
EOS = 2
CONFIG = replace(BANDS, max_target_positions=24)
PLAIN = replace(SMALL, max_target_positions=24)
PROMPTS = [np.array(ids, np.int64) for ids in ([5, 9, 30], [], [11, 4, 1, 7, 21, 8], [39], [17, 6])]
GREEDY = GenerationConfig(beam=1, max_len_b=12, min_len=0)
OPTIONS = {
    "greedy": GREEDY,
    "beam": replace(GREEDY, beam=4, nbest=4),
    "long texts": replace(GREEDY, beam=3, nbest=2, lenpen=1.7, unkpen=0.5),
    "unnormalized": replace(GREEDY, beam=3, unnormalized=True, min_len=4),
    "no repeated bigram": replace(GREEDY, beam=2, no_repeat_ngram_size=2),
    "by the prompt's length": replace(GREEDY, beam=2, max_len_a=1.5, max_len_b=3),
    "drawn": replace(GREEDY, beam=3, nbest=3, sampling=True, temperature=1.3),
    "drawn among few": replace(GREEDY, beam=2, nbest=2, sampling=True, sampling_topk=5, min_len=3),
    "drawn from a nucleus": replace(GREEDY, beam=2, nbest=2, sampling=True, sampling_topp=0.6),
}


def make(config: TransformerConfig = CONFIG, words: int = 40) -> TransformerLanguageModel:
    """Returns a model that is far from sure and far from indifferent."""
    model = small_model(config, 4, words).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed" in name or "softmax" in name:
                parameter *= 2.5
    return model


class Anew:
    """A model that keeps nothing of what it has read."""

    def __init__(self, model: TransformerLanguageModel) -> None:
        self.log_prob, self.max_positions, self._model = model.log_prob, model.max_positions, model

    def __call__(self, *inputs):
        return self._model(*inputs)


def generator(config: GenerationConfig, model: TransformerLanguageModel | Anew | None = None, **more) -> Generator:
    model = make() if model is None else model
    return Generator(model, CPU, config, **more)


def next_log_p(model: TransformerLanguageModel):
    """Returns a function that reads a whole row and gives ln p of every word behind it, word by word."""

    def log_p(row: Sequence[int]) -> np.ndarray:
        words = model.decoder.vocabulary_size
        with torch.no_grad():
            features = model(torch.tensor([[EOS, *row]])).features_BSC[0, -1:]
            return model.target_log_prob(features.expand(words, -1), torch.arange(words)).double().numpy()

    return log_p


def same(found: list[list[Hypothesis]], expected: list[list[Hypothesis]]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        for text, other in zip(ours, theirs, strict=True):
            assert text.tokens_T.tolist() == other.tokens_T.tolist()
            np.testing.assert_allclose(text.log_p_T, other.log_p_T, atol=FLOAT32_ATOL, rtol=0)
            assert text.score == pytest.approx(other.score, abs=FLOAT32_ATOL)


def test_greedy_takes_the_most_probable_token_of_every_scored_prefix() -> None:
    model = make()
    for prompt_T, [text] in zip(PROMPTS, generator(GREEDY, model).generate(PROMPTS), strict=True):
        row = prompt_T.tolist()
        for token, log_p in zip(text.tokens_T.tolist(), text.log_p_T.tolist(), strict=True):
            every = next_log_p(model)(row)
            every[1] = -np.inf
            assert token == int(every.argmax())
            assert log_p == pytest.approx(every[token], abs=FLOAT32_ATOL)
            row.append(token)
        assert len(text.tokens_T) == 12 or text.tokens_T[-1] == EOS


@pytest.mark.parametrize("option", OPTIONS)
def test_reading_everything_anew_gives_the_same(option: str) -> None:
    model, config = make(), OPTIONS[option]
    found = generator(config, model).generate(PROMPTS)
    same(found, generator(config, Anew(model)).generate(PROMPTS))
    assert all(len(texts) == config.nbest for texts in found)


@pytest.mark.parametrize("option", OPTIONS)
def test_the_batch_that_a_prompt_is_in_changes_nothing(option: str) -> None:
    model, config = make(), OPTIONS[option]
    together = generator(config, model).generate(PROMPTS)
    alone = [generator(config, model).generate([p], [number])[0] for number, p in enumerate(PROMPTS)]
    same(together, alone)


@pytest.mark.parametrize("option", OPTIONS)
def test_log_probabilities_are_those_of_the_scorer(option: str) -> None:
    model, config = make(), OPTIONS[option]
    scorer = SequenceScorer([model], CPU)
    for texts in generator(config, model).generate(PROMPTS):
        for text in texts:
            row, size = np.concatenate([text.prompt_T, text.tokens_T]), len(text.prompt_T)
            source = np.concatenate([[EOS], row[:-1]])[None]
            zero = np.zeros(1, np.int64)
            scored = scorer.score(Batch(zero, source, row[None], zero, np.ones_like(source, bool)))
            np.testing.assert_allclose(text.log_p_T, scored.log_p_N[size:], atol=FLOAT32_ATOL, rtol=0)
            penalised = text.log_p_T.sum() - config.unkpen * (text.tokens_T == 3).sum()
            length = 1.0 if config.unnormalized else len(text.tokens_T) ** config.lenpen
            assert text.score == pytest.approx(penalised / length)
        assert [text.score for text in texts] == sorted((text.score for text in texts), reverse=True)


@pytest.mark.parametrize(("beam", "lenpen", "min_len"), [(1, 1.0, 1), (2, 0.0, 0), (3, 1.0, 0), (5, 2.0, 3)])
def test_beam_search_equals_the_naive_one(beam: int, lenpen: float, min_len: int) -> None:
    config = replace(GREEDY, beam=beam, nbest=beam, lenpen=lenpen, min_len=min_len, max_len_b=6)
    model = make()
    for prompt_T, texts in zip(PROMPTS, generator(config, model).generate(PROMPTS), strict=True):
        expected = beam_search(next_log_p(model), prompt_T.tolist(), beam, 6, lenpen, min_len)[:beam]
        assert [text.tokens_T.tolist() for text in texts] == [tokens for _, tokens in expected]
        assert [text.score for text in texts] == pytest.approx([score for score, _ in expected], abs=FLOAT32_ATOL)


def test_a_beam_wide_enough_for_everything_finds_the_best_text_of_all() -> None:
    model = make(PLAIN, words=7)
    [[text]] = generator(GenerationConfig(beam=220, max_len_b=3), model).generate([np.array([5, 4])])
    score, tokens = best_text(next_log_p(model), [5, 4], 3)
    assert text.tokens_T.tolist() == tokens
    assert text.score == pytest.approx(score, abs=FLOAT32_ATOL)


def test_draws_repeat_with_the_seed_and_with_nothing_else() -> None:
    model, config = make(), OPTIONS["drawn"]
    first, again, other = (
        [t.tokens_T.tolist() for texts in generator(config, model, seed=seed).generate(PROMPTS) for t in texts]
        for seed in (1, 1, 2)
    )
    assert first == again != other
    twice = generator(config, model).generate([PROMPTS[0], PROMPTS[0]])
    assert twice[0][0].tokens_T.tolist() != twice[1][0].tokens_T.tolist(), "equal prompts are drawn for apart"


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_ngram_stands_twice(n: int) -> None:
    config = replace(GREEDY, beam=2, nbest=2, no_repeat_ngram_size=n, max_len_b=15, min_len=15)
    free = replace(config, no_repeat_ngram_size=0)
    prompts = [np.array([5, 9, 30, 12]), np.array([7, 8])]
    rows = [[*t.prompt_T, *t.tokens_T] for texts in generator(config).generate(prompts) for t in texts]
    assert not any(holds_twice(row, n) for row in rows)
    loose = [[*t.prompt_T, *t.tokens_T] for texts in generator(free).generate(prompts) for t in texts]
    assert any(holds_twice(row, n) for row in loose), "there must be something to prevent"


def test_the_tokens_that_repeat_are_those_that_brute_force_finds() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        n, row = int(random.integers(1, 4)), random.integers(0, 4, random.integers(0, 12)).tolist()
        before = {tuple(row[i : i + n]) for i in range(len(row) - n + 1)}
        expected = {w for w in range(4) if len(row) >= n - 1 and tuple([*row, w][-n:]) in before}
        assert repeating_tokens(row, n) == expected, (row, n)
    assert repeating_tokens([1, 1, 1], 0) == set()


def test_a_text_ends_where_everything_is_forbidden() -> None:
    for sampling in (False, True):
        config = GenerationConfig(beam=2, max_len_b=20, min_len=20, no_repeat_ngram_size=1, sampling=sampling)
        [[text]] = generator(config, make(PLAIN, words=8)).generate([np.array([4])])
        assert sorted([4, *text.tokens_T]) == [0, 3, 4, 5, 6, 7]


class Lopsided:
    """A memory that says the word of a context's largest coordinate, and keeps count."""

    asked = 0

    def next_log_prob(self, queries_ND: torch.Tensor, vocabulary_size: int) -> torch.Tensor:
        self.asked += len(queries_ND)
        log_p = torch.full((len(queries_ND), vocabulary_size), -torch.inf)
        return log_p.scatter(1, queries_ND.argmax(1, keepdim=True) + 4, 0.0)


def test_a_second_source_is_mixed_into_every_word() -> None:
    model, source = make(), Lopsided()
    mixed = generator(OPTIONS["beam"], model, memories=[(source, 0.3)])
    for texts in mixed.generate(PROMPTS):
        for text in texts:
            vectors_TC = mixed.context_vectors(text)
            row = text.prompt_T.tolist()
            for token, log_p, vector_C in zip(text.tokens_T.tolist(), text.log_p_T, vectors_TC, strict=True):
                p = 0.7 * np.exp(next_log_p(model)(row)[token]) + 0.3 * (token == int(vector_C.argmax()) + 4)
                assert log_p == pytest.approx(np.log(p), abs=FLOAT32_ATOL)
                row.append(token)
    assert source.asked > 0


def test_a_mixture_sums_to_one_and_no_weight_is_the_model_to_the_bit() -> None:
    model, source = make(), Lopsided()
    with torch.no_grad():
        out = model(torch.tensor([[EOS, 5, 6, 7]]))
        log_p_NV, queries_NC = model.log_prob(out.features_BSC[0]), out.ffn_input_BSC[0]
    total = NextTokenMixture([(source, 0.6)]).mixed(log_p_NV, queries_NC).exp().sum(1)
    np.testing.assert_allclose(total.numpy(), 1, atol=FLOAT32_ATOL, rtol=0)
    source.asked = 0
    none = generator(OPTIONS["beam"], model, memories=[(source, 0.0)]).generate(PROMPTS)
    for texts, others in zip(none, generator(OPTIONS["beam"], model).generate(PROMPTS), strict=True):
        for text, other in zip(texts, others, strict=True):
            assert np.array_equal(text.log_p_T, other.log_p_T) and np.array_equal(text.tokens_T, other.tokens_T)
    assert source.asked == 0


@pytest.mark.parametrize("learned", [False, True])
def test_texts_stop_at_the_model_s_last_position(learned: bool) -> None:
    model = make(replace(CONFIG, max_target_positions=8, decoder_learned_pos=learned))
    room = generator(replace(GREEDY, beam=2, max_len_b=100, min_len=100), model)
    assert room.longest_prompt == 7
    prompts = [np.arange(4, 4 + size) for size in (7, 3, 0)]
    assert [len(texts[0].tokens_T) for texts in room.generate(prompts)] == [1, 5, 8]
    with pytest.raises(
        ConfigError, match=r"at most 7 tokens, for the model has 8 positions, but has 8.* make room with"
    ):
        room.generate([np.arange(4, 12)])
    model.opening_id, model.has_fixed_positions = None, True  # as a Hugging Face model's
    with pytest.raises(ConfigError, match=r"at most 8 tokens, .* but has 9; shorten it$"):
        generator(replace(GREEDY, beam=2, max_len_b=100, min_len=100), model).generate([np.arange(4, 13)])


def test_no_prompts_no_texts_and_no_room_is_refused() -> None:
    assert generator(GREEDY).generate([]) == []
    with pytest.raises(ConfigError, match="leave no token to follow a prompt of 1"):
        generator(GenerationConfig(max_len_a=0.5, max_len_b=0)).generate([np.array([4])])


def test_what_opens_a_text_is_read_and_not_given_back() -> None:
    model = make()
    two = Generator(model, CPU, GREEDY, add_bos=True).generate([np.array([5])])
    without = Generator(model, CPU, GREEDY)
    without.opening = (0,)
    one = without.generate([np.array([EOS, 5])])
    assert two[0][0].prompt_T.tolist() == [5]
    assert two[0][0].tokens_T.tolist() == one[0][0].tokens_T.tolist()


def test_a_model_that_has_diverged_or_cannot_generate_is_named() -> None:
    model = make()
    with torch.no_grad():
        model.decoder.layers[0].fc1.weight.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="not numbers"):
        generator(GREEDY, model).generate(PROMPTS)
    one_bad = make(PLAIN)
    with torch.no_grad():
        one_bad.decoder.embed_tokens.weight[39] = torch.nan
    with pytest.raises(CheckpointError, match="not numbers"):
        generator(replace(GREEDY, max_len_b=1), one_bad).generate([np.array([5]), np.array([39]), np.array([6])])
    bare = torch.nn.Module()
    bare.max_positions = 10
    with pytest.raises(ConfigError, match="Module cannot generate: a model needs log_prob"):
        Generator(bare, CPU, GREEDY).generate(PROMPTS)


def test_a_batch_is_bound_by_tokens_where_nothing_else_is_said() -> None:
    found = {
        (tokens, prompts): GenerationRunConfig(path="x", max_tokens=tokens, max_sentences=prompts).most_batch_tokens
        for tokens in (None, 50)
        for prompts in (None, 3)
    }
    assert found == {(None, None): 12_000, (None, 3): None, (50, None): 50, (50, 3): 50}


@pytest.mark.parametrize(("max_tokens", "max_prompts"), [(None, 2), (90, None), (90, 2), (60, 3), (None, None)])
def test_batches_hold_every_prompt_once_and_as_many_as_there_is_room_for(
    max_tokens: int | None, max_prompts: int | None
) -> None:
    """A prompt takes itself and its longest text, 5 tokens here, twice over; a batch is as wide as its longest."""
    batches = generator(replace(GREEDY, beam=2, max_len_b=5)).batches(PROMPTS, max_tokens, max_prompts)
    assert [number for batch in batches for number in batch] == [*range(len(PROMPTS))]
    sizes = [2 * (len(prompt_T) + 5) for prompt_T in PROMPTS]

    def fits(numbers: range) -> bool:
        wide = max(sizes[number] for number in numbers) * len(numbers)
        return (max_tokens is None or wide <= max_tokens) and (max_prompts is None or len(numbers) <= max_prompts)

    assert all(fits(batch) for batch in batches)
    assert not any(fits(range(batch.start, batch.stop + 1)) for batch in batches[:-1]), "one more would have fitted"


def test_one_prompt_that_is_too_much_for_a_batch_is_refused() -> None:
    room = generator(replace(GREEDY, beam=2, max_len_b=5))
    assert room.batches(PROMPTS, 22, None)
    with pytest.raises(ConfigError, match=r"--max-tokens 21 must hold a prompt .* one of 6 tokens needs 22"):
        room.batches(PROMPTS, 21, None)
    assert room.batches([], 21, None) == []
