"""The table of fairseq's names says what is true of ours."""

import importlib
import re


def test_every_advice_names_what_is_there() -> None:
    """Of the names of ours that the table gives."""
    from fairseq.plugins.foreign_names import _INSTEAD

    named = {name for advice in _INSTEAD.values() for name in re.findall(r"fairseq(?:\.\w+)+", advice)}
    assert len(named) > 15
    for name in named:
        module, _, attribute = name.rpartition(".")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute), name


def test_no_name_of_the_table_is_here_after_all() -> None:
    from fairseq.plugins.foreign_names import _INSTEAD

    here = set()
    for name in _INSTEAD:
        module, _, attribute = name.rpartition(".")
        try:
            if attribute[:1].isupper() and hasattr(importlib.import_module(module), attribute):
                here.add(name)
        except ModuleNotFoundError:
            pass
    assert not here
