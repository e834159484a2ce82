"""Source, target and context window: golden values of semantics.md sections 1 and 3, and a naive oracle."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq.data.block_dataset import Batch, BlockDataset
from fairseq.data.dictionary import PAD
from fairseq.errors import ConfigError, DataError
from tests.oracles.windows import document_blocks, document_rows, greedy_blocks, isolated_rows, rows

# formats.md section 2: "the cat sat <unk> .", an empty line, "the dog sat on the mat .", "b a b a c"
STREAM = [4, 10, 8, 3, 5, 2, 2, 4, 11, 8, 13, 4, 12, 5, 2, 7, 6, 7, 6, 9, 2]
SIZES = [6, 1, 8, 6]


def golden(mode: str, block_size: int, window: int = 0, **kwargs: bool) -> BlockDataset:
    return BlockDataset(np.array(STREAM, np.uint16), np.array(SIZES, np.int32), mode, block_size, window, **kwargs)


def random_text(sizes: list[int]) -> tuple[list[int], list[int]]:
    """Distinct words, so that a wrong neighbour shows; each sentence ends in 2."""
    tokens = list(range(4, 4 + sum(sizes)))
    for end in np.cumsum(sizes):
        tokens[end - 1] = 2
    return tokens, sizes


texts = st.lists(st.integers(1, 12), min_size=1, max_size=30).map(random_text)


def row(dataset: BlockDataset, idx: int) -> tuple[list[int], list[int]]:
    batch = dataset.collate(np.array([idx]))
    return batch.source_BT[0].tolist(), batch.target_BT[0].tolist()


def test_a_block_inside_a_sentence_starts_from_the_true_previous_token() -> None:
    assert row(golden("none", 5), 1) == ([5, 2, 2, 4, 11], [2, 2, 4, 11, 8])


def test_a_block_that_begins_a_sentence_starts_from_the_end_of_sentence() -> None:
    assert row(golden("complete", 8), 1) == ([2, 4, 11, 8, 13, 4, 12, 5], [4, 11, 8, 13, 4, 12, 5, 2])


def test_a_document_after_a_skipped_line_starts_from_the_end_of_sentence() -> None:
    assert row(golden("complete_doc", 20), 1)[0][:3] == [2, 4, 11]


def test_golden_context_window() -> None:
    batch = golden("none", 4, 6).collate(np.array([0, 1]))
    assert batch.context_B.tolist() == [0, 4]
    assert batch.source_BT[1].tolist() == [2, 4, 10, 8, 3, 5, 2, 2]
    assert batch.target_BT[1].tolist() == [1, 1, 1, 1, 5, 2, 2, 4]


def test_golden_context_is_full_from_the_third_block_on() -> None:
    assert golden("none", 4, 6).context_lengths().tolist() == [0, 4, 6, 6, 6, 6]


def test_rows_are_padded_on_the_right() -> None:
    batch = golden("none", 4).collate(np.array([4, 5]))
    assert batch.source_BT.tolist() == [[7, 6, 7, 6], [9, 1, 1, 1]]
    assert batch.target_BT.tolist() == [[6, 7, 6, 9], [2, 1, 1, 1]]


def test_an_over_long_block_pushes_its_context_off_the_front() -> None:
    dataset = golden("complete", 4, 5)  # blocks of 6, 1, 8 and 6 tokens; rows of at most 9 where that can be
    assert dataset.context_lengths().tolist() == [0, 5, 1, 3]
    assert row(dataset, 2)[0] == [2, 2, 4, 11, 8, 13, 4, 12, 5]


def test_a_block_longer_than_block_and_window_has_no_context() -> None:
    assert golden("complete", 2, 3).context_lengths().tolist()[2] == 0


def test_add_bos_token_is_seen_and_not_predicted() -> None:
    assert row(golden("complete", 8, add_bos=True), 0) == ([0, 2, 4, 10, 8, 3, 5, 2], [1, 4, 10, 8, 3, 5, 2, 2])


def test_blocks_longer_than_the_model_are_left_out_and_counted() -> None:
    kept, num_left_out = golden("complete", 4, 6).without_longer_than(6)
    assert kept.lengths.tolist() == [6, 1, 6]
    assert num_left_out == 8


def test_a_block_that_is_left_out_is_no_context_either() -> None:
    kept, _ = golden("complete", 4, 6).without_longer_than(6)
    assert row(kept, 2) == ([8, 3, 5, 2, 2, 7, 6, 7, 6, 9], [1, 1, 1, 1, 7, 6, 7, 6, 9, 2])


def test_nothing_is_left_out_when_all_fit() -> None:
    dataset = golden("none", 4, 6)
    assert dataset.without_longer_than(4) == (dataset, 0)


def test_no_block_that_fits_is_an_error() -> None:
    with pytest.raises(DataError, match="every block is longer than the model's 3 positions"):
        golden("complete", 8).without_longer_than(3)


def test_a_text_without_blocks_is_an_error() -> None:
    with pytest.raises(DataError, match="has no blocks: 2 tokens in 2 sentences"):
        BlockDataset(np.array([2, 2]), np.array([1, 1]), "complete_doc", 4)


@pytest.mark.parametrize("mode", ["none", "complete", "complete_doc"])
@given(text=texts, block_size=st.integers(1, 16), window=st.integers(0, 20))
def test_rows_equal_a_running_list_of_earlier_tokens(
    mode: str, text: tuple[list[int], list[int]], block_size: int, window: int
) -> None:
    tokens, sizes = text
    cut = {"complete": greedy_blocks, "complete_doc": document_blocks}
    if mode == "none":
        bounds = [(s, min(s + block_size, len(tokens))) for s in range(0, len(tokens), block_size)]
    else:
        bounds = cut[mode](sizes, block_size)
    if not bounds:
        return
    dataset = BlockDataset(np.array(tokens), np.array(sizes), mode, block_size, window)
    assert [row(dataset, idx) for idx in range(len(dataset))] == rows(tokens, sizes, bounds, block_size, window)


@given(text=texts, block_size=st.integers(1, 16), window=st.integers(0, 20), data=st.data())
@pytest.mark.pitfall(11)
def test_a_row_is_a_function_of_its_block_alone(
    text: tuple[list[int], list[int]], block_size: int, window: int, data: st.DataObject
) -> None:
    dataset = BlockDataset(np.array(text[0]), np.array(text[1]), "complete", block_size, window)
    chosen = np.array(data.draw(st.permutations(range(len(dataset)))))[: data.draw(st.integers(1, 6))]
    batch = dataset.collate(chosen)
    for i, idx in enumerate(chosen.tolist()):
        source, target = row(dataset, idx)
        width = len(source)
        assert batch.source_BT[i].tolist() == source + [PAD] * (batch.source_BT.shape[1] - width)
        assert batch.target_BT[i].tolist() == target + [PAD] * (batch.target_BT.shape[1] - width)


@given(text=texts, block_size=st.integers(1, 16), window=st.integers(0, 20))
def test_each_token_is_scored_once(text: tuple[list[int], list[int]], block_size: int, window: int) -> None:
    dataset = BlockDataset(np.array(text[0]), np.array(text[1]), "complete", block_size, window)
    target = dataset.collate(np.arange(len(dataset))).target_BT
    assert target[target != PAD].tolist() == text[0]


def widened(batch: Batch, width: int) -> Batch:
    """Returns the batch with more padding behind every row."""
    more = ((0, 0), (0, width - batch.source_BT.shape[1]))
    source_BT, target_BT = (np.pad(ids, more, constant_values=PAD) for ids in (batch.source_BT, batch.target_BT))
    return replace(batch, source_BT=source_BT, target_BT=target_BT, scored_BT=np.pad(batch.scored_BT, more))


@given(texts, st.integers(1, 40), st.integers(0, 8))
def test_parts_of_a_batch_hold_its_rows_without_needless_padding(
    text: tuple[list[int], list[int]], num_positions: int, window: int
) -> None:
    dataset = BlockDataset(np.array(text[0]), np.array(text[1]), "eos", 12, window)
    batch = widened(dataset.collate(np.arange(len(dataset))[::-1]), 50)
    parts = batch.split(num_positions)
    assert [idx for part in parts for idx in part.block_idx_B.tolist()] == batch.block_idx_B.tolist()
    for name in ("source_BT", "target_BT"):
        rows = [row for part in parts for row in getattr(part, name)]
        for whole, row in zip(getattr(batch, name), rows, strict=True):
            assert row.tolist() == whole[: len(row)].tolist()
            assert (whole[len(row) :] == PAD).all()
    limit = max(num_positions, max(part.source_BT.shape[1] for part in parts))
    for part in parts:
        assert part.source_BT.size <= limit
        assert (part.source_BT[:, -1] != PAD).any()


def test_a_pad_that_stands_in_the_text_is_not_cut_off() -> None:
    dataset = BlockDataset(np.array([4, PAD, 5, 2]), np.array([3, 1]), "eos", 8)
    batch = widened(dataset.collate(np.array([0])), 6)
    (part,) = batch.split(100)
    assert (part.source_BT.tolist(), part.target_BT.tolist()) == ([[2, 4, PAD]], [[4, PAD, 5]])


@pytest.mark.parametrize("add_bos", [False, True])
@pytest.mark.pitfall(32)
def test_the_word_pad_is_scored_and_padding_is_not(add_bos: bool) -> None:
    tokens, sizes = [4, PAD, PAD, 5, PAD, 2, 6, PAD, 2], [6, 3]
    dataset = BlockDataset(np.array(tokens), np.array(sizes), "eos", 8, context_window=2, add_bos=add_bos)
    batch = dataset.collate(np.array([1, 0]))
    front = [0] * add_bos  # <s>, which is not predicted
    # The context of the second sentence is the end of the first one's source: …, 5, <pad>.
    assert batch.scored_BT.tolist() == [
        [*(False for _ in [5, PAD, *front]), True, True, True, False],
        [*(False for _ in front), *[True] * 6],
    ]
    assert batch.target_BT[batch.scored_BT].tolist() == [6, PAD, 2, *tokens[:6]]
    # What stands behind a row is no <pad>.
    assert batch.input_BT.tolist() == [[5, PAD, *front, 2, 6, PAD, 2], [*front, 2, 4, PAD, PAD, 5, PAD]]


@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(any),
    block_size=st.integers(1, 12),
    window=st.integers(0, 14),
)
def test_documents_equal_a_loop_over_each_of_them(sizes: list[int], block_size: int, window: int) -> None:
    tokens = list(range(4, 4 + sum(sizes)))
    dataset = BlockDataset(np.array(tokens), np.array(sizes), "document", block_size, window)
    wanted = document_rows(tokens, sizes, block_size, window)
    assert [row(dataset, idx) for idx in range(len(dataset))] == wanted
    assert dataset.sizes.tolist() == [len(source) for source, _ in wanted]  # padding of a batch is known from these
    assert dataset.has_full_context().all()


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), block_size=st.integers(1, 12))
def test_documents_are_the_rolling_windows_of_lm_evaluation_harness(sizes: list[int], block_size: int) -> None:
    windows = pytest.importorskip("lm_eval.utils").get_rolling_token_windows
    tokens = list(range(4, 4 + sum(sizes)))
    dataset = BlockDataset(np.array(tokens), np.array(sizes), "document", block_size)
    wanted, end = [], 0
    for size in sizes:
        end += size
        for source, scored in windows(tokens[end - size : end], 2, block_size, 1):
            wanted.append((source, [PAD] * (len(source) - len(scored)) + scored))
    assert [row(dataset, idx) for idx in range(len(dataset))] == wanted


def test_documents_of_which_blocks_are_left_out_see_nothing_of_others() -> None:
    dataset = BlockDataset(np.arange(4, 19), np.array([7, 8]), "document", 5, 3)
    kept, num_left_out = dataset.without_longer_than(4)
    assert num_left_out == 10
    assert [row(kept, idx) for idx in range(2)] == [([8, 9], [9, 10]), ([15, 16, 17], [16, 17, 18])]


@given(text=texts, block_size=st.integers(2, 16))
def test_isolated_blocks_equal_slices(text: tuple[list[int], list[int]], block_size: int) -> None:
    wanted = isolated_rows(text[0], block_size)
    if wanted:
        dataset = BlockDataset(np.array(text[0]), np.array(text[1]), "isolated", block_size)
        assert [row(dataset, idx) for idx in range(len(dataset))] == wanted


def test_isolated_blocks_have_no_context_window() -> None:
    with pytest.raises(ConfigError, match="--context-window 2 must be 0 with --sample-break-mode isolated"):
        golden("isolated", 5, 2)


@given(sizes=st.lists(st.integers(1, 12), min_size=1, max_size=12), block_size=st.integers(1, 16))
def test_a_token_of_whole_documents_has_the_same_context_whatever_the_block_size(
    sizes: list[int], block_size: int
) -> None:
    tokens = list(range(4, 4 + sum(sizes)))
    dataset = BlockDataset(np.array(tokens), np.array(sizes), "none", block_size, 9, whole_documents=True)
    source = [2, *tokens[:-1]]
    for idx, (start, end) in enumerate(zip(dataset.starts.tolist(), dataset.ends.tolist(), strict=True)):
        before = int(dataset.context_lengths()[idx])
        assert before == min(start, 9 + block_size - (end - start), 9)
        assert row(dataset, idx)[0] == source[start - before : end]


@pytest.mark.parametrize("mode", ["complete", "eos", "document"])
def test_a_block_of_whole_documents_begins_with_an_end_of_sentence(mode: str) -> None:
    dataset = BlockDataset(np.arange(4, 12), np.array([3, 5]), mode, 5, whole_documents=True)
    assert [row(dataset, idx)[0][0] for idx in range(len(dataset))] == [2, 2]


def test_whole_documents_are_not_looked_for_in_lines() -> None:
    with pytest.raises(ConfigError, match=r"complete_doc finds documents in lines, .*; give document"):
        BlockDataset(np.arange(4, 12), np.array([3, 1, 4]), "complete_doc", 5, whole_documents=True)
