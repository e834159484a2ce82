"""Golden blocks of semantics.md section 1, for sentences of 6, 1, 8 and 6 tokens, and properties of any text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq.data.blocks import block_bounds
from fairseq.errors import ConfigError
from tests.oracles.windows import document_blocks, greedy_blocks

GOLDEN_SIZES = [6, 1, 8, 6]
sentences = st.lists(st.integers(1, 12), min_size=1, max_size=40)
block_sizes = st.integers(1, 20)


def blocks(sizes: list[int], mode: str, block_size: int) -> list[tuple[int, int]]:
    starts, ends = block_bounds(np.array(sizes, np.int32), mode, block_size)
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def test_none() -> None:
    assert blocks(GOLDEN_SIZES, "none", 5) == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 21)]


def test_complete() -> None:
    assert blocks(GOLDEN_SIZES, "complete", 8) == [(0, 7), (7, 15), (15, 21)]


def test_complete_keeps_an_over_long_sentence_whole() -> None:
    assert blocks(GOLDEN_SIZES, "complete", 4) == [(0, 6), (6, 7), (7, 15), (15, 21)]


def test_complete_doc_skips_the_empty_line() -> None:
    assert blocks(GOLDEN_SIZES, "complete_doc", 8) == [(0, 6), (7, 15), (15, 21)]


def test_complete_doc_joins_sentences_of_one_document() -> None:
    assert blocks(GOLDEN_SIZES, "complete_doc", 20) == [(0, 6), (7, 21)]


def test_eos() -> None:
    assert blocks(GOLDEN_SIZES, "eos", 5) == [(0, 6), (6, 7), (7, 15), (15, 21)]


def test_isolated_reads_the_first_token_of_each_piece_and_does_not_score_it() -> None:
    assert blocks(GOLDEN_SIZES, "isolated", 5) == [(1, 5), (6, 10), (11, 15), (16, 20)]  # of the last piece, nothing
    assert blocks(GOLDEN_SIZES, "isolated", 8) == [(1, 8), (9, 16), (17, 21)]


def test_isolated_pieces_of_one_token_have_nothing_to_score() -> None:
    with pytest.raises(
        ConfigError, match=r"--tokens-per-sample 1 must be at least 2 with --sample-break-mode isolated"
    ):
        blocks(GOLDEN_SIZES, "isolated", 1)


def test_document_cuts_each_sentence_for_itself() -> None:
    assert blocks(GOLDEN_SIZES, "document", 5) == [(0, 5), (5, 6), (6, 7), (7, 12), (12, 15), (15, 20), (20, 21)]
    assert blocks([0, 3, 0], "document", 2) == [(0, 2), (2, 3)]


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--sample-break-mode must be none, .*but is 'paragraph'"):
        blocks(GOLDEN_SIZES, "paragraph", 5)


def test_a_text_of_empty_lines_has_no_documents() -> None:
    assert blocks([1, 1, 1], "complete_doc", 8) == []


@pytest.mark.parametrize("mode", ["none", "complete", "eos", "document"])
@given(sizes=sentences, block_size=block_sizes)
def test_blocks_tile_the_stream(mode: str, sizes: list[int], block_size: int) -> None:
    found = blocks(sizes, mode, block_size)
    assert [found[0][0], *(end for _, end in found)] == [0, *(start for start, _ in found[1:]), sum(sizes)]
    assert all(start < end for start, end in found)


@given(sizes=sentences, block_size=block_sizes)
def test_none_makes_equal_blocks(sizes: list[int], block_size: int) -> None:
    found = blocks(sizes, "none", block_size)
    assert len(found) == -(-sum(sizes) // block_size)
    assert all(end - start == block_size for start, end in found[:-1])


@given(sizes=sentences, block_size=block_sizes)
def test_complete_equals_the_greedy_loop(sizes: list[int], block_size: int) -> None:
    assert blocks(sizes, "complete", block_size) == greedy_blocks(sizes, block_size)


@given(sizes=sentences, block_size=block_sizes)
def test_complete_doc_equals_the_greedy_loop_of_each_document(sizes: list[int], block_size: int) -> None:
    assert blocks(sizes, "complete_doc", block_size) == document_blocks(sizes, block_size)


@pytest.mark.parametrize("mode", ["none", "complete", "complete_doc", "eos"])
@given(sizes=st.lists(st.integers(0, 4), max_size=20), block_size=block_sizes)
def test_sentences_of_no_tokens_change_nothing(mode: str, sizes: list[int], block_size: int) -> None:
    assert blocks(sizes, mode, block_size) == blocks([size for size in sizes if size], mode, block_size)
