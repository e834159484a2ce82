"""One layer: where its dropouts act. With p = 1 what is dropped is zero, and arithmetic says what is left."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fairseq.modules import adaptive_softmax
from fairseq.modules.adaptive_input import AdaptiveInput
from fairseq.modules.adaptive_softmax import AdaptiveSoftmax
from fairseq.modules.decoder_layer import ACTIVATIONS, DecoderLayer
from tests.builders.small_model import ADAPTIVE, perturbed_model, some_ids

FLOAT32_ATOL = 2e-6


def make(**dropouts: float) -> DecoderLayer:
    torch.manual_seed(1)
    settings: dict[str, Any] = dict(dropout=0.0, attention_dropout=0.0, activation_dropout=0.0) | dropouts
    normalize_before = settings.pop("normalize_before", True)
    layer = DecoderLayer(8, 12, 2, normalize_before=normalize_before, activation="relu", **settings)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, 0.3, 0.3)
    return layer.train()


X_BTC = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(2))


def test_with_every_output_dropped_the_residual_is_left() -> None:
    assert torch.equal(make(dropout=1.0)(X_BTC)[0], X_BTC)


def test_with_every_output_dropped_after_each_part_two_layer_norms_are_left() -> None:
    layer = make(dropout=1.0, normalize_before=False)
    out, ffn_input = layer(X_BTC)
    torch.testing.assert_close(ffn_input, layer.self_attn_layer_norm(X_BTC))
    torch.testing.assert_close(out, layer.final_layer_norm(layer.self_attn_layer_norm(X_BTC)))


def test_dropped_activations_leave_the_bias_of_the_second_map() -> None:
    layer = make(activation_dropout=1.0)
    out, _ = layer(X_BTC)
    attended = X_BTC + layer.self_attn(layer.self_attn_layer_norm(X_BTC))
    torch.testing.assert_close(out, attended + layer.fc2.bias, atol=FLOAT32_ATOL, rtol=0)


def test_dropped_attention_leaves_the_bias_of_its_output() -> None:
    layer = make(attention_dropout=1.0)
    attended = layer.self_attn(X_BTC)
    torch.testing.assert_close(attended, layer.self_attn.out_proj.bias.expand(2, 5, 8), atol=FLOAT32_ATOL, rtol=0)


@pytest.mark.parametrize("name", ["dropout", "attention_dropout", "activation_dropout"])
def test_nothing_is_dropped_in_evaluation(name: str) -> None:
    layer, quiet = make(**{name: 1.0}).eval(), make().eval()
    assert torch.equal(layer(X_BTC)[0], quiet(X_BTC)[0])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_keep_the_shape_and_may_write_over_their_input(name: str) -> None:
    x = torch.linspace(-3, 3, 13)
    assert ACTIVATIONS[name](x.clone()).shape == (13,)


def test_dropped_words_leave_nothing_of_the_input() -> None:
    model = perturbed_model(replace(ADAPTIVE, dropout=1.0, decoder_layerdrop=1.0)).train()
    assert not model(some_ids(2, 7)).features_BSC.any()


def dropped_at_width(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the adaptive softmax drop all that is ``width`` wide, and nothing else."""

    def fake(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
        assert p == 0.5 and training
        return x * 0 if x.shape[-1] == width else x

    monkeypatch.setattr(adaptive_softmax, "dropout", fake)


def test_dropout_inside_a_tail_is_between_its_projection_and_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    words = AdaptiveInput(40, 16, 4, 16, (8, 16))
    softmax = AdaptiveSoftmax(40, 16, (8, 16), 0.5, 4, words, True).train()
    dropped_at_width(4, monkeypatch)  # the first tail's
    x_NC, target_N = torch.randn(3, 16), torch.tensor([8, 11, 15])
    head = softmax._head_logits(x_NC).log_softmax(1)[:, 8]
    expected = head - torch.tensor(8.0).log()  # eight words, equally likely
    torch.testing.assert_close(softmax.target_log_prob(x_NC, target_N), expected, atol=FLOAT32_ATOL, rtol=0)


def test_dropout_of_the_softmaxs_input_makes_head_and_tails_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    softmax = AdaptiveSoftmax(40, 16, (8, 16), 0.5, 4).train()
    dropped_at_width(16, monkeypatch)
    log_p_N = softmax.target_log_prob(torch.randn(3, 16), torch.tensor([3, 9, 39]))
    expected = -torch.tensor([10.0, 10 * 8, 10 * 24]).log()  # 8 words and 2 classes; 8 words; 24 words
    torch.testing.assert_close(log_p_N, expected, atol=FLOAT32_ATOL, rtol=0)
