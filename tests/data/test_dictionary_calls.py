"""Calls of fairseq's dictionary, as scripts have them: ``from fairseq.data import Dictionary``."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq.data import Dictionary, MMapIndexedDataset
from fairseq.errors import ConfigError, DataError
from tests.builders.peer import ROOT, last_line_of, peer_python
from tests.builders.peer_dictionary_child import calls
from tests.builders.tiny_lm import write_split

CHILD = ROOT / "tests" / "builders" / "peer_dictionary_child.py"


@pytest.fixture
def dictionary(tmp_path: Path) -> Dictionary:
    path = tmp_path / "dict.txt"
    path.write_text("the 3\ncat 2\nsaw 1\n", encoding="utf-8")
    return Dictionary.load(str(path))


def test_a_line_is_an_int32_tensor(dictionary: Dictionary) -> None:
    ids = dictionary.encode_line("the dog  saw\n", append_eos=False, add_if_not_exist=False)
    assert ids.dtype == torch.int32
    assert ids.tolist() == [4, 3, 6]
    assert dictionary.encode_line("cat", add_if_not_exist=False).tolist() == [5, 2]
    assert dictionary.encode_line("the cat", add_if_not_exist=False, reverse_order=True).tolist() == [5, 4, 2]
    told: list[tuple[str, int]] = []
    dictionary.encode_line("c,d", lambda line: line.split(","), False, lambda *pair: told.append(pair))
    assert told == [("c", 3), ("d", 3)]
    assert len(dictionary) == 7


def test_words_can_be_added(dictionary: Dictionary, tmp_path: Path) -> None:
    before = dictionary.sha256()
    assert dictionary.encode_line("the dog").tolist() == [4, 7, 2]
    assert (dictionary[7], dictionary.count[4], dictionary.count[7], len(dictionary)) == ("dog", 4, 1, 8)
    assert dictionary.sha256() != before
    assert dictionary.add_symbol("the", n=5, overwrite=True) == dictionary.index("the") == 8
    dictionary.save(tmp_path / "more.txt")
    assert Dictionary.load(tmp_path / "more.txt") == dictionary
    assert Dictionary() != dictionary


@pytest.mark.parametrize(
    "change",
    [
        lambda dictionary: dictionary.add_symbol("dog"),
        lambda dictionary: dictionary.add_symbol("the"),  # its count is a part of the file
        lambda dictionary: dictionary.update(Dictionary(["dog"], [1])),
        lambda dictionary: dictionary.finalize(),
    ],
)
def test_a_models_dictionary_stays_as_it_is(dictionary: Dictionary, change: Callable[[Dictionary], object]) -> None:
    before, other = dictionary.sha256(), Dictionary(dictionary.symbols[4:], dictionary.counts[4:])
    dictionary.freeze()
    with pytest.raises(ConfigError, match=r"^\w+\(.*\) would change a dictionary that a model .*Dictionary\.load\("):
        change(dictionary)
    assert dictionary.encode_line("the dog").tolist() == [4, 3, 2], "as with add_if_not_exist=False"
    assert dictionary == other and dictionary.count == other.count and dictionary.sha256() == before


def test_finalize_sorts_cuts_and_fills() -> None:
    made = Dictionary()
    for word in ["c", "a", "b", "a", "c", "a", "d"]:
        made.add_symbol(word)
    other = Dictionary()
    other.update(made)
    made.finalize(threshold=2, padding_factor=8)
    assert made.symbols[4:] == ["a", "c", "madeupword0000", "madeupword0001"]
    assert made.count[4:] == [3, 2, 0, 0]
    other.finalize(nwords=7, padding_factor=1)
    assert other.symbols[4:] == ["a", "c", "b"]
    assert other.index("d") == other.unk()


def test_strings(dictionary: Dictionary) -> None:
    tokens = torch.tensor([0, 4, 3, 5, 2])
    assert dictionary.string(tokens) == "the <unk> cat"
    assert dictionary.string(torch.stack([tokens, tokens.flip(0)])) == "the <unk> cat\ncat <unk> the"
    assert dictionary.string(tokens, unk_string="?", include_eos=True, separator="_") == "the_?_cat_</s>"
    assert dictionary.string(tokens, escape_unk=True, extra_symbols_to_ignore={4}) == "<<unk>> cat"
    pieces = Dictionary(["lo@@", "w", "\u2581new", "er"], [1] * 4)
    assert pieces.string([4, 5], "@@ ") == "low"
    assert pieces.string([6, 7, 6], "sentencepiece") == "newer new"


def test_files_that_are_open_and_words_that_are_added(dictionary: Dictionary, tmp_path: Path) -> None:
    """Expected values are fairseq 0.12's, with which the slow test compares."""
    found = calls(str(tmp_path / "dict.txt"))
    assert found["specials"] == [0, 1, 2, 3]
    assert found["special_words"] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert found["unk"] == ["<unk>", "<<unk>>"]
    assert found["dummy"] == [6, "torch.int64", 2, True]
    lines = "the 3\ncat 2\ndog 5\n"
    assert found["file"] == [["<s>", "<pad>", "</s>", "<unk>", "the", "cat", "dog", "cat"], [3, 2, 5, 7], lines, True]
    assert found["counted"] == [["<s>", "<pad>", "</s>", "<unk>", "a", "b", "c", "the"], [2, 4, 4, 2]]
    more = tmp_path / "more.txt"
    more.write_text("cat 1\n", encoding="utf-8")
    with pytest.raises(DataError, match=r":1: each symbol must stand once, but 'cat' .* \(in the dictionary\)"):
        dictionary.add_from_file(more)


@pytest.mark.parametrize("given", [{"pad": "[PAD]"}, {"extra_special_symbols": ["<mask>"]}])
def test_other_special_symbols_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"^the special symbols must be <s>, <pad>, </s>, <unk>, but are .*add_symbol$"
    ):
        Dictionary(**given)


def test_the_other_name_of_the_package(tmp_path: Path) -> None:
    write_split(tmp_path / "train", [[4, 5, 2], [2]])
    assert len(MMapIndexedDataset(tmp_path / "train")) == 2
    with pytest.raises(ImportError, match="cannot import name 'NoSuchThing'"):
        from fairseq.data import NoSuchThing  # noqa: F401 # type: ignore[attr-defined]


def test_the_package_stays_light() -> None:
    program = "import sys, fairseq.data; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.slow
def test_every_call_gives_what_fairseqs_gives(dictionary: Dictionary, tmp_path: Path) -> None:
    theirs = json.loads(last_line_of(peer_python(), str(CHILD), str(tmp_path / "dict.txt"), cwd=ROOT.parent))
    ours = json.loads(last_line_of(Path(sys.executable), str(CHILD), str(tmp_path / "dict.txt"), cwd=ROOT))
    assert ours == theirs
