"""Classes written for fairseq, over ours: each works, or says in a line what to change."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairseq.checkpoints.format import load_checkpoint
from tests.builders.plugins import forget_plugins, own_registries, write_plugin
from tests.builders.tiny_lm import BATCHING, MODEL, Command


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    with own_registries():
        yield


MODEL_HEAD = """
from dataclasses import dataclass, field
from typing import Optional
import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer_lm import (
    DEFAULT_MAX_TARGET_POSITIONS, TransformerLanguageModel, TransformerLanguageModelConfig, base_lm_architecture
)
"""
CONFIG = f"""{MODEL_HEAD}
@dataclass
class MyConfig(TransformerLanguageModelConfig):
    my_scale: float = field(default=2.0, metadata={{"help": "what words are multiplied by"}})
"""
BUILT = """
@register_model("my_lm", dataclass=MyConfig)
class MyLM(TransformerLanguageModel):
    @classmethod
    def build_model(cls, args, task):
        assert len(task.dictionary) == 40 and args.tokens_per_sample == 16
        model = super().build_model(args, task)
        model.decoder.embed_scale = args.my_scale
        return model
"""
ADDED = f"""{MODEL_HEAD}
@register_model("my_lm")
class MyLM(TransformerLanguageModel):
    @staticmethod
    def add_args(parser):
        TransformerLanguageModel.add_args(parser)
        parser.add_argument("--my-scale", type=float, metavar="X", default=2.0, help="what words are multiplied by")
        parser.add_argument("--my-switch", action="store_true")

    @classmethod
    def build_model(cls, args, task):
        assert args.my_switch is False
        model = super().build_model(args, task)
        model.decoder.embed_scale = args.my_scale
        return model

@register_model_architecture("my_lm", "my_lm")
def my_lm(args):
    args.decoder_layers = getattr(args, "decoder_layers", 1)
    base_lm_architecture(args)
"""
CONSTRUCTED = f"""{CONFIG}
@register_model("my_lm", dataclass=MyConfig)
class MyLM(TransformerLanguageModel):
    def __init__(self, config, vocabulary_size):
        super().__init__(config, vocabulary_size)
        self.decoder.embed_scale = config.my_scale
"""
MODELS_THAT_WORK = {
    "add_args that asks for the class by its name": (
        ADDED.replace(
            "        TransformerLanguageModel.add_args(parser)", "        super(MyLM, MyLM).add_args(parser)"
        ),
        "",
    ),
    "dataclass and build_model": (CONFIG + BUILT, ""),
    "add_args and build_model": (ADDED, ""),
    "a constructor of its own": (CONSTRUCTED, ""),
}


def train(command: Command, data_dir: Path, plugin: Path, out: Path, *words: object) -> Any:
    flags = [*BATCHING, *MODEL, "--optimizer", "adam", "--lr", "0.01", "--max-update", 2, "--cpu"]
    return command(
        "fairseq-train", data_dir, "--user-dir", plugin, "--save-dir", out, "--no-epoch-checkpoints", *flags, *words
    )


@pytest.mark.parametrize("name", MODELS_THAT_WORK)
def test_a_model_class_trains_is_evaluated_and_loaded(
    name: str, command: Command, data_dir: Path, tmp_path: Path
) -> None:
    text, flags = MODELS_THAT_WORK[name]
    plugin = write_plugin(tmp_path, {"__init__.py": text})
    checkpoint = tmp_path / "out" / "checkpoint_last.pt"
    outcome = train(command, data_dir, plugin, tmp_path / "out", "--arch", "my_lm", "--my-scale", 3, *flags.split())
    assert outcome.code == 0, outcome.err
    assert not outcome.warnings
    fields = load_checkpoint(checkpoint).fields
    assert fields["arch"] == "my_lm" and fields["my_scale"] == 3
    losses = []
    for scale in (3, 1):
        words = ("--user-dir", plugin, "--path", checkpoint, "--cpu", "--model-overrides", f"{{'my_scale': {scale}}}")
        losses.append(re.findall(r"Loss \(base 2\): [\d.]+", command("fairseq-eval-lm", data_dir, *words).out))
    assert losses[0] != losses[1] and losses[0]

    with own_registries():
        forget_plugins()
        outcome = command("fairseq-eval-lm", data_dir, "--path", checkpoint, "--cpu")
        assert any("trained with --arch 'my_lm', which is not known here" in warning for warning in outcome.warnings)
    import a_plugin

    lm = a_plugin.MyLM.from_pretrained(str(tmp_path / "out"), "checkpoint_last.pt", data_name_or_path=str(data_dir))
    assert type(lm.models[0]) is a_plugin.MyLM and lm.models[0].decoder.embed_scale == 3


def test_flags_of_a_plugins_config_have_a_title(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = write_plugin(tmp_path, {"__init__.py": CONFIG + BUILT})
    with pytest.raises(SystemExit):
        command("fairseq-train", "--user-dir", plugin, "--help")
    assert "\nSettings of MyConfig:\n  --my-scale X " in capsys.readouterr().out


TASK_HEAD = """
from dataclasses import dataclass, field
from fairseq.tasks import register_task
from fairseq.tasks.language_modeling import LanguageModelingTask, LanguageModelingConfig
"""
TASK = f"""{TASK_HEAD}
@dataclass
class MyTaskConfig(LanguageModelingConfig):
    my_word: str = field(default="x", metadata={{"help": "a word"}})

