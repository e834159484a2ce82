"""Architectures written for fairseq load unchanged: they train from the command line, and are evaluated."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fairseq.checkpoints.format import load_checkpoint
from fairseq.config.flags import resolve
from fairseq.models.transformer_config import TransformerConfig
from tests.builders.peer import last_line_of, peer_python
from tests.builders.plugins import own_registries, write_plugin
from tests.builders.tiny_lm import BATCHING, Command


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    with own_registries():
        yield


@dataclass(frozen=True)
class Style:
    """A plugin, the architecture that is trained, and settings that its checkpoint then has."""

    files: dict[str, str]
    settings: dict[str, Any]
    arch: str = "my_arch"
    flags: str = ""
    warning: str = ""
    at: str = field(default="")


SMALL = """
    args.decoder_embed_dim = getattr(args, "decoder_embed_dim", 16)
    args.decoder_ffn_embed_dim = getattr(args, "decoder_ffn_embed_dim", 24)
    args.decoder_attention_heads = getattr(args, "decoder_attention_heads", 2)
"""
HEAD = """
from fairseq.models import register_model_architecture
from fairseq.models.transformer_lm import base_lm_architecture
"""
BASE = f"""{HEAD}
@register_model_architecture("transformer_lm", "my_arch")
def my_arch(args):
    args.decoder_layers = getattr(args, "decoder_layers", 1)
{SMALL}
    base_lm_architecture(args)
"""
STYLES = {
    "with the base function": Style({"__init__.py": BASE}, {"decoder_layers": 1, "decoder_embed_dim": 16}),
    "typed flags win": Style({"__init__.py": BASE}, {"decoder_layers": 2}, flags="--decoder-layers 2"),
    "without the base function": Style(
        {"__init__.py": BASE.replace("    base_lm_architecture(args)\n", "")},
        {"decoder_layers": 1, "decoder_embed_dim": 16, "dropout": 0.1, "decoder_input_dim": 16},
        warning="--arch my_arch does not set decoder_normalize_before, decoder_input_dim, decoder_output_dim, where"
        " fairseq 0.12 takes False, 512, 512, and here True, decoder_embed_dim, decoder_embed_dim; end it with"
        " base_lm_architecture(args) to have one model in both",
    ),
    "cutoffs as text": Style(
        {
            "__init__.py": BASE.replace(
                "    base_lm",
                "    args.adaptive_softmax_cutoff = getattr(args, 'adaptive_softmax_cutoff', '10,30')\n    base_lm",
            )
        },
        {"adaptive_softmax_cutoff": "10,30"},
        flags="--ddp-backend legacy_ddp --criterion adaptive_loss",
    ),
    "typed cutoffs": Style(
        {
            "__init__.py": BASE.replace(
                "    base_lm",
                "    args.adaptive_softmax_cutoff = getattr(args, 'adaptive_softmax_cutoff', '10,30')\n"
                "    assert args.adaptive_softmax_cutoff == '8,20', args\n    base_lm",
            )
        },
        {"adaptive_softmax_cutoff": "8,20"},
        flags="--ddp-backend legacy_ddp --criterion adaptive_loss --adaptive-softmax-cutoff 8,20",
    ),
    "nothing but None": Style(
        {
            "__init__.py": BASE.replace(
                "    base_lm", "    args.adaptive_softmax_cutoff = args.adaptive_input_cutoff = None\n    base_lm"
            )
        },
        {"adaptive_softmax_cutoff": (), "adaptive_input_cutoff": ()},
    ),
    "several in a file, one calls another": Style(
        {
            "__init__.py": f"""{BASE}
@register_model_architecture("transformer_lm", "my_arch_deep")
def my_arch_deep(args):
    args.decoder_layers = getattr(args, "decoder_layers", 3)
    my_arch(args)
"""
        },
        {"decoder_layers": 3, "decoder_embed_dim": 16},
        arch="my_arch_deep",
    ),
    "over a preset": Style(
        {
            "__init__.py": f"""
from fairseq.models import register_model_architecture
from fairseq.models.transformer_lm import transformer_lm_big, transformer_lm_gpt2_small, transformer_lm_gpt

