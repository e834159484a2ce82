"""Small language models of 40 ids, one for each way to build one, and a text for them."""

from dataclasses import replace

import numpy as np
import torch

from fairseq.config.common import DeviceConfig
from fairseq.data.block_dataset import BlockDataset
from fairseq.models.transformer_config import TransformerConfig
from fairseq.models.transformer_lm import TransformerLanguageModel, build_transformer_lm
from fairseq.runtime.precision import Precision

CPU = Precision(DeviceConfig(cpu=True), torch.device("cpu"))
NUM_IDS = 40
EDGES = [0, 8, 16, 40]  # of the bands
SMALL = TransformerConfig(
    decoder_layers=2, decoder_embed_dim=16, decoder_ffn_embed_dim=24, decoder_attention_heads=2, max_target_positions=32
)
BANDS = replace(SMALL, adaptive_input=True, adaptive_input_cutoff=(8, 16), adaptive_softmax_cutoff=(8, 16))
ADAPTIVE = replace(
    BANDS,
    adaptive_softmax_dropout=0.2,
    tie_adaptive_weights=True,
    tie_adaptive_proj=True,
    no_decoder_final_norm=True,
)
UNTIED = replace(ADAPTIVE, tie_adaptive_weights=False, tie_adaptive_proj=False)
NORMFORMER = dict(scale_attn=True, scale_fc=True, scale_heads=True, scale_resids=True)
VARIANTS = {
    "plain": SMALL,
    "adaptive": ADAPTIVE,
    "adaptive, other widths": replace(ADAPTIVE, decoder_input_dim=32, tie_adaptive_proj=False),
    "adaptive, nothing tied": UNTIED,
    "adaptive, nothing tied, output width": replace(UNTIED, decoder_output_dim=32),
    "shared": replace(SMALL, share_decoder_input_output_embed=True),
    "gelu": replace(SMALL, activation_fn="gelu"),
    "gelu_accurate": replace(SMALL, activation_fn="gelu_accurate"),
    "tanh": replace(SMALL, activation_fn="tanh"),
    "linear": replace(SMALL, activation_fn="linear"),
    "post-norm": replace(SMALL, decoder_normalize_before=False),
    "post-norm, adaptive": replace(ADAPTIVE, decoder_normalize_before=False, activation_fn="gelu_fast"),
    "normformer": replace(SMALL, **NORMFORMER),
    "normformer, post-norm": replace(SMALL, **NORMFORMER, decoder_normalize_before=False, layernorm_embedding=True),
    "learned positions": replace(SMALL, decoder_learned_pos=True),
    "other widths": replace(SMALL, decoder_input_dim=12, decoder_output_dim=10),
}


def small_model(config: TransformerConfig, seed: int = 3, num_ids: int = NUM_IDS) -> TransformerLanguageModel:
    """Returns a model as training makes it, in training mode."""
    torch.manual_seed(seed)
    return build_transformer_lm(config, num_ids)


def perturbed_model(config: TransformerConfig) -> TransformerLanguageModel:
    """Returns a model in evaluation mode, with norms and biases drawn: ones and zeros would hide a mistake."""
    model = small_model(config)
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("norm", "bias", "c_attn", "attn_ln", "w_resid")):
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    return model.eval()


def some_ids(*shape: int) -> torch.Tensor:
    """Returns ids of words, the same ones every time."""
    return torch.from_numpy(np.random.default_rng(0).integers(4, NUM_IDS, shape))


def small_blocks() -> BlockDataset:
    """Returns six blocks of words: five of 8 tokens, and a last one of 5."""
    tokens = np.random.default_rng(1).integers(4, NUM_IDS, 45)
    return BlockDataset(tokens, np.array([45]), "none", 8)