@register_task("my_task", dataclass=MyTaskConfig)
class MyTask(LanguageModelingTask):
    @classmethod
    def setup_task(cls, args, **kwargs):
        assert args.my_word == "y"
        task = super().setup_task(args, **kwargs)
        task.was_set_up = True
        return task

    def load_split(self, split, **more):
        assert self.was_set_up and self.args is self.cfg is self.config
        return super().load_split(split, **more)
"""


PLAIN_TASK = TASK.replace(", dataclass=MyTaskConfig", "").replace('args.my_word == "y"', "True")


@pytest.mark.parametrize("text", [TASK, PLAIN_TASK])
def test_a_task_class_trains(text: str, command: Command, data_dir: Path, tmp_path: Path) -> None:
    plugin = write_plugin(tmp_path, {"__init__.py": text})
    words = ["--my-word", "y"] if "dataclass=" in text else []
    outcome = train(command, data_dir, plugin, tmp_path / "out", "--task", "my_task", *words)
    assert outcome.code == 0, outcome.err
    words += ["--user-dir", plugin, "--task", "my_task", "--path", tmp_path / "out" / "checkpoint_last.pt", "--cpu"]
    assert "Perplexity: " in command("fairseq-eval-lm", data_dir, *words).out


OWN_FILES = f"""{TASK_HEAD}
@dataclass
class MyTaskConfig(LanguageModelingConfig):
    pass

@register_task("my_task", dataclass=MyTaskConfig)
class MyTask(LanguageModelingTask):
    def load_split(self, split, **more):
        return super().load_split("text_" + split, **more)
"""
OWN_CONFIG = """
from dataclasses import dataclass, field
from fairseq.config.flags import flag
from fairseq.tasks import register_task
from fairseq.tasks.language_modeling import LanguageModelingTask
from fairseq.data.config import LanguageModelingConfig

@dataclass(frozen=True)
class MyTaskConfig:
    data: str = flag("data-bin", "text", positional=True)
    block: int = flag(16, "tokens in a block")

@register_task("my_task", config=MyTaskConfig)
class MyTask:
    def __init__(self, config):
        self.inner = LanguageModelingTask(LanguageModelingConfig(config.data, tokens_per_sample=config.block))
        self.dictionary, self.build_model = self.inner.dictionary, self.inner.build_model

    def load_split(self, split, **more):
        return self.inner.load_split("text_" + split, **more)
"""


@pytest.mark.parametrize("text", [OWN_FILES, OWN_CONFIG], ids=["over ours", "of its own"])
def test_a_task_may_have_files_of_its_own(text: str, command: Command, data_dir: Path, tmp_path: Path) -> None:
    """None of the splits that ``--valid-subset`` and the rest name is there."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "dict.txt").write_bytes((data_dir / "dict.txt").read_bytes())
    for path in data_dir.glob("*.[bi][id][nx]"):
        (data / f"text_{path.name}").write_bytes(path.read_bytes())
    plugin = write_plugin(tmp_path, {"__init__.py": text})
    outcome = train(command, data, plugin, tmp_path / "out", "--task", "my_task")
    assert outcome.code == 0, outcome.err


def test_the_splits_of_a_task_over_ours_are_looked_for_at_once(
    command: Command, data_dir: Path, tmp_path: Path
) -> None:
    plugin = write_plugin(tmp_path, {"__init__.py": OWN_FILES.partition("    def load_split")[0] + "    pass\n"})
    outcome = train(command, data_dir, plugin, tmp_path / "out", "--task", "my_task", "--valid-subset", "vaild")
    assert "did you mean valid?" in outcome.error
    assert not any("parameters" in line for line in outcome.log), "no model was made"
    assert train(command, data_dir, plugin, tmp_path / "out", "--task", "my_task").code == 0
    words = ["--user-dir", plugin, "--task", "my_task", "--path", tmp_path / "out" / "checkpoint_last.pt", "--cpu"]
    assert "did you mean test?" in command("fairseq-eval-lm", data_dir, *words, "--gen-subset", "tset").error


WITHOUT_CONFIG = """
from fairseq.models import register_model
from fairseq.models.transformer_config import TransformerConfig
from fairseq.models.transformer_lm import TransformerLanguageModel

@register_model("my_lm")
def my_lm(config, vocabulary_size):
    assert config is None
    return TransformerLanguageModel(TransformerConfig(1, 16, decoder_attention_heads=2), vocabulary_size)
"""


def test_a_model_without_settings(command: Command, data_dir: Path, tmp_path: Path) -> None:
    plugin = write_plugin(tmp_path, {"__init__.py": WITHOUT_CONFIG})
    flags = [*BATCHING, "--lr", 0.01, "--max-update", 2, "--cpu", "--no-epoch-checkpoints", "--arch", "my_lm"]
    assert command("fairseq-train", data_dir, "--user-dir", plugin, "--save-dir", tmp_path / "out", *flags).code == 0
    words = ["--user-dir", plugin, "--path", tmp_path / "out" / "checkpoint_last.pt", "--cpu"]
    assert "Perplexity: " in command("fairseq-eval-lm", data_dir, *words).out
