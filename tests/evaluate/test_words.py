"""Words from subwords, on a toy text whose dictionary joins with ``@@``."""

import numpy as np
import pytest

from fairseq.evaluate.words import Word, WordJoiner, WordStats

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
