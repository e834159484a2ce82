"""The flags of ``fairseq-knnlm convert``, in a module without torch."""

import dataclasses
from dataclasses import dataclass

from fairseq.config.flags import flag


@dataclass(frozen=True)
class ConvertConfig:
    """Weights from one format to another."""

    source: str = flag(dataclasses.MISSING, "checkpoint (.pt), or weights (.safetensors)", positional=True)
    target: str = flag(dataclasses.MISSING, "file to write: .safetensors, or .pt", positional=True)
    overwrite: bool = flag(False, "replace a file that is there")
