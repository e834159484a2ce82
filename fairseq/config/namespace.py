"""The namespace that fairseq's presets are handed: what was typed of the model, and all of the rest."""

import dataclasses
import typing
from typing import Any

from fairseq.config.flags import Flags, coerce, flag_fields, flag_name


def for_preset(flags: Flags, model: type) -> dict[str, Any]:
    """Returns what a preset's function of fairseq's kind begins with, by name.

    Settings of the config ``model`` that were typed, lists as text; settings of all other configs, typed or not.
    """
    values: dict[str, Any] = {}
    for cls in (model, *flags.known):
        kinds = typing.get_type_hints(cls)
        for name, field in flag_fields(cls).items():
            if name in flags.typed:
                is_list = typing.get_origin(kinds[name]) is tuple
                typed = flags.typed[name]
                values.setdefault(name, typed if is_list else coerce(typed, kinds[name], flag_name(name)))
            elif name not in flag_fields(model) and field.default is not dataclasses.MISSING:
                values.setdefault(name, field.default)
    return values
