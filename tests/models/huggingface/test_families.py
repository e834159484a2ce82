"""Every family: scores and keys are those of the model's own run, which is asked in another way."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fairseq.models.huggingface.adapter import HuggingFaceModel
from fairseq.models.huggingface.structure import feed_forward_of, layers_of
from fairseq.text.model_tokenizer import SHIFT
from tests.builders.model_families import FAMILIES, VOCABULARY, tiny_model

OPENING = 3 + SHIFT
# Families whose layers end in: residual + network(norm(residual)).
PRE_NORM = (
    *("gpt2", "gpt_neo", "gpt_neox:sequential", "gpt_bigcode", "xglm", "biogpt", "llama", "mistral", "qwen2", "qwen3"),
    *("gemma", "phi3", "olmo", "stablelm", "starcoder2", "nemotron", "glm", "smollm3", "mixtral", "opt"),
)
# Families whose attention and feed-forward network read the same, and whose residual stream is the layer's input.
PARALLEL = ("gptj", "codegen", "falcon", "phi", "cohere", "cohere2")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, tiny_model(request.param)


def some_ids(*sizes: int, seed: int = 1) -> list[Tensor]:
    """Returns rows of ids here."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(SHIFT, VOCABULARY + SHIFT, (size,), generator=generator) for size in sizes]


def padded(rows: list[Tensor]) -> Tensor:
    """Returns rows as one tensor, right-padded with a word."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=SHIFT + 7)


@torch.no_grad()
def own_log_p(model: Any, row: Tensor) -> Tensor:
    """Returns ln p of every word behind each of a row's tokens, float64 ``[T, V]``."""
    log_p: Tensor = model((row - SHIFT)[None], use_cache=False).logits[0].double().log_softmax(1)
    return log_p


@torch.no_grad()
def test_scores_are_the_models_own(family: tuple[str, Any]) -> None:
    """Rows of several lengths, right-padded; not from the first column on."""
    name, model = family
    adapter, first = HuggingFaceModel(model, OPENING), 2
    rows = some_ids(9, 6, 3)
    out = adapter(padded(rows), first)
    for row, features_SC in zip(rows, out.features_BSC, strict=True):
        scored = len(row) - first
        wanted_SV = own_log_p(model, row)[first:]
        features_NC = features_SC[:scored]
        found_SV = adapter.log_prob(features_NC)
        assert found_SV.shape == (scored, adapter.vocabulary_size) == (scored, VOCABULARY + SHIFT)
        assert (found_SV[:, :SHIFT] == -torch.inf).all()
        assert (found_SV[:, SHIFT:].double() - wanted_SV).abs().max() <= 1e-5, name
        target_N = row.flip(0)[:scored]
        wanted_N = wanted_SV.gather(1, target_N[:, None] - SHIFT)[:, 0]
        largest_N, entropy_N = wanted_SV.amax(1), -(wanted_SV.exp() * wanted_SV).sum(1)
        assert (adapter.target_log_prob(features_NC, target_N).double() - wanted_N).abs().max() <= 1e-5
        for found, wanted in zip(adapter.certainty(features_NC), (largest_N, entropy_N), strict=True):
            assert (found.double() - wanted).abs().max() <= 1e-5
        together = adapter.target_and_certainty(features_NC, target_N)
        for found, wanted in zip(together, (wanted_N, largest_N, entropy_N), strict=True):
            assert found.dtype == torch.float32
            assert (found.double() - wanted).abs().max() <= 1e-5


@torch.no_grad()
def keys_of(model: Any, kind: str, ids_BT: Tensor) -> Tensor:
    return HuggingFaceModel(model, OPENING, kind)(ids_BT).ffn_input_BSC


