"""The presets of ``--arch``, against the numbers that fairseq 0.12 resolves from its command line."""

import json
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq.config.flags import resolve
from fairseq.models import architecture
from fairseq.models.presets import ARCHITECTURE_SUMMARIES, ARCHITECTURES
from fairseq.models.transformer_config import TransformerConfig
from fairseq.models.transformer_lm import build_transformer_lm
from tests.builders.peer import last_line_of, peer_python

NAMES = shlex.split(
    "decoder_layers decoder_embed_dim decoder_ffn_embed_dim decoder_attention_heads dropout attention_dropout"
    " activation_fn decoder_learned_pos share_decoder_input_output_embed no_decoder_final_norm adaptive_input"
)
# What fairseq 0.12 makes of ``--arch NAME``, in the order of NAMES; last its number of parameters, for 64 ids, blocks
# of 64 tokens, and cutoffs of 10 and 30 where the preset has cutoffs.
PEER: dict[str, tuple[Any, ...]] = {
    "transformer_lm": (6, 512, 2048, 8, 0.1, 0.0, "relu", False, False, False, False, 18979840),
    "transformer_lm_baevski_gbw": (12, 512, 4096, 16, 0.1, 0.1, "relu", False, False, True, False, 63084544),
    "transformer_lm_baevski_wiki103": (16, 1024, 4096, 8, 0.3, 0.1, "relu", False, False, True, True, 202935424),
    "transformer_lm_big": (12, 1024, 4096, 16, 0.1, 0.0, "relu", False, False, False, False, 151287808),
    "transformer_lm_gbw": (12, 512, 4096, 16, 0.1, 0.1, "relu", False, False, True, False, 63084544),
    "transformer_lm_gpt": (12, 768, 3072, 12, 0.1, 0.1, "gelu", False, False, False, False, 85154304),
    "transformer_lm_gpt2_big": (48, 1600, 6400, 25, 0.1, 0.1, "gelu", False, False, False, False, 1475766400),
    "transformer_lm_gpt2_big_wide": (24, 2048, 8192, 32, 0.1, 0.1, "gelu", False, False, False, False, 1208864768),
    "transformer_lm_gpt2_bigger": (48, 2048, 8192, 32, 0.1, 0.1, "gelu", False, False, False, False, 2417463296),
    "transformer_lm_gpt2_medium": (36, 1280, 5120, 20, 0.1, 0.1, "gelu", False, False, False, False, 708554240),
    "transformer_lm_gpt2_small": (24, 1024, 4096, 16, 0.1, 0.1, "gelu", False, False, False, False, 302442496),
    "transformer_lm_gpt2_tiny": (2, 64, 64, 1, 0.1, 0.1, "gelu", False, False, False, False, 58752),
    "transformer_lm_gpt3_13": (40, 5120, 20480, 40, 0.0, 0.0, "gelu", True, True, False, False, 12586250240),
    "transformer_lm_gpt3_175": (96, 12288, 49152, 96, 0.0, 0.0, "gelu", True, True, False, False, 173963132928),
    "transformer_lm_gpt3_2_7": (32, 2560, 10240, 32, 0.0, 0.0, "gelu", True, True, False, False, 2517985280),
    "transformer_lm_gpt3_6_7": (32, 4096, 16384, 32, 0.0, 0.0, "gelu", True, True, False, False, 6444695552),
    "transformer_lm_gpt3_large": (24, 1536, 6144, 16, 0.0, 0.0, "gelu", True, True, False, False, 680159232),
    "transformer_lm_gpt3_medium": (24, 1024, 4096, 16, 0.0, 0.0, "gelu", True, True, False, False, 302444544),
    "transformer_lm_gpt3_small": (12, 768, 3072, 12, 0.0, 0.0, "gelu", True, True, False, False, 85155840),
    "transformer_lm_gpt3_xl": (24, 2048, 8192, 32, 0.0, 0.0, "gelu", True, True, False, False, 1208868864),
    "transformer_lm_wiki103": (16, 1024, 4096, 8, 0.3, 0.1, "relu", False, False, True, True, 202935424),
}


def config_of(arch: str) -> TransformerConfig:
    """Returns an architecture's config as ``fairseq-train`` makes it, for 64 tokens and few ids."""
    _, preset = architecture(arch)
    cutoffs = dict(adaptive_input_cutoff=(10, 30), adaptive_softmax_cutoff=(10, 30)) if "wiki103" in arch else {}
    # fairseq's bare transformer_lm has its LayerNorms behind the parts, every other preset of it before them.
    post = dict(decoder_normalize_before=False) if arch == "transformer_lm" else {}
    return resolve(TransformerConfig, preset, cutoffs, post, dict(max_target_positions=64))


def shapes(arch: str) -> dict[str, list[int]]:
    with torch.device("meta"):
        state = build_transformer_lm(config_of(arch), 64).state_dict()
    return {name: list(value.shape) for name, value in state.items()}


@pytest.mark.parametrize("arch", PEER)
def test_settings_are_those_of_fairseq(arch: str) -> None:
    config = config_of(arch)
    assert tuple(getattr(config, name) for name in NAMES) == PEER[arch][:-1]
    assert config.input_dim == config.output_dim == config.decoder_embed_dim


@pytest.mark.parametrize("arch", PEER)
def test_parameters_are_as_many_as_those_of_fairseq(arch: str) -> None:
    """All layers are alike: two small models tell how many parameters a layer has, and what is besides."""
    config, counts = config_of(arch), []
    for layers in (1, 2):
        with torch.device("meta"):
            model = build_transformer_lm(replace(config, decoder_layers=layers), 64)
        counts.append(sum(math.prod(p.shape) for p in model.parameters()))
    assert counts[0] + (config.decoder_layers - 1) * (counts[1] - counts[0]) == PEER[arch][-1]


def test_every_preset_is_here_and_says_what_it_is() -> None:
    assert set(PEER) == set(ARCHITECTURES) == set(ARCHITECTURE_SUMMARIES)
    for arch, words in ARCHITECTURE_SUMMARIES.items():
        assert words.startswith((f"{PEER[arch][0]} layers of {PEER[arch][1]}", "another name of")), arch


@pytest.mark.slow
def test_names_and_shapes_are_those_of_fairseq(tmp_path: Path) -> None:
    child = Path(__file__).resolve().parents[1] / "builders" / "peer_shapes.py"
    theirs = json.loads(last_line_of(peer_python(), str(child), *PEER, cwd=tmp_path))
    for arch in PEER:
        expected = {name.replace("output_projection.weight", "embed_out"): s for name, s in theirs[arch].items()}
        if config_of(arch).share_decoder_input_output_embed:
            del expected["decoder.embed_out"]  # stored twice there
        ours = shapes(arch)
        constants = {name for name in {*ours, *expected} if name.endswith(("version", "_float_tensor"))}
        assert {n: s for n, s in ours.items() if n not in constants} == {
            n: s for n, s in expected.items() if n not in constants
        }, arch