@register_model_architecture("transformer_lm", "my_arch")
def my_arch(args):
    args.decoder_layers = getattr(args, "decoder_layers", 1)
{SMALL}
    transformer_lm_gpt(args)
    assert args.decoder_output_dim == 16 and args.adaptive_softmax_cutoff is None
"""
        },
        {"activation_fn": "gelu", "attention_dropout": 0.1, "decoder_layers": 1},
    ),
    "sub-modules, imported by their names in a directory": Style(
        {
            "__init__.py": """
import importlib, os
for file in sorted(os.listdir(os.path.dirname(__file__))):
    if file.endswith(".py") and not file.startswith("_"):
        importlib.import_module("a_plugin." + file[: -len(".py")])
""",
            "lm.py": BASE,
        },
        {"decoder_layers": 1},
    ),
    "nested packages, relative imports": Style(
        {
            "__init__.py": "from . import models\nfrom .models import lm\n",
            "models/__init__.py": "from .sizes import LAYERS\n",
            "models/sizes.py": "LAYERS = 2\n",
            "models/lm.py": "from .sizes import LAYERS\n"
            + BASE.replace('"decoder_layers", 1)', '"decoder_layers", LAYERS)'),
        },
        {"decoder_layers": 2},
    ),
    "a single file": Style({"lm.py": BASE}, {"decoder_layers": 1}, at="lm.py"),
    "numbers out of other flags": Style(
        {
            "__init__.py": BASE.replace(
                "    base_lm", "    args.max_target_positions = 2 * args.tokens_per_sample\n    base_lm"
            )
        },
        {"max_target_positions": 32},
    ),
    "a setting that the model has not": Style(
        {"__init__.py": BASE.replace("    base_lm", "    args.my_own = 3\n    args.base_layers = 0\n    base_lm")},
        {"decoder_layers": 1},
        warning="--arch my_arch sets my_own, without effect: the model has no such setting",
    ),
    "a typed flag is replaced": Style(
        {"__init__.py": BASE.replace('getattr(args, "decoder_layers", 1)', "1")},
        {"decoder_layers": 2},
        flags="--decoder-layers 2",
        warning="--arch my_arch sets decoder_layers to 1 whatever is typed; here --decoder-layers 2 is in force",
    ),
    "fairseq 0.9's names": Style(
        {"__init__.py": BASE.replace("    base_lm", "    args.relu_dropout = 0.3\n    base_lm")},
        {"activation_dropout": 0.3},
    ),
    "ours": Style(
        {
            "__init__.py": """
from fairseq.models import register_model_architecture

@register_model_architecture("transformer_lm", "my_arch")
def my_arch():
    return dict(decoder_layers=1, decoder_embed_dim=16, decoder_ffn_embed_dim=24, decoder_attention_heads=2)
