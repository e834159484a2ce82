"""A model's tokenizer: ids, tokens' names, where each token begins, and what is refused, by the package itself."""

import json
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq.errors import ConfigError, DataError
from fairseq.text import model_tokenizer
from fairseq.text.model_tokenizer import SHIFT, ModelTokenizer
from fairseq.text.packages import package
from tests.builders.tokenizer_files import KINDS, SAMPLE, write

PARTS = [
    "the ",
    "token",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "é",
    "e\u0301",
    "ﬁ",
    "😀",
    "日本",
    "\u00a0",
    "\u3000",
    "A",
    "▁",
    "٣",
]
TEXTS = st.lists(st.sampled_from([*PARTS, "<s>", "<|endoftext|>", "\x00", "\u2028"]), max_size=30).map("".join)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the directory of a tokenizer of each kind."""
    return write(tmp_path_factory.mktemp("tokenizers") / request.param, _made(request.param))


@cache
def _made(kind: str) -> Any:
    return KINDS[kind]()


def own(directory: Path) -> Any:
    """Returns the package's own tokenizer."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(directory / "tokenizer.json"))


def check_starts(directory: Path, text: str) -> None:
    """Checks the ids of a text and where its tokens begin against the package's characters."""
    ids, starts = ModelTokenizer(directory).encode_with_offsets(text)
    encoding, data = own(directory).encode(text, add_special_tokens=False), text.encode()
    assert ids.tolist() == [idx + SHIFT for idx in encoding.ids]
    assert (np.diff(starts) >= 0).all() and len(starts) == len(ids) + 1
    assert starts[-1] == len(data) and (starts[0] == 0 or not len(ids))
    for number, (first, last) in enumerate(encoding.offsets):
        shares = any(a < last and first < b for n, (a, b) in enumerate(encoding.offsets) if n != number)
        found = data[starts[number] : starts[number + 1]].decode(errors="replace")
        if not shares and number < len(ids) - 1 and first < last:  # what follows the last one is its own
            assert found.strip("\u2028 \t\r\n\u00a0\u3000\x00").endswith(
                text[first:last].strip("\u2028 \t\r\n\u00a0\u3000\x00")
            )


def test_tokens_begin_where_the_package_says(kind: Path) -> None:
    for text in (SAMPLE, "", " ", "a", "😀", "😀😀", SAMPLE * 3, "  ▁the ", "▁ ▁", "a ﬁ  the"):
        check_starts(kind, text)


@settings(max_examples=50)
@given(text=TEXTS)
def test_tokens_begin_where_the_package_says_in_any_text(kind: Path, text: str) -> None:
    check_starts(kind, text)


@pytest.mark.parametrize("name", ["byte_level", "gpt2", "llama", "gemma"])
def test_bytes_of_tokens_are_exact_within_a_character(name: str, tmp_path: Path) -> None:
    """A character of several tokens is cut where they are: each has its own bytes, as decoded alone."""
    directory = write(tmp_path, _made(name))
    text = "a 😀 日本語 x"
    ids, starts = ModelTokenizer(directory).encode_with_offsets(text)
    tokenizer = own(directory)
    assert len(ids) > len(text)
    parts = [text.encode()[a:b] for a, b in pairwise(starts)]
    assert sum(part[-1] >= 0x80 for part in parts if part) > 4
    for idx, part in zip(ids.tolist(), parts, strict=True):
        said = tokenizer.decode([idx - SHIFT], skip_special_tokens=False)
        assert part.decode(errors="replace").strip(" \ufffd") == said.strip(" \ufffd")


def test_text_is_decoded_as_it_was_encoded(kind: Path) -> None:
    tokenizer, text = ModelTokenizer(kind), "the tokens of a text\n  are read"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == own(kind).decode([int(idx) - SHIFT for idx in ids], skip_special_tokens=False)
    assert tokenizer.decode([0, 1, *ids, 2, 3]) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", ["byte_level", "llama", "gemma"])
def test_tokens_one_by_one_are_the_text(name: str, tmp_path: Path) -> None:
    """The pieces of a text, put together; of part of a character its bytes."""
    text = "the  token 日本 x"
    tokenizer = ModelTokenizer(write(tmp_path, _made(name)))
    pieces = [tokenizer.piece(idx) for idx in tokenizer.encode(text)]
    assert "\ufffd" not in "".join(pieces)
    as_bytes = b"".join(
        bytes.fromhex(piece.replace("<0x", "").replace(">", "")) if piece.startswith("<0x") else piece.encode()
        for piece in pieces
    )
    assert as_bytes.decode().strip() == tokenizer.decode(tokenizer.encode(text)).strip()


@pytest.mark.parametrize("name", ["byte_level", "llama", "gemma", "unigram", "word_piece"])
def test_a_text_that_goes_on_keeps_its_space(name: str, tmp_path: Path) -> None:
    tokenizer = ModelTokenizer(write(tmp_path, _made(name)))
    ids = tokenizer.encode("the tokens the rows")
    parts = [(tokenizer.decode(ids[:n]), tokenizer.decode(ids[n:], goes_on=True)) for n in range(1, len(ids))]
    assert {"".join(pair) for pair in parts} == {"the tokens the rows"}
    assert any(first.endswith(" ") or second.startswith(" ") for first, second in parts)
    assert tokenizer.decode([], goes_on=True) == ""


