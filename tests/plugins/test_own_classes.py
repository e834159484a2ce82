"""Classes of a plugin over ours, with configs and helpers of their own, train, are evaluated and resume."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.plugins import own_registries, write_plugin
from tests.builders.tiny_lm import BATCHING, Command

SHAPE = "decoder_layers=1, decoder_embed_dim=16, decoder_ffn_embed_dim=32, decoder_attention_heads=2"
HEAD = f"""
from dataclasses import dataclass
import torch
from torch import nn
from fairseq.config.flags import flag
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.data.config import LanguageModelingConfig
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer_config import TransformerConfig
from fairseq.models.transformer_lm import TransformerLanguageModel, TransformerLanguageModelConfig
from fairseq.tasks import register_task
from fairseq.tasks.language_modeling import LanguageModelingTask

SHAPE = dict({SHAPE})
"""
PRESET = """
@register_model_architecture("own", "own_arch")
def own_arch():
    return SHAPE
"""
OVER_OURS = {
    "a config that the constructor turns into ours": """
@dataclass(frozen=True)
class C:
    my_width: int = flag(16, "width")

@register_model("own", config=C)
class Own(TransformerLanguageModel):
    def __init__(self, config, vocabulary_size):
        super().__init__(TransformerConfig(**SHAPE, max_target_positions=64), vocabulary_size)
        assert config.my_width == 32

@register_model_architecture("own", "own_arch")
def own_arch():
    return dict(my_width=32)
""",
    "a setting that is None": f"""
@dataclass(frozen=True)
class C(TransformerConfig):
    my_rank: int = flag(None, "rank")
    no_flag: str = "as it was"

@register_model("own", config=C)
class Own(TransformerLanguageModel):
    def forward(self, source_BT, first=0):
        assert self.config.my_rank is None and self.config.no_flag == "as it was"
        return super().forward(source_BT, first)
{PRESET}""",
    "helpers with names that mean something in fairseq": f"""
@register_model("own")
class Own(TransformerLanguageModel):
    def __init__(self, config, vocabulary_size):
        super().__init__(config, vocabulary_size)
        self.build_model()

    def build_model(self):
        self.scale = nn.Parameter(torch.ones(1))

    def output_layer(self, features):
        return self.scale * features

    def log_prob(self, features_NC):
        return super().log_prob(self.output_layer(features_NC))

    def target_log_prob(self, features_NC, target_N):
        return super().target_log_prob((lambda x: self.output_layer(x))(features_NC), target_N)
{PRESET}""",
    "two names with two configs": f"""
@dataclass(frozen=True)
class A(TransformerConfig):
    my_a: int = flag(3, "a")

@dataclass(frozen=True)
class B(TransformerConfig):
    my_b: int = flag(4, "b")

@register_model("another", config=B)
@register_model("own", config=A)
class Own(TransformerLanguageModel):
    def forward(self, source_BT, first=0):
        assert self.config.my_a == 3
        return super().forward(source_BT, first)
{PRESET}""",
    "added flags behind a thawed config, of a class between": f"""
@dataclass
class C(TransformerLanguageModelConfig):
    my_a: int = flag(3, "a")

class Between(TransformerLanguageModel):
    @staticmethod
    def add_args(parser):
        TransformerLanguageModel.add_args(parser)
        parser.add_argument("--my-n", type=int, default=5)

@register_model("own", dataclass=C)
class Own(Between):
    def __init__(self, config, vocabulary_size):
        super().__init__(config, vocabulary_size)
        assert (config.my_a, config.my_n) == (3, 5)
{PRESET}""",
    "a class with a config_class that is none of ours": """
class Base(nn.Module):
    config_class = dict

@dataclass
class Output:
    features_BSC: torch.Tensor
    ffn_input_BSC: torch.Tensor

@register_model("own_arch")
class Own(Base):
    max_positions, longest_row, has_adaptive_softmax, key_dimension = 64, None, False, 8

    def __init__(self, config, vocabulary_size):
        super().__init__()
        assert config is None
        self.build_model(vocabulary_size)

    def build_model(self, size):
        self.words, self.layer, self.scores = nn.Embedding(size, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, size)

    def forward(self, source_BT, first=0):
        found = self.layer(self.words(source_BT))[0][:, first:]
        return Output(found, found)

    def target_log_prob(self, features_NC, target_N):
        return self.scores(features_NC).log_softmax(1).gather(1, target_N[:, None])[:, 0]
