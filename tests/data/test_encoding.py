"""Bytes to text: the marks of encodings, and where a byte stands that is none."""

import logging
from pathlib import Path

import pytest

from fairseq.data.encoding import decoded, warn_of_mark
from fairseq.errors import DataError


def test_text_is_what_python_decodes() -> None:
    assert decoded("naïve ½ 日本\n".encode(), "file", 1) == "naïve ½ 日本\n"


@pytest.mark.pitfall(32)
def test_a_mark_is_left_out_at_the_start_of_a_file_only() -> None:
    marked = "\ufeffthe \ufeffcat".encode()
    assert decoded(marked, "file", 1) == "the \ufeffcat"
    assert decoded(marked, "file", 1, start=3) == "\ufeffthe \ufeffcat"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.pitfall(32)
def test_the_mark_of_another_encoding_names_it(encoding: str) -> None:
    data = "\ufeffa b\n".encode(encoding) if encoding.endswith("be") else "a b\n".encode(encoding)
    name = encoding.upper()[:6]
    message = f"file:1: the dictionary must be UTF-8, but begins with the byte-order mark of {name}; .* iconv -f {name}"
    with pytest.raises(DataError, match=message):
        decoded(data, "file", 9, what="dictionary")


@pytest.mark.parametrize(
    ("encoding", "known_as"), [("utf-16-le", "UTF-16LE"), ("utf-16-be", "UTF-16BE"), ("utf-32-le", "UTF-16LE")]
)
def test_an_encoding_of_two_bytes_is_known_without_its_mark(encoding: str, known_as: str) -> None:
    """Its bytes are UTF-8 as well, and each word would be an unknown one: the loss looks good."""
    for text in ("a\n", "the cat sat on the mat .\n" * 9):
        data = text.encode(encoding)
        data.decode()  # is UTF-8
        with pytest.raises(DataError, match=f"file:1: .* every second byte is zero, .* iconv -f {known_as} "):
            decoded(data[: data.index(b"\n") + 1], "file", 1)  # as readers of lines cut it


@pytest.mark.parametrize("data", [b"", b"\0", b"\0 5\n", b"a\0a", b"a\0 5\n", b"ab\0\0 5\n", b"\0a\0b c d\n"])
def test_single_zero_bytes_are_characters(data: bytes) -> None:
    assert decoded(data, "file", 1) == data.decode()
    assert decoded(b"a\0b\0", "file", 1, start=64) == "a\0b\0"


def test_what_looks_like_a_mark_further_on_is_a_byte() -> None:
    with pytest.raises(DataError, match=r"file:7: the text must be UTF-8, but holds byte 0xff \(at 100\)"):
        decoded(b"\xff\xfea", "file", 7, start=100)


@pytest.mark.parametrize("name", ["text", "dict.txt"])
def test_a_long_text_whose_first_bytes_are_sound_is_to_be_converted(tmp_path: Path, name: str) -> None:
    """As is one that is Latin-1 from its first word on; a file of another kind is named instead."""
    archive = b"PK\x03\x04\xe9"
    for data, advice in (
        (b"a 1\n" * 2000 + b"caf\xe9 1\n", "iconv"),
        (b"\xe9 1\n", "iconv"),
        (archive, "is a checkpoint"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"must be UTF-8, but holds byte 0xe9 .*{advice}"):
            decoded(data, str(tmp_path / name), 1)


def test_the_line_of_a_byte_is_asked_for() -> None:
    with pytest.raises(DataError, match=r"file:14: the text must be UTF-8, but holds byte 0xe9 \(at 7\)"):
        decoded(b"caf\xe9", "file", lambda position: 2 * position, start=4)


@pytest.mark.parametrize("start", ["\ufeffa", b"\xef\xbb\xbfa"])
def test_a_mark_is_said(start: str | bytes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_mark(start, "FILE")
        warn_of_mark(start[-1:], "OTHER")
    assert [record.getMessage().split(";")[0] for record in caplog.records] == ["FILE begins with a byte-order mark"]


def test_a_byte_far_into_a_text_is_no_sign_of_another_kind_of_file(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"the cat sat\n" * 1000 + b"caf\xe9\n")
    with pytest.raises(DataError, match=r":1001: .* holds byte 0xe9 .*; convert the file"):
        decoded(path.read_bytes(), str(path), 1001)
