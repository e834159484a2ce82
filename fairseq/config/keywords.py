r"""Messages for callers in Python: a flag is named as the keyword that it is there.

    with in_keywords(KNNConfig, dstore_filename="prefix"):
        …          # "--rerank 4 must be at least --k 8"     → "rerank=4 must be at least k=8"
                   # "--dstore-filename names 2"             → "prefix names 2"
                   # "--temperature needs --sampling as well" → "temperature needs sampling=True as well"
        …          # "--model-overrides \"{'dropout': 0}\""     → "from_pretrained(…, dropout=0)"

Only flags of the configs are renamed: others are a command's, and are told as they are typed.
"""

import dataclasses
import re
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fairseq.config.flags import flag_fields
from fairseq.errors import FairseqError

_FLAG = re.compile(r"(?<![\w-])--([a-z][a-z0-9]*(?:[-_][a-z0-9]+)*)(?: ([^\s,;:()]+))?")
_OVERRIDE = re.compile(r"""--model-overrides "\{'(\w+)': ([^\s}]+)\}\"""")
_NUMBER = re.compile(r"-?\d[\d.]*(?:e[-+]?\d+)?")


@contextmanager
def in_keywords(*configs: type, **renamed: str) -> Iterator[None]:
    """Flags in the message of a FairseqError become keywords of Python.

    Args:
        configs: whose fields are the keywords.
        renamed: keywords that go by another name than the field.
    """
    try:
        yield
    except FairseqError as err:
        fields = {name: field for config in configs for name, field in flag_fields(config).items()}
        err.args = (_with_keywords(str(err), fields, renamed),)
        raise


def _with_keywords(message: str, fields: dict[str, dataclasses.Field[Any]], renamed: dict[str, str]) -> str:
    def keyword(found: re.Match[str]) -> str:
        name, word = found[1].replace("-", "_"), found[2]
        if name not in fields and name not in renamed:
            return found[0]
        value = _literal(word, fields[name]) if name in fields else None
        shown = renamed.get(name, name)
        if value is not None:
            return f"{shown}={value}"
        is_set = name in fields and fields[name].type is bool and word != "must"
        return shown + ("=True" if is_set else "") + (f" {word}" if word else "")

    return _FLAG.sub(keyword, _OVERRIDE.sub(r"from_pretrained(…, \1=\2)", message))


def _literal(word: str | None, field: dataclasses.Field[Any]) -> str | None:
    """Returns the word behind a flag as a Python value, None where it is no value of the flag."""
    if word is None:
        return None
    if _NUMBER.fullmatch(word) and {int, float} & {field.type, *typing.get_args(field.type)}:
        return word
    choices = field.metadata["choices"]
    known = choices() if callable(choices) else choices
    return repr(word) if known and word in known else None
