"""The continuous cache: the oracle's numbers whatever the batching, the past only, and a distribution."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq.data.block_dataset import BlockDataset
from fairseq.data.dictionary import PAD
from fairseq.errors import ConfigError
from fairseq.evaluate import cache as cache_module
from fairseq.evaluate.cache import CacheSetting, ContinuousCache, make_cache
from fairseq.evaluate.config import CacheConfig
from fairseq.evaluate.mixture import Memory, MemoryScores, Mixture, ScoredTokens
from fairseq.evaluate.sequence_scorer import ScoredBatch, SequenceScorer
from fairseq.models.transformer_lm import TransformerLanguageModel
from tests.builders.small_model import CPU, SMALL, small_model
from tests.oracles.cache import cache_distribution, mixture

VOCABULARY = 7
FLOAT32_ATOL = 2e-5  # products in float32, of vectors whose norms are about 2, at θ up to 3
MODEL_ATOL = 1e-5  # one model in float32 under another padding
SETTINGS = [CacheSetting(size, theta) for size in (1, 4, 1000) for theta in (0.0, 0.5, 3.0)]


def stream(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns vectors, targets and the language model's log-probabilities of n positions."""
    random = np.random.default_rng(seed)
    vectors_NC = torch.from_numpy(random.normal(size=(n, 5)).astype(np.float32))
    target_N = torch.from_numpy(random.integers(0, VOCABULARY, n))
    return vectors_NC, target_N, torch.from_numpy(np.log(random.uniform(0.01, 1, n)))


def expected(size: int, theta: float, n: int, seed: int = 0) -> np.ndarray:
    """Returns the oracle's p_cache of every target."""
    vectors_NC, target_N, log_p_lm_N = (tensor.numpy() for tensor in stream(n, seed))
    p_N = []
    for t in range(n):
        p_V = cache_distribution(vectors_NC, target_N, t, size, theta, VOCABULARY)
        p_N.append(np.exp(log_p_lm_N[t]) if p_V is None else p_V[target_N[t]])
    return np.array(p_N)


def in_pieces(cache: ContinuousCache, n: int, cuts: list[int], seed: int = 0) -> np.ndarray:
    """Returns ln p_cache of a stream that comes in the pieces between the cuts."""
    tensors = stream(n, seed)
    bounds = [0, *sorted(min(cut, n) for cut in cuts), n]
    parts = [cache.log_prob(*(tensor[start:end] for tensor in tensors)) for start, end in pairwise(bounds)]
    return torch.cat(parts).numpy()


@pytest.mark.parametrize("setting", SETTINGS)
def test_equals_the_oracle(setting: CacheSetting) -> None:
    found = ContinuousCache([setting]).log_prob(*stream(40))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found[:, 0].exp(), expected(setting.size, setting.theta, 40), atol=FLOAT32_ATOL)


@settings(max_examples=60)
@given(
    n=st.integers(1, 40),
    cuts=st.lists(st.integers(0, 40), max_size=8),
    size=st.integers(1, 12),
    theta=st.floats(0, 3),
    queries=st.integers(1, 9),
    entries=st.integers(1, 50),
)
def test_any_pieces_and_any_blocks_give_the_oracles_numbers(
    n: int, cuts: list[int], size: int, theta: float, queries: int, entries: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_module, "_QUERIES", queries)
        patch.setattr(cache_module, "_ENTRIES", entries)
        found_NS = in_pieces(ContinuousCache([CacheSetting(size, theta)]), n, cuts)
    np.testing.assert_allclose(np.exp(found_NS[:, 0]), expected(size, theta, n), atol=FLOAT32_ATOL)


def test_several_settings_in_one_pass_are_each_one_alone() -> None:
    together_NS = in_pieces(ContinuousCache(SETTINGS), 60, [7, 8, 30])
    for column, setting in enumerate(SETTINGS):
        alone_NS = in_pieces(ContinuousCache([setting]), 60, [25])
        np.testing.assert_allclose(together_NS[:, column], alone_NS[:, 0], rtol=1e-5, atol=FLOAT32_ATOL)


