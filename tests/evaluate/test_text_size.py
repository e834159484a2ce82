"""Perplexity by word and bits by byte, against lm-evaluation-harness's own metrics and counts of the text."""

import re
from pathlib import Path

import numpy as np
import pytest

from fairseq.criterions.perplexity import Perplexity
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.data.source_text import SourceText
from fairseq.errors import DataError
from fairseq.evaluate.text_size import TextSize
from tests.builders.tokenized_text import CODE, write_tokenized


def opened(directory: Path, mode: str, block_size: int, window: int = 0) -> tuple[BlockDataset, SourceText]:
    text, source = MMapIndexedDataset(directory / "train"), SourceText.open(directory / "train")
    assert source is not None
    return BlockDataset(text.tokens, text.sizes, mode, block_size, window), source


@pytest.mark.parametrize(("mode", "window"), [("none", 0), ("none", 3), ("document", 2), ("eos", 0)])
def test_whole_documents_have_the_words_and_bytes_of_the_harness(tmp_path: Path, mode: str, window: int) -> None:
    write_tokenized(tmp_path, {"train": CODE})
    dataset, source = opened(tmp_path, mode, 7, window)
    size = TextSize.of(source, dataset, np.array_split(np.arange(len(dataset))[::-1], 3))
    assert size.words == sum(len(re.split(r"\s+", text)) for text in CODE.values())
    assert size.bytes == sum(len(text.encode()) for text in CODE.values())


def test_tokens_that_are_not_scored_take_their_words_and_bytes_with_them(tmp_path: Path) -> None:
    tokens = write_tokenized(tmp_path, {"train": CODE})["train"]
    dataset, source = opened(tmp_path, "isolated", 5)
    size = TextSize.of(source, dataset, [np.arange(1, len(dataset))])  # the first block is another shard's
    scored = [at for at in range(5, len(tokens)) if at % 5]
    assert size.bytes == sum(len(tokens[at].encode()) for at in scored)
    ends = np.cumsum([len(token.encode()) for token in tokens])  # a word counts where the space behind it begins
    words, begin = 0, 0
    for text in CODE.values():
        data = text.encode()
        spaces = [begin + len(text[: found.start()].encode()) for found in re.finditer(r"\s+", text)]
        at_word = [int(np.searchsorted(ends, space, side="right")) for space in spaces]
        first = int(np.searchsorted(ends, begin, side="right"))
        words += sum(at in scored for at in [first, *at_word])
        begin += len(data)
    assert size.words == words
    assert 0 < size.words < sum(len(re.split(r"\s+", text)) for text in CODE.values())


@pytest.mark.parametrize("column", [0, 1])
@pytest.mark.parametrize("value", [0, -1, 10**9, -(2**63)])
def test_damaged_offsets_give_no_figures(tmp_path: Path, column: int, value: int) -> None:
    """Within a document, where the differences of whole blocks may well be sound."""
    write_tokenized(tmp_path, {"train": CODE})
    pairs = np.fromfile(tmp_path / "train.offsets", "<i8").reshape(-1, 2)
    pairs[12, column] = value
    (tmp_path / "train.offsets").write_bytes(pairs.tobytes())
    dataset, source = opened(tmp_path, "isolated", 40)
    with pytest.raises(DataError, match=r"must rise from token to token, .* at token 1[23]: .*; make it again with"):
        TextSize.of(source, dataset, [np.arange(len(dataset))])


def test_words_beyond_the_text_give_no_figures(tmp_path: Path) -> None:
    write_tokenized(tmp_path, {"train": CODE})
    pairs = np.fromfile(tmp_path / "train.offsets", "<i8").reshape(-1, 2)
    pairs[-1, 1] = 10**12
    (tmp_path / "train.offsets").write_bytes(pairs.tobytes())
    dataset, source = opened(tmp_path, "none", 40)
    with pytest.raises(DataError, match=rf"train\.offsets must rise .* at token {len(pairs) - 1}:"):
        TextSize.of(source, dataset, [np.arange(len(dataset))])


def test_figures_are_those_of_the_harness() -> None:
    metrics = pytest.importorskip("lm_eval.api.metrics")
    log_p_N = -np.random.default_rng(3).random(50) * 4
    found, size = Perplexity(), TextSize(31, 212)
    found.add(log_p_N, np.arange(50), num_joined=4)  # what --post-process joins changes neither
    assert size.ppl_word(found) == pytest.approx(metrics.weighted_perplexity([(log_p_N.sum(), 31)]), rel=1e-12)
    assert size.bits_per_byte(found) == pytest.approx(metrics.bits_per_byte([(log_p_N.sum(), 212)]), rel=1e-12)


def test_of_no_words_there_is_no_figure() -> None:
    assert np.isnan([TextSize(0, 0).ppl_word(Perplexity()), TextSize(0, 0).bits_per_byte(Perplexity())]).all()
