"""The whole model against a naive decoder in float64, and what its forward pass promises."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fairseq.models.transformer_lm import fitting_cutoffs
from tests.builders.small_model import ADAPTIVE, EDGES, SMALL, VARIANTS, perturbed_model, some_ids
from tests.oracles.adaptive_softmax import all_log_probs, log_softmax
from tests.oracles.transformer import decode, under

FLOAT32_ATOL = 2e-5  # two layers in float32, outputs of order 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_naive_decoder(variant: str) -> None:
    config = VARIANTS[variant]
    model, row_T = perturbed_model(config), some_ids(9)
    state = under({name: value.double().numpy() for name, value in model.state_dict().items()}, "decoder.")
    post_norm = not config.decoder_normalize_before
    features_TC, ffn_input_TC = decode(state, row_T.tolist(), EDGES, 2, config.activation_fn, post_norm=post_norm)
    out = model(row_T[None])
    np.testing.assert_allclose(out.features_BSC[0].detach().numpy(), features_TC, atol=FLOAT32_ATOL, rtol=0)
    np.testing.assert_allclose(out.ffn_input_BSC[0].detach().numpy(), ffn_input_TC, atol=FLOAT32_ATOL, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pads", [[3, 4], [8], [0, 1, 5]])
@pytest.mark.pitfall(32)
def test_the_word_pad_is_no_position_and_seen_by_no_other(variant: str, pads: list[int]) -> None:
    config = VARIANTS[variant]
    model, row_T = perturbed_model(config), some_ids(9)
    row_T[pads] = 1
    state = under({name: value.double().numpy() for name, value in model.state_dict().items()}, "decoder.")
    post_norm = not config.decoder_normalize_before
    features_TC, ffn_input_TC = decode(state, row_T.tolist(), EDGES, 2, config.activation_fn, post_norm=post_norm)
    other_T = some_ids(2, 9)[1]  # beside a row that has no such word
    for first in (0, 4):
        out = model(torch.stack([row_T, other_T]), first)
        np.testing.assert_allclose(out.features_BSC[0].detach(), features_TC[first:], atol=FLOAT32_ATOL, rtol=0)
        np.testing.assert_allclose(out.ffn_input_BSC[0].detach(), ffn_input_TC[first:], atol=FLOAT32_ATOL, rtol=0)
        alone = model(other_T[None], first).features_BSC[0]
        torch.testing.assert_close(out.features_BSC[1], alone, atol=FLOAT32_ATOL, rtol=0)


@pytest.mark.pitfall(32)
def test_training_reads_the_word_pad_as_evaluation_does() -> None:
    config = replace(ADAPTIVE, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
    model, source_BT = perturbed_model(config), some_ids(2, 9)
    source_BT[0, 3] = 1
    evaluated = model(source_BT).features_BSC
    assert torch.equal(model.train()(source_BT).features_BSC, evaluated)
    dropped = perturbed_model(replace(config, attention_dropout=0.5)).train()
    assert bool(dropped(source_BT).features_BSC.isfinite().all())


@pytest.mark.parametrize("variant", VARIANTS)
def test_log_probs_and_their_certainty_equal_the_oracle_over_every_word(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fairseq.modules.adaptive_softmax.CERTAINTY_LOGITS", 90)  # two rows of 40 words at a time
    config = VARIANTS[variant]
    model = perturbed_model(config)
    x_C = torch.randn(config.output_dim)
    state = under({name: value.double().numpy() for name, value in model.state_dict().items()}, "decoder.")
    if config.adaptive_softmax_cutoff:
        softmax = under(state, "adaptive_softmax.")
        expected = all_log_probs(softmax, x_C.double().numpy(), EDGES, tied_projections=config.tie_adaptive_proj)
    else:
        words = state["embed_out"] if "embed_out" in state else state["embed_tokens.weight"]
        expected = log_softmax(words @ x_C.double().numpy())
    found = model.target_log_prob(x_C.expand(40, -1), torch.arange(40)).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=FLOAT32_ATOL, rtol=0)
    largest_N, entropy_N = model.certainty(x_C.expand(5, -1))
    np.testing.assert_allclose(largest_N.detach().numpy(), [max(expected)] * 5, atol=FLOAT32_ATOL, rtol=0)
    entropy = -sum(float(np.exp(v) * v) for v in expected)
    np.testing.assert_allclose(entropy_N.detach().numpy(), [entropy] * 5, atol=FLOAT32_ATOL, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("first", [1, 5, 8])
def test_leaving_out_the_first_columns_leaves_the_others_alone(variant: str, first: int) -> None:
    model, source_BT = perturbed_model(VARIANTS[variant]), some_ids(3, 9)
    whole, tail = model(source_BT), model(source_BT, first)
    torch.testing.assert_close(tail.features_BSC, whole.features_BSC[:, first:], atol=FLOAT32_ATOL, rtol=0)
    torch.testing.assert_close(tail.ffn_input_BSC, whole.ffn_input_BSC[:, first:], atol=FLOAT32_ATOL, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_on_the_right_changes_nothing_before_it(variant: str) -> None:
    model, source_BT = perturbed_model(VARIANTS[variant]), some_ids(2, 6)
    padded = torch.nn.functional.pad(source_BT, (0, 5), value=1)
    torch.testing.assert_close(
        model(padded).features_BSC[:, :6], model(source_BT).features_BSC, atol=FLOAT32_ATOL, rtol=0
    )


def test_a_model_that_is_built_alone_takes_the_default_block_size() -> None:
    alone = perturbed_model(replace(SMALL, max_target_positions=None, decoder_learned_pos=True))
    assert (alone.max_positions, alone.longest_row) == (1024, 1024)  # --tokens-per-sample, fairseq's default
    assert perturbed_model(SMALL).longest_row is None


def test_without_positions_order_does_not_matter_to_the_last_column_of_one_layer() -> None:
    model = perturbed_model(replace(SMALL, decoder_layers=1, no_token_positional_embeddings=True))
    row = torch.tensor([[4, 5, 6, 7]])
    swapped = torch.tensor([[6, 4, 5, 7]])
    torch.testing.assert_close(model(row, 3).features_BSC, model(swapped, 3).features_BSC)
    with_positions = perturbed_model(replace(SMALL, decoder_layers=1))
    assert not torch.allclose(with_positions(row, 3).features_BSC, with_positions(swapped, 3).features_BSC)


def test_training_differs_and_repeats_with_the_seed() -> None:
    model, source_BT = (
        perturbed_model(replace(ADAPTIVE, dropout=0.3, attention_dropout=0.1, activation_dropout=0.1)),
        some_ids(2, 7),
    )
    quiet = model(source_BT).features_BSC
    model.train()
    outs = []
    for _ in range(2):
        torch.manual_seed(11)
        outs.append(model(source_BT).features_BSC)
    assert torch.equal(*outs) and not torch.allclose(outs[0], quiet)


def test_layerdrop_of_one_leaves_the_embeddings_in_training() -> None:
    config = replace(ADAPTIVE, dropout=0.0, decoder_layerdrop=1.0)
    model, source_BT = perturbed_model(config), some_ids(2, 7)
    decoder = model.decoder
    embedded = decoder.embed_scale * decoder.embed_tokens(source_BT) + decoder.embed_positions(7)
    assert torch.equal(model.train()(source_BT).features_BSC, embedded)
    assert not torch.allclose(model.eval()(source_BT).features_BSC, embedded)


def test_layerdrop_is_off_in_evaluation() -> None:
    source_BT = some_ids(2, 7)
    assert torch.equal(
        perturbed_model(replace(SMALL, decoder_layerdrop=0.9))(source_BT).features_BSC,
        perturbed_model(SMALL)(source_BT).features_BSC,
    )


class CountingLayer(torch.nn.Module):
    runs = 0

    def forward(self, x_BTC: torch.Tensor, first: int, seen_BTT: None) -> tuple[torch.Tensor, torch.Tensor]:
        self.runs += 1
        return x_BTC[:, first:], x_BTC[:, first:]


def test_layerdrop_leaves_out_its_share_of_layers() -> None:
    model = perturbed_model(replace(SMALL, decoder_layerdrop=0.25)).train()
    layer = CountingLayer()
    model.decoder.layers = torch.nn.ModuleList([layer] * 401)
    torch.manual_seed(2)
    model(some_ids(1, 3))
    assert (layer.runs - 1) / 400 == pytest.approx(0.75, abs=0.11)  # five sigma; the last layer always runs


def test_cutoffs_that_are_proposed_fit() -> None:
    for vocabulary_size in (*range(5, 200), 8080, 33278, 267744):
        for most in (1, 2, 3):
            cutoffs = fitting_cutoffs(vocabulary_size, most)
            bounds = [1, *cutoffs, vocabulary_size]  # the padding's id is in the first band
            assert 1 <= len(cutoffs) <= most and bounds == sorted(set(bounds)), (vocabulary_size, most)