@torch.no_grad()
def test_block_outputs_are_the_hidden_states_that_the_model_tells(family: tuple[str, Any]) -> None:
    name, model = family
    ids_BT = torch.stack(some_ids(5, 5))
    hidden = model.base_model(ids_BT - SHIFT, use_cache=False, output_hidden_states=True).hidden_states
    wanted_BTC = hidden[0 if name in ("mamba", "rwkv") else 1]  # these two do not tell the embeddings
    assert torch.allclose(keys_of(model, "block_output:0", ids_BT), wanted_BTC, atol=1e-6)


@torch.no_grad()
def test_final_norm_is_what_the_head_reads(family: tuple[str, Any]) -> None:
    _, model = family
    ids_BT = torch.stack(some_ids(4, 4))
    read = []
    handle = model.get_output_embeddings().register_forward_pre_hook(lambda module, args: read.append(args[0]))
    model(ids_BT - SHIFT, use_cache=False)
    handle.remove()
    assert torch.allclose(keys_of(model, "final_norm", ids_BT), read[0], atol=1e-6)


@pytest.mark.parametrize("name", PRE_NORM)
@torch.no_grad()
def test_residual_and_feed_forward_add_up_to_the_output(name: str) -> None:
    """In both layers: output = residual + network(input)."""
    model = tiny_model(name)
    ids_BT = torch.stack(some_ids(5, 5))
    for number, layer in enumerate(layers_of(model)):
        residual, read, output = (
            keys_of(model, f"{kind}:{number}", ids_BT) for kind in ("residual", "ffn_input", "block_output")
        )
        network = feed_forward_of(layer)
        if hasattr(layer, "fc2"):
            made = layer.fc2(layer.activation_fn(layer.fc1(read)))
        else:
            made = network(read)
            made = made[0] if isinstance(made, tuple) else made
        assert torch.allclose(residual + made, output, atol=1e-5), number


@pytest.mark.parametrize("name", PARALLEL)
@torch.no_grad()
def test_parallel_attention_and_feed_forward_read_the_same(name: str) -> None:
    model = tiny_model(name)
    ids_BT = torch.stack(some_ids(5, 5))
    before_BTC = keys_of(model, "block_output:0", ids_BT)
    assert torch.equal(keys_of(model, "ffn_input", ids_BT), keys_of(model, "attention_input", ids_BT))
    assert torch.equal(keys_of(model, "residual", ids_BT), before_BTC)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma", "olmo"])
@torch.no_grad()
def test_inputs_are_norms_of_the_hidden_states(name: str) -> None:
    """The two layers written out, from the states that the model tells."""
    model = tiny_model(name)
    ids_BT = torch.stack(some_ids(5, 5))
    hidden = model.base_model(ids_BT - SHIFT, use_cache=False, output_hidden_states=True).hidden_states
    for number, layer in enumerate(layers_of(model)):
        read_BTC = layer.input_layernorm(hidden[number])
        assert torch.allclose(keys_of(model, f"attention_input:{number}", ids_BT), read_BTC, atol=1e-6)
        residual_BTC = keys_of(model, f"residual:{number}", ids_BT)
        wanted_BTC = layer.post_attention_layernorm(residual_BTC)
        assert torch.allclose(keys_of(model, f"ffn_input:{number}", ids_BT), wanted_BTC, atol=1e-6)


def test_keys_of_another_type_take_the_place_of_the_first() -> None:
    model = tiny_model("opt:projected")
    adapter = HuggingFaceModel(model, OPENING)
    assert (adapter.key_type, adapter.key_dimension) == ("last_ffn_input", 16)
    adapter.use_keys("final_norm")
    assert (adapter.key_type, adapter.key_dimension) == ("final_norm", 8)
    adapter.use_keys("attention_input:-2")
    assert (adapter.key_type, adapter.key_dimension) == ("attention_input:0", 16)
    adapter.use_keys("block_output:1")
    assert adapter.key_type == "block_output"
    hooks = [part for part in model.modules() if part._forward_hooks or part._forward_pre_hooks]
    assert hooks == [layers_of(model)[1]]
