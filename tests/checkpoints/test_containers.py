"""Where LayerNorms stand, as files of each program say it, or leave it to be known."""

import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq.checkpoints.config import ConvertConfig
from fairseq.checkpoints.format import load_checkpoint, save_checkpoint, saved_by
from fairseq.checkpoints.safetensors import convert
from tests.builders.tiny_lm import BATCHING, MODEL, OPTIMIZATION, Command

WEIGHTS = {"decoder.version": torch.tensor([3.0])}
OURS = {"dictionary_sha256": "0" * 64}


def loaded(path: Path, record: dict[str, Any]) -> Any:
    torch.save({"model": WEIGHTS, **record}, path)
    return load_checkpoint(path).fields["decoder_normalize_before"]


@pytest.mark.pitfall(26)
@pytest.mark.parametrize("stored", [True, False])
def test_what_a_file_says_holds(stored: bool, tmp_path: Path) -> None:
    fields = {"decoder_normalize_before": stored}
    assert loaded(tmp_path / "c.pt", {"args": Namespace(**fields)}) is stored
    assert loaded(tmp_path / "c.pt", {"args": None, "cfg": {"model": fields}}) is stored


@pytest.mark.pitfall(26)
def test_where_it_does_not_say_the_container_does(tmp_path: Path) -> None:
    assert loaded(tmp_path / "c.pt", {"args": Namespace(decoder_layers=2)}) is True
    assert loaded(tmp_path / "c.pt", {"args": None, "cfg": {"model": {"decoder_layers": 2}}}) is False


def test_files_that_this_program_wrote_before_it_knew_had_them_before(tmp_path: Path) -> None:
    fields = {"decoder_normalize_before": False, "output_dictionary_size": 20}
    torch.save({"model": WEIGHTS, "args": Namespace(**fields), "extra_state": OURS}, tmp_path / "c.pt")
    found = load_checkpoint(tmp_path / "c.pt").fields
    assert found["decoder_normalize_before"] is True
    assert found["output_dictionary_size"] == -1  # which had no effect


def save(path: Path, **fields: Any) -> None:
    record = dict(optimizer_state=None, optimizer_name="", num_updates=0, extra_state=OURS)
    save_checkpoint(path, fields=fields, model_state=WEIGHTS, **record)  # type: ignore[arg-type]


@pytest.mark.parametrize("stored", [True, False])
def test_files_that_this_program_writes_say_it(stored: bool, tmp_path: Path) -> None:
    save(tmp_path / "c.pt", decoder_normalize_before=stored)
    assert load_checkpoint(tmp_path / "c.pt").fields["decoder_normalize_before"] is stored


@pytest.mark.parametrize("stored", [True, False])
def test_it_survives_a_conversion_there_and_back(stored: bool, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    save(tmp_path / "c.pt", decoder_normalize_before=stored)
    convert(ConvertConfig(source=str(tmp_path / "c.pt"), target=str(tmp_path / "c.safetensors")))
    convert(ConvertConfig(source=str(tmp_path / "c.safetensors"), target=str(tmp_path / "d.pt")))
    assert load_checkpoint(tmp_path / "d.pt").fields["decoder_normalize_before"] is stored


def test_a_conversion_by_an_older_version_had_them_before(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    metadata = {"format": "fairseq-knnlm", "version": "1", "settings": '{"decoder_normalize_before": false}'}
    metadata |= {"tied": "{}", **OURS}
    safetensors.save_file(WEIGHTS, tmp_path / "c.safetensors", metadata)
    convert(ConvertConfig(source=str(tmp_path / "c.safetensors"), target=str(tmp_path / "c.pt")))
    assert load_checkpoint(tmp_path / "c.pt").fields["decoder_normalize_before"] is True


BANDS = shlex.split("--adaptive-input --adaptive-softmax-cutoff 10,30 --criterion adaptive_loss")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], {"decoder_normalize_before": True, "decoder_input_dim": 16, "decoder_output_dim": 16}),
        ([*BANDS], {"adaptive_input_cutoff": "10,30", "max_target_positions": 16}),
        (["--add-bos-token", "--decoder-learned-pos"], {"max_target_positions": 17, "add_bos_token": True}),
        (["--output-dictionary-size", "20"], {"output_dictionary_size": -1}),
        (["--arch", "transformer_lm_gbw"], {"arch": "transformer_lm_gbw", "no_decoder_final_norm": True}),
        (
            ["--arch", "transformer_lm_gbw", "--no-decoder-normalize-before"],
            {"arch": "transformer_lm", "decoder_normalize_before": False},
        ),
    ],
    ids=str,
)
def test_a_trained_checkpoint_says_what_is_in_force(
    flags: list[str], expected: dict[str, Any], tmp_path: Path, data_dir: Path, command: Command
) -> None:
    words = [*MODEL, *BATCHING, *OPTIMIZATION, "--max-update", 1, "--no-epoch-checkpoints", *flags]
    assert command("fairseq-train", data_dir, "--save-dir", tmp_path, *words).code == 0
    args = vars(torch.load(tmp_path / "checkpoint_last.pt", weights_only=False)["args"])
    assert {name: args[name] for name in expected} == expected


def test_which_program_wrote_a_file_and_the_types_of_its_weights(tmp_path: Path) -> None:
    half, whole, count = torch.ones(2, dtype=torch.float16), torch.ones(2), torch.ones(2, dtype=torch.int64)
    args, cfg = {"args": Namespace()}, {"args": None, "cfg": {"model": {}}}
    for record, model, program, kinds in (
        (args, {"a": half}, "the original kNN-LM code", "float16"),
        (
            args | {"extra_state": {"best": 1.0}},
            {"a": whole, "b": half},
            "the original kNN-LM code",
            "float16, float32",
        ),
        (args | {"extra_state": OURS}, {"a": whole, "n": count}, "this program", "float32"),
        (cfg | {"extra_state": OURS}, {"n": count}, "fairseq 0.10 to 0.12", "none"),
    ):
        torch.save({"model": model, **record}, tmp_path / "c.pt")
        found = saved_by(tmp_path / "c.pt")
        assert found[0].startswith(program) and found[1] == kinds


def test_groups_that_name_a_setting_twice_leave_it_to_the_model_s(tmp_path: Path) -> None:
    """fairseq 0.12 writes the longest row under the task and the model, and its names as ``_name``."""
    cfg = {
        "model": {"_name": "transformer_lm_gpt", "tokens_per_sample": 3},
        "task": Namespace(_name="language_modeling", tokens_per_sample=2, seed=7),
        "common": {"tokens_per_sample": 1, "seed": 4, "fp16": True},
        "unknown": {"fp16": False},
    }
    torch.save({"model": WEIGHTS, "cfg": cfg}, tmp_path / "c.pt")
    fields = load_checkpoint(tmp_path / "c.pt").fields
    names = ("arch", "task", "tokens_per_sample", "seed", "fp16")
    assert [fields[name] for name in names] == ["transformer_lm_gpt", "language_modeling", 3, 7, True]
