"""Older state dicts and fields, rule by rule (formats.md section 5)."""

import pytest
import torch
from torch import Tensor

from fairseq.models.transformer_config import TransformerConfig
from fairseq.models.transformer_lm import build_transformer_lm
from fairseq.models.upgrade import load_state, upgrade_fields, upgrade_state

VERSION_3 = {"decoder.version": torch.tensor([3.0])}
LAYER = "decoder.layers.0."


def names(state: dict[str, Tensor]) -> list[str]:
    return sorted(upgrade_state(VERSION_3 | state))


def test_merged_projections_split_into_query_key_and_value_in_that_order() -> None:
    q, k, v = (torch.full((4, 4), float(i)) for i in (1, 2, 3))
    state = upgrade_state({f"{LAYER}self_attn.in_proj_weight": torch.cat([q, k, v])})
    assert torch.equal(state[f"{LAYER}self_attn.q_proj.weight"], q)
    assert torch.equal(state[f"{LAYER}self_attn.k_proj.weight"], k)
    assert torch.equal(state[f"{LAYER}self_attn.v_proj.weight"], v)
    assert len(state) == 3


def test_merged_biases_split_likewise() -> None:
    state = upgrade_state({f"{LAYER}self_attn.in_proj_bias": torch.arange(6.0)})
    assert {name[-11:]: bias.tolist() for name, bias in state.items()} == {
        "q_proj.bias": [0, 1],
        "k_proj.bias": [2, 3],
        "v_proj.bias": [4, 5],
    }


@pytest.mark.parametrize(
    ("old", "new"), [("0", "self_attn_layer_norm"), ("1", "encoder_attn_layer_norm"), ("2", "final_layer_norm")]
)
def test_numbered_layer_norms_get_their_names(old: str, new: str) -> None:
    assert names({f"{LAYER}layer_norms.{old}.weight": torch.ones(4)}) == [f"{LAYER}{new}.weight"]


def test_a_stored_table_of_positions_is_dropped() -> None:
    assert names({"decoder.embed_positions.weights": torch.ones(9, 4)}) == []


def test_constants_are_left_out_wherever_they_stand() -> None:
    assert names({"version": torch.ones(1), "decoder.embed_positions._float_tensor": torch.ones(1)}) == []


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("scale_attn", "attn_ln.weight"),
        ("scale_fc", "ffn_layernorm.weight"),
        ("scale_heads", "c_attn"),
        ("scale_resids", "w_resid"),
    ],
)
def test_the_weights_say_whether_a_part_of_normformer_is_there(setting: str, part: str) -> None:
    """fairseq 0.12 says ``scale_attn=True`` of language models that it trained without; tried, for all four."""
    with_part = VERSION_3 | {LAYER + part: torch.ones(4)}
    for said in (True, False):
        assert upgrade_fields({setting: said}, VERSION_3)[setting] is False
        assert upgrade_fields({setting: said}, with_part)[setting] is True
    assert setting not in upgrade_fields({}, VERSION_3)


def test_learned_positions_are_kept() -> None:
    assert names({"decoder.embed_positions.weight": torch.ones(9, 4)}) == ["decoder.embed_positions.weight"]


NORM = {"decoder.layer_norm.weight": torch.ones(4), "decoder.layer_norm.bias": torch.ones(4)}


@pytest.mark.parametrize("version", [{}, {"decoder.version": torch.tensor([2.0])}])
def test_up_to_version_2_there_is_no_final_norm(version: dict[str, Tensor]) -> None:
    assert upgrade_state(version | NORM) == {}
    assert upgrade_fields({}, version)["no_decoder_final_norm"] is True


def test_from_version_3_on_the_final_norm_stays() -> None:
    assert names(NORM) == ["decoder.layer_norm.bias", "decoder.layer_norm.weight"]
    assert "no_decoder_final_norm" not in upgrade_fields({}, VERSION_3)


def test_a_newer_output_projection_gets_the_older_name() -> None:
    assert names({"decoder.output_projection.weight": torch.ones(4, 4)}) == ["decoder.embed_out"]


def test_a_newer_output_that_repeats_the_words_is_dropped() -> None:
    words = torch.randn(4, 4)
    state = {"decoder.embed_tokens.weight": words, "decoder.output_projection.weight": words.clone()}
    assert names(state) == ["decoder.embed_tokens.weight"]


def test_half_precision_weights_become_float32() -> None:
    state = upgrade_state(VERSION_3 | {"decoder.embed_out": torch.ones(2, 2, dtype=torch.float16)})
    assert state["decoder.embed_out"].dtype == torch.float32


@pytest.mark.parametrize(("old", "tied"), [(False, True), (True, False)])
def test_no_tie_adaptive_proj_turns_the_final_norm_off_and_false_means_tied(old: bool, tied: bool) -> None:
    fields = upgrade_fields({"no_tie_adaptive_proj": old}, VERSION_3)
    assert fields == {"tie_adaptive_proj": tied, "no_decoder_final_norm": True}


def test_relu_dropout_is_activation_dropout() -> None:
    assert upgrade_fields({"relu_dropout": 0.1}, VERSION_3)["activation_dropout"] == 0.1


def test_cutoffs_of_none_are_empty() -> None:
    fields = {"adaptive_input_cutoff": None, "adaptive_softmax_cutoff": "5,6"}
    assert upgrade_fields(fields, VERSION_3) == {"adaptive_input_cutoff": (), "adaptive_softmax_cutoff": "5,6"}


def tiny() -> torch.nn.Module:
    config = TransformerConfig(
        decoder_layers=1, decoder_embed_dim=8, decoder_ffn_embed_dim=8, decoder_attention_heads=2
    )
    return build_transformer_lm(config, 12)


def test_a_state_dict_loads_into_another_model_of_the_same_fields() -> None:
    source, target = tiny(), tiny()
    assert load_state(target, upgrade_state(source.state_dict())) == []
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)


def test_loading_names_everything_that_does_not_fit_and_changes_nothing() -> None:
    model = tiny()
    before = model.decoder.embed_out.detach().clone()
    state = upgrade_state(model.state_dict())
    state["decoder.embed_out"] = torch.zeros(13, 8)
    state["decoder.extra"] = torch.zeros(1)
    del state["decoder.layer_norm.bias"]
    assert load_state(model, state) == [
        "decoder.layer_norm.bias is missing",
        "decoder.embed_out is (13, 8) instead of (12, 8)",
        "decoder.extra is not part of the model",
    ]
    assert torch.equal(model.decoder.embed_out, before)
