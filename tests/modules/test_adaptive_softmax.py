"""Adaptive input and adaptive softmax against loops in float64, in every layout of formats.md section 5."""

import numpy as np
import pytest
import torch

from fairseq.modules.adaptive_input import AdaptiveInput, band_bounds, rows_in_band
from fairseq.modules.adaptive_softmax import AdaptiveSoftmax
from tests.oracles.adaptive_softmax import all_log_probs, embed

CUTOFF, VOCABULARY = (7, 15), 31
EDGES = [0, 7, 15, 31]
FLOAT32_ATOL = 2e-6  # float32 sums of at most 32 terms of order 1

# (tied weights, tied projections, width of the word vectors) for a model of width 16
LAYOUTS = [(False, False, 16), (True, False, 16), (True, True, 16), (True, False, 32), (True, True, 32)]


def make(tied: bool, tied_projections: bool, input_dim: int) -> AdaptiveSoftmax:
    torch.manual_seed(5)
    words = AdaptiveInput(VOCABULARY, input_dim, 4, 16, CUTOFF) if tied else None
    return AdaptiveSoftmax(VOCABULARY, 16, CUTOFF, 0.2, 4, words, tied_projections).eval()


def arrays(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in module.state_dict().items()}


def test_bands() -> None:
    assert band_bounds(12, (5, 9)) == [(0, 5), (5, 9), (9, 12)]


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65])
def test_the_rows_of_a_band_are_filled_up_to_a_multiple_of_64(count: int) -> None:
    ids = torch.tensor([6, *[7] * count, 15])
    where, found = rows_in_band(ids, 7, 15)
    assert found == count and where[:count].tolist() == list(range(1, count + 1))
    assert len(where) == {0: 0, 1: 64, 63: 64, 64: 64, 65: 128}[count] and not where[count:].any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_word_of_the_vocabulary_equals_the_oracle(layout: tuple[bool, bool, int]) -> None:
    softmax = make(*layout)
    x_C = torch.randn(16)
    log_p_V = softmax.target_log_prob(x_C.expand(VOCABULARY, 16), torch.arange(VOCABULARY)).detach()
    expected_V = all_log_probs(arrays(softmax), x_C.double().numpy(), EDGES, tied_projections=layout[1])
    np.testing.assert_allclose(log_p_V.numpy(), expected_V, atol=FLOAT32_ATOL, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_probabilities_sum_to_one(layout: tuple[bool, bool, int]) -> None:
    x_C = torch.randn(16)
    log_p_V = make(*layout).target_log_prob(x_C.expand(VOCABULARY, 16), torch.arange(VOCABULARY))
    assert log_p_V.double().exp().sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("logits_at_once", [1, 50, 1 << 22])
def test_certainty_equals_the_oracle_over_the_whole_vocabulary(
    layout: tuple[bool, bool, int], logits_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairseq.modules.adaptive_softmax.CERTAINTY_LOGITS", logits_at_once)
    softmax, x_NC = make(*layout), torch.randn(9, 16) * 3
    largest_N, entropy_N = softmax.certainty(x_NC)
    for n, x_C in enumerate(x_NC.double().numpy()):
        log_p_V = all_log_probs(arrays(softmax), x_C, EDGES, tied_projections=layout[1])
        assert largest_N[n].item() == pytest.approx(max(log_p_V), abs=3 * FLOAT32_ATOL)
        assert entropy_N[n].item() == pytest.approx(-sum(np.exp(v) * v for v in log_p_V), abs=3 * FLOAT32_ATOL)


def test_certainty_is_finite_where_the_distribution_is_a_point() -> None:
    softmax = make(False, False, 16)
    with torch.no_grad():
        softmax.head.weight.mul_(1e4)
        largest_N, entropy_N = softmax.certainty(torch.randn(3, 16))
    assert torch.isfinite(largest_N).all() and torch.isfinite(entropy_N).all()
    assert (softmax.certainty(torch.randn(0, 16))[0]).shape == (0,)


def test_rows_do_not_depend_on_one_another() -> None:
    softmax = make(True, True, 16)
    x_NC, target_N = torch.randn(9, 16), torch.tensor([30, 0, 7, 6, 15, 14, 29, 1, 8])
    one_by_one = [softmax.target_log_prob(x[None], t[None])[0] for x, t in zip(x_NC, target_N, strict=True)]
    torch.testing.assert_close(softmax.target_log_prob(x_NC, target_N), torch.stack(one_by_one))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_many_rows_are_those_of_each(layout: tuple[bool, bool, int]) -> None:
    """Few rows are mapped as they are, many by aligned weights: columns without a word must not learn or teach."""
    softmax, x_NC, target_N = make(*layout), torch.randn(40, 16), torch.arange(40) % VOCABULARY
    gradients = []
    for at_once in (40, 1):
        softmax.zero_grad()
        for x, target in zip(x_NC.split(at_once), target_N.split(at_once), strict=True):
            softmax.target_log_prob(x, target).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in softmax.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)
    assert gradients[0]


def test_no_target_gives_no_number() -> None:
    assert make(True, True, 16).target_log_prob(torch.randn(0, 16), torch.zeros(0, dtype=torch.int64)).shape == (0,)


def test_dropout_acts_in_training_only() -> None:
    softmax = make(True, True, 16)
    x_NC, target_N = torch.randn(4, 16), torch.tensor([0, 8, 20, 3])
    quiet = softmax.target_log_prob(x_NC, target_N)
    assert torch.equal(softmax.target_log_prob(x_NC, target_N), quiet)
    assert not torch.equal(softmax.train().target_log_prob(x_NC, target_N), quiet)


@pytest.mark.parametrize("input_dim", [16, 32])
def test_adaptive_input_equals_the_oracle(input_dim: int) -> None:
    words = AdaptiveInput(VOCABULARY, input_dim, 4, 16, CUTOFF)
    ids = [1, 0, 6, 7, 8, 14, 15, 16, 30]
    expected = embed(arrays(words), ids, EDGES)
    np.testing.assert_allclose(words(torch.tensor(ids)).detach().numpy(), expected, atol=FLOAT32_ATOL, rtol=0)


def test_adaptive_input_keeps_the_shape_of_its_ids() -> None:
    words = AdaptiveInput(VOCABULARY, 16, 4, 16, CUTOFF)
    ids = torch.tensor([[4, 30, 1], [8, 9, 10]])
    assert torch.equal(words(ids).view(-1, 16), words(ids.view(-1)))


def test_adaptive_input_takes_words_of_one_band_only() -> None:
    words = AdaptiveInput(VOCABULARY, 16, 4, 16, CUTOFF)
    ids = torch.tensor([20, 21])
    with torch.no_grad():
        assert torch.equal(words(ids), words(torch.tensor([20, 21, 3]))[:2])


def test_padding_is_the_zero_vector_and_learns_nothing() -> None:
    words = AdaptiveInput(VOCABULARY, 16, 4, 16, CUTOFF)
    out = words(torch.tensor([1, 4]))
    out.sum().backward()
    weight, _ = words.band_weights(0)
    assert weight.grad is not None
    assert not out[0].any() and not weight.grad[1].any() and weight.grad[4].any()


def test_the_second_row_of_every_band_starts_at_zero() -> None:
    words = AdaptiveInput(VOCABULARY, 16, 4, 16, CUTOFF)
    assert not any(words.band_weights(band)[0][1].any() for band in range(3))


def test_a_band_that_narrows_to_its_second_word_is_a_real_word() -> None:
    words = AdaptiveInput(VOCABULARY, 16, 4, 16, CUTOFF)
    words(torch.tensor([8])).sum().backward()  # id 8 is row 1 of band 1: zero at first, but it learns
    assert words.band_weights(1)[0].grad[1].any()


def test_a_tied_projection_sums_its_two_gradients_in_float32() -> None:
    """In bfloat16 each use has a gradient of its own; their sum is not rounded to bfloat16 on the way."""
    torch.manual_seed(0)
    words = AdaptiveInput(40, 16, 2, 16, (10, 20))
    softmax = AdaptiveSoftmax(40, 16, (10, 20), 0.0, 2, words, tie_projections=True)
    shared = softmax.tail[0]["0"].weight
    ids, features = torch.randint(10, 20, (64,)), torch.randn(64, 16)

    def gradient(*, of_input: bool, of_output: bool) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = (words(ids) * features).sum() if of_input else torch.zeros(())
            if of_output:
                loss = loss - softmax.target_log_prob(features, ids).sum()
        return torch.autograd.grad(loss, shared)[0]

    both = gradient(of_input=True, of_output=True)
    apart = gradient(of_input=True, of_output=False), gradient(of_input=False, of_output=True)
    assert torch.equal(both, apart[0] + apart[1])
