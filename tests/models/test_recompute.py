"""``--checkpoint-activations``: the same gradients to the bit, dropout included, and fewer tensors that are kept."""

from dataclasses import replace

import pytest
import torch

from fairseq.models.transformer_config import TransformerConfig
from tests.builders.small_model import ADAPTIVE, SMALL, VARIANTS, small_model, some_ids

DROPPING = dict(dropout=0.2, attention_dropout=0.3, activation_dropout=0.1)


def gradients(config: TransformerConfig) -> tuple[dict[str, torch.Tensor], int]:
    """Returns the gradients of a loss, and how many numbers torch kept for them."""
    model, source_BT = small_model(config).train(), some_ids(3, 16)
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        features_BSC = model(source_BT, 4).features_BSC
    before_the_loss = kept
    (-model.target_log_prob(features_BSC.flatten(0, 1), source_BT[:, 4:].flatten()).sum()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, before_the_loss


@pytest.mark.parametrize("config", [SMALL, ADAPTIVE, VARIANTS["normformer"]], ids=["plain", "adaptive", "normformer"])
def test_gradients_are_equal_to_the_bit_and_less_is_kept(config: TransformerConfig) -> None:
    config = replace(config, decoder_layers=6, decoder_layerdrop=0.3, **DROPPING)
    plain, kept = gradients(config)
    again, kept_again = gradients(replace(config, checkpoint_activations=True))
    assert len(plain) == len(again) > 0
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert kept_again < kept / 2


def test_without_training_nothing_is_kept() -> None:
    model = small_model(replace(SMALL, checkpoint_activations=True)).eval()
    plain = small_model(SMALL).eval()
    with torch.no_grad():
        assert torch.equal(model(some_ids(2, 9)).features_BSC, plain(some_ids(2, 9)).features_BSC)
