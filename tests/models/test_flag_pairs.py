"""Every pair of the model's flags makes a model that trains, scores and generates, or is refused in one line."""

from itertools import combinations, product
from typing import Any

import pytest
import torch

from fairseq.config.flags import flag_fields, resolve
from fairseq.errors import ConfigError
from fairseq.models.transformer_config import ACTIVATION_NAMES, TransformerConfig
from fairseq.models.transformer_lm import build_transformer_lm

BASE = dict(
    decoder_layers=1, decoder_embed_dim=8, decoder_ffn_embed_dim=8, decoder_attention_heads=2, max_target_positions=12
)
VALUES: dict[str, list[Any]] = {
    "decoder_layers": [2],
    "decoder_embed_dim": [12, 9],
    "decoder_input_dim": [16, 1],
    "decoder_output_dim": [16, 1],
    "decoder_ffn_embed_dim": [1],
    "decoder_attention_heads": [1, 3],
    "decoder_normalize_before": [False],
    "no_decoder_final_norm": [True],
    "decoder_learned_pos": [True],
    "no_token_positional_embeddings": [True],
    "share_decoder_input_output_embed": [True],
    "no_scale_embedding": [True],
    "layernorm_embedding": [True],
    "adaptive_input": [True],
    "adaptive_input_cutoff": [(8,), (1, 50)],
    "adaptive_input_factor": [2.5, 100.0],
    "adaptive_softmax_cutoff": [(8,), (5, 9, 39), (40,)],
    "adaptive_softmax_dropout": [1.0, 0.5],
    "adaptive_softmax_factor": [1.0, 100.0],
    "tie_adaptive_weights": [True],
    "tie_adaptive_proj": [True],
    "dropout": [1.0, 0.0],
    "attention_dropout": [1.0, 0.5],
    "activation_dropout": [1.0, 0.5],
    "activation_fn": list(ACTIVATION_NAMES),
    "scale_attn": [True],
    "scale_heads": [True],
    "scale_fc": [True],
    "scale_resids": [True],
    "decoder_layerdrop": [1.0],
    "checkpoint_activations": [True],
    "max_target_positions": [None, 4000],
}
ADAPTIVE = dict(adaptive_input=True, adaptive_softmax_cutoff=(10,))


def use(config: TransformerConfig) -> None:
    """Trains one update, then scores and generates."""
    model = build_transformer_lm(config, 40)
    source_BT, target_N = torch.arange(4, 16).view(2, 6), torch.arange(28, 40)
    loss = -model(source_BT).features_BSC
    loss = -model.target_log_prob(-loss.flatten(0, 1), target_N).sum()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    model.eval()
    with torch.no_grad():
        whole = model(source_BT)
        assert whole.ffn_input_BSC.shape == (2, 6, model.key_dimension)
        log_p_NV = model.log_prob(whole.features_BSC.flatten(0, 1))
        torch.testing.assert_close(log_p_NV.exp().sum(1), torch.ones(12), atol=1e-5, rtol=0)
        extended = model.extend(source_BT, torch.tensor([6, 6]), model.new_cache(2, 8))
        torch.testing.assert_close(extended.features_BSC, whole.features_BSC, atol=1e-4, rtol=0)


def test_every_flag_of_the_model_is_tried() -> None:
    settings = {name for name, field in flag_fields(TransformerConfig).items() if not field.metadata["no_effect"]}
    assert set(VALUES) == settings


AT_LEAST_1 = (
    "decoder_layers decoder_embed_dim decoder_input_dim decoder_output_dim decoder_ffn_embed_dim"
    " decoder_attention_heads max_target_positions adaptive_input_cutoff adaptive_softmax_cutoff"
)
SHARES = "dropout attention_dropout activation_dropout adaptive_softmax_dropout decoder_layerdrop"  # of what is dropped


@pytest.mark.parametrize("name", AT_LEAST_1.split())
def test_a_count_of_zero_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} must be at least 1"):
        resolve(TransformerConfig, BASE, {name: (0, 8) if name.endswith("cutoff") else 0})


@pytest.mark.parametrize("name", SHARES.split())
def test_a_share_lies_between_0_and_1(name: str) -> None:
    for bound in (0.0, 1.0):
        assert getattr(resolve(TransformerConfig, BASE, {name: bound}), name) == bound
    for beyond in (-0.01, 1.01):
        with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} must be at (least 0|most 1)"):
            resolve(TransformerConfig, BASE, {name: beyond})


@pytest.mark.parametrize("name", ["adaptive_input_factor", "adaptive_softmax_factor"])
def test_a_factor_that_widens_rarer_words_is_refused(name: str) -> None:
    assert getattr(resolve(TransformerConfig, BASE, {name: 1}), name) == 1
    with pytest.raises(ConfigError, match="must be at least 1"):
        resolve(TransformerConfig, BASE, {name: 0.99})


def try_pairs(base: dict[str, Any], most: int) -> tuple[int, int]:
    """Tries all pairs of flags with up to ``most`` values each; returns how many were built, and how many refused."""
    torch.manual_seed(0)
    built = refused = 0
    for one, other in combinations(VALUES, 2):
        for value, second in product(VALUES[one][:most], VALUES[other][:most]):
            try:
                use(resolve(TransformerConfig, base, {one: value, other: second}))
                built += 1
            except ConfigError as err:
                assert "\n" not in str(err) and "--" in str(err)
                refused += 1
            except Exception as err:
                raise AssertionError(f"{one}={value}, {other}={second}: {err!r}") from err
    return built, refused


@pytest.mark.parametrize("base", [BASE, {**BASE, **ADAPTIVE}], ids=["plain", "adaptive"])
def test_every_pair_of_flags(base: dict[str, Any]) -> None:
    built, refused = try_pairs(base, 1)
    assert built + refused == len(VALUES) * (len(VALUES) - 1) / 2 and built > 200 and refused > 0


@pytest.mark.slow
@pytest.mark.parametrize("base", [BASE, {**BASE, **ADAPTIVE}], ids=["plain", "adaptive"])
def test_every_pair_of_flags_with_every_value(base: dict[str, Any]) -> None:
    built, refused = try_pairs(base, 9)
    assert built > 450 and refused > 200
