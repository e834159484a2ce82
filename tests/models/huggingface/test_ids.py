"""The opening token: where ``</s>`` stands for it, and where it is put in front of each row."""

import pytest
import torch

from fairseq.errors import ConfigError
from fairseq.models.huggingface.adapter import HuggingFaceModel
from fairseq.text.model_tokenizer import SHIFT
from tests.builders.model_families import tiny_model

BOS = 5


@pytest.fixture(scope="module")
def model() -> object:
    return tiny_model("llama")


@torch.no_grad()
def wanted(model: object, there: list[int]) -> torch.Tensor:
    assert callable(model)
    log_p: torch.Tensor = model(torch.tensor([there]), use_cache=False).logits[0].double().log_softmax(1)
    return log_p


@torch.no_grad()
def test_the_end_of_a_text_is_read_as_the_opening_token(model: object) -> None:
    adapter = HuggingFaceModel(model, BOS + SHIFT)
    out = adapter(torch.tensor([[2, 20, 30]]))
    log_p_NV = adapter.log_prob(out.features_BSC[0])[:, SHIFT:]
    assert (log_p_NV - wanted(model, [BOS, 16, 26])).abs().max() <= 1e-5


@pytest.mark.parametrize("first", [0, 1, 2])
@torch.no_grad()
def test_bos_stands_in_front_of_each_row_once(model: object, first: int) -> None:
    """Of a row that begins with ``</s>`` it is that; a row that is padded with ``</s>`` has it once as well."""
    adapter = HuggingFaceModel(model, BOS + SHIFT, adds_bos=True)
    out = adapter(torch.tensor([[20, 30, 40, 50], [2, 30, 40, 50], [21, 31, 41, 2], [2, 31, 2, 2]]), first)
    rows = [[16, 26, 36, 46], [BOS, 26, 36, 46], [17, 27, 37], [BOS, 27]]
    without = [1, 0, 1, 0]
    for features_SC, row, skipped in zip(out.features_BSC, rows, without, strict=True):
        whole = wanted(model, [BOS, *row] if skipped else row)[skipped:]
        found_SV = adapter.log_prob(features_SC[: len(row) - first])[:, SHIFT:].double()
        assert torch.allclose(found_SV, whole[first:], rtol=0, atol=1e-5)
    assert out.features_BSC.shape[1] == out.ffn_input_BSC.shape[1] == 4 - first


def test_bos_takes_one_position(model: object) -> None:
    assert HuggingFaceModel(model, BOS + SHIFT).longest_row == 64
    adapter = HuggingFaceModel(model, BOS + SHIFT, adds_bos=True)
    assert (adapter.longest_row, adapter.max_positions) == (63, 63)
    without_end = HuggingFaceModel(tiny_model("mamba"), BOS + SHIFT)
    assert without_end.longest_row is None
    assert without_end.max_positions > 100_000


def test_a_model_without_an_opening_token_refuses_an_empty_beginning(model: object) -> None:
    adapter = HuggingFaceModel(model, None)
    adapter(torch.tensor([[20, 30]]))
    with pytest.raises(ConfigError, match=r"names no token that begins or ends .* --sample-break-mode isolated"):
        adapter(torch.tensor([[2, 30]]))


@torch.no_grad()
def test_a_model_without_an_opening_token_reads_rows_of_unequal_length(model: object) -> None:
    out = HuggingFaceModel(model, None)(torch.tensor([[20, 30, 40], [21, 31, 1]]))
    found = HuggingFaceModel(model, None).log_prob(out.features_BSC[1, :2])[:, SHIFT:]
    assert torch.allclose(found.double(), wanted(model, [17, 27]), rtol=0, atol=1e-5)


@torch.no_grad()
def test_fairseqs_own_words_have_no_probability(model: object) -> None:
    adapter = HuggingFaceModel(model, BOS + SHIFT)
    features_NC = adapter(torch.tensor([[20, 30, 40]])).features_BSC[0]
    target_N = torch.tensor([0, 3, 4])
    assert adapter.target_log_prob(features_NC, target_N).isinf().tolist() == [True, True, False]
    assert adapter.target_and_certainty(features_NC, target_N)[0].isinf().tolist() == [True, True, False]
