"""Texts in batches: every token once, in order, behind the context that it should have."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq.data.block_dataset import Batch
from fairseq.data.dictionary import Dictionary
from fairseq.errors import ConfigError, DataError
from fairseq.evaluate.sequence_scorer import ScoredBatch
from fairseq.evaluate.texts import Line, TextScorer, split_lines

BOS, PAD, EOS = 0, 1, 2


class Counter:
    """A scorer whose log-probability of a token is minus the number of tokens before it in its row."""

    models = (None,)

    def scored(self, batches: Iterable[Batch]) -> Iterator[ScoredBatch]:
        for batch in batches:
            row_N, before_N = np.nonzero(batch.scored_BT)
            log_p_N = -before_N.astype(np.float64)
            yield ScoredBatch(
                block_idx_N=batch.block_idx_B[row_N],
                target_N=batch.target_BT[row_N, before_N],
                log_p_N=log_p_N,
                model_log_p_N=2 * log_p_N,
                memory_log_p_NM=np.outer(log_p_N, [3, 4]),
            )


def scorer(longest_row: int = 6, max_tokens: int = 20, *, add_bos: bool = False) -> TextScorer:
    stub: Any = Counter()
    return TextScorer(stub, longest_row, max_tokens, add_bos=add_bos)


def tokens_before(size: int, longest_row: int, window: int) -> list[int]:
    """Returns how many tokens of its row come before each token of a text, block after block."""
    if size <= longest_row:
        return list(range(size))
    block = longest_row - window
    return [min(window, start) + at for start in range(0, size, block) for at in range(min(block, size - start))]


@given(st.lists(st.lists(st.integers(3, 9), max_size=20), max_size=8), st.integers(0, 5), st.booleans())
def test_every_token_comes_once_and_in_order(texts: list[list[int]], window: int, add_bos: bool) -> None:
    ids = [np.array([*text, EOS], np.int64) for text in texts]
    counts: list[int] = []
    found = scorer(add_bos=add_bos).score(ids, window, counts.append)
    assert [text.target_N.tolist() for text in found] == [text.tolist() for text in ids]
    assert sum(counts) == sum(map(len, ids))
    for text in found:
        assert (text.model_log_p_N == 2 * text.log_p_N).all()
        assert (text.memory_log_p_NM == np.outer(text.log_p_N, [3, 4])).all()
        if not add_bos or len(text.target_N) <= 6:  # else the <s> of the window counts as well
            expected = tokens_before(len(text.target_N), 6, window)
            assert (-text.log_p_N).tolist() == [before + add_bos for before in expected]


@pytest.mark.pitfall(32)
def test_pad_in_a_text_is_a_word() -> None:
    found = scorer().score([np.array([5, PAD, 6, EOS]), np.array([7, EOS])])
    assert [text.target_N.tolist() for text in found] == [[5, PAD, 6, EOS], [7, EOS]]


@pytest.mark.parametrize(
    ("text", "expect"),
    [
        ("a b b a b b", "FILE:3: a line must have at most 6 tokens, but has 7"),
        ("a b b", "--max-tokens 3 is below the 4 tokens of FILE:3"),
    ],
)
def test_a_line_that_cannot_be_scored_is_named(text: str, expect: str) -> None:
    with pytest.raises((ConfigError, DataError)) as caught:
        scorer(max_tokens=3, add_bos=True).score_lines([Line("FILE", 3, text)], Dictionary(["a", "b"], [1, 1]))
    assert expect in str(caught.value)


def test_an_added_bos_is_not_counted() -> None:
    """Of a model of 6 positions: three words and their ``</s>`` are 4 tokens."""
    [scored] = scorer(max_tokens=4, add_bos=True).score_lines(
        [Line("FILE", 3, "a b b")], Dictionary(["a", "b"], [1, 1])
    )
    assert scored.target_N.tolist() == [4, 5, 5, EOS]


@pytest.mark.parametrize(
    ("text", "lines"), [("", [""]), ("\n", [""]), ("a\r\nb\rc", ["a", "b", "c"]), ("a\n\n", ["a", ""])]
)
def test_lines_end_as_in_a_file(text: str, lines: list[str]) -> None:
    assert split_lines(text) == lines
