"""The arrays of the page: windows of the texts, and the neighbours that fit the budget."""

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq.knn.report import pack


@given(st.lists(st.integers(-1, 120), max_size=25))
@settings(max_examples=100)
def test_windows_hold_what_stands_around_every_neighbour_and_nothing_else(positions):
    text = np.arange(1000, 1121)
    positions = np.array(positions, np.int64)
    windows = pack.windows_around(positions, [(0, len(text))])
    wanted = sorted(
        {p for at in positions if at >= 0 for p in range(max(0, at - pack.BEFORE), min(121, at + pack.AFTER + 1))}
    )
    cut = windows.cut(text)
    assert cut.tolist() == [text[p] for p in wanted]
    place = windows.place(positions)
    for at, where in zip(positions, place, strict=True):
        assert (where == pack.NONE) if at < 0 else (cut[where] == text[at])
    for start, size, offset in zip(windows.start_W, windows.length_W, windows.offset_W, strict=True):
        assert cut[offset : offset + size].tolist() == text[start : start + size].tolist()


@given(st.lists(st.integers(-1, 90), max_size=25))
@settings(max_examples=100)
def test_windows_do_not_reach_into_another_text(positions):
    pieces = [(0, 40), (41, 60), (61, 91)]
    text_of = np.repeat([0, -1, 1, -1, 2], [40, 1, 19, 1, 30])
    positions = np.array([at for at in positions if at < 0 or text_of[at] >= 0], np.int64)
    windows = pack.windows_around(positions, pieces)
    wanted = {
        p
        for at in positions
        if at >= 0
        for p in range(max(0, at - pack.BEFORE), min(91, at + pack.AFTER + 1))
        if text_of[p] == text_of[at]
    }
    assert windows.cut(np.arange(91)).tolist() == sorted(wanted)
    for start, size in zip(windows.start_W, windows.length_W, strict=True):
        assert len(set(text_of[start : start + size])) == 1


def test_tokens_get_their_neighbours_by_how_much_changed():
    gains = np.array([0.1, -0.3, 2.0, 0.0, -0.1, np.inf, 0.5])
    assert pack.by_change(gains).tolist() == [5, 1, 2, 4, 6, 3, 0]


@pytest.mark.parametrize("budget", [0, 500, 3000, 20000, 1e9])
def test_the_budget_holds_and_is_used(budget):
    rng = np.random.default_rng(5)
    at = rng.integers(0, 100000, (200, 4))
    order = rng.permutation(200)

    def size(number):
        windows = pack.windows_around(at[order[:number]], [(0, 100000)])
        return (number * 4 * 8 + windows.num_tokens * 4 + len(windows.start_W) * 12) * 4 / 3

    chosen, _ = pack.choose(order, at, [(0, 100000)], budget)
    assert chosen.tolist() == sorted(order[: len(chosen)])
    assert size(len(chosen)) <= budget
    assert len(chosen) == 200 or size(len(chosen) + 2) > budget


def test_arrays_come_back_from_their_text():
    arrays = {"a": np.arange(6, dtype=np.uint16).reshape(2, 3), "b": np.array([-np.inf, 1.5], ">f4")}
    found = {name: (dtype, length, text) for name, dtype, length, text in pack.packed(arrays)}
    dtype, length, text = found["a"]
    assert (dtype, length) == ("uint16", 6)
    assert np.frombuffer(zlib.decompress(base64.b64decode(text)), "<u2").tolist() == [0, 1, 2, 3, 4, 5]
    assert np.frombuffer(zlib.decompress(base64.b64decode(found["b"][2])), "<f4").tolist() == [-np.inf, 1.5]
