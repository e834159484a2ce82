"""Subwords of fastBPE and subword-nmt, against examples that were worked out by hand, and a plain loop."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq.errors import DataError
from fairseq.text.config import FastBPEConfig, SubwordNMTConfig
from fairseq.text.pair_codes import PairCodes, fastbpe, subword_nmt
from tests.builders.subword_files import PAIRS, byte_level_files, fastbpe_codes, subword_nmt_codes


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> PairCodes:
    return fastbpe(FastBPEConfig(str(fastbpe_codes(tmp_path_factory.mktemp("codes") / "bpecodes"))))


def naive(word: str) -> str:
    """Returns a word's subwords: each pair in the order of the codes is joined wherever it stands."""
    parts = [*word[:-1], f"{word[-1]}</w>"]
    for pair in PAIRS:
        first, second = pair.split(" ")
        i = 0
        while i + 1 < len(parts):
            if parts[i : i + 2] == [first, second]:
                parts[i : i + 2] = [first + second]
            i += 1
    return "@@ ".join(parts).removesuffix("</w>")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lower low", "low@@ er lo@@ w"),
        ("er her low.", "er h@@ er low@@ ."),
        ("", ""),
        ("é", "é"),
    ],
)
def test_examples_worked_out_by_hand(codes: PairCodes, line: str, expected: str) -> None:
    assert codes.encode(line) == expected
    assert codes.decode(expected) == line


@pytest.mark.parametrize("space", ["\t", "\u00a0", "\u3000", "\r", " \t "])
def test_words_are_what_any_white_space_separates(codes: PairCodes, space: str) -> None:
    assert codes.encode(f"{space}lower{space}low{space}") == "low@@ er lo@@ w"


@given(st.lists(st.text("lower", min_size=1, max_size=9), max_size=5))
def test_pairs_are_joined_in_order_and_come_back(codes: PairCodes, words: list[str]) -> None:
    line = " ".join(words)
    assert codes.encode(line) == " ".join(map(naive, words))
    assert codes.decode(codes.encode(line)) == line


def test_subword_nmt_has_its_version_and_its_separator(tmp_path: Path) -> None:
    path = str(subword_nmt_codes(tmp_path / "codes"))
    assert subword_nmt(SubwordNMTConfig(path)).encode("lower low") == "low@@ er lo@@ w"
    other = subword_nmt(SubwordNMTConfig(path, "##"))
    assert other.encode("lower low") == "low## er lo## w"
    assert other.decode("low## er lo## w") == "lower low"
    assert subword_nmt(SubwordNMTConfig(path, "@@ ")).decode("low@@ er lo@@ w") == "lower low", (
        "as the dictionary has it"
    )
    # Version 0.1, which has no line for it: the end of a word is a symbol of its own, so that low is joined whole.
    (tmp_path / "old").write_text("l o\nlo w\n")
    assert subword_nmt(SubwordNMTConfig(str(tmp_path / "old"))).encode("low lows") == "low low@@ s"


@pytest.mark.parametrize(
    ("content", "expect"),
    [
        ("", r"bpecodes is empty"),
        ("\n", r"bpecodes:1 must be two subwords .* but is ''"),
        ("l o 3\nlo\n", r"bpecodes:2 must be two subwords with a space between them, but is 'lo'"),
        ("l o w e\n", r"bpecodes:1 must be two subwords"),
        ("#version: 0.2\nl o\n", r"begins with #version:.*give --bpe subword_nmt"),
    ],
)
def test_codes_that_are_none(tmp_path: Path, content: str, expect: str) -> None:
    (tmp_path / "bpecodes").write_text(content)
    with pytest.raises(DataError, match=expect):
        fastbpe(FastBPEConfig(str(tmp_path / "bpecodes")))


def test_files_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--bpe-codes: .*gone does not exist; give the path of a file"):
        fastbpe(FastBPEConfig(str(tmp_path / "gone")))
    with pytest.raises(DataError, match="is a directory"):
        fastbpe(FastBPEConfig(str(tmp_path)))
    of_bytes = byte_level_files(tmp_path)[1]
    for read in (lambda: fastbpe(FastBPEConfig(str(of_bytes))), lambda: subword_nmt(SubwordNMTConfig(str(of_bytes)))):
        with pytest.raises(
            DataError, match=r"has pairs of bytes, with Ġ for a space; give --bpe gpt2 or --bpe hf_byte"
        ):
            read()
    (tmp_path / "maltese").write_text("Ġ i\nĠi n</w>\n")
    assert fastbpe(FastBPEConfig(str(tmp_path / "maltese"))).encode("Ġin") == "Ġin"
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"is not what it should be \('utf-8' codec"):
        fastbpe(FastBPEConfig(str(tmp_path / "binary")))
    with pytest.raises(DataError, match=r"has counts, as fastBPE's codes do; give --bpe fastbpe"):
        subword_nmt(SubwordNMTConfig(str(fastbpe_codes(tmp_path / "counted"))))