def test_a_position_sees_neither_itself_nor_what_follows() -> None:
    vectors_NC, target_N, log_p_lm_N = stream(30)
    before = ContinuousCache([CacheSetting(8, 1.0)]).log_prob(vectors_NC, target_N, log_p_lm_N)
    changed_NC, changed_N = vectors_NC.clone(), target_N.clone()
    changed_NC[20], changed_N[20] = -5 * changed_NC[20], (changed_N[20] + 1) % VOCABULARY
    after = ContinuousCache([CacheSetting(8, 1.0)]).log_prob(changed_NC, changed_N, log_p_lm_N)
    np.testing.assert_allclose(after[:20], before[:20], atol=1e-12)
    assert not np.allclose(after[20:29], before[20:29])
    np.testing.assert_allclose(after[29], before[29], atol=1e-12)


def test_a_target_that_is_not_in_the_cache_has_no_mass_and_an_empty_cache_is_the_language_model() -> None:
    vectors_NC, target_N = torch.ones(3, 2), torch.tensor([4, 5, 4])
    found = ContinuousCache([CacheSetting(1, 1.0), CacheSetting(2, 0.0)]).log_prob(
        vectors_NC, target_N, torch.tensor([-0.5, -1.0, -1.5])
    )
    assert found.tolist() == [[-0.5, -0.5], [-math.inf, -math.inf], [-math.inf, pytest.approx(math.log(0.5))]]


def test_a_share_too_small_for_exp_is_not_none() -> None:
    vectors_NC = torch.tensor([[0.0], [40.0], [40.0]])
    target_N = torch.tensor([4, 5, 4])
    found = ContinuousCache([CacheSetting(2, 1.0)]).log_prob(vectors_NC, target_N, torch.zeros(3))
    assert found[2, 0].item() == pytest.approx(-1600)


def test_a_vector_that_is_not_finite_is_no_number_and_passes_with_the_window() -> None:
    vectors_NC, target_N, log_p_lm_N = stream(12)
    vectors_NC[4, 0] = math.nan
    found = ContinuousCache([CacheSetting(3, 1.0)]).log_prob(vectors_NC, target_N, log_p_lm_N)[:, 0]
    assert torch.isnan(found).nonzero().flatten().tolist() == [4, 5, 6, 7]


def test_no_more_than_the_window_is_kept() -> None:
    cache = ContinuousCache([CacheSetting(5, 1.0), CacheSetting(3, 1.0)])
    cache.log_prob(*stream(30))
    assert cache._past is not None
    vectors_MC, target_M = cache._past
    assert (len(vectors_MC), len(target_M)) == (5, 5)
    assert vectors_MC.untyped_storage().nbytes() == 5 * 5 * 4


