"""Words from subwords, on a toy text whose dictionary joins with ``@@``."""

from pathlib import Path

import numpy as np
import pytest

from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.data.source_text import SourceText
from fairseq.evaluate.words import SourceTokens, Word, WordJoiner, WordStats
from fairseq.text.config import SentencePieceConfig
from fairseq.text.sentencepiece import SentencePiece
from tests.builders.subword_files import sentencepiece_model
from tests.builders.tokenized_text import write_tokenized

SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", "un@@", "happ@@", "y", "cat"]
UN, HAPP, Y, CAT, EOS = 4, 5, 6, 7, 2
TEXT = np.array([UN, HAPP, Y, CAT, HAPP, Y, EOS])
SCORES = np.array([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0])
ONE_BLOCK = np.zeros(7, np.int64)
WORDS = [
    Word("unhappy", -6.0, True),
    Word("cat", -4.0, False),
    Word("happy", -11.0, True),
    Word("</s>", -7.0, False),
]


@pytest.mark.parametrize("mark", ["@@ ", "@@"])
def test_words_add_up_their_parts(mark: str) -> None:
    assert list(WordJoiner(SYMBOLS, mark).words(TEXT, SCORES)) == WORDS


def test_parts_of_a_word_are_not_counted() -> None:
    assert WordJoiner(SYMBOLS, "@@ ").num_joined(TEXT, ONE_BLOCK) == 3


def test_without_a_mark_every_token_is_a_word() -> None:
    joiner = WordJoiner(SYMBOLS, None)
    assert [word.text for word in joiner.words(TEXT[:3], SCORES[:3])] == ["un@@", "happ@@", "y"]
    assert joiner.num_joined(TEXT, ONE_BLOCK) == 0


def test_a_word_ends_with_its_block() -> None:
    joiner = WordJoiner(SYMBOLS, "@@ ")
    assert joiner.num_joined(TEXT, np.array([0, 0, 1, 1, 1, 1, 1])) == 2
    assert list(joiner.words(TEXT[:2], SCORES[:2])) == [Word("unhapp@@", -3.0, True)]


@pytest.mark.parametrize("length", [0, 1])
def test_texts_too_short_to_join(length: int) -> None:
    assert WordJoiner(SYMBOLS, "@@ ").num_joined(TEXT[:length], ONE_BLOCK[:length]) == 0


def test_the_sum_of_words_is_the_sum_of_tokens() -> None:
    assert sum(word.log_p for word in WordJoiner(SYMBOLS, "@@").words(TEXT, SCORES)) == SCORES.sum()


def test_stats_are_tab_separated_and_the_most_frequent_word_comes_first() -> None:
    stats = WordStats()
    stats.add(WORDS)
    stats.add([Word("cat", -0.5, False), Word("</s>", -0.25, False)])
    stats.add([Word("cat", -0.125, False)])
    assert list(stats.lines()) == [
        "cat\t3\t-4.6250\tFalse\t-11.2500\t2",
        "</s>\t2\t-7.2500\tFalse\t0.0000\t0",
        "unhappy\t1\t-6.0000\tTrue\t-4.0000\t1",
        "happy\t1\t-11.0000\tTrue\t-7.0000\t1",
    ]


# Where the mark begins a word

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁the", "▁lo", "w", "▁", "er"]
THE, LO, W, BLANK, ER = 4, 5, 6, 7, 8
PIECE_TEXT = np.array([ER, THE, LO, W, ER, EOS, W, BLANK, 3, ER, EOS])
PIECE_SCORES = -np.arange(1.0, 12.0)


def test_words_begin_at_their_mark_and_specials_are_words() -> None:
    """A line's first word needs no mark, for what goes before it is no word; <unk> is part of one."""
    joiner = WordJoiner(PIECES, "sentencepiece")
    assert list(joiner.words(PIECE_TEXT, PIECE_SCORES)) == [
        Word("er", -1.0, False),
        Word("the", -2.0, False),
        Word("lower", -12.0, True),
        Word("</s>", -6.0, False),
        Word("w", -7.0, False),
        Word("<unk>er", -27.0, True),
        Word("</s>", -11.0, False),
    ]
    one_block = np.zeros(len(PIECE_TEXT), np.int64)
    assert joiner.num_joined(PIECE_TEXT, one_block) == len(PIECE_TEXT) - 7
    assert joiner.num_joined(PIECE_TEXT, np.repeat([0, 1], [4, 7])) == len(PIECE_TEXT) - 8, "a block begins a word"


@pytest.mark.parametrize(
    ("post_process", "expect"),
    [("sentencepiece", "begins with ▁"), ("subword_nmt", "ends in @@"), ("##", "ends in ##")],
)
def test_a_mark_that_no_word_has_is_named(post_process: str, expect: str, caplog: pytest.LogCaptureFixture) -> None:
    joiner = WordJoiner(["<s>", "<pad>", "</s>", "<unk>", "cat"], post_process)
    assert [record.getMessage() for record in caplog.records] == [
        f"--post-process has no effect: no word of the dictionary {expect}"
    ]
    assert joiner.num_joined(np.array([4, 4]), np.zeros(2, np.int64)) == 0
    assert list(joiner.words(np.array([4, 3]), np.array([-1.0, -2.0]))) == [
        Word("cat", -1.0, False),
        Word("<unk>", -2.0, False),
    ]


def test_none_joins_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert WordJoiner(SYMBOLS, "none").num_joined(TEXT, ONE_BLOCK) == 0
    assert not caplog.records


def test_words_of_sentencepieces_package_are_those_of_the_raw_text(tmp_path: Path) -> None:
    """Each with its </s>: what white space separates, a tab and one that does not break included."""
    pieces = SentencePiece(SentencePieceConfig(str(sentencepiece_model(tmp_path / "spm"))))
    lines = ["the lower sea", "", "  slower\tstones \u00a0 the", "nest"]
    dictionary = Dictionary()
    for line in map(pieces.encode, lines):
        dictionary.encode_line(line)
    ids = np.concatenate([dictionary.ids_of(pieces.encode(line)) for line in lines])
    joiner = WordJoiner(dictionary.symbols, "sentencepiece")
    words = [word.text for word in joiner.words(ids, np.zeros(len(ids)))]
    assert words == [word for line in lines for word in (*line.split(), "</s>")]
    assert len(ids) - joiner.num_joined(ids, np.zeros(len(ids), np.int64)) == len(words)


def test_tokens_of_a_source_text_are_words_as_they_stand_there(tmp_path: Path) -> None:
    tokens = write_tokenized(tmp_path, {"train": {"a.py": "if x:\n\tpass\n", "b.py": "  y"}})["train"]
    source, offsets = SourceText.open(tmp_path / "train"), MMapIndexedDataset(tmp_path / "train").offsets
    assert source is not None and tokens == ["if", " x:", "\n\tpass", "\n", "  y"]
    words = SourceTokens(source, offsets[:-1])
    assert list(words.words(np.arange(4, 8), SCORES[:4], 0)) == [
        Word("if", -1.0, False),
        Word(" x:", -2.0, False),
        Word("↵⇥pass", -3.0, False),
        Word("↵", -4.0, False),
    ]
    assert list(words.words(np.array([8]), SCORES[:1], 1)) == [Word("  y", -1.0, False)]
    assert words.num_joined(np.arange(5), np.zeros(5, np.int64)) == 0
