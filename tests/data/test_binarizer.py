"""Counting and binarising: golden bytes, a naive oracle, any chunk size and number of workers, text not in UTF-8."""

import codecs
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fairseq.data import binarizer
from fairseq.data.binarizer import TextSummary, binarize, count_words, split_chunks
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import IndexedDatasetWriter, MMapIndexedDataset
from fairseq.errors import DataError, FairseqError
from fairseq.runtime.parallel import ordered_map
from tests.oracles import binarize as oracle

GOLDEN_TEXT = b"the cat sat <unk> .\n\nthe dog sat on the mat .\n b a b a c\n"
GOLDEN_BIN = bytes.fromhex("04000a0008000300050002000200 04000b0008000d0004000c0005000200 070006000700060009000200")
GOLDEN_IDX = bytes.fromhex(
    "4d4d494449445800000100000000000000080400000000000000060000000100000008000000060000000000000000000000"
    "0c000000000000000e000000000000001e00000000000000"
)
# Line ends of three kinds, separators that are whitespace but no line ends, specials, and characters of 1 to 4 bytes.
PIECES = [
    "a",
    "b",
    "ab",
    "é",
    "語",
    "🂡",
    " ",
    "  ",
    "\t",
    "\n",
    "\n",
    "\r",
    "\r\n",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x85",
    "\xa0",
    "\u2028",
    "\u3000",
    "<unk>",
    "</s>",
    "<s>",
    "<pad>",
    "\x00",
    "\ufeff",
    "madeupword0000",
]
texts = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)


def preprocess(text: bytes, directory: Path, workers: int, chunk_bytes: int) -> tuple[bytes, bytes, bytes, TextSummary]:
    (directory / "text").write_bytes(text)
    counts = count_words(directory / "text", workers, chunk_bytes=chunk_bytes)
    dictionary = Dictionary.from_counts(counts, threshold=2)
    with IndexedDatasetWriter(directory / "out", len(dictionary)) as writer:
        summary = binarize(directory / "text", dictionary, writer, workers, chunk_bytes=chunk_bytes)
    outputs = ((directory / f"out.{suffix}").read_bytes() for suffix in ("bin", "idx"))
    return dictionary.to_bytes(), *outputs, summary


def expected(text: bytes) -> tuple[bytes, bytes, bytes, TextSummary]:
    lines = oracle.dictionary(text, threshold=2)
    tokens, idx, replaced = oracle.binarised(text, lines)
    dictionary = "".join(f"{word} {count}\n" for word, count in lines).encode()
    if dictionary.startswith(codecs.BOM_UTF8):  # a word, which a mark before it keeps: the first one is left out
        dictionary = codecs.BOM_UTF8 + dictionary
    counts = len(oracle.lines_of(text)), len(tokens) // 2, replaced, oracle.special_words(text)
    return dictionary, tokens, idx, TextSummary(*counts)


