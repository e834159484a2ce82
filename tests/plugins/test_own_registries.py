"""Tests that load plugins leave nothing to the next ones."""

import subprocess
import sys
from pathlib import Path

from fairseq.plugins.user_dir import import_user_dir
from tests.builders.plugins import own_registries, registries

NAMES = """
from fairseq.criterions import register_criterion
from fairseq.models import register_model, register_model_architecture
from fairseq.optim import register_lr_scheduler, register_optimizer
from fairseq.tasks import register_task
from fairseq.text import register_bpe, register_tokenizer
"""
KINDS = ("criterion", "model", "lr_scheduler", "optimizer", "task", "bpe", "tokenizer")


def test_every_kind_of_name_is_forgotten_and_so_is_the_module(tmp_path: Path) -> None:
    """Whatever the plugin's file is called, and where a registry was first loaded by the plugin itself."""
    functions = [f"@register_{kind}('leftover')\ndef of_{kind}(*args, **kwargs): pass\n" for kind in KINDS]
    architecture = "@register_model_architecture('transformer_lm', 'leftover_arch')\ndef arch(args): pass\n"
    (tmp_path / "some_name.py").write_text("\n".join([NAMES, *functions, architecture]))
    before = {registry.flag: registry.names() for registry in registries()}
    with own_registries():
        import_user_dir(str(tmp_path / "some_name.py"))
        holders = {registry.flag for registry in registries() if "leftover" in registry.names()}
        assert len(holders) == len(KINDS)
    after = {registry.flag: registry.names() for registry in registries()}
    assert before.items() <= after.items()
    assert not [flag for flag, names in after.items() if "leftover" in names]
    assert "some_name" not in sys.modules
    program = (
        "import sys; from pathlib import Path; from tests.plugins.test_own_registries import *;"
        "\nwith own_registries(): import_user_dir(sys.argv[1])"
        "\nassert not [r for r in registries() if 'leftover' in r.names()] and len(registries()) >= 7"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "some_name.py")]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
