"""Which tokens of a text the rows of ``run_clm``'s windows are; the oracle cuts the windows one by one."""

import numpy as np
import pytest

from fairseq.knn.maintain.windows import Windows, begun_texts, find_windows, window_batch
from fairseq.text.model_tokenizer import SHIFT


def rows_by_hand(num_tokens: int, block: int, stride: int) -> list[int]:
    """Returns the tokens that are rows: of each window the last ``stride``, unless nothing stands before them."""
    rows: list[int] = []
    for start in range(0, num_tokens // block * block, stride):
        window = range(max(start + stride - block, 0), start + stride)
        rows += [token for token in window if token >= start and token != window[0]]
    return rows


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize(("block", "stride"), [(8, 8), (8, 4), (8, 1), (32, 32), (5, 5), (64, 64)])
@pytest.mark.parametrize("num_tokens", [64, 70, 131])
def test_rows_are_found_in_the_text(num_tokens: int, block: int, stride: int, repeated: bool) -> None:
    """Also where the tokens at the end of a window are all alike, as in a table."""
    tokens = np.random.default_rng(num_tokens).integers(SHIFT, 50, num_tokens)
    if repeated:
        tokens[block - 2 : block + 3] = 9
    rows = rows_by_hand(num_tokens, block, stride)
    found = find_windows(tokens[rows] - SHIFT, tokens)
    if repeated and block == stride and num_tokens // block == 1:
        assert found is not None  # one window: nothing tells whether another one would have begun
        return
    assert found is not None
    assert found.positions(0, len(rows)).tolist() == rows
    assert found.positions(3, len(rows)).tolist() == rows[3:]
    spans = [token for start, stop in found.spans(len(rows)).pairs for token in range(start, stop)]
    assert spans == rows


@pytest.mark.parametrize("change", ["a value", "too many", "shifted", "other block"])
def test_values_of_another_text_are_no_rows(change: str) -> None:
    tokens = np.random.default_rng(0).integers(SHIFT, 50, 160)
    values = tokens[rows_by_hand(160, 16, 16)] - SHIFT
    if change == "a value":
        values[77] += 1
    elif change == "too many":
        values = np.append(values, values[:15])
    elif change == "shifted":
        values = values[1:]
    else:
        values = np.concatenate([values[:15], values[16:]])
    assert find_windows(values, tokens) is None


def test_texts_are_begun_by_a_token() -> None:
    tokens, sizes = np.array([10, 11, 12, 13, 14]), np.array([2, 0, 3])
    assert begun_texts(tokens, sizes, 5).tolist() == [5, 10, 11, 5, 5, 12, 13, 14]


@pytest.mark.parametrize(("block", "stride"), [(8, 8), (8, 3), (8, 1)])
def test_a_window_as_a_batch(block: int, stride: int) -> None:
    tokens = np.arange(100, 130)
    seen: list[int] = []
    for number in range(-(-len(tokens) // stride)):
        batch, scored = window_batch(tokens, block, stride, number)
        seen += scored.tolist()
        assert batch.source_BT.shape == batch.target_BT.shape == batch.scored_BT.shape
        assert batch.source_BT.shape[1] < block
        if not len(scored):  # a single token, which nothing stands before
            continue
        assert batch.target_BT[0][batch.scored_BT[0]].tolist() == tokens[scored].tolist()
        # Each target stands behind its own token, and the row ends with a target.
        assert (batch.source_BT[0][batch.scored_BT[0]] == tokens[scored] - 1).all()
        assert batch.scored_BT[0, -1] and batch.context_B[0] == batch.scored_BT[0].argmax()
        assert (np.diff(batch.source_BT[0]) == 1).all()
    wanted = [token for token in range(len(tokens)) if token and (stride < block or token % block)]
    assert seen == wanted


def test_windows_in_words() -> None:
    assert Windows().in_words() == "every token but the first"
    assert Windows(64, 64).in_words() == "every token but the first of each 64"
