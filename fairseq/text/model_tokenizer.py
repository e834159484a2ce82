"""The tokenizer of a Hugging Face model (``tokenizer.json``), and the ids that its tokens have here.

    id here = id there + 4        0 <s> · 1 <pad> · 2 </s> · 3 <unk> are fairseq's, and no token's

``</s>`` opens a text where no token stands before it: the model reads its own beginning there (``opening_id``).
Special tokens that are written out in a text (``<|endoftext|>``) are read as these, as the tokenizer does.

N tokens.
"""

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.arrays import Int64s
from fairseq.errors import ConfigError, DataError, shown
from fairseq.storage.files import file_sha256
from fairseq.text.packages import package
from fairseq.text.token_bytes import TokenBytes

SHIFT = 4
ANCHOR = "a"  # a word in front of a text that is decoded as the rest of one


class ModelTokenizer:
    """Whole texts to ids and back, as the model's own tokenizer has them; no token is added.

    Args:
        directory: with ``tokenizer.json``, and ``tokenizer_config.json`` where there is one.
        flag: that named the directory, for messages.

    Raises:
        DataError: there is no such file, or it cannot be read.
        ConfigError: the package ``tokenizers`` is not installed.
    """

    def __init__(self, directory: str | Path, flag: str = "--tokenizer") -> None:
        self.directory = Path(directory)
        self.path = self.directory / "tokenizer.json"
        if not self.path.is_file():
            raise DataError(f"{flag}: {_missing(self.directory)}")
        try:
            tokenizers = package("tokenizers", flag)
        except ConfigError as err:
            raise ConfigError(
                f"{flag} needs the package tokenizers, which is not installed; pip install 'fairseq-knnlm[hf]'"
            ) from err
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(self.path))
        except Exception as err:  # the package raises plain Exceptions
            raise DataError(
                f"{flag}: {self.path} must be a tokenizer of Hugging Face's, but cannot be read ({str(err)[:160]});"
                " give the directory of another"
            ) from err
        self._tokenizer.no_truncation()  # files may ask for both, and a text's ids are all of it
        self._tokenizer.no_padding()

    @cached_property
    def sha256(self) -> str:
        """Hash of ``tokenizer.json``."""
        return file_sha256(self.path)

    @cached_property
    def num_tokens(self) -> int:
        """Tokens, those included that were added: ids there are smaller."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    @cached_property
    def num_rows(self) -> int:
        """Words that the model's head has, by ``config.json``; ``num_tokens`` where that is more, or not known."""
        config = self._config
        for part in (config, config.get("text_config")):
            size = part.get("vocab_size") if isinstance(part, dict) else None
            if isinstance(size, int):
                return max(size, self.num_tokens)
        return self.num_tokens

    @cached_property
    def specials(self) -> dict[int, str]:
        """The special tokens, by id here."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {idx + SHIFT: str(token.content) for idx, token in sorted(added.items()) if token.special}

    @property
    def bos_id(self) -> int | None:
        """Id here of the token that begins a text; None where the tokenizer names none."""
        return self._named("bos_token")

    @property
    def eos_id(self) -> int | None:
        """Id here of the token that ends a text, likewise."""
        return self._named("eos_token")

    @property
    def opening_id(self) -> int | None:
        """Id here of what the model reads before a text's first token: its beginning, else its end."""
        return self.bos_id if self.bos_id is not None else self.eos_id

    @cached_property
    def adds_bos(self) -> bool:
        """Whether the tokenizer itself puts its token of the beginning in front of a text."""
        if self.bos_id is None:
            return False
        said = self._settings.get("add_bos_token")
        if isinstance(said, bool):
            return said
        ids = self._tokenizer.encode(ANCHOR, add_special_tokens=True).ids
        return bool(ids) and ids[0] + SHIFT == self.bos_id

    def encode(self, text: str) -> Int64s:
        """Returns the ids here of a text's tokens, int64 ``[N]``."""
        return np.array(self._encode(text).ids, np.int64) + SHIFT

    def encode_with_offsets(self, text: str) -> tuple[Int64s, Int64s]:
        """Returns the ids here of a text's tokens, int64 ``[N]``, and where each begins in its UTF-8, ``[N + 1]``.

        What is between two tokens belongs to the second. The last number is the end of the text, so that tokens
        [a, b) are the bytes from ``starts[a]`` to ``starts[b]``; the first is 0.
        """
        encoding = self._encode(text)
        ids = encoding.ids
        return np.array(ids, np.int64) + SHIFT, self._bytes.starts(ids, lambda: encoding.offsets, text)

    def decode(self, ids: Iterable[Any], *, goes_on: bool = False) -> str:
        """Returns the text of ids here; fairseq's four specials have none.

        Args:
            ids: numbers, an array or a tensor.
            goes_on: something stands before them: a first token's own space is kept.
        """
        there = [int(token) - SHIFT for token in ids if token >= SHIFT]
        text = str(self._tokenizer.decode(there, skip_special_tokens=False))
        if not (goes_on and there):
            return text
        anchor = self._encode(ANCHOR).ids
        before, both = (
            str(self._tokenizer.decode(part, skip_special_tokens=False)) for part in (anchor, anchor + there)
        )
        return both[len(before) :] if both.startswith(before) else text

    def piece(self, idx: int) -> str:
        """Returns the text of the token of an id here, its white space too; part of a character is ``<0xE4>``."""
        data = self._bytes.of(idx - SHIFT)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in data)

    def symbols(self, size: int | None = None) -> list[str]:
        """Returns the token strings of the ids there, as far as the tokenizer or the model has any; "" where none is.

        Args:
            size: how many; ``num_rows`` if left out.
        """
        found = ((self._tokenizer.id_to_token(idx) or "") for idx in range(self.num_rows if size is None else size))
        return list(found)

    def _encode(self, text: str) -> Any:
        try:
            return self._tokenizer.encode(text, add_special_tokens=False)
        except Exception as err:  # for want of a token for what is unknown, for example
            raise DataError(
                f"{self.path} must have tokens for every text, but cannot encode {shown(text[:80])} ({str(err)[:160]});"
                " give another tokenizer, or leave that text out"
            ) from err

    @cached_property
    def _bytes(self) -> TokenBytes:
        return TokenBytes(self._tokenizer)

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return _json(self.directory / "tokenizer_config.json")

    @cached_property
    def _config(self) -> dict[str, Any]:
        return _json(self.directory / "config.json")

    def _named(self, name: str) -> int | None:
        """Returns the id here of the token that the files beside the tokenizer name."""
        for settings in (self._settings, _json(self.directory / "special_tokens_map.json")):
            if name in settings:
                token = settings[name]
                token = token.get("content") if isinstance(token, dict) else token
                found = self._tokenizer.token_to_id(token) if isinstance(token, str) else None
                return None if found is None else int(found) + SHIFT
        for part in (self._config, self._config.get("text_config")):
            idx = part.get(f"{name}_id") if isinstance(part, dict) else None
            idx = idx[0] if isinstance(idx, list) and idx else idx
            if isinstance(idx, int) and 0 <= idx < self.num_tokens:
                return idx + SHIFT
        return None


def _json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file, empty where there is none.

    Raises:
        DataError: it is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as err:
        raise DataError(f"{path} must be JSON, but is not ({err}); restore it") from err
    if not isinstance(found, dict):
        raise DataError(f"{path} must hold a JSON object, but does not; restore it")
    return found


def _missing(directory: Path) -> str:
    """Returns why there is no tokenizer in a directory, and what to do."""
    if not directory.exists():
        return f"{directory} does not exist; give the directory of a model's tokenizer.json"
    if directory.is_file():
        return f"{directory} is a file; give the directory of a model's tokenizer.json"
    if (directory / "tokenizer.model").is_file():
        return (
            f"{directory} has a tokenizer.model, but no tokenizer.json; make one with transformers:"
            f" AutoTokenizer.from_pretrained({str(directory)!r}).save_pretrained(DIR), and give DIR"
        )
    return (
        f"{directory} has no tokenizer.json; copy it there from where the model came from, or give the directory of"
        " another"
    )
