"""The directory of a Hugging Face model, as far as it can be read without transformers.

config.json · *.safetensors · tokenizer.json, tokenizer_config.json where the tokenizer lies with the model
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from fairseq.errors import CheckpointError
from fairseq.storage.files import file_sha256

DEFAULT_BLOCK = 1024
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")  # names of the same number in config.json


@dataclass(frozen=True)
class ModelDirectory:
    """A model's directory: what ``--path`` names in the place of a checkpoint.

    Attributes:
        path: of the directory.
        config: what ``config.json`` says.
        fields: settings in fairseq's names.
    """

    path: str
    config: Mapping[str, Any]
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def default_block(self) -> int:
        """Tokens in a row where nobody says how many: 1,024, or as many positions as the model has."""
        inner = self.config.get("text_config")
        for config in (self.config, inner if isinstance(inner, dict) else {}):
            for name in _POSITIONS:
                positions = config.get(name)
                if isinstance(positions, int) and positions > 0:
                    return min(DEFAULT_BLOCK, positions)
        return DEFAULT_BLOCK

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of the files of weights, by name."""
        digest = hashlib.sha256()
        for path in sorted(Path(self.path).glob("*.safetensors")):
            digest.update(f"{path.name} {file_sha256(path)}\n".encode())
        return digest.hexdigest()


def is_model_directory(path: str | Path) -> bool:
    """Returns whether a directory has a ``config.json`` of Hugging Face's kind."""
    return (Path(path) / "config.json").is_file()


def read_model_directory(path: str | Path) -> ModelDirectory:
    """Returns what a model's directory says of itself.

    Raises:
        CheckpointError: ``config.json`` cannot be read, or names no kind of model.
    """
    file = Path(path) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as err:
        raise CheckpointError(f"{file} is not JSON ({err}); give --path the directory of a Hugging Face model") from err
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{file} names no model_type; give --path the directory of a Hugging Face model")
    return ModelDirectory(str(path), config, {"arch": "huggingface"})