"""
        },
        {"decoder_layers": 1, "decoder_embed_dim": 16},
    ),
}


TRAINING = [*BATCHING, *["--optimizer", "adam", "--lr", "0.01", "--max-update", "2", "--cpu", "--no-epoch-checkpoints"]]


def train(command: Command, data_dir: Path, plugin: Path, out: Path, *words: object) -> Any:
    return command("fairseq-train", data_dir, "--user-dir", plugin, "--save-dir", out, *TRAINING, *words)


@pytest.mark.parametrize("name", STYLES)
def test_it_trains_and_is_evaluated(name: str, command: Command, data_dir: Path, tmp_path: Path) -> None:
    style = STYLES[name]
    plugin = write_plugin(tmp_path, {f"a_plugin_{k}" if style.at else k: text for k, text in style.files.items()})
    if style.at:
        plugin = plugin / f"a_plugin_{style.at}"
    outcome = train(command, data_dir, plugin, tmp_path / "out", "--arch", style.arch, *style.flags.split())
    assert outcome.code == 0, outcome.err
    assert [w for w in outcome.warnings if style.arch in w] == ([style.warning] if style.warning else [])
    fields = load_checkpoint(tmp_path / "out" / "checkpoint_last.pt").fields
    assert {name: fields[name] for name in style.settings} == style.settings
    assert fields["decoder_normalize_before"] is True
    words = ["--path", tmp_path / "out" / "checkpoint_last.pt", "--cpu", "--max-tokens", 256]
    assert "Perplexity: " in command("fairseq-eval-lm", data_dir, *words).out  # a plain model: no plugin is needed


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["over a preset", "cutoffs as text", "several in a file, one calls another", "fairseq 0.9's names"]
)
def test_fairseq_makes_the_same_model_of_it(name: str, command: Command, data_dir: Path, tmp_path: Path) -> None:
    """Of the very same plugin: all settings of the model, and the names and shapes of the weights."""
    style, python = STYLES[name], peer_python()
    plugin = write_plugin(tmp_path, style.files)
    flags = ["--arch", style.arch, *style.flags.split()]
    assert train(command, data_dir, plugin, tmp_path / "ours", *flags).code == 0
    words = [str(data_dir), "--task", "language_modeling", "--user-dir", str(plugin), *flags, *TRAINING]
    words += ["--sample-break-mode", "none", "--save-dir", str(tmp_path / "theirs")]
    last_line_of(
        python, "-c", "from fairseq_cli.train import cli_main; cli_main(); print('done')", *words, cwd=tmp_path
    )
    ours, theirs = (load_checkpoint(tmp_path / side / "checkpoint_last.pt") for side in ("ours", "theirs"))
    assert resolve(TransformerConfig, ours.fields) == resolve(TransformerConfig, theirs.fields)
    shapes = [{name: value.shape for name, value in checkpoint.state.items()} for checkpoint in (ours, theirs)]
    assert shapes[0] == shapes[1]


REFUSED = {
    "another computation": (
        BASE.replace("    base_lm", "    args.character_embeddings = True\n    base_lm"),
        "--arch my_arch sets character_embeddings = True, which is not supported here",
    ),
    "two arguments": (
        BASE.replace("my_arch(args)", "my_arch(args, more)"),
        "my_arch takes args, more, but an architecture is a function of nothing, which returns field values",
    ),
    "an existing name": (
        BASE.replace('"my_arch"', '"transformer_lm_big"'),
        "architecture 'transformer_lm_big' is registered twice; give the second one another name"
        " (a_plugin/__init__.py, line 5)",
    ),
    "a model that is not here": (
        BASE.replace('("transformer_lm",', '("transformer",'),
        "but is 'my_arch'",
    ),
    "an attribute that nothing has set": (
        BASE.replace("    base_lm", "    args.decoder_layers = 2 * args.encoder_layers\n    base_lm"),
        "--arch my_arch asks for args.encoder_layers, which nothing has set (a_plugin/__init__.py, line 13)",
    ),
    "a value of another kind": (
        BASE.replace("    base_lm", "    args.decoder_layers = 'many'\n    base_lm"),
        "--decoder-layers must be a whole number, but is 'many'",
    ),
    "a preset that is not here": (
        BASE.replace("import base_lm_architecture", "import transformer_lm_huge, base_lm_architecture"),
        "fairseq.models.transformer_lm.transformer_lm_huge (a_plugin/__init__.py, line 3) is not here",
    ),
}


def test_an_architecture_of_another_model_is_left_out(command: Command, data_dir: Path, tmp_path: Path) -> None:
    """A file of fairseq's may have one for translation beside the one that is wanted."""
    both = BASE + BASE[BASE.index("@register") :].replace("my_arch", "other").replace(
        '"transformer_lm"', '"transformer"'
    )
    plugin = write_plugin(tmp_path, {"__init__.py": both})
    done = train(command, data_dir, plugin, tmp_path / "out", "--arch", "my_arch")
    assert done.code == 0, done.error
    (warning,) = [line for line in done.warnings if "left out" in line]
    assert "architecture 'other' is left out: its model 'transformer' is not here (known: transformer_lm;" in warning


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_said_in_a_line(name: str, command: Command, data_dir: Path, tmp_path: Path) -> None:
    text, message = REFUSED[name]
    plugin = write_plugin(tmp_path, {"__init__.py": text})
    assert message in train(command, data_dir, plugin, tmp_path / "out", "--arch", "my_arch").error
    assert not (tmp_path / "out").exists()


def test_its_names_are_in_the_help(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = write_plugin(tmp_path, {"__init__.py": BASE})
    with pytest.raises(SystemExit):
        command("fairseq-train", "--user-dir", plugin, "--help")
    assert "my_arch" in capsys.readouterr().out
