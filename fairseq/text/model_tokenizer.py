"""The tokenizer of a Hugging Face model (``tokenizer.json``), and the ids that its tokens have here.

    id here = id there + 4        0 <s> · 1 <pad> · 2 </s> · 3 <unk> are fairseq's, and no token's

``</s>`` opens a text where no token stands before it: the model reads its own beginning there (``opening_id``).
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fairseq.arrays import Int64s
from fairseq.errors import DataError
from fairseq.text.packages import package

SHIFT = 4


class ModelTokenizer:
    """Whole texts to ids and back, as the model's own tokenizer has them; no token is added.

    Args:
        directory: with ``tokenizer.json``, and ``tokenizer_config.json`` where there is one.

    Raises:
        DataError: there is no such file, or it cannot be read.
        ConfigError: the package ``tokenizers`` is not installed.
    """

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory) / "tokenizer.json"
        if not self.path.is_file():
            raise DataError(f"--tokenizer: {self.path} does not exist; give the directory of a model's tokenizer.json")
        tokenizers = package("tokenizers", "--tokenizer")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(self.path))
        except Exception as err:  # the package raises plain Exceptions
            raise DataError(f"--tokenizer: {self.path} is not a tokenizer ({str(err)[:160]})") from err

    @cached_property
    def sha256(self) -> str:
        """Hash of ``tokenizer.json``."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    @cached_property
    def num_tokens(self) -> int:
        """Tokens, those included that were added: ids there are smaller."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    @cached_property
    def _settings(self) -> dict[str, Any]:
        path = self.path.with_name("tokenizer_config.json")
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

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

    def symbols(self) -> list[str]:
        """Returns the symbol of each token, from the first on."""
        return [self._tokenizer.id_to_token(i) or f"madeup{i}" for i in range(self.num_tokens)]

    def encode(self, text: str) -> Int64s:
        """Returns the ids here of a text's tokens, int64."""
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int64) + SHIFT

    def decode(self, ids: Any) -> str:
        """Returns the text of ids here; fairseq's four specials have none."""
        there = [int(token) - SHIFT for token in ids if token >= SHIFT]
        return str(self._tokenizer.decode(there, skip_special_tokens=False))

    def _named(self, name: str) -> int | None:
        token = self._settings.get(name)
        if isinstance(token, dict):
            token = token.get("content")
        found = self._tokenizer.token_to_id(token) if token else None
        return None if found is None else int(found) + SHIFT
