"""Rows that are read in parts, of several lengths, give what they give when they are read anew."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fairseq.config.common import DeviceConfig
from fairseq.evaluate.mixture import NextTokenMixture
from fairseq.generate.next_token import NextTokens
from fairseq.models.huggingface.adapter import HuggingFaceModel
from fairseq.runtime.precision import Precision
from fairseq.text.model_tokenizer import SHIFT
from tests.builders.model_families import FAMILIES, VOCABULARY, tiny_model

OPENING = 3 + SHIFT
# Those that cannot be told which slots are a row's own, or that are recurrent.
READ_ANEW = {"gpt_neo", "bloom", "mpt", "falcon:alibi", "mamba", "jamba", "falcon_h1", "rwkv"}
WINDOWS = {"mistral", "gemma2", "gemma3_text", "cohere2", "gpt_oss"}  # of four tokens
SIZES, STEPS = ((5, 2, 7), (1, 3, 2), (1, 1, 1), (1, 1, 1)), 4


def read_in_parts(adapter: HuggingFaceModel, rows: list[Tensor], num_slots: int) -> tuple[Tensor, Tensor] | None:
    """Returns features and keys of each row's last token after four calls; None where there is no cache.

    Rows are turned by one place after each call, so that each is read in every place.
    """
    cache = adapter.new_cache(5, num_slots)
    if cache is None:
        return None
    cache.reorder([0, 1, 2])
    done, order = [0, 0, 0], [0, 1, 2]
    for step in range(STEPS):
        sizes = [SIZES[step][row] for row in order]
        parts = [rows[row][done[row] : done[row] + size] for row, size in zip(order, sizes, strict=True)]
        new_BS = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=2)
        out = adapter.extend(new_BS, torch.tensor(sizes), cache)
        last_BC, key_BC = (
            states[torch.arange(3), torch.tensor(sizes) - 1] for states in (out.features_BSC, out.ffn_input_BSC)
        )
        for row, size in zip(order, sizes, strict=True):
            done[row] += size
        if step + 1 < STEPS:
            cache.reorder([1, 2, 0])
            order = [order[1], order[2], order[0]]
    back = torch.tensor(order).argsort()
    return last_BC[back], key_BC[back]


def some_rows() -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    lengths = [sum(sizes) for sizes in zip(*SIZES, strict=True)]
    return [torch.randint(SHIFT, VOCABULARY + SHIFT, (length,), generator=generator) for length in lengths]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adds_bos", [False, True])
@torch.no_grad()
def test_rows_in_parts_are_rows_at_once(family: str, adds_bos: bool) -> None:
    model = tiny_model(family, **({"sliding_window": 64} if family in WINDOWS else {}))
    adapter, rows = HuggingFaceModel(model, OPENING, adds_bos=adds_bos), some_rows()
    found = read_in_parts(adapter, rows, 20)
    assert (found is None) == (family in READ_ANEW)
    if found is None:
        return
    for number, row in enumerate(rows):
        out = adapter(row[None])
        for states_BC, wanted_1TC in zip(found, (out.features_BSC, out.ffn_input_BSC), strict=True):
            scale = float(wanted_1TC.abs().max())
            assert (states_BC[number] - wanted_1TC[0, -1]).abs().max() <= 1e-5 * max(scale, 1), number


@pytest.mark.parametrize("family", sorted(WINDOWS))
def test_a_window_shorter_than_the_rows_means_reading_anew(family: str) -> None:
    adapter = HuggingFaceModel(tiny_model(family, sliding_window=9), OPENING)
    assert adapter.new_cache(2, 10) is None
    assert adapter.new_cache(2, 9) is not None


def test_positions_that_turn_otherwise_in_long_rows_mean_reading_anew() -> None:
    scaling = {
        **{"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
        **{"original_max_position_embeddings": 16, "factor": 4.0},
    }
    adapter = HuggingFaceModel(
        tiny_model("phi3", rope_parameters=scaling, original_max_position_embeddings=16), OPENING
    )
    assert adapter.new_cache(2, 16) is not None
    assert adapter.new_cache(2, 17) is None


class _NoMixture(NextTokenMixture):
    def __init__(self) -> None:
        pass

    def mixed(self, log_p_RV: Tensor, queries_RC: Tensor) -> Tensor:
        return log_p_RV


@pytest.mark.parametrize("family", ["llama", "mistral", "mamba", "gpt2"])
@torch.no_grad()
def test_the_next_token_is_that_of_the_models_own_run(family: str) -> None:
    """With a cache and without: after rows were dropped, doubled and made longer."""
    model: Any = tiny_model(family)
    adapter = HuggingFaceModel(model, OPENING)
    rows = [np.array([9, 30, 12, 40, 7, 22]), np.array([2, 17])]  # the second begins with the opening token
    precision = Precision(DeviceConfig(cpu=True), torch.device("cpu"))
    following = NextTokens(adapter, precision, rows, 3, 12, _NoMixture())
    following.read([1, 0, 1], [11, 12, 13])
    following.read([2, 0, 1], [14, 15, 16])
    read = [[2, 17, 13, 14], [2, 17, 11, 15], [9, 30, 12, 40, 7, 22, 12, 16]]
    for row, log_p_V in zip(read, following.log_prob(), strict=True):
        there = torch.tensor([OPENING - SHIFT if token == 2 else token - SHIFT for token in row])
        wanted_V = model(there[None], use_cache=False).logits[0, -1].double().log_softmax(0)
        assert (log_p_V[SHIFT:].double() - wanted_V).abs().max() <= 1e-5
