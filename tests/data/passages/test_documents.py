"""Where documents begin, against a loop over the lines of the text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import IndexedDatasetWriter, MMapIndexedDataset
from fairseq.data.passages.documents import find_documents, line_text, title_of
from fairseq.errors import ConfigError
from tests.oracles.life import documents_of_lines

WORDS = ["=", "a", "b", "Title"]


def binarised(directory, lines):
    dictionary = Dictionary(WORDS, [4, 3, 2, 1])
    with IndexedDatasetWriter(directory / "train", len(dictionary)) as writer:
        for line in lines:
            ids = [*(dictionary.index(word) for word in line.split()), dictionary.eos()]
            writer.write(np.array(ids), np.array([len(ids)]))
    return MMapIndexedDataset(directory / "train"), dictionary


line = st.one_of(st.just(""), st.just("= Title ="), st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join))


@given(st.lists(line, min_size=1, max_size=20))
@settings(max_examples=40)
def test_headings_are_those_of_a_loop(tmp_path_factory, lines):
    text, dictionary = binarised(tmp_path_factory.mktemp("text"), lines)
    wanted = documents_of_lines(lines)
    found = find_documents(text, dictionary)
    if wanted:
        assert found.line_D.tolist() == wanted
        bounds = [sum(len(line.split()) + 1 for line in lines[:number]) for number in [*wanted, len(lines)]]
        assert found.start_D.tolist() == bounds[:-1] and found.stop_D.tolist() == bounds[1:]
        owners = [
            max((n for n, start in enumerate(bounds[:-1]) if start <= at), default=None) for at in range(bounds[-1])
        ]
        assert [found.of(at) for at in range(bounds[-1])] == owners
    else:
        assert "heading" not in found.rule


def test_empty_lines_separate_where_there_are_no_headings(tmp_path):
    text, dictionary = binarised(tmp_path, ["", "a b", "b", "", "", "a", "= = a = ="])
    found = find_documents(text, dictionary)
    assert (found.rule, found.line_D.tolist()) == ("empty lines between them", [1, 5])
    assert [title_of(text, dictionary, number) for number in (1, 6)] == ["a b", "= a ="]
    assert line_text(text, dictionary, 0) == ""


def test_a_text_without_either_is_one_document(tmp_path):
    found = find_documents(*binarised(tmp_path, ["a", "b"]))
    assert (found.start_D.tolist(), found.stop_D.tolist()) == ([0], [4])


def test_a_pattern_decides(tmp_path):
    text, dictionary = binarised(tmp_path, ["= Title =", "", "a b", "b", "a"])
    assert find_documents(text, dictionary, "^a").line_D.tolist() == [2, 4]
    with pytest.raises(ConfigError, match="matches no line"):
        find_documents(text, dictionary, "^z")
    with pytest.raises(ConfigError, match="must be a regular expression"):
        find_documents(text, dictionary, "(")
