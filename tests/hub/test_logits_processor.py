"""What a logits processor refuses, and the ways to read a prompt that it does not mind."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq.errors import CheckpointError, ConfigError
from knnlm import KNN, KNNLogitsProcessor
from tests.builders.tiny_llama import LMBDA, TEMPERATURE, K, LlamaRoad

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_llama).eval()


@pytest.fixture
def knn(llama_road: LlamaRoad) -> KNN:
    return KNN(llama_road.store, llama_road.index, k=K, lmbda=LMBDA, temperature=TEMPERATURE)


@pytest.mark.parametrize("how", [{"guidance_scale": 1.5}, {"prompt_lookup_num_tokens": 3}])
def test_runs_of_other_ids_are_not_taken_for_the_step(
    llama_road: LlamaRoad, model: Any, knn: KNN, how: dict[str, Any]
) -> None:
    """Guidance runs the model once more without the prompt, which gives a vector of the right shape."""
    ids = torch.tensor([[5, 9, 5, 9, 5]])
    settings: dict[str, Any] = dict(attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False, **how)
    with (
        KNNLogitsProcessor(model, llama_road.model, knn) as processor,
        pytest.raises(ConfigError, match=r"classifier-free guidance .* assisted generation"),
    ):
        model.generate(ids, logits_processor=[processor], **settings)


@pytest.mark.parametrize("how", [{"prefill_chunk_size": 4}, {"use_cache": False}, {"cache_implementation": "static"}])
def test_other_ways_to_read_a_prompt(llama_road: LlamaRoad, model: Any, knn: KNN, how: Any) -> None:
    """In chunks, all over again in each step, or into memory of a fixed size; what the model read before is past."""
    ids = torch.arange(5, 16)[None]
    settings: dict[str, Any] = dict(attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
    with KNNLogitsProcessor(model, llama_road.model, knn) as processor:
        expected = model.generate(ids, logits_processor=[processor], **settings)
        model(ids[:, :3])
        assert model.generate(ids, logits_processor=[processor], **settings, **how).tolist() == expected.tolist()


def test_what_is_no_model_is_refused(llama_road: LlamaRoad, model: Any, knn: KNN, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"must be that of the model, with its config.json, but .*gone is none"):
        KNNLogitsProcessor(model, tmp_path / "gone", knn)
    with pytest.raises(CheckpointError, match="model must be of AutoModelForCausalLM, but is Linear"):
        KNNLogitsProcessor(torch.nn.Linear(2, 2), llama_road.model, knn)
    assert not model.base_model._forward_hooks
    with KNNLogitsProcessor(model, llama_road.model, knn) as processor:
        pass
    with pytest.raises(ConfigError, match="its with block has ended"):
        processor(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 300))