def test_golden_text_makes_the_golden_files(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(GOLDEN_TEXT)
    dictionary = Dictionary.from_counts(count_words(tmp_path / "text"))
    with IndexedDatasetWriter(tmp_path / "train", len(dictionary)) as writer:
        summary = binarize(tmp_path / "text", dictionary, writer)
    assert summary == TextSummary(num_sentences=4, num_tokens=21, num_replaced=0)
    assert (tmp_path / "train.bin").read_bytes() == GOLDEN_BIN
    assert (tmp_path / "train.idx").read_bytes() == GOLDEN_IDX


def test_the_oracle_makes_the_golden_files() -> None:
    assert oracle.binarised(GOLDEN_TEXT, oracle.dictionary(GOLDEN_TEXT)) == (GOLDEN_BIN, GOLDEN_IDX, 0)


@given(texts, st.integers(1, 40))
def test_any_text_and_chunk_size_gives_the_bytes_of_the_oracle(
    tmp_path_factory: pytest.TempPathFactory, text: str, chunk_bytes: int
) -> None:
    data = text.encode()
    assume(data[1:2] != b"\0" and data[:3:2] != b"\0\0")  # else it may begin as UTF-16 does, and is refused
    assert preprocess(data, tmp_path_factory.mktemp("binarizer"), 1, chunk_bytes) == expected(data)


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.pitfall(18)
def test_any_number_of_workers_gives_the_bytes_of_the_oracle(tmp_path: Path, workers: int) -> None:
    data = "".join(f"{'x' * (i % 7)} wörd{i % 13} c\u2028d\r\n\n" for i in range(200)).encode() + b"no line end"
    assert len(split_chunks_of(data, tmp_path)) > binarizer.CHUNKS_PER_WORKER * workers
    assert preprocess(data, tmp_path, workers, 100) == expected(data)


def split_chunks_of(data: bytes, directory: Path) -> list[binarizer.Chunk]:
    (directory / "text").write_bytes(data)
    return split_chunks(directory / "text", 100)


def test_the_text_of_the_original_gives_its_bytes_again(golden_dir: Path, tmp_path: Path) -> None:
    data_bin = golden_dir / "data-bin"
    dictionary = Dictionary.load(data_bin / "dict.txt")
    data = MMapIndexedDataset(data_bin / "train")
    lines = (" ".join(dictionary[token] for token in data[i][:-1]) for i in range(len(data)))
    (tmp_path / "text").write_text("".join(f" {line} \n" for line in lines), encoding="utf-8")
    again = Dictionary.from_counts(count_words(tmp_path / "text", chunk_bytes=100_000))
    assert again.to_bytes() == dictionary.to_bytes()
    with IndexedDatasetWriter(tmp_path / "train", len(again)) as writer:
        binarize(tmp_path / "text", again, writer, chunk_bytes=100_000)
    for name in ("train.bin", "train.idx"):
        assert (tmp_path / name).read_bytes() == (data_bin / name).read_bytes()


@given(texts, st.integers(1, 40))
def test_chunks_are_whole_lines_or_words_of_long_ones_and_cover_the_file(
    tmp_path_factory: pytest.TempPathFactory, text: str, chunk_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("chunks") / "text"
    data = text.encode()
    path.write_bytes(data)
    chunks = split_chunks(path, chunk_bytes)
    assert b"".join(data[chunk.start : chunk.end] for chunk in chunks) == data
    assert all(data[: chunk.end].endswith(b"\n" if chunk.ends_line else b" ") for chunk in chunks[:-1])
    assert all(chunk.ends_line for chunk in chunks[-1:])
    assert all(chunk.end > chunk.start for chunk in chunks)


def test_a_text_of_one_line_is_cut_where_words_end(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"word " * 1000 + b"longer-than-a-chunk" * 9 + b" end")
    chunks = split_chunks(tmp_path / "text", 64)
    assert max(chunk.end - chunk.start for chunk in chunks[:-1]) <= 64 + 64
    assert [chunk.ends_line for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    dictionary = Dictionary(["word", "end"], [1000, 1])
    with IndexedDatasetWriter(tmp_path / "out", len(dictionary)) as writer:
        summary = binarize(tmp_path / "text", dictionary, writer, chunk_bytes=64)
    assert summary == TextSummary(num_sentences=1, num_tokens=1003, num_replaced=1)
    assert MMapIndexedDataset(tmp_path / "out")[0].tolist() == [4] * 1000 + [3, 5, 2]


def test_a_literal_unk_is_not_counted_as_replaced(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"<unk> a b\n<unk> c\n")
    with IndexedDatasetWriter(tmp_path / "out", 8) as writer:
        summary = binarize(tmp_path / "text", Dictionary(["a"], [1]), writer)
    assert summary == TextSummary(num_sentences=2, num_tokens=7, num_replaced=2)


@pytest.mark.pitfall(32)
def test_words_that_equal_specials_have_the_ids_that_fairseq_gives_them(tmp_path: Path) -> None:
    text = b"the cat <pad> sat\nb </s> c <s> d <unk> the\n\n<pad>\nx madeupword0000 <lua> cat\n"
    (tmp_path / "text").write_bytes(text)
    dictionary = Dictionary.from_counts(count_words(tmp_path / "text"))
    with IndexedDatasetWriter(tmp_path / "out", len(dictionary)) as writer:
        summary = binarize(tmp_path / "text", dictionary, writer)
    # What fairseq-preprocess 0.12 wrote of this text.
    assert dictionary.symbols[4:13] == ["cat", "the", "<lua>", "b", "c", "d", "madeupword0000", "sat", "x"]
    ids = np.fromfile(tmp_path / "out.bin", np.uint16).tolist()
    assert ids == [5, 4, 1, 11, 2, 7, 2, 8, 0, 9, 3, 5, 2, 2, 1, 2, 12, 10, 6, 4, 2]
    assert summary.specials == {"<s>": 1, "<pad>": 2, "</s>": 1}


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1 << 20])
@pytest.mark.pitfall(32)
def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path: Path, chunk_bytes: int) -> None:
    for marked in (
        b"\xef\xbb\xbfthe cat\nthe \xef\xbb\xbfdog\n",
        b"\xef\xbb\xbf",
        b"\xef\xbb\xbf\n",
        b"\xef\xbb\xbf\xef\xbb\xbf",
    ):
        assert preprocess(marked, tmp_path, 1, chunk_bytes) == expected(marked)
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfthe cat\nthe \xef\xbb\xbfdog\n")
    assert count_words(tmp_path / "text", chunk_bytes=chunk_bytes) == {"the": 2, "cat": 1, "\ufeffdog": 1}


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"")
    assert count_words(tmp_path / "text") == Counter()
    with IndexedDatasetWriter(tmp_path / "out", 8) as writer:
        assert binarize(tmp_path / "text", Dictionary(), writer) == TextSummary(0, 0, 0)


@pytest.mark.parametrize(
    ("data", "line"),
    [(b"\xff", 1), (b"a\nb \xff\n", 2), (b"a\r\nb\rc\n\xc3(\n", 4), (b"\n" * 500 + b"\xe8\xaa", 501), (b"a\r\xff", 2)],
)
@pytest.mark.parametrize("chunk_bytes", [1, 7, 1 << 20])
def test_text_that_is_not_utf8_is_named_by_line(tmp_path: Path, data: bytes, line: int, chunk_bytes: int) -> None:
    (tmp_path / "text").write_bytes(data)
    with pytest.raises(DataError, match=f"text:{line}: the text must be UTF-8"):
        count_words(tmp_path / "text", chunk_bytes=chunk_bytes)


def test_a_worker_reports_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"abc\n" * 90 + b"\xff\n" + b"abc\n" * 90)
    with pytest.raises(DataError, match="text:91: the text must be UTF-8, but holds byte 0xff"):
        count_words(tmp_path / "text", 2, chunk_bytes=40)


def test_a_worker_that_is_killed_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FairseqError, match="one was killed, often for want of memory; give fewer --workers"):
        list(ordered_map(die, split_chunks_of(b"abc\n" * 1000, tmp_path), 2))


def die(chunk: binarizer.Chunk) -> None:
    os._exit(9)
