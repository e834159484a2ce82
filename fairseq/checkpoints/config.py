"""The flags of ``fairseq-knnlm convert``, in a module without torch."""

import dataclasses
from dataclasses import dataclass

from fairseq.config.flags import flag
from fairseq.config.kinds import File


@dataclass(frozen=True)
class ConvertConfig:
    """Weights to convert."""

    source: File = flag(dataclasses.MISSING, "checkpoint (.pt) or weights (.safetensors)", positional=True)
    target: File = flag(dataclasses.MISSING, "file to write: .safetensors or .pt", positional=True)
    overwrite: bool = flag(False, "replace an existing file")
