"""The cache: a model that keeps what it has read gives what it gives when it reads everything anew."""

from dataclasses import replace

import pytest
import torch

from fairseq.models.transformer_lm import TransformerLanguageModel
from fairseq.modules.kv_cache import KeyValueCache
from tests.builders.small_model import ADAPTIVE, SMALL, VARIANTS, perturbed_model, some_ids

FLOAT32_ATOL = 2e-5  # two layers in float32, outputs of order 1


def read(model: TransformerLanguageModel, cache: KeyValueCache, rows: list[list[int]]) -> list[torch.Tensor]:
    """Returns features and feed-forward inputs of each row's new columns, side by side."""
    size = torch.tensor([len(row) for row in rows])
    padded = torch.full((len(rows), int(size.max())), 1)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = torch.tensor(row)
    out = model.extend(padded, size, cache)
    both = torch.cat([out.features_BSC, out.ffn_input_BSC], 2)
    return [both[number, : len(row)] for number, row in enumerate(rows)]


def whole(model: TransformerLanguageModel, row: list[int]) -> torch.Tensor:
    with torch.no_grad():
        out = model(torch.tensor([row]))
    return torch.cat([out.features_BSC, out.ffn_input_BSC], 2)[0]


PADS = {"none": [], "inside": [(0, 2), (0, 3), (1, 4), (2, 0)], "at the end": [(0, 11), (1, 6)]}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pads", PADS)
@pytest.mark.pitfall(32)
def test_rows_of_unequal_length_read_in_pieces_equal_rows_read_at_once(variant: str, pads: str) -> None:
    model = perturbed_model(VARIANTS[variant])
    rows = [row[:length] for row, length in zip(some_ids(3, 12).tolist(), (12, 7, 9), strict=True)]
    for number, column in PADS[pads]:
        rows[number][column] = 1
    edges = [(0, 5, 6, 10, 12), (0, 1, 2, 5, 7), (0, 4, 5, 6, 9)]  # pieces of unequal length, of one token, and again
    cache = model.new_cache(3, 16)  # padding takes room as well
    pieces: list[list[torch.Tensor]] = [[], [], []]
    for i in range(4):
        new = [row[edge[i] : edge[i + 1]] for row, edge in zip(rows, edges, strict=True)]
        for found, piece in zip(pieces, read(model, cache, new), strict=True):
            found.append(piece)
    for row, found in zip(rows, pieces, strict=True):
        torch.testing.assert_close(torch.cat(found), whole(model, row), atol=FLOAT32_ATOL, rtol=0)


def test_reordered_rows_go_on_from_what_they_were() -> None:
    model = perturbed_model(ADAPTIVE)
    rows = [some_ids(6).tolist(), some_ids(9).tolist()[3:7], some_ids(20).tolist()[11:]]
    cache = model.new_cache(5, 16)
    cache.reorder([0, 1, 2])
    read(model, cache, rows)
    for parents in ([2, 0, 0, 1, 2], [4, 1, 0], [0, 1, 2], [1], [0, 0]):
        cache.reorder(parents)
        new = [[5 + number] for number in range(len(parents))]
        rows = [[*rows[parent], *token] for parent, token in zip(parents, new, strict=True)]
        assert cache.length_R.tolist() == [len(row) - 1 for row in rows]
        for row, found in zip(rows, read(model, cache, new), strict=True):
            torch.testing.assert_close(found[0], whole(model, row)[-1], atol=FLOAT32_ATOL, rtol=0)


def test_a_cache_may_lose_all_its_rows() -> None:
    cache = perturbed_model(SMALL).new_cache(2, 4)
    read(perturbed_model(SMALL), cache, [[4, 5], [6]])
    cache.reorder([])
    assert len(cache.length_R) == 0


def test_keys_and_values_are_kept_in_the_caches_format() -> None:
    cache = perturbed_model(SMALL).new_cache(1, 4, torch.bfloat16)
    kept = cache.append(0, *torch.ones(2, 1, 2, 3, 8))
    assert [part.dtype for part in kept] == [torch.bfloat16] * 2


def test_no_more_than_there_is_room_for() -> None:
    model = perturbed_model(SMALL)
    cache = model.new_cache(1, 4)
    read(model, cache, [[4, 5, 6, 7]])
    with pytest.raises(AssertionError):
        read(model, cache, [[8]])


def test_keys_and_values_take_the_format_of_the_products() -> None:
    model = perturbed_model(replace(SMALL, decoder_layers=1))
    cache = model.new_cache(2, 8, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        read(model, cache, [[4, 5, 6], [7, 8]])
        found = read(model, cache, [[9], [10]])
    expected = whole(model, [4, 5, 6, 9])[-1]
    torch.testing.assert_close(found[0][0].float(), expected, atol=0.1, rtol=0.05)  # bfloat16 has 8 bits


def test_a_row_keeps_its_pads_when_rows_are_reordered() -> None:
    model = perturbed_model(ADAPTIVE)
    rows = [[5, 1, 9], [1, 7, 8, 30]]
    cache = model.new_cache(3, 8)
    cache.reorder([0, 1])
    read(model, cache, rows)
    cache.reorder([1, 0, 1])
    found = read(model, cache, [[6], [1], [2]])
    for new, row, one in zip((6, 1, 2), (rows[1], rows[0], rows[1]), found, strict=True):
        torch.testing.assert_close(one[0], whole(model, [*row, new])[-1], atol=FLOAT32_ATOL, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_whole_distribution_is_what_targets_are_scored_by(variant: str) -> None:
    config = VARIANTS[variant]
    model = perturbed_model(config)
    with torch.no_grad():
        features_NC = model(some_ids(2, 3)).features_BSC.flatten(0, 1)
        log_p_NV = model.log_prob(features_NC)
        assert log_p_NV.shape == (6, 40) and log_p_NV.dtype == torch.float32
        for word in range(40):
            one = model.target_log_prob(features_NC, torch.full((6,), word))
            torch.testing.assert_close(log_p_NV[:, word], one, atol=FLOAT32_ATOL, rtol=0)
        torch.testing.assert_close(log_p_NV.double().exp().sum(1), torch.ones(6).double(), atol=1e-5, rtol=0)
