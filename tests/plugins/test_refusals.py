"""What a plugin written for fairseq asks for and cannot have: one line says what to change."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.plugins import own_registries, write_plugin
from tests.builders.tiny_lm import Command
from tests.plugins.test_classes import MODEL_HEAD, TASK_HEAD, train


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    with own_registries():
        yield


def imports(statement: str) -> str:
    """Returns an import, and a use of the first name in it."""
    found, *_ = ast.parse(statement).body
    assert isinstance(found, (ast.Import, ast.ImportFrom))
    return f"{statement}; {found.names[0].asname or found.names[0].name}()\n"


def model_with(method: str) -> str:
    return f"{MODEL_HEAD}\n@register_model('my_lm')\nclass MyLM(TransformerLanguageModel):\n    {method}\n"


def optimizer_with(cls: str, kind: str = "optimizer") -> str:
    return f"from fairseq.optim import register_{kind}\n@register_{kind}('mine')\n{cls}"


def task_with(method: str) -> str:
    return f"{TASK_HEAD}\n@register_task('my_task')\nclass MyTask(LanguageModelingTask):\n    {method}\n"


AT = "(a_plugin/__init__.py, line 1) is not here; "
SAID = {
    "FairseqDecoder": (
        imports("from fairseq.models import FairseqIncrementalDecoder"),
        f"Decoder {AT}subclass fairseq",
    ),
    "BaseFairseqModel": (imports("from fairseq.models import BaseFairseqModel"), f"{AT}a model here is an nn.Module"),
    "TransformerDecoder": (
        imports("from fairseq.models.transformer import TransformerDecoder"),
        f"fairseq.models.transformer.TransformerDecoder {AT}subclass fairseq.models.transformer_lm.",
    ),
    "what of several has an advice of its own": (
        imports("from fairseq.models.transformer import TransformerModel, Unheard as D"),
        f"fairseq.models.transformer.TransformerModel {AT}this toolkit is for language models",
    ),
    "lines of names": (
        imports("from fairseq.models.lstm import (\n    LSTMDecoder,\n)"),
        "fairseq.models.lstm.LSTMDecoder (a_plugin/__init__.py, line 3) is not here; recurrent layers are",
    ),
    "a layer": (
        imports("from fairseq.modules import TransformerDecoderLayer"),
        f"fairseq.modules.TransformerDecoderLayer {AT}fairseq.modules.decoder_layer.DecoderLayer",
    ),
    "options": (imports("from fairseq import options"), f"fairseq.options {AT}flags are fields of a dataclass"),
    "a module": (imports("import fairseq.checkpoint_utils"), f"fairseq.checkpoint_utils {AT}fairseq.hub.from_p"),
    "an attribute": (
        "import fairseq; fairseq.distributed_utils.get_rank()\n",
        f"fairseq.distributed_utils {AT}processes",
    ),
    "a dataset": (
        imports("from fairseq.data import MonolingualDataset"),
        f"fairseq.data.MonolingualDataset {AT}a split is a fairseq.data.block_dataset.BlockDataset here",
    ),
    "a base task": (
        imports("from fairseq.tasks import FairseqTask"),
        f"FairseqTask {AT}subclass fairseq.tasks.language_",
    ),
    "an encoder": (
        imports("from fairseq.models import FairseqEncoderDecoderModel"),
        f"{AT}this toolkit is for language models",
    ),
    "what is no name of fairseq's": (
        imports("from fairseq import nothing_like_it"),
        f"{AT}nothing stands in its place",
    ),
    "schedules": (
        imports("from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler"),
        f"{AT}fairseq.optim has register_lr_scheduler, and a schedule is a function (config, optimization)",
    ),
    "a checkpoint's names": (
        imports("from fairseq import checkpoint_utils, utils"),
        f"checkpoint_utils {AT}fairseq.hub",
    ),
    "layers' features": (
        model_with("def extract_features(self, src_tokens, **kwargs): pass"),
        "MyLM defines extract_features, which nothing calls here: what layers give comes from forward(",
    ),
    "fairseq's forward": (
        model_with("def forward(self, src_tokens): pass"),
        "MyLM.forward must take (self, source_BT, first), but takes (self, src_tokens)",
    ),
    "fairseq's forward with lengths": (
        model_with("def forward(self, src_tokens, src_lengths=None, **kw): pass"),
        "MyLM.forward must take (self, source_BT, first), but takes (self, src_tokens, src_lengths=None, **kw);"
        " it gets the ids and the first column",
    ),
    "an optimizer's class": (
        optimizer_with("class Mine:\n    def __init__(self, cfg, params): pass\n"),
        "Mine.__init__ must take (self, parameters, lr, config), but takes (self, cfg, params); docs/plugins.md",
    ),
    "a schedule's class": (
        optimizer_with("class Mine:\n    def __init__(self, cfg, optimizer): pass\n", "lr_scheduler"),
        "Mine.__init__ must take (self, config, optimization), but takes (self, cfg, optimizer); docs/plugins.md",
    ),
    "a task's constructor beside setup_task": (
        task_with(
            "def __init__(self, args, dictionary): pass\n    @classmethod\n"
            "    def setup_task(cls, args, **kw): return super().setup_task(args, **kw)"
        ),
        "MyTask.__init__ must take (self, config), but takes (self, args, dictionary)",
    ),
    "fairseq's constructor": (
        model_with("def __init__(self, decoder): pass"),
        "MyLM.__init__ must take (self, config, vocabulary_size), but takes (self, decoder)",
    ),
    "a positional argument": (
        model_with("add_args = staticmethod(lambda parser: parser.add_argument('data'))"),
        "MyLM.add_args adds data as a positional argument, which is not supported here; make it a field of a dataclass",
    ),
    "load_dataset": (
        task_with("def load_dataset(self, split, **kwargs): pass"),
        "MyTask defines load_dataset, which nothing calls here: a task's data comes from load_split",
    ),
    "a task's constructor": (
        task_with("def __init__(self, args, dictionary): pass"),
        "MyTask.__init__ must take (self, config), but takes (self, args, dictionary)",
    ),
    "features that only a method calls which nothing calls": (
        model_with(
            "def extract_features(self, x): return self.extract_features(x)\n"
            "    def set_num_updates(self, n): super().set_num_updates(n)"
        ),
        "; a helper of your own must have another name",
    ),
    "a config that is no dataclass": (
        f"{MODEL_HEAD}\nclass C: pass\n"
        "@register_model('my_lm', dataclass=C)\nclass MyLM(TransformerLanguageModel): pass\n",
        "C must be a dataclass; write @dataclass above it",
    ),
    "an optimizer": (
        imports("from fairseq.optim import FairseqOptimizer, register_optimizer"),
        f"fairseq.optim.FairseqOptimizer {AT}an optimizer is a function (parameters, lr, config)",
    ),
    "a schedule": (
        imports("from fairseq.optim.lr_scheduler import FairseqLRScheduler, register_lr_scheduler"),
        "a schedule is a function (config, optimization)",
    ),
    "a config that lacks fields": (
        f"{TASK_HEAD}\n@dataclass\nclass C:\n    a: int = 1\n"
        "@register_task('my_task', dataclass=C)\nclass MyTask(LanguageModelingTask): pass\n",
        "C of MyTask must have the settings that the class reads, but lacks add_bos_token, data,",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_what_cannot_be_is_said_in_a_line(name: str, command: Command, data_dir: Path, tmp_path: Path) -> None:
    text, message = SAID[name]
    plugin = write_plugin(tmp_path, {"__init__.py": text})
    error = train(command, data_dir, plugin, tmp_path / "out").error
    assert message in error
    assert error.startswith(f"--user-dir {plugin}: ") and "a_plugin/__init__.py, line " in error


MADE = {
    "a helper of fairseq's": (
        model_with(
            "@classmethod\n    def build_model(cls, args, task):\n        return cls(cls.build_embedding(args))"
        ),
        "--arch",
        "MyLM cannot be made (type object 'MyLM' has no attribute 'build_embedding') (a_plugin/__init__.py, line ",
        "or override __init__(self, config, vocabulary_size), and replace parts of self.decoder",
    ),
    "a decoder": (
        model_with("@classmethod\n    def build_model(cls, args, task):\n        return cls(task)"),
        "--arch",
        "MyLM cannot be made (TransformerLanguageModel.__init__() missing 1 required positional argument",
        "and replace parts of self.decoder (docs/plugins.md has an example)",
    ),
    "a dictionary": (
        task_with(
            "def __init__(self, args, dictionary):\n        super().__init__(args, dictionary)\n    @classmethod\n"
            "    def setup_task(cls, args):\n        return cls(args, None)"
        ),
        "--task",
        "MyTask cannot be made (LanguageModelingTask.__init__() takes 2 positional arguments but 3 were given)",
        "a task is made of its config alone, and reads the dictionary itself",
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_what_is_asked_of_ours_in_vain_is_said_in_a_line(
    name: str, command: Command, data_dir: Path, tmp_path: Path
) -> None:
    text, flag, *messages = MADE[name]
    plugin = write_plugin(tmp_path, {"__init__.py": text})
    error = train(command, data_dir, plugin, tmp_path / "out", flag, "my_lm" if flag == "--arch" else "my_task").error
    assert all(message in error for message in messages), error


def test_other_errors_of_a_class_are_its_own(command: Command, data_dir: Path, tmp_path: Path) -> None:
    own = "@classmethod\n    def build_model(cls, args, task):\n        return len(3)"
    plugin = write_plugin(tmp_path, {"__init__.py": model_with(own)})
    with pytest.raises(TypeError, match="has no len"):
        train(command, data_dir, plugin, tmp_path / "out", "--arch", "my_lm")


def test_errors_of_the_plugins_own_are_shown_as_they_are(data_dir: Path, tmp_path: Path) -> None:
    from fairseq.plugins.user_dir import import_user_dir

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        import_user_dir(str(write_plugin(tmp_path, {"__init__.py": "import math; math.nothing\n"})))
