"""A fairseq for language models. Importing it imports neither torch nor faiss."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Says what to use instead of a name of fairseq's; the table lies above, and is loaded by name."""
    return import_module("fairseq.plugins.foreign_names").not_here(__name__, name)
