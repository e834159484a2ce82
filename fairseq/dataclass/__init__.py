"""Names that the dataclasses of fairseq's plugins come from: ``from fairseq.dataclass import FairseqDataclass``.

Such a dataclass is not frozen, and its fields are ``field(default=…, metadata={"help": "…"})``, of which
``config/fairseq_fields.py`` makes flags.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


@dataclass
class FairseqDataclass:
    """Settings of a plugin's part."""


def ChoiceEnum(choices: Sequence[str]) -> Any:  # noqa: N802 - fairseq's name
    """Returns the type of a field whose value is one of these words."""
    return Enum("Choices", {choice: choice for choice in choices}, type=str)
