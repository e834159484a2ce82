"""``fairseq-validate``: what training says when it validates, of a checkpoint."""

import json
import math
import shlex
from pathlib import Path

import pytest

from fairseq.checkpoints.format import load_checkpoint
from fairseq_cli.validate import known_sizes
from tests.builders.tiny_lm import NUM_SENTENCES, Command, Outcome, num_tokens

FLOAT32 = 1e-5  # sums of batches of other sizes


@pytest.fixture
def validate(command: Command, data_dir: Path, checkpoint: Path) -> Command:
    """Returns ``validate(*flags)``: the tiny model on valid."""
    return lambda *words: command("fairseq-validate", data_dir, "--path", checkpoint, "--cpu", *words)


def records(outcome: Outcome) -> list[dict[str, object]]:
    assert outcome.code == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


def loss(outcome: Outcome) -> object:
    (record,) = records(outcome)
    return record["loss"]


@pytest.mark.parametrize(
    ("training", "typed"),
    [
        ("", ""),
        ("--sample-break-mode eos --max-tokens-valid 64", ""),
        ("--add-bos-token --batch-size-valid 5", ""),
        ("--add-bos-token --max-tokens 16", "--max-tokens 16"),  # as fairseq has it, an added <s> does not count
        ("--criterion label_smoothed_cross_entropy --label-smoothing 0.3", ""),
        ("--sentence-avg", ""),
        ("--valid-subset test,valid --nval 3 --batch-size 7", "--valid-subset test --nval 3"),
    ],
)
def test_it_is_the_loss_that_training_told_to_the_last_digit(
    train: Command, command: Command, data_dir: Path, tmp_path: Path, training: str, typed: str
) -> None:
    assert train(tmp_path, "--max-update", 5, *training.split()).code == 0
    path = tmp_path / "checkpoint_last.pt"
    words = ("--path", path, "--cpu", "--log-format", "json", *typed.split())
    told = load_checkpoint(path).extra_state["val_loss"]
    assert loss(command("fairseq-validate", data_dir, *words)) == told


def test_it_is_the_loss_of_an_evaluation(validate: Command, eval_lm: Command, tmp_path: Path) -> None:
    assert eval_lm("--gen-subset", "valid", "--results-path", tmp_path / "r.json").code == 0
    expected = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["loss_base2"]
    for sizes in ("", "--max-tokens 64", "--batch-size 1", "--max-tokens 999 --batch-size-valid 3"):
        assert loss(validate("--log-format", "json", *sizes.split())) == pytest.approx(expected, rel=FLOAT32), sizes


def test_a_line_for_each_split(validate: Command, data_dir: Path) -> None:
    lines = validate("--valid-subset", "valid,test", "--batch-size", 1).out.splitlines()
    assert [line.split(" | ")[:2] for line in lines] == [
        ["valid", "valid on 'valid' subset"],
        ["test", "valid on 'test' subset"],
    ]
    for split, line in zip(("valid", "test"), lines, strict=True):
        found = dict(part.rsplit(" ", 1) for part in line.split(" | ")[2:])
        assert list(found) == ["loss", "ppl", "num_updates", "wps", "wpb", "bsz"]
        assert float(found["ppl"]) == pytest.approx(2 ** float(found["loss"]), rel=1e-4)
        blocks = math.ceil(num_tokens(data_dir, split) / 16)
        assert float(found["wpb"]) == pytest.approx(num_tokens(data_dir, split) / blocks, rel=1e-5)
        assert (found["bsz"], found["num_updates"]) == ("1", "60")


def test_several_checkpoints_one_after_the_other(
    command: Command, train: Command, data_dir: Path, tmp_path: Path
) -> None:
    assert train(tmp_path, "--max-epoch", 2).code == 0
    paths = [str(tmp_path / f"checkpoint{epoch}.pt") for epoch in (1, 2)]
    outcome = command("fairseq-validate", data_dir, "--path", ":".join(paths), "--cpu", "--log-format", "json")
    assert [record["path"] for record in records(outcome)] == paths
    assert [record["loss"] for record in records(outcome)] == [
        load_checkpoint(p).extra_state["val_loss"] for p in paths
    ]
    lines = command("fairseq-validate", data_dir, "--path", ":".join(paths), "--cpu").out.splitlines()
    assert [line.split(" | ")[0] for line in lines] == paths


def test_json_has_fairseqs_keys_as_text(validate: Command) -> None:
    """Those of ``fairseq-validate --log-format json`` of fairseq 0.12.3.1; it leaves out num_updates."""
    (record,) = records(validate("--log-format", "json"))
    theirs = {"valid_loss", "valid_ppl", "valid_wps", "valid_wpb", "valid_bsz"}
    assert theirs <= set(record)
    assert all(isinstance(record[name], str) for name in theirs)
    assert float(str(record["valid_loss"])) == pytest.approx(record["loss"], rel=1e-5)


def test_flags_of_fairseqs_own_test_call(command: Command, data_dir: Path, checkpoint: Path) -> None:
    words = shlex.split("--valid-subset valid --max-tokens 500 --no-progress-bar --num-workers 0 --cpu")
    outcome = command("fairseq-validate", "--task", "language_modeling", data_dir, "--path", checkpoint, *words)
    assert outcome.code == 0
    assert outcome.out.startswith("valid | valid on 'valid' subset | loss ")


def test_the_number_of_blocks_in_a_checkpoint_of_fairseqs() -> None:
    settings = {"batch_size": 4, "max_sentences": None, "max_tokens": None, "batch_size_valid": 2}
    assert known_sizes(settings) == {"max_sentences": 4, "batch_size_valid": 2}
    assert known_sizes({"max_tokens": 16, "batch_size": None}) == {"max_tokens": 16}


def test_the_first_batches_alone(validate: Command) -> None:
    outcome = validate("--nval", 1, "--batch-size", 2)
    assert "bsz 2" in outcome.out
    assert any("validation is on a part of the split, the 2 shortest of" in line for line in outcome.log)
    assert NUM_SENTENCES["valid"] > 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--valid-subset vaild", "did you mean valid?"),
        ("--valid-subset valid,tset", "did you mean test?"),
        ("--valid-subset valid,", "--valid-subset must be names with commas between them, such as valid,test, but is"),
        ("--criterion cross_entrpy", "did you mean cross_entropy?"),
        ("--max-tokens 8", "--max-tokens 8 is below the 16 tokens of the longest block of the split 'valid'"),
        ("--max-tokens-valid 8", "--max-tokens-valid 8 is below"),
        ("--split test", "here it is --valid-subset"),
        ("--nval 0", "--max-valid-steps must be at least 1, but is 0"),
        ("--path gone.pt", "checkpoint gone.pt does not exist"),
    ],
)
def test_what_is_wrong_is_said(validate: Command, words: str, said: str) -> None:
    assert said in validate(*words.split()).error
