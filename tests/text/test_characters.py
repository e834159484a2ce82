"""Characters and bytes as words. Examples are what fairseq 0.12's encoders gave."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq.text.characters import Bytes, Characters


@pytest.mark.parametrize(
    ("line", "characters", "spelled"),
    [
        ("a b", "a ▁ b", "a ▁ b"),
        ("  a  b ", "▁ ▁ a ▁ ▁ b ▁", "▁ a ▁ b ▁"),
        ("a\tb", "a \t b", "a ▁ b"),
        ("é x", "é ▁ x", "Ã © ▁ x"),
        ("a▁b", "a ▁ b", "a â Ɩ Ɓ b"),
        ("\x00\x7f\xad", "\x00 \x7f \xad", "Ā ſ Â ƭ"),
    ],
)
def test_fairseqs_examples(line: str, characters: str, spelled: str) -> None:
    assert Characters().encode(line) == characters
    assert Bytes().encode(line) == spelled


@given(st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"])))
def test_lines_come_back(line: str) -> None:
    assert Characters().decode(Characters().encode(line)) == line
    one_spaced = " ".join(f"x{line}x".split())  # white space is one space
    assert Bytes().decode(Bytes().encode(one_spaced)) == one_spaced


def test_a_cut_character_is_left_out() -> None:
    assert Bytes().decode("Ô a") == "a"
    assert Bytes().decode("<unk> a b") == "<unk>ab"
