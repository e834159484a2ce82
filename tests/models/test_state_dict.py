"""The whole model's state dict: names, shapes, counts and initial values, typed from formats.md section 5."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fairseq.config.flags import resolve
from fairseq.errors import ConfigError
from fairseq.models import architecture, architecture_names
from fairseq.models.transformer_config import TransformerConfig
from fairseq.models.transformer_lm import TransformerLanguageModel, build_transformer_lm
from tests.builders import small_model

Shapes = dict[str, tuple[int, ...]]
WIKITEXT_103_IDS = 267_744
SMALL = replace(small_model.SMALL, decoder_layers=1, max_target_positions=8)
BANDS = replace(small_model.BANDS, decoder_layers=1, max_target_positions=8)
UNTIED = replace(BANDS, no_decoder_final_norm=True)
TIED = replace(UNTIED, tie_adaptive_weights=True)


def shapes(model: torch.nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def differing(config: TransformerConfig) -> Shapes:
    """What a model of 40 ids has besides its layers and the names that every model has."""
    common = ("decoder.layers.", "decoder.version", "decoder.embed_positions._float_tensor")
    return {k: v for k, v in shapes(build_transformer_lm(config, 40)).items() if not k.startswith(common)}


def on_meta(arch: str, vocabulary_size: int, **more: Any) -> TransformerLanguageModel:
    _, preset = architecture(arch)
    with torch.device("meta"):
        return build_transformer_lm(resolve(TransformerConfig, preset, more), vocabulary_size)


def layer_shapes(n: int, d: int, ffn: int) -> Shapes:
    layer: Shapes = {}
    for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
        layer |= {f"self_attn.{part}.weight": (d, d), f"self_attn.{part}.bias": (d,)}
    for norm in ("self_attn_layer_norm", "final_layer_norm"):
        layer |= {f"{norm}.weight": (d,), f"{norm}.bias": (d,)}
    layer |= {"fc1.weight": (ffn, d), "fc1.bias": (ffn,), "fc2.weight": (d, ffn), "fc2.bias": (d,)}
    return {f"decoder.layers.{n}.{name}": shape for name, shape in layer.items()}


def test_wikitext_103_keys_and_shapes() -> None:
    expected: Shapes = {
        "decoder.version": (1,),
        "decoder.embed_tokens._float_tensor": (1,),
        "decoder.embed_tokens.embeddings.0.0.weight": (20000, 1024),
        "decoder.embed_tokens.embeddings.1.0.weight": (40000, 256),
        "decoder.embed_tokens.embeddings.2.0.weight": (207744, 64),
        "decoder.embed_tokens.embeddings.0.1.weight": (1024, 1024),
        "decoder.embed_tokens.embeddings.1.1.weight": (1024, 256),
        "decoder.embed_tokens.embeddings.2.1.weight": (1024, 64),
        "decoder.embed_positions._float_tensor": (1,),
        "decoder.adaptive_softmax.version": (1,),
        "decoder.adaptive_softmax.head._float_tensor": (1,),
        "decoder.adaptive_softmax.head.word_proj.weight": (20000, 1024),
        "decoder.adaptive_softmax.head.class_proj.weight": (2, 1024),
        "decoder.adaptive_softmax.tail.0.0.weight": (1024, 256),
        "decoder.adaptive_softmax.tail.1.0.weight": (1024, 64),
        "decoder.adaptive_softmax.tail.0.2.weight": (40000, 256),
        "decoder.adaptive_softmax.tail.1.2.weight": (207744, 64),
    }
    for n in range(16):
        expected |= layer_shapes(n, 1024, 4096)
    assert shapes(on_meta("transformer_lm_wiki103", WIKITEXT_103_IDS)) == expected


def test_wikitext_103_has_246_933_504_parameters_with_shared_ones_counted_once() -> None:
    model = on_meta("transformer_lm_wiki103", WIKITEXT_103_IDS)
    assert sum(parameter.numel() for parameter in model.parameters()) == 246_933_504


def test_tied_weights_are_one_tensor_under_two_names() -> None:
    state = build_transformer_lm(replace(TIED, tie_adaptive_proj=True), 40).state_dict()
    pairs = {
        "head.word_proj.weight": "0.0.weight",
        "tail.0.0.weight": "1.1.weight",
        "tail.1.0.weight": "2.1.weight",
        "tail.0.2.weight": "1.0.weight",
        "tail.1.2.weight": "2.0.weight",
    }
    for output, words in pairs.items():
        shared = state[f"decoder.embed_tokens.embeddings.{words}"]
        assert state[f"decoder.adaptive_softmax.{output}"].data_ptr() == shared.data_ptr()


def test_versions_and_their_dtypes() -> None:
    state = build_transformer_lm(TIED, 40).state_dict()
    version, softmax_version = state["decoder.version"], state["decoder.adaptive_softmax.version"]
    assert (version.dtype, version.tolist()) == (torch.float32, [3.0])
    assert (softmax_version.dtype, softmax_version.tolist()) == (torch.int64, [1])


ADAPTIVE_INPUT: Shapes = {
    "decoder.embed_tokens.embeddings.0.0.weight": (8, 16),
    "decoder.embed_tokens.embeddings.0.1.weight": (16, 16),
    "decoder.embed_tokens.embeddings.1.0.weight": (8, 4),
    "decoder.embed_tokens.embeddings.1.1.weight": (16, 4),
    "decoder.embed_tokens.embeddings.2.0.weight": (24, 1),
    "decoder.embed_tokens.embeddings.2.1.weight": (16, 1),
    "decoder.embed_tokens._float_tensor": (1,),
    "decoder.adaptive_softmax.version": (1,),
}


def test_projections_that_are_not_tied_have_the_transposed_shape() -> None:
    assert differing(TIED) == ADAPTIVE_INPUT | {
        "decoder.adaptive_softmax.head.word_proj.weight": (8, 16),
        "decoder.adaptive_softmax.head.class_proj.weight": (2, 16),
        "decoder.adaptive_softmax.head._float_tensor": (1,),
        "decoder.adaptive_softmax.tail.0.0.weight": (4, 16),
        "decoder.adaptive_softmax.tail.0.2.weight": (8, 4),
        "decoder.adaptive_softmax.tail.1.0.weight": (1, 16),
        "decoder.adaptive_softmax.tail.1.2.weight": (24, 1),
    }


def test_weights_that_are_not_tied_have_one_head() -> None:
    assert differing(UNTIED) == ADAPTIVE_INPUT | {
        "decoder.adaptive_softmax.head.weight": (10, 16),
        "decoder.adaptive_softmax.tail.0.0.weight": (4, 16),
        "decoder.adaptive_softmax.tail.0.2.weight": (8, 4),
        "decoder.adaptive_softmax.tail.1.0.weight": (1, 16),
        "decoder.adaptive_softmax.tail.1.2.weight": (24, 1),
    }


def test_an_input_width_of_its_own_makes_the_head_project_twice() -> None:
    head = {k: v for k, v in differing(replace(TIED, decoder_input_dim=32)).items() if ".head." in k}
    assert head == {
        "decoder.adaptive_softmax.head.word_proj.0.weight": (32, 16),
        "decoder.adaptive_softmax.head.word_proj.1.weight": (8, 32),
        "decoder.adaptive_softmax.head.class_proj.weight": (2, 16),
        "decoder.adaptive_softmax.head._float_tensor": (1,),
    }


def test_without_adaptive_softmax_the_output_is_embed_out() -> None:
    assert differing(SMALL) == {
        "decoder.embed_tokens.weight": (40, 16),
        "decoder.layer_norm.weight": (16,),
        "decoder.layer_norm.bias": (16,),
        "decoder.embed_out": (40, 16),
    }


def test_a_shared_output_has_no_key() -> None:
    assert "decoder.embed_out" not in differing(replace(SMALL, share_decoder_input_output_embed=True))


def test_other_widths_than_the_models_have_projections() -> None:
    found = differing(replace(SMALL, decoder_input_dim=12, decoder_output_dim=10))
    assert found["decoder.project_in_dim.weight"] == (16, 12)
    assert found["decoder.project_out_dim.weight"] == (10, 16)
    assert found["decoder.embed_out"] == (40, 10)


def test_learned_positions_are_a_weight_of_two_more_rows() -> None:
    assert differing(replace(SMALL, decoder_learned_pos=True))["decoder.embed_positions.weight"] == (10, 16)


def test_no_positions_have_no_key() -> None:
    config = replace(SMALL, no_token_positional_embeddings=True)
    assert not any("embed_positions" in name for name in shapes(build_transformer_lm(config, 40)))


WIKI103 = dict(
    shape=(16, 1024, 4096, 8), dropouts=(0.3, 0.1, 0.1), activation="relu", cutoff=(20000, 60000), tied=True, norm=False
)
GBW = dict(shape=(12, 512, 4096, 16), dropouts=(0.1, 0.1, 0), activation="relu", cutoff=(), tied=False, norm=False)
PRESETS = {
    "transformer_lm": dict(
        shape=(6, 512, 2048, 8), dropouts=(0.1, 0, 0), activation="relu", cutoff=(), tied=False, norm=True
    ),
    "transformer_lm_big": dict(
        shape=(12, 1024, 4096, 16), dropouts=(0.1, 0, 0), activation="relu", cutoff=(), tied=False, norm=True
    ),
    "transformer_lm_wiki103": WIKI103,
    "transformer_lm_baevski_wiki103": WIKI103,
    "transformer_lm_gbw": GBW,
    "transformer_lm_baevski_gbw": GBW,
    "transformer_lm_gpt": dict(
        shape=(12, 768, 3072, 12), dropouts=(0.1, 0.1, 0), activation="gelu", cutoff=(), tied=False, norm=True
    ),
}


def test_every_architecture_is_in_the_table() -> None:
    assert set(architecture_names()) >= set(PRESETS)


@pytest.mark.parametrize("arch", PRESETS)
def test_preset(arch: str) -> None:
    model, preset = architecture(arch)
    c = resolve(TransformerConfig, preset)
    assert model == "transformer_lm"
    assert PRESETS[arch] == dict(
        shape=(c.decoder_layers, c.decoder_embed_dim, c.decoder_ffn_embed_dim, c.decoder_attention_heads),
        dropouts=(c.dropout, c.attention_dropout, c.activation_dropout),
        activation=c.activation_fn,
        cutoff=c.adaptive_softmax_cutoff,
        tied=c.tie_adaptive_weights,
        norm=not c.no_decoder_final_norm,
    )
    assert c.adaptive_input is bool(c.adaptive_softmax_cutoff)
    assert c.tie_adaptive_proj is c.tie_adaptive_weights
    assert c.adaptive_softmax_dropout == (0.2 if c.adaptive_input else 0)
    assert c.adaptive_input_factor == c.adaptive_softmax_factor == 4


FIVE_SIGMA = 0.05  # of a standard deviation estimated from at least 5,000 draws


def test_words_start_with_the_deviation_of_their_width() -> None:
    config = replace(
        BANDS, decoder_embed_dim=64, adaptive_input_cutoff=(500, 1500), adaptive_softmax_cutoff=(500, 1500)
    )
    state = build_transformer_lm(config, 3000).state_dict()
    for band, width in enumerate((64, 16, 4)):
        weight = state[f"decoder.embed_tokens.embeddings.{band}.0.weight"]
        assert float(weight.std()) == pytest.approx(width**-0.5, rel=FIVE_SIGMA)
        assert not weight[1].any()


def test_plain_words_and_output_start_alike_and_padding_at_zero() -> None:
    state = build_transformer_lm(replace(SMALL, decoder_embed_dim=64), 1000).state_dict()
    assert float(state["decoder.embed_tokens.weight"].std()) == pytest.approx(0.125, rel=FIVE_SIGMA)
    assert float(state["decoder.embed_out"].std()) == pytest.approx(0.125, rel=FIVE_SIGMA)
    assert not state["decoder.embed_tokens.weight"][1].any()


def test_linear_layers_start_uniform_within_glorots_bound_and_biases_at_zero() -> None:
    state = build_transformer_lm(replace(SMALL, decoder_embed_dim=64, decoder_ffn_embed_dim=320), 40).state_dict()
    for name in ("fc1", "fc2"):
        assert float(state[f"decoder.layers.0.{name}.weight"].abs().max()) == pytest.approx(0.125, rel=0.01)  # √(6/384)
        assert not state[f"decoder.layers.0.{name}.bias"].any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(decoder_embed_dim=20, decoder_attention_heads=8), "--decoder-embed-dim 20 must be a multiple of"),
        (dict(adaptive_input=True), "--adaptive-input needs --adaptive-softmax-cutoff"),
        (dict(tie_adaptive_weights=True), "--tie-adaptive-weights needs --adaptive-input"),
        (
            dict(
                adaptive_input=True, adaptive_input_cutoff=(5,), adaptive_softmax_cutoff=(6,), tie_adaptive_weights=True
            ),
            "needs equal cutoffs",
        ),
        (
            dict(adaptive_input=True, adaptive_softmax_cutoff=(6,), adaptive_input_factor=2, tie_adaptive_weights=True),
            "needs equal factors",
        ),
        (
            dict(adaptive_input=True, adaptive_softmax_cutoff=(6,), decoder_output_dim=8, tie_adaptive_weights=True),
            "--decoder-output-dim 8 to equal",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TransformerConfig(**fields)


@pytest.mark.parametrize("cutoff", [(16, 8), (8, 40), (8, 50), (8, 8)])
def test_cutoffs_that_do_not_fit_the_dictionary_are_refused(cutoff: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"must rise and stay below the 40 ids of the dictionary"):
        build_transformer_lm(replace(BANDS, adaptive_input_cutoff=cutoff, adaptive_softmax_cutoff=cutoff), 40)


def test_pad_must_be_in_the_first_band() -> None:
    with pytest.raises(ConfigError, match=r"--adaptive-input-cutoff 1 must rise .*, and begin above 1"):
        build_transformer_lm(replace(BANDS, adaptive_input_cutoff=(1,), adaptive_softmax_cutoff=(1,)), 40)


def test_a_band_may_have_one_word() -> None:
    model = build_transformer_lm(replace(BANDS, adaptive_input_cutoff=(8, 39), adaptive_softmax_cutoff=(8, 39)), 40)
    out = model(torch.tensor([[39, 5, 20]]))
    assert torch.isfinite(model.target_log_prob(out.features_BSC[0], torch.tensor([39, 5, 20]))).all()


def test_a_factor_that_narrows_a_tail_to_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="factor"):
        build_transformer_lm(replace(UNTIED, decoder_output_dim=8), 40)  # 8 / 4² is no width
