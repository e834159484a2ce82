"""The dictionary of a tokenizer: one symbol for each id, in their order, as it is read again from ``dict.txt``."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq.data.corpus.symbols import dictionary_of, escaped
from fairseq.data.dictionary import SPECIALS, Dictionary
from fairseq.text.model_tokenizer import ModelTokenizer
from tests.builders.tokenizer_files import KINDS, write


@given(tokens=st.lists(st.text(st.sampled_from(" \n\t\r\u00a0\u2028\x85\x1cab\\u020#4<s>/\ufeff0"), max_size=5)))
def test_ids_stay_whatever_the_tokens_are(tokens: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    tokens = [*tokens, "<s>", "</s>", "<pad>", "<unk>", "madeupword0003", "", "", "<s>#4", "last"]
    made = dictionary_of(tokens)
    assert len(made) == len(tokens) + 4 and made.symbols[:4] == list(SPECIALS)
    assert len(set(made.symbols)) == len(made)
    path = tmp_path_factory.mktemp("dict") / "dict.txt"
    made.save(path)
    read = Dictionary.load(path)
    assert read == made and read.counts == made.counts and read.sha256() == made.sha256()
    for token, symbol, count in zip(tokens, read.symbols[4:], read.counts[4:], strict=True):
        assert symbol.partition("#")[0].startswith(escaped(token).partition("#")[0])
        assert count == (1 if token else 0) and len(symbol.split()) == 1


def test_names_that_a_reader_understands() -> None:
    made = dictionary_of(["a", " ", "\n\n", "<s>", "", "a", "<s>#3", "a b"])
    names = ["a", r"\u0020", r"\u000a\u000a", "<s>#3", "madeupword0004", "a#5", "<s>#3#6", r"a\u0020b"]
    assert made.symbols[4:] == names


@pytest.mark.parametrize("kind", KINDS)
def test_every_tokenizer_has_a_dictionary(kind: str, tmp_path: Path) -> None:
    tokenizer = ModelTokenizer(write(tmp_path, KINDS[kind]()))
    made = dictionary_of(tokenizer.symbols())
    made.save(tmp_path / "dict.txt")
    assert Dictionary.load(tmp_path / "dict.txt") == made and len(made) == tokenizer.num_tokens + 4
    ids = tokenizer.encode("the tokens\n\nare read\t<s>")
    assert all(made[idx] for idx in ids)
