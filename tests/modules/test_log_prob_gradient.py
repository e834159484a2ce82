"""ln p of every word has a gradient: that of finite differences, and that of a naive sum in float64."""

import pytest
import torch
from torch import Tensor

from fairseq.modules.adaptive_input import AdaptiveInput
from fairseq.modules.adaptive_softmax import AdaptiveSoftmax
from tests.builders.small_model import VARIANTS, small_model

CUTOFF, VOCABULARY, WIDTH = (7, 15), 31, 16
# (tied weights, tied projections, width of the word vectors) for a model of width 16
LAYOUTS = [(False, False, 16), (True, False, 16), (True, True, 16), (True, False, 32), (True, True, 32)]
FLOAT32_ATOL = 1e-5


def make(tied: bool, tied_projections: bool, input_dim: int, dropout: float = 0.2) -> AdaptiveSoftmax:
    torch.manual_seed(5)
    words = AdaptiveInput(VOCABULARY, input_dim, 4, WIDTH, CUTOFF) if tied else None
    return AdaptiveSoftmax(VOCABULARY, WIDTH, CUTOFF, dropout, 4, words, tied_projections)


def two_levels(softmax: AdaptiveSoftmax, x_NC: Tensor, *, tied_projections: bool) -> Tensor:
    """Returns ln p of every word, word by word: that of its class, and that of the word within the class."""
    weights = dict(softmax.named_parameters())
    if "head.weight" in weights:
        head = x_NC @ weights["head.weight"].T
    elif "head.word_proj.weight" in weights:
        head = torch.hstack([x_NC @ weights["head.word_proj.weight"].T, x_NC @ weights["head.class_proj.weight"].T])
    else:
        mapped = x_NC @ weights["head.word_proj.0.weight"].T
        head = torch.hstack([mapped @ weights["head.word_proj.1.weight"].T, x_NC @ weights["head.class_proj.weight"].T])
    head = head - head.exp().sum(1, keepdim=True).log()
    columns = [head[:, word] for word in range(CUTOFF[0])]
    for i, (start, end) in enumerate([(7, 15), (15, 31)]):
        mapping = weights[f"tail.{i}.0.weight"]
        scores = x_NC @ (mapping if tied_projections else mapping.T) @ weights[f"tail.{i}.2.weight"].T
        total = scores.exp().sum(1).log()
        columns += [head[:, CUTOFF[0] + i] + scores[:, word] - total for word in range(end - start)]
    return torch.stack(columns, 1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_adaptive_gradient_is_that_of_two_levels(layout: tuple[bool, bool, int]) -> None:
    softmax = make(*layout).eval().double()
    x_NC = torch.randn(3, WIDTH, dtype=torch.float64, requires_grad=True)
    weight_NV = torch.rand(3, VOCABULARY, dtype=torch.float64)
    inputs = [x_NC, *softmax.parameters()]
    naive_NV = two_levels(softmax, x_NC, tied_projections=layout[1])
    expected = torch.autograd.grad((weight_NV * naive_NV).sum(), inputs)
    found_NV = softmax.log_prob(x_NC)
    torch.testing.assert_close(found_NV, naive_NV)
    for one, other in zip(torch.autograd.grad((weight_NV * found_NV).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        assert torch.equal(softmax.log_prob(x_NC), found_NV)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_adaptive_gradient_is_that_of_finite_differences(layout: tuple[bool, bool, int]) -> None:
    softmax = make(*layout).eval().double()
    assert torch.autograd.gradcheck(softmax.log_prob, torch.randn(2, WIDTH, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("variant", ["plain", "shared", "adaptive", "other widths"])
def test_the_models_gradient_is_that_of_a_float64_softmax(variant: str) -> None:
    model, twin = small_model(VARIANTS[variant]).eval(), small_model(VARIANTS[variant]).eval().double()
    x_NC = torch.randn(4, model.config.output_dim)
    weight_NV = torch.rand(4, 40)
    if model.decoder.adaptive_softmax is None:
        words = twin.decoder.embed_out if twin.decoder.embed_out is not None else twin.decoder.embed_tokens.weight
        logits = x_NC.double() @ words.T
        naive_NV = logits - logits.exp().sum(1, keepdim=True).log()
    else:
        naive_NV = twin.decoder.adaptive_softmax.log_prob(x_NC.double())  # held by the tests above
    (weight_NV * naive_NV).sum().backward()
    found_NV = model.log_prob(x_NC)
    torch.testing.assert_close(found_NV, naive_NV.float(), rtol=0, atol=FLOAT32_ATOL)
    (weight_NV * found_NV).sum().backward()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad.float(), rtol=1e-4, atol=FLOAT32_ATOL)


@pytest.mark.parametrize("variant", ["plain", "shared", "adaptive"])
def test_under_autocast_it_is_float32_and_sums_to_one(variant: str) -> None:
    model = small_model(VARIANTS[variant]).eval()
    x_NC = torch.randn(4, model.config.output_dim, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        log_p_NV = model.log_prob(x_NC)
    assert log_p_NV.dtype == torch.float32
    torch.testing.assert_close(log_p_NV.exp().sum(1), torch.ones(4), rtol=0, atol=FLOAT32_ATOL)
    (gradient,) = torch.autograd.grad(log_p_NV[:, 5].sum(), x_NC)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_in_training_the_words_have_the_dropout_of_the_targets() -> None:
    """With the same numbers drawn, ln p of every word holds ln p of each target."""
    softmax = make(True, True, 16, dropout=0.5).train()
    x_NC = torch.randn(200, WIDTH)
    target_N = torch.randint(0, CUTOFF[0], (200,))  # of the head: a tail draws for its own rows only
    torch.manual_seed(1)
    alone_N = softmax.target_log_prob(x_NC, target_N)
    torch.manual_seed(1)
    every_NV = softmax.log_prob(x_NC)
    torch.testing.assert_close(every_NV.gather(1, target_N[:, None])[:, 0], alone_N)
    assert not torch.allclose(every_NV, softmax.eval().log_prob(x_NC))
