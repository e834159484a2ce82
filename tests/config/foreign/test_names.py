"""Every name that fairseq 0.12's ``--arch``, ``--task``, … take is built here, or its error says what it is for.

``peer_names.json`` is the list; ``tests/builders/peer_names_child.py`` asked fairseq for it.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fairseq.config.command_line import parse
from fairseq.config.foreign.names import NOT_BUILT, not_built
from fairseq.config.registry import Registry
from fairseq.criterions import CRITERIONS
from fairseq.errors import ConfigError
from fairseq.models import architecture, architecture_names
from fairseq.optim import LR_SCHEDULERS, OPTIMIZERS
from fairseq.tasks import TASKS
from fairseq.text import BPES, TOKENIZERS
from fairseq.train.config import TrainConfig
from tests.builders.peer import ENVIRONMENT, ROOT, peer_python

PEER_NAMES: dict[str, list[str]] = json.loads(Path(__file__).with_name("peer_names.json").read_text(encoding="utf-8"))
KNOWN: dict[str, Callable[[], tuple[str, ...]]] = {
    "--arch": architecture_names,
    "--task": TASKS.names,
    "--criterion": CRITERIONS.names,
    "--optimizer": OPTIMIZERS.names,
    "--lr-scheduler": LR_SCHEDULERS.names,
}


def refusal(flag: str, name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse("fairseq-train", "", (TrainConfig,), [flag, name]).build(TrainConfig)
    return str(caught.value)


@pytest.mark.parametrize("flag", KNOWN)
def test_every_name_of_fairseqs_is_known_or_said_to_be_absent(flag: str) -> None:
    absent = set(PEER_NAMES[flag]) - set(KNOWN[flag]())
    assert absent
    for name in absent:
        error = refusal(flag, name)
        assert error.startswith(f"{flag} {name} is not here: it is for "), error
        there = KNOWN[flag]()
        more = f" and {len(there) - 8} more, which --help lists" if len(there) > 12 else ""
        assert error.endswith(f"; there are {', '.join(list(there)[: 8 if more else None])}{more}")


@pytest.mark.parametrize(("registry", "absent"), [(TOKENIZERS, {"nltk"}), (BPES, set())])
def test_every_tokenizer_and_kind_of_subwords_is_known_or_absent(registry: Registry, absent: set[str]) -> None:
    assert set(PEER_NAMES[registry.flag]) - set(registry.names()) == absent
    for name in absent:
        with pytest.raises(ConfigError, match=f"^{registry.flag} {name} is not here: it is for "):
            registry.get(name)


def test_each_pattern_is_of_names_that_there_are() -> None:
    """Transformer-XL's are of a plugin that comes with fairseq."""
    for flag, patterns in NOT_BUILT.items():
        for _, purpose in patterns:
            names = [*PEER_NAMES[flag], "transformer_xl", "truncated_bptt_lm"]
            assert any(f" is for {purpose};" in not_built(flag, name, ["x"]) for name in names), (flag, purpose)


@pytest.mark.parametrize(
    "flag, name, words",
    [
        ("--arch", "fconv_lm_dauphin_wikitext103", "convolutional language models"),
        ("--arch", "lightconv_lm", "language models of lightweight convolutions"),
        ("--arch", "lstm_lm", "LSTM language models"),
        ("--arch", "transformer_xl", "Transformer-XL"),
        ("--arch", "transformer_wmt_en_de_big", "translation"),
        ("--arch", "roberta_base", "masked language models"),
        ("--task", "truncated_bptt_lm", "Transformer-XL"),
        ("--task", "masked_lm", "masked language models"),
        ("--task", "translation_from_pretrained_bart", "translation"),
    ],
)
def test_the_error_says_what_it_is_for(flag: str, name: str, words: str) -> None:
    assert f"{flag} {name} is not here: it is for {words}" in refusal(flag, name)


def test_a_slip_is_still_a_slip() -> None:
    assert "did you mean transformer_lm_gpt?" in refusal("--arch", "transformer_lm_gtp")
    assert "did you mean cross_entropy?" in refusal("--criterion", "cross_entrpy")


def test_names_in_checkpoints_and_plugins_have_the_same_message() -> None:
    with pytest.raises(ConfigError, match=r"^--arch lstm_lm is not here: it is for LSTM language models; there are"):
        architecture("lstm_lm")
    with pytest.raises(ConfigError, match=r"^--task masked_lm is not here: it is for masked language models;"):
        TASKS.get("masked_lm")


@pytest.mark.slow
def test_the_list_is_still_fairseqs() -> None:
    child = ROOT / "tests" / "builders" / "peer_names_child.py"
    environment = {**os.environ, **ENVIRONMENT}
    done = subprocess.run(
        [peer_python(), child], capture_output=True, text=True, check=True, env=environment, cwd=ROOT.parent
    )
    assert json.loads(done.stdout) == PEER_NAMES