def test_a_file_that_asks_for_truncation_and_padding_is_read_whole(tmp_path: Path) -> None:
    tokenizer = KINDS["byte_level"]()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=900)
    whole = _made("byte_level").encode(SAMPLE, add_special_tokens=False).ids
    assert ModelTokenizer(write(tmp_path, tokenizer)).encode(SAMPLE).tolist() == [idx + SHIFT for idx in whole]


@pytest.mark.parametrize(
    ("files", "bos", "eos"),
    [
        ({"tokenizer_config.json": {"bos_token": "<s>", "eos_token": "</s>"}}, 1, 2),
        ({"tokenizer_config.json": {"bos_token": {"content": "<s>"}, "eos_token": {"content": "</s>"}}}, 1, 2),
        (
            {"tokenizer_config.json": {"bos_token": None, "eos_token": "</s>"}, "config.json": {"bos_token_id": 1}},
            None,
            2,
        ),
        ({"special_tokens_map.json": {"bos_token": "<s>", "eos_token": {"content": "</s>"}}}, 1, 2),
        ({"tokenizer_config.json": {}, "special_tokens_map.json": {"bos_token": "<s>"}}, 1, None),
        ({"config.json": {"bos_token_id": 1, "eos_token_id": [2, 7]}}, 1, 2),
        ({"config.json": {"text_config": {"bos_token_id": 1, "eos_token_id": 2}}}, 1, 2),
        ({"config.json": {"bos_token_id": 99999, "eos_token_id": None}}, None, None),
        ({"tokenizer_config.json": {"bos_token": "no such token"}}, None, None),
        ({}, None, None),
    ],
)
def test_the_tokens_of_beginning_and_end(
    files: dict[str, Any], bos: int | None, eos: int | None, tmp_path: Path
) -> None:
    write(tmp_path, _made("llama"))
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
    tokenizer = ModelTokenizer(tmp_path)
    here = [None if idx is None else idx + SHIFT for idx in (bos, eos)]
    assert [tokenizer.bos_id, tokenizer.eos_id] == here
    assert tokenizer.opening_id == (here[0] if here[0] is not None else here[1])


@pytest.mark.parametrize(
    ("name", "settings", "adds"),
    [
        ("llama", {"bos_token": "<s>"}, True),
        ("llama", {"bos_token": "<s>", "add_bos_token": False}, False),
        ("llama", {"bos_token": None}, False),
        ("gemma", {"bos_token": "<bos>", "add_bos_token": True}, True),
        ("gemma", {"bos_token": "<bos>"}, False),
        ("byte_level", {"bos_token": "<|endoftext|>"}, False),
    ],
)
def test_whether_a_beginning_is_put_in_front(name: str, settings: dict[str, Any], adds: bool, tmp_path: Path) -> None:
    assert ModelTokenizer(write(tmp_path, _made(name), **settings)).adds_bos is adds


def test_rows_of_the_head(tmp_path: Path) -> None:
    write(tmp_path, _made("byte_level"))
    num_tokens = own(tmp_path).get_vocab_size()
    for config, size in (
        (None, num_tokens),
        ({"vocab_size": 512}, 512),
        ({"vocab_size": 9}, num_tokens),
        ({"text_config": {"vocab_size": 512}}, 512),
    ):
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        tokenizer = ModelTokenizer(tmp_path)
        assert (tokenizer.num_tokens, tokenizer.num_rows) == (num_tokens, size)
        symbols = tokenizer.symbols()
        assert len(symbols) == size and symbols[num_tokens:] == [""] * (size - num_tokens)
        assert symbols[:num_tokens] == [own(tmp_path).id_to_token(idx) for idx in range(num_tokens)]


def test_special_tokens_by_id(tmp_path: Path) -> None:
    assert ModelTokenizer(write(tmp_path, _made("llama"))).specials == {4: "<unk>", 5: "<s>", 6: "</s>"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no tokenizer.json; copy it there from where the model came from"),
        ({"tokenizer.model": "x"}, r"make one with transformers: AutoTokenizer.from_pretrained\(.*\).save_pretrained"),
        ({"tokenizer.json": "{}"}, "must be a tokenizer of Hugging Face's, but cannot be read"),
        ({"tokenizer.json": ""}, "must be a tokenizer of Hugging Face's, but cannot be read"),
    ],
)
def test_a_directory_that_is_refused(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        ModelTokenizer(tmp_path)


def test_paths_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--path: .* does not exist; give the directory"):
        ModelTokenizer(tmp_path / "none", "--path")
    directory = write(tmp_path, _made("byte_level"))
    with pytest.raises(DataError, match="is a file; give the directory"):
        ModelTokenizer(directory / "tokenizer.json")
    for content in ("{", "[]"):
        (directory / "tokenizer_config.json").write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=r"tokenizer_config.json must (be JSON|hold a JSON object)"):
            assert ModelTokenizer(directory).bos_id


def test_a_text_without_tokens_of_its_own_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    directory = write(tmp_path, Tokenizer(models.WordLevel({"a": 0}, unk_token="?")))
    with pytest.raises(DataError, match=r"must have tokens for every text, but cannot encode 'b' \(.*\); give another"):
        ModelTokenizer(directory).encode("b")


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write(tmp_path, _made("byte_level"))
    monkeypatch.setattr(model_tokenizer, "package", lambda name, flag: package("no_such_package", flag))
    with pytest.raises(ConfigError, match=r"needs the package tokenizers.*pip install 'fairseq-knnlm\[hf\]'"):
        ModelTokenizer(directory)