""",
    "a task with a helper setup_task": f"""
@dataclass(frozen=True)
class C(LanguageModelingConfig):
    my_word: str = flag(None, "a word")

@register_task("own", config=C)
class Own(LanguageModelingTask):
    def __init__(self, config):
        super().__init__(config)
        self.setup_task()

    def setup_task(self):
        self.is_set_up = True

    def load_dataset(self, *arguments, **more):
        return super().load_split(*arguments, **more)

    def load_split(self, *arguments, **more):
        assert self.is_set_up and self.config.my_word is None
        return self.load_dataset(*arguments, **more)
{PRESET.replace('"own", ', '"transformer_lm", ')}""",
    "criterions that add flags": """
@register_criterion("between")
class Between(CrossEntropyCriterion):
    @staticmethod
    def add_args(parser):
        CrossEntropyCriterion.add_args(parser)
        FairseqCriterion.add_args(parser)
        parser.add_argument("--my-n", type=int, default=5)

    def __init__(self, task, sentence_avg, my_n):
        super().__init__(task, sentence_avg)
        assert my_n == 5

@dataclass
class C:
    my_list: tuple[int, ...] = flag((1, 2), "list")
    sentence_avg: bool = False

@register_criterion("own", dataclass=C)
class Own(Between):
    def __init__(self, task, sentence_avg, my_n, my_list):
        super().__init__(task, sentence_avg, my_n)
        assert my_list == (1, 2)

@register_model_architecture("transformer_lm", "own_arch")
def own_arch():
    return SHAPE
""",
}


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    with own_registries():
        yield


@pytest.mark.parametrize("name", OVER_OURS)
def test_it_trains_resumes_and_is_evaluated(name: str, command: Command, data_dir: Path, tmp_path: Path) -> None:
    plugin = write_plugin(tmp_path, {"__init__.py": HEAD + OVER_OURS[name]})
    more = ["--task", "own"] if '@register_task("own"' in OVER_OURS[name] else []
    criterion = ["--criterion", "own"] if '@register_criterion("own"' in OVER_OURS[name] else []
    flags = [*BATCHING, *more, *criterion, "--arch", "own_arch", "--lr", 0.01, "--cpu", "--no-epoch-checkpoints"]
    for updates in (2, 4):
        words = ["--user-dir", plugin, "--save-dir", tmp_path / "out", "--max-update", updates]
        outcome = command("fairseq-train", data_dir, *words, *flags)
        assert outcome.code == 0, outcome.err
    words = ["--user-dir", plugin, "--path", tmp_path / "out" / "checkpoint_last.pt", "--cpu", *more]
    assert "Perplexity: " in command("fairseq-eval-lm", data_dir, *words).out


OWN_TASK = f"""{HEAD}
from pathlib import Path
import numpy as np
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.dictionary import Dictionary

@dataclass(frozen=True)
class C:
    data: str = flag("", "a text", positional=True)
    tokens_per_sample: int = flag(16, "tokens of a block")
    add_bos_token: bool = flag(False, "put <s> first")

@register_task("own", config=C)
class Own:
    def __init__(self, config):
        self.ids = np.frombuffer(Path(config.data).read_bytes(), np.uint8).astype(np.uint16) % 30 + 4
        self.dictionary = Dictionary.load(Path(config.data).with_name("dict.txt"))

    def load_split(self, split, *, epoch=1, context_window=0):
        return BlockDataset(self.ids, np.array([len(self.ids)], np.int32), "none", 16, context_window)

    def build_model(self, name, config, tokens_per_sample=None):
        return TransformerLanguageModel(TransformerConfig(**SHAPE, max_target_positions=16), len(self.dictionary))
"""


def test_a_task_of_its_own_reads_what_it_likes(command: Command, data_dir: Path, tmp_path: Path) -> None:
    plugin, text = write_plugin(tmp_path, {"__init__.py": OWN_TASK}), tmp_path / "text.txt"
    text.write_text("a text " * 100, encoding="utf-8")
    (tmp_path / "dict.txt").write_bytes((data_dir / "dict.txt").read_bytes())
    words = ["--user-dir", plugin, "--task", "own", "--max-tokens", 128, "--lr", 0.01, "--max-update", 2, "--cpu"]
    outcome = command("fairseq-train", text, *words, "--save-dir", tmp_path / "out", "--no-epoch-checkpoints")
    assert outcome.code == 0, outcome.err