@pytest.mark.parametrize("num_tokens", [50, 1000])
def test_a_cache_that_does_not_fit_into_memory_is_refused_before_the_work(
    num_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds no more vectors than the text has tokens, in float32; a batch needs them three times over."""
    needed = 3 * min(num_tokens, 200) * 16 * 4
    config = CacheConfig((100, 200), (0.1,), (1.0, 0.5))
    monkeypatch.setattr("fairseq.runtime.resources.free_memory_bytes", lambda: needed)
    assert [(one.size, one.theta) for one in make_cache(config, num_tokens, 16).settings] == config.pairs
    monkeypatch.setattr("fairseq.runtime.resources.free_memory_bytes", lambda: needed - 1)
    with pytest.raises(ConfigError, match="lower --cache-size"):
        make_cache(config, num_tokens, 16)


# In the scorer


def make_model() -> TransformerLanguageModel:
    return small_model(replace(SMALL, adaptive_softmax_cutoff=(6,)), num_ids=12).eval()


TOKENS = np.random.default_rng(0).integers(4, 12, 37)


def dataset(tokens: np.ndarray = TOKENS, context_window: int = 6) -> BlockDataset:
    return BlockDataset(tokens, np.array([len(tokens)]), "none", 5, context_window)


class Uniform(Memory):
    """A memory that gives every word the same probability."""

    def scores(self, tokens: ScoredTokens) -> MemoryScores:
        return MemoryScores(torch.full((len(tokens.target_N),), -math.log(12)))


def joined(scorer: SequenceScorer, data: BlockDataset, batches: list[list[int]]) -> ScoredBatch:
    parts = list(scorer.scored(data.collate(np.array(rows)) for rows in batches))
    names = ("block_idx_N", "target_N", "log_p_N", "model_log_p_N", "memory_log_p_NM")
    return ScoredBatch(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


@pytest.mark.parametrize("neighbours", [False, True])
@pytest.mark.parametrize("batches", [[[*range(8)]], [[0, 1], [2, 3, 4], [5, 6, 7]], [[i] for i in range(8)]])
def test_the_scorer_mixes_the_oracles_cache_across_blocks(neighbours: bool, batches: list[list[int]]) -> None:
    model, size, theta, lmbda, weight = make_model(), 9, 0.2, 0.25, 0.3
    memories = [(Uniform(), lmbda)] if neighbours else []
    mixture_of_all = Mixture([*memories, (ContinuousCache([CacheSetting(size, theta)]), weight)])
    scorer = SequenceScorer([model], CPU, mixture_of_all)
    found = joined(scorer, dataset(), batches)
    lm = joined(SequenceScorer([model], CPU), dataset(), [[*range(8)]])
    vectors_NC, target_N = SequenceScorer([model], CPU).context_vectors(dataset().collate(np.arange(8)))
    for t, target in enumerate(target_N.tolist()):
        cached_V = cache_distribution(vectors_NC.numpy(), target_N.numpy(), t, size, theta, 12)
        p_lm, p_knn = math.exp(lm.log_p_N[t]), 1 / 12 if neighbours else 0.0
        p_cache = None if cached_V is None else cached_V[target]
        p = mixture(p_lm, p_knn, p_cache, lmbda if neighbours else 0.0, weight)
        assert found.log_p_N[t] == pytest.approx(math.log(p), abs=1e-4), t


def test_every_call_of_the_scorer_is_a_stream_of_its_own() -> None:
    scorer = SequenceScorer([make_model()], CPU, Mixture([(ContinuousCache([CacheSetting(9, 0.2)]), 0.3)]))
    first, second = (joined(scorer, dataset(), [[0, 1, 2], [3]]) for _ in range(2))
    assert first.log_p_N.tolist() == second.log_p_N.tolist()


def test_blocks_out_of_order_are_a_bug() -> None:
    scorer = SequenceScorer([make_model()], CPU, Mixture([(ContinuousCache([CacheSetting(9, 0.2)]), 0.3)]))
    with pytest.raises(AssertionError):
        joined(scorer, dataset(), [[1, 0]])


@pytest.mark.parametrize("position", [0, 1, 11, 36])
def test_probabilities_over_the_vocabulary_sum_to_one(position: int) -> None:
    """The last token of a text is every word in turn; <pad>, which is never scored, gets what the others leave."""
    model, total = make_model(), 0.0
    memories = Mixture([(Uniform(), 0.25), (ContinuousCache([CacheSetting(9, 0.2)]), 0.3)])
    for word in set(range(12)) - {PAD}:
        blocks = dataset(np.array([*TOKENS[:position], word]))
        scorer = SequenceScorer([model], CPU, memories)
        total += math.exp(joined(scorer, blocks, [[*range(len(blocks))]]).log_p_N[-1])
    batch = blocks.collate(np.array([len(blocks) - 1]))
    features_TC = model(torch.from_numpy(batch.source_BT)).features_BSC[0]
    padding = math.exp(model.target_log_prob(features_TC[-1:], torch.tensor([PAD])).item())
    lm_share = 0.45 if position else 0.75
    assert total + lm_share * padding + 0.25 / 12 == pytest.approx(1, abs=MODEL_ATOL)
