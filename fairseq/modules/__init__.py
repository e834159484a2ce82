"""The parts that models are made of."""

from typing import Any

from fairseq.plugins.foreign_names import not_here


def __getattr__(name: str) -> Any:
    """Says what to use instead of a name of fairseq's."""
    return not_here(__name__, name)
