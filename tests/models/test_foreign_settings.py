"""Settings that other programs write: refused where they change the arithmetic, named where nobody knows them."""

import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq.models.foreign_settings import HARMLESS, REFUSED, refuse_other_computations, warn_of_unknown
from tests.builders.refusals import refusal
from tests.builders.small_model import SMALL, perturbed_model
from tests.builders.tiny_lm import Command

ON = {
    "base_layers": 1,
    "character_embeddings": True,
    "decoder_layers_to_keep": "0,2",
    "decoder_xformers_att_config": "{}",
    "past_target": True,
    "quant_noise_pq": 0.1,
    "quant_noise_scalar": 0.5,
    "self_target": True,
    "output_dictionary_size": 20,
}


def write(path: Path, container: str, **settings: Any) -> Path:
    """Writes a model of 40 ids as fairseq 0.9 (``args``) or 0.12 (``cfg``) would, without what has no effect."""
    fields = {**SMALL.__dict__, "tokens_per_sample": 16, **settings}
    fields = {k: ",".join(map(str, v)) or None if isinstance(v, tuple) else v for k, v in fields.items()}
    record: dict[str, Any] = {"model": perturbed_model(SMALL).state_dict(), "args": None}
    if container == "args":
        record["args"] = Namespace(arch="transformer_lm", task="language_modeling", **fields)
    else:
        record["cfg"] = {
            "model": {"_name": "transformer_lm", **fields},
            "task": {"_name": "language_modeling"},
            "common": {"seed": 1, "fp16": False},
        }
    torch.save(record, path)
    return path


def test_the_list_above_is_what_is_refused() -> None:
    assert set(ON) == REFUSED | {"output_dictionary_size"}
    assert not REFUSED & HARMLESS


@pytest.mark.parametrize("container", ["args", "cfg"])
@pytest.mark.parametrize("name", ON)
def test_a_setting_that_changes_the_arithmetic_is_refused_by_name(
    name: str, container: str, tmp_path: Path, data_dir: Path, command: Command
) -> None:
    path = write(tmp_path / "c.pt", container, **{name: ON[name]})
    message = command("fairseq-eval-lm", data_dir, "--path", path, "--max-tokens", 128, "--cpu").error
    assert f"the model was trained with {name} = " in message and "not supported here" in message


def test_an_override_cannot_bring_one_in(tmp_path: Path, data_dir: Path, command: Command) -> None:
    path = write(tmp_path / "c.pt", "cfg", decoder_layers_to_keep=None)
    words = ("--max-tokens", 128, "--cpu", "--model-overrides", "{'decoder_layers_to_keep': '0'}")
    assert "decoder_layers_to_keep = '0'" in command("fairseq-eval-lm", data_dir, "--path", path, *words).error


def test_settings_that_are_off_pass() -> None:
    off = dict.fromkeys(ON, False) | {"quant_noise_pq": 0.0, "decoder_layers_to_keep": None, "base_layers": 0}
    for size, is_refused in ((-1, False), (40, False), (39, True)):  # of a dictionary of 40
        settings = off | {"output_dictionary_size": size}
        assert bool(refusal(refuse_other_computations, settings, (), 40, "c.pt")) == is_refused


def test_a_model_that_has_such_a_setting_itself_may_use_it() -> None:
    for own, is_refused in (({"base_layers"}, False), ({"past_target"}, True)):
        assert bool(refusal(refuse_other_computations, {"base_layers": 1}, own, 40, "c.pt")) == is_refused


def test_unknown_settings_that_are_on_are_named(caplog: pytest.LogCaptureFixture) -> None:
    settings = {"rotary": True, "alibi": False, "window": 0, "name": "", "depth": 3, "lr": [0.1], "decoder_layers": 2}
    warn_of_unknown(settings, {"decoder_layers"}, "c.pt")
    assert caplog.messages == [
        "c.pt has settings that are unknown here: 'depth', 'rotary'; if one changes what the model computes, results"
        " are wrong"
    ]


def test_of_many_unknown_settings_eight_are_named(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_unknown({f"x{i:02}": 1 for i in range(11)}, (), "c.pt")
    assert "'x07' and 3 more;" in caplog.text and "x08" not in caplog.text


def test_another_task_is_named(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_unknown({"task": "multilingual_language_modeling"}, (), "c.pt")
    assert "trained for the task 'multilingual_language_modeling'" in caplog.text


@pytest.mark.parametrize("container", ["args", "cfg"])
def test_a_checkpoint_of_another_program_loads_without_a_word(
    container: str, tmp_path: Path, data_dir: Path, command: Command
) -> None:
    path = write(tmp_path / "c.pt", container)
    outcome = command("fairseq-eval-lm", data_dir, "--path", path, "--max-tokens", 128, "--cpu")
    assert outcome.code == 0 and outcome.warnings == []


@pytest.mark.parametrize(
    ("name", "value", "flags"),
    [
        ("decoder_normalize_before", False, ()),
        ("decoder_normalize_before", True, ("--no-decoder-normalize-before",)),
        ("activation_fn", "gelu", ()),
        ("decoder_attention_heads", 4, ()),
        ("no_scale_embedding", True, ()),
        ("no_token_positional_embeddings", True, ()),
        ("quant_noise_scalar", 0.5, ()),
    ],
)
def test_training_does_not_go_on_from_weights_that_mean_something_else(
    name: str, value: Any, flags: tuple[str, ...], tmp_path: Path, data_dir: Path, command: Command
) -> None:
    path = write(tmp_path / "c.pt", "cfg", **{"no_decoder_final_norm": True, name: value})
    shape = shlex.split(
        "--decoder-layers 2 --decoder-embed-dim 16 --decoder-ffn-embed-dim 24 --decoder-attention-heads 2"
        " --reset-optimizer --reset-lr-scheduler --reset-dataloader --reset-meters --cpu"
    )
    words = ("--restore-file", path, "--save-dir", tmp_path / "s", "--max-tokens", 128, "--tokens-per-sample", 16)
    message = command("fairseq-train", data_dir, *words, *shape, *flags).error
    assert name.replace("_", "-") in message.replace("_", "-") and str(value) in message
