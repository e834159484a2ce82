"""What a plugin imports and does not use is no error; what it uses later is one line then."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairseq.errors import ConfigError
from fairseq.plugins.user_dir import import_user_dir
from tests.builders.plugins import own_registries, write_plugin
from tests.builders.tiny_lm import Command
from tests.plugins.test_classes import train

UNUSED = """
from typing import Dict, List, Optional

import fairseq.checkpoint_utils
from fairseq import options, utils
from fairseq.distributed import utils as distributed_utils
from fairseq.models import BaseFairseqModel, FairseqLanguageModel, register_model_architecture
from fairseq.models.transformer import DEFAULT_MIN_PARAMS_TO_WRAP, Embedding, TransformerDecoder
from fairseq.models.transformer.transformer_decoder import TransformerDecoderBase
from fairseq.modules import AdaptiveInput, CharacterTokenEmbedder


def build(model: FairseqLanguageModel, other: Optional[BaseFairseqModel], more: List[TransformerDecoder]) -> Dict:
    return {}


def is_ours(model) -> bool:
    return isinstance(model, FairseqLanguageModel)


@register_model_architecture("transformer_lm", "small_one")
def small_one(args):
    args.decoder_layers = getattr(args, "decoder_layers", 1)
"""


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    with own_registries():
        yield


def test_a_plugin_may_import_more_than_it_uses(command: Command, data_dir: Path, tmp_path: Path) -> None:
    plugin = write_plugin(tmp_path, {"__init__.py": UNUSED})
    done = train(command, data_dir, plugin, tmp_path / "out", "--arch", "small_one")
    assert done.code == 0, done.error
    assert (tmp_path / "out" / "checkpoint_last.pt").exists()


def test_a_later_use_is_one_line(tmp_path: Path) -> None:
    import_user_dir(str(write_plugin(tmp_path, {"__init__.py": UNUSED})))
    with pytest.raises(ConfigError, match=r"^fairseq\.models\.FairseqLanguageModel is not here; a model here is an nn"):
        sys.modules["a_plugin"].is_ours(object())


def test_nothing_is_left_of_them(tmp_path: Path) -> None:
    import_user_dir(str(write_plugin(tmp_path, {"__init__.py": UNUSED})))
    with pytest.raises(ModuleNotFoundError):
        import fairseq.models.transformer  # noqa: F401
    with pytest.raises(ImportError, match="FairseqLanguageModel is not here"):
        from fairseq.models import FairseqLanguageModel  # noqa: F401
    with pytest.raises(ImportError):
        from fairseq.modules import Unheard  # noqa: F401
