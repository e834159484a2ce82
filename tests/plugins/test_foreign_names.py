"""The table of fairseq's names says what is true of ours."""

import importlib
import re
import subprocess
import sys

import pytest


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
    from fairseq.plugins.foreign_names import _INSTEAD, NotHereError

    here = set()
    for name in _INSTEAD:
        module, _, attribute = name.rpartition(".")
        try:
            if attribute[:1].isupper() and hasattr(importlib.import_module(module), attribute):
                here.add(name)
        except (ModuleNotFoundError, NotHereError):
            pass
    assert not here


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("from fairseq import checkpoint_utils", "fairseq.checkpoint_utils is not here; fairseq.hub.from_pretrained("),
        ("from fairseq import options", "fairseq.options is not here; flags are fields of a dataclass"),
        ("import fairseq; fairseq.tokenizer", "fairseq.tokenizer is not here; line.split()"),
        ("from fairseq.tasks import setup_task", "fairseq.tasks.setup_task is not here; fairseq.tasks.make_task"),
        ("from fairseq import utils; utils.move_to_cuda", "fairseq.utils.move_to_cuda is not here; tensor.to(device)"),
        ("from fairseq.data import data_utils", "fairseq.data.data_utils is not here; a split is"),
        ("from fairseq.models import FairseqDecoder", "fairseq.models.FairseqDecoder is not here; subclass"),
        ("from fairseq.modules import LayerNorm", "fairseq.modules.LayerNorm is not here; torch.nn.LayerNorm"),
        ("from fairseq.optim import FairseqOptimizer", "fairseq.optim.FairseqOptimizer is not here; an optimizer is"),
        ("from fairseq.criterions import CRITERION_REGISTRY", "is not here; fairseq.criterions.CRITERIONS"),
        ("from fairseq.data import nix", "cannot import name 'nix' from 'fairseq.data'"),
        ("from fairseq import nix", "cannot import name 'nix' from 'fairseq'"),
    ],
)
def test_a_script_is_told_as_well(statement: str, message: str) -> None:
    with pytest.raises(ImportError, match=re.escape(message)):
        exec(statement, {})


def test_modules_that_are_here_are_imported_as_ever() -> None:
    """In a new process, where none of them has been, and without torch."""
    lines = [
        "import sys, fairseq",
        "assert not hasattr(fairseq, 'nix') and 'torch' not in sys.modules",
        "from fairseq import criterions, data, metrics, models, modules, optim, tasks, utils",
        "print(models.__name__)",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["fairseq.models"]
