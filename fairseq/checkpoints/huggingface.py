"""The directory of a Hugging Face model, as far as it can be read without transformers.

config.json · *.safetensors · tokenizer.json, tokenizer_config.json where the tokenizer lies with the model

A model with ``pytorch_model*.bin`` and no safetensors is read as well: torch reads tensors of it, and no code.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from fairseq.errors import CheckpointError
from fairseq.storage.file_kinds import is_model_directory as is_model_directory
from fairseq.storage.files import file_sha256
from fairseq.storage.weight_files import weight_files

DEFAULT_BLOCK = 1024
_POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "context_length",
)  # names of the same number in config.json


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

    def default_block(self, *, adds_bos: bool | None = None) -> int:
        """Returns the tokens in a row where nobody says how many: 1,024, or as the positions of the model allow.

        Args:
            adds_bos: whether BOS, which takes a position, stands in front of each row; if left out, as the tokenizer
                has it that lies with the model.
        """
        has_bos = self._adds_bos if adds_bos is None else adds_bos
        inner = self.config.get("text_config")
        for config in (self.config, inner if isinstance(inner, dict) else {}):
            for name in _POSITIONS:
                if type(config.get(name)) is int and config[name] > 0:
                    positions = int(config[name])
                    return DEFAULT_BLOCK if positions > DEFAULT_BLOCK else positions - has_bos
        return DEFAULT_BLOCK

    @property
    def _adds_bos(self) -> bool:
        """Whether the tokenizer puts BOS in front of each row."""
        from fairseq.text.model_tokenizer import ModelTokenizer  # with numpy, which --help does without

        return (Path(self.path) / "tokenizer.json").is_file() and ModelTokenizer(self.path, "--path").adds_bos

    @property
    def family(self) -> str:
        """The kind of model: ``llama``."""
        return str(self.config["model_type"])

    @cached_property
    def weight_files(self) -> list[Path]:
        """The files of weights, by name.

        Raises:
            CheckpointError: there are none, or one is missing or torn.
        """
        return weight_files(Path(self.path))

    @cached_property
    def weights_sha256(self) -> str:
        """Hash of the files of weights, by name; raises as ``weight_files`` does."""
        digest = hashlib.sha256()
        for path in self.weight_files:
            digest.update(f"{path.name} {_sha256_of(path)}\n".encode())
        return digest.hexdigest()


def read_model_directory(path: str | Path) -> ModelDirectory:
    """Returns what a model's directory says of itself.

    Raises:
        CheckpointError: ``config.json`` cannot be read, or names no kind of model.
    """
    file = Path(path) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as err:
        raise CheckpointError(f"{file} is not JSON ({err}); give --path the directory of a Hugging Face model") from err
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise CheckpointError(f"{file} names no model_type; give --path the directory of a Hugging Face model")
    return ModelDirectory(str(path), config, {"arch": "huggingface"})


def _sha256_of(path: Path) -> str:
    found = path.stat()
    return _hashed(path.resolve(), found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=256)
def _hashed(path: Path, size: int, time_ns: int) -> str:
    """Returns the SHA-256 of a file; once for each state of it, since files of weights are large."""
    return file_sha256(path)
