"""The head: rows in chunks, whatever the batch; a model whose scores are not those of its own run is refused."""

from typing import Any

import pytest
import torch
from torch import nn

from fairseq.errors import CheckpointError
from fairseq.models.huggingface import head
from fairseq.models.huggingface.adapter import HuggingFaceModel
from fairseq.text.model_tokenizer import SHIFT
from tests.builders.model_families import VOCABULARY, tiny_model


@pytest.mark.parametrize("num_rows", [1, 7, 50, 333])
@torch.no_grad()
def test_scores_in_memory_do_not_grow_with_the_batch(num_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    adapter = HuggingFaceModel(model, 5)
    monkeypatch.setattr(head, "LOGITS_BYTES", 4 * VOCABULARY * 7 + 3)
    made: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda module, args, out: made.append(out.numel()))
    features_NC, target_N = torch.randn(num_rows, 16), torch.arange(num_rows) % VOCABULARY + SHIFT
    in_chunks = adapter.target_and_certainty(features_NC, target_N)
    assert max(made) == min(num_rows, 7) * VOCABULARY
    assert sum(made) == num_rows * VOCABULARY
    assert torch.allclose(adapter.target_log_prob(features_NC, target_N), in_chunks[0], atol=1e-6)
    assert max(made) == min(num_rows, 7) * VOCABULARY
    log_p_NV = adapter.log_prob(features_NC).double()
    assert torch.allclose(in_chunks[0].double(), log_p_NV.gather(1, target_N[:, None])[:, 0], atol=1e-6)
    assert torch.allclose(in_chunks[1].double(), log_p_NV.amax(1), atol=1e-6)


def test_a_vocabulary_of_any_size_gets_at_least_a_row() -> None:
    adapter = HuggingFaceModel(tiny_model("llama"), 5)
    adapter.head.num_words = 1 << 40
    assert list(adapter.head.chunks(2)) == [slice(0, 1), slice(1, 2)]


def test_the_models_layers_are_its_own_again() -> None:
    model = tiny_model("opt")
    HuggingFaceModel(model, 5).log_prob(torch.randn(2, 16))
    for part in model.modules():
        assert "forward" not in vars(part)


def test_scores_that_are_not_finite_are_refused() -> None:
    model = tiny_model("qwen2")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.fill_(torch.nan)
    with pytest.raises(CheckpointError, match=r"qwen2 model .* its weights are not finite"):
        HuggingFaceModel(model, 5)


def test_a_model_that_goes_round_its_layers_is_refused() -> None:
    model = tiny_model("llama")
    inner = model.model.forward

    class Round(type(model)):  # type: ignore[misc]
        def forward(self, input_ids: Any = None, **more: Any) -> Any:
            output = inner(input_ids, use_cache=False)
            output["logits"] = self.lm_head(output.last_hidden_state)
            return output

    model.__class__ = Round
    with pytest.raises(CheckpointError, match=r"a llama model \(Round\) does not run the part that is its layers"):
        HuggingFaceModel(model, 5)


def test_a_model_without_layers_or_a_body_is_refused_by_name() -> None:
    model = tiny_model("gpt2")
    model.base_model_prefix = "nothing"
    with pytest.raises(CheckpointError, match=r"a gpt2 model \(GPT2LMHeadModel\) has no part that is its layers"):
        HuggingFaceModel(model, 5)
    model = tiny_model("gpt2")
    layer = model.transformer.h[1]
    layer.perceptron = nn.Identity()
    layer.unusual, layer.mlp = nn.Sequential(), nn.Identity()
    with pytest.raises(CheckpointError, match="has no feed-forward network that is known by its name"):
        HuggingFaceModel(model, 5).require_keys()
