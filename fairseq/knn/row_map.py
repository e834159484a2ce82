"""From rows to tokens of a text."""

from collections.abc import Mapping
from typing import Any


def first_position(written: Mapping[str, Any]) -> int | None:
    """Returns which token of its text row 0 of a source is, so that row r is token ``first_position + r``.

    None where the blocks were not cut from the bare stream, or nothing is known of them.
    """
    window, block_size = written.get("context_window"), written.get("tokens_per_sample")
    if written.get("sample_break_mode") != "none" or not isinstance(window, int) or not isinstance(block_size, int):
        return None
    if block_size < 1 or written.get("add_bos_token"):
        return None
    return -(-window // block_size) * block_size
