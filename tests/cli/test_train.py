"""``fairseq-train`` end to end, on a text that trains in a second."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fairseq.checkpoints.format import load_checkpoint
from tests.builders.tiny_lm import (
    BATCHING,
    MODEL,
    OPTIMIZATION,
    TRAINED,
    Command,
    batches_in_an_epoch,
    write_split,
)


def files(save_dir: Path) -> set[str]:
    return {path.name for path in save_dir.iterdir() if path.suffix == ".pt"}


# What is learnt


def test_the_loss_goes_down(train: Command, tmp_path: Path) -> None:
    outcome = train(tmp_path, "--max-update", 60, "--validate-interval", 1)
    assert outcome.code == 0
    losses = outcome.floats(r"\| valid \| loss ([\d.]+)")
    assert len(losses) >= 3
    assert losses[-1] < losses[0] - 0.5
    assert losses == sorted(losses, reverse=True)


def test_the_validation_loss_is_in_bits_and_ppl_is_its_power(train: Command, tmp_path: Path) -> None:
    outcome = train(tmp_path, "--max-update", 3, "--lr", "0")
    (loss,), (ppl,) = outcome.floats(r"valid \| loss ([\d.]+)"), outcome.floats(r"valid .*\| ppl ([\d.]+)")
    assert ppl == pytest.approx(2**loss, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["nag", "adam", "adamw", "sgd", "adagrad"])
def test_every_optimizer_trains(train: Command, tmp_path: Path, optimizer: str) -> None:
    words = ["--optimizer", optimizer, "--lr", "0.05", "--weight-decay", "0.01", "--max-update", 3]
    outcome = train(tmp_path, *words)
    assert outcome.code == 0
    assert not outcome.warnings
    checkpoint = load_checkpoint(tmp_path / "checkpoint_last.pt")
    assert (checkpoint.num_updates, checkpoint.optimizer_name) == (3, optimizer)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in checkpoint.state.values())


@pytest.mark.parametrize(
    "words",
    [
        "--lr-scheduler fixed --lr 0.01,0.005 --force-anneal 2 --lr-shrink 0.5 --warmup-updates 2",
        "--lr-scheduler cosine --max-lr 0.1 --lr 0.001 --warmup-updates 2 --t-mult 2 --lr-period-updates 2",
        "--lr-scheduler cosine --lr 0.1 --min-lr 0.001 --warmup-updates 1 --warmup-init-lr 1e-7",
        "--lr-scheduler inverse_sqrt --warmup-updates 2 --warmup-init-lr 1e-7",
        "--lr-scheduler polynomial_decay --warmup-updates 1 --end-learning-rate 0.001 --power 2",
    ],
)
def test_every_schedule_trains(train: Command, tmp_path: Path, words: str) -> None:
    outcome = train(tmp_path, *words.split(), "--max-update", 3)
    assert outcome.code == 0
    assert not outcome.warnings
    assert load_checkpoint(tmp_path / "checkpoint_last.pt").num_updates == 3


def test_the_first_update_runs_at_the_schedules_first_rate(train: Command, tmp_path: Path) -> None:
    words = shlex.split("--lr-scheduler cosine --lr 0.4 --warmup-updates 4 --warmup-init-lr 0.1 --lr-period-updates 50")
    outcome = train(tmp_path, *words, "--max-update", 3, "--log-interval", 1, "--log-format", "json")
    records = [json.loads(line) for line in outcome.log if line.startswith('{"stage"')]
    assert [record["lr"] for record in records] == pytest.approx([0.1, 0.175, 0.25])


def test_the_plain_architecture_trains_with_cross_entropy(command: Command, data_dir: Path, tmp_path: Path) -> None:
    words = ["--arch", "transformer_lm", "--criterion", "cross_entropy", "--max-update", "3", "--save-dir", tmp_path]
    outcome = command("fairseq-train", data_dir, *MODEL, *BATCHING, *OPTIMIZATION, *words)
    assert outcome.code == 0
    state = load_checkpoint(tmp_path / "checkpoint_last.pt").state
    assert "decoder.layer_norm.weight" in state
    assert state["decoder.embed_out"].shape == (40, 16)


def test_update_freq_makes_one_update_of_several_batches(train: Command, data_dir: Path, tmp_path: Path) -> None:
    batches = batches_in_an_epoch(data_dir)
    assert train(tmp_path, "--max-epoch", 1, "--update-freq", 3).code == 0
    checkpoint = load_checkpoint(tmp_path / "checkpoint_last.pt")
    assert checkpoint.num_updates == -(-batches // 3)


def test_update_freq_may_change_with_the_epoch(train: Command, data_dir: Path, tmp_path: Path) -> None:
    batches = batches_in_an_epoch(data_dir)
    assert train(tmp_path, "--max-epoch", 3, "--update-freq", "1,2").code == 0
    assert load_checkpoint(tmp_path / "checkpoint_last.pt").num_updates == batches + 2 * -(-batches // 2)


def test_max_epoch_ends_a_run(train: Command, data_dir: Path, tmp_path: Path) -> None:
    assert train(tmp_path, "--max-epoch", 2).code == 0
    checkpoint = load_checkpoint(tmp_path / "checkpoint_last.pt")
    assert checkpoint.num_updates == 2 * batches_in_an_epoch(data_dir)
    assert checkpoint.extra_state["train_iterator"] == {"epoch": 3, "iterations_in_epoch": 0, "shuffle": True}


def test_the_lowest_learning_rate_ends_a_run(train: Command, tmp_path: Path) -> None:
    words = shlex.split(
        "--lr-scheduler polynomial_decay --total-num-update 6 --lr 0.01 --stop-min-lr 1e-9 --max-update 20"
    )
    outcome = train(tmp_path, *words, "--save-interval-updates", 1)
    assert any("the learning rate 0 has fallen to the bound 1e-09" in line for line in outcome.log)
    assert load_checkpoint(tmp_path / "checkpoint_last.pt").num_updates == 6


def test_data_directories_take_turns(train: Command, command: Command, data_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_split(other / "train", [[4, 5, 6, 2]] * 8)  # 32 tokens: one batch; the dictionary is the first one's
    words = [f"{data_dir}:{other}", "--save-dir", tmp_path / "run", "--max-epoch", "2"]
    assert command("fairseq-train", *words, *TRAINED).code == 0
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint_last.pt")
    assert checkpoint.num_updates == batches_in_an_epoch(data_dir) + 1


# Files


def test_the_files_of_a_plain_run(train: Command, tmp_path: Path) -> None:
    assert train(tmp_path, "--max-epoch", 2).code == 0
    assert files(tmp_path) == {"checkpoint1.pt", "checkpoint2.pt", "checkpoint_best.pt", "checkpoint_last.pt"}
    assert {path.name for path in tmp_path.iterdir()} == {
        name.replace(".pt", suffix) for name in files(tmp_path) for suffix in (".pt", ".json")
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--max-epoch 4 --no-epoch-checkpoints", "best last"),
        ("--max-epoch 4 --keep-last-epochs 2", "3 4 best last"),
        ("--max-epoch 4 --save-interval 2", "2 4 best last"),
        ("--max-epoch 2 --no-last-checkpoints", "1 2 best"),
        ("--max-epoch 2 --disable-validation", "1 2 last"),
        ("--max-epoch 1 --no-save", ""),
        ("--max-update 7 --save-interval-updates 2", "_1_2 _1_4 _1_6 best last"),
        ("--max-update 7 --save-interval-updates 2 --keep-interval-updates 1", "_1_6 best last"),
        ("--max-update 7 --save-interval-updates 2 --keep-interval-updates 0", "best last"),
    ],
)
def test_which_files_are_kept(train: Command, tmp_path: Path, words: str, expected: str) -> None:
    (tmp_path / "run").mkdir()
    assert train(tmp_path / "run", *words.split()).code == 0
    names = {f"checkpoint{'' if name[0].isdigit() or name[0] == '_' else '_'}{name}.pt" for name in expected.split()}
    assert files(tmp_path / "run") == names


def test_the_best_are_kept_under_their_metric(train: Command, tmp_path: Path) -> None:
    outcome = train(tmp_path, "--max-epoch", 5, "--keep-best-checkpoints", 2, "--no-epoch-checkpoints")
    losses = outcome.floats(r"valid \| loss ([\d.]+)")
    kept = [float(name.removeprefix("checkpoint.best_loss_")[:-3]) for name in files(tmp_path) if ".best_" in name]
    # The log shows six digits, the file's name four decimals.
    assert sorted(kept) == pytest.approx(sorted(losses)[:2], abs=6e-5)


def test_the_best_metric_may_be_the_perplexity(train: Command, tmp_path: Path) -> None:
    words = ["--max-epoch", "1", "--best-checkpoint-metric", "ppl", "--keep-best-checkpoints", "1"]
    outcome = train(tmp_path, *words)
    (ppl,) = outcome.floats(r"valid .*\| ppl ([\d.]+)")
    extra = load_checkpoint(tmp_path / "checkpoint_best.pt").extra_state
    assert extra["best"] == extra["val_loss"] == pytest.approx(ppl, rel=1e-4)
    assert any(name.startswith("checkpoint.best_ppl_") for name in files(tmp_path))


def test_the_best_checkpoint_is_the_best_and_stays(train: Command, tmp_path: Path) -> None:
    """With the largest metric as the best, the first validation stays the best one while the loss falls."""
    outcome = train(tmp_path, "--max-epoch", 3, "--maximize-best-checkpoint-metric")
    best = load_checkpoint(tmp_path / "checkpoint_best.pt")
    first = load_checkpoint(tmp_path / "checkpoint1.pt")
    assert best.num_updates == first.num_updates
    assert best.extra_state["best"] == pytest.approx(max(outcome.floats(r"valid \| loss ([\d.]+)")), rel=1e-5)


def test_the_best_so_far_is_said_with_every_validation(train: Command, tmp_path: Path) -> None:
    outcome = train(tmp_path, "--max-epoch", 4, "--lr", 0.2, "--no-save")
    losses, best = outcome.floats(r"valid \| loss ([\d.]+)"), outcome.floats(r"valid \| .*best_loss ([\d.]+)")
    assert len(losses) == 4 and best == [min(losses[: n + 1]) for n in range(4)]


def test_patience_ends_a_run(train: Command, tmp_path: Path) -> None:
    outcome = train(tmp_path, "--max-epoch", 9, "--maximize-best-checkpoint-metric", "--patience", 2)
    assert any(line == "stopping: 2 validations without a better loss" for line in outcome.log)
    assert len(outcome.floats(r"valid \| loss ([\d.]+)")) == 3
    again = train(tmp_path, "--max-epoch", 9, "--maximize-best-checkpoint-metric", "--patience", 2)
    assert not again.floats(r"valid \| loss ([\d.]+)"), "a resumed run remembers its patience"


def test_validate_interval(train: Command, tmp_path: Path) -> None:
    outcome = train(tmp_path, "--max-epoch", 4, "--validate-interval", 2)
    assert len(outcome.floats(r"valid \| loss ([\d.]+)")) == 2


def test_the_last_update_is_validated_whatever_the_interval(train: Command, tmp_path: Path) -> None:
    outcome = train(tmp_path, "--max-update", 12, "--validate-interval", 9)
    assert len(outcome.floats(r"valid \| loss ([\d.]+)")) == 1


def test_several_validation_splits(train: Command, tmp_path: Path) -> None:
    outcome = train(tmp_path, "--max-epoch", 1, "--valid-subset", "valid,test")
    (valid,), (test,) = outcome.floats(r"valid \| loss ([\d.]+)"), outcome.floats(r"test \| loss ([\d.]+)")
    assert valid != test
    assert load_checkpoint(tmp_path / "checkpoint_best.pt").extra_state["best"] == pytest.approx(valid, rel=1e-5)


def test_the_checkpoint_is_readable_as_json(train: Command, tmp_path: Path) -> None:
    assert train(tmp_path, "--max-update", 2).code == 0
    record = json.loads((tmp_path / "checkpoint_last.json").read_text(encoding="utf-8"))
    assert record["num_updates"] == 2
    assert record["settings"]["decoder_layers"] == 2
    assert record["settings"]["adaptive_softmax_cutoff"] == [10, 30]


# What is shown


def test_json_lines(train: Command, tmp_path: Path) -> None:
    outcome = train(tmp_path, "--max-update", 6, "--log-format", "json", "--log-interval", 2)
    records = [json.loads(line) for line in outcome.log if line.startswith('{"stage"')]
    assert [record["num_updates"] for record in records] == [2, 4, 6]
    wanted = {"stage", "done", "total", "loss", "ppl", "wps", "ups", "wpb", "bsz", "gnorm", "clip", "lr", "wall"}
    assert wanted <= set(records[0])
    ends = [json.loads(line) for line in outcome.log if line.startswith('{"epoch"')]
    assert [(end["part"], end["num_updates"]) for end in ends] == [("valid", 6)], "the run ends in mid-epoch"


def test_simple_lines(train: Command, tmp_path: Path) -> None:
    outcome = train(tmp_path, "--max-update", 6, "--log-format", "simple", "--log-interval", 3)
    lines = [line for line in outcome.log if line.startswith("epoch 001: ")]
    assert len(lines) == 2
    assert " updates/s | " in lines[0]
    assert " left | loss " in lines[0]


def test_no_lines(train: Command, tmp_path: Path) -> None:
    outcome = train(tmp_path, "--max-update", 6, "--log-format", "none", "--log-interval", 1)
    assert not [line for line in outcome.log if line.startswith(("epoch 001: ", "{"))]
    assert outcome.floats(r"valid \| loss ([\d.]+)"), "results are shown all the same"


def test_a_bar(train: Command, tmp_path: Path) -> None:
    outcome = train(tmp_path, "--max-update", 6, "--log-format", "tqdm", "--log-interval", 1)
    assert "epoch 001: " in outcome.err
    assert "%|" in outcome.err
    assert not [line for line in outcome.log if line.startswith(("epoch 001: ", "{"))]


def test_a_run_tells_its_size_its_time_and_its_memory(train: Command, tmp_path: Path) -> None:
    outcome = train(tmp_path, "--max-update", 2)
    assert any("transformer_lm: " in line and " parameters, 40 ids" in line for line in outcome.log)
    assert outcome.log[-1].startswith("fairseq-train: 0:")
    assert outcome.out == "", "training has no result for stdout"


@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard", "ignore::DeprecationWarning:google")
def test_tensorboard(train: Command, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    logs = tmp_path / "logs"
    outcome = train(tmp_path / "run", "--max-update", 6, "--log-interval", 2, "--tensorboard-logdir", logs)
    assert outcome.code == 0
    for part in ("train", "valid"):
        assert list((logs / part).glob("events.out.tfevents.*")), part


def test_curves_have_a_point_after_every_log_interval(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[tuple[str, int]] = []
    monkeypatch.setattr(
        "fairseq.train.loop.TensorBoard.add", lambda self, part, values, step: added.append((part, step))
    )
    assert train(tmp_path / "run", "--max-update", 6, "--log-interval", 2).code == 0
    assert added == [("train", 2), ("train", 4), ("train", 6), ("valid", 6)]


# Precision


@pytest.mark.usefixtures("cpu_with_bfloat16")
def test_bf16_runs_and_says_so(train: Command, tmp_path: Path) -> None:
    outcome = train(tmp_path, "--max-update", 30, "--bf16")
    assert outcome.code == 0
    assert any("bfloat16" in line for line in outcome.log)
    losses = outcome.floats(r"valid \| loss ([\d.]+)")
    assert losses[-1] < losses[0]
    checkpoint = load_checkpoint(tmp_path / "checkpoint_last.pt")
    assert {tensor.dtype for tensor in checkpoint.state.values()} == {torch.float32}


def test_fp16_on_a_cpu_warns_and_changes_nothing(train: Command, tmp_path: Path) -> None:
    assert train(tmp_path / "a", "--max-update", 3).code == 0
    outcome = train(tmp_path / "b", "--max-update", 3, "--fp16")
    assert outcome.code == 0
    assert len(outcome.warnings) == 1
    assert outcome.warnings[0].startswith("--fp16 has no effect on a CPU")
    a, b = (load_checkpoint(tmp_path / name / "checkpoint_last.pt").state for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


# Errors


def test_a_loss_that_is_no_number_is_one_line(train: Command, tmp_path: Path) -> None:
    outcome = train(tmp_path, "--optimizer", "sgd", "--lr", "1e30", "--clip-norm", "0", "--max-update", 50)
    assert "of update " in outcome.error
    assert "lower --lr" in outcome.error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--criterion adaptive_loss", "--criterion adaptive_loss needs --adaptive-softmax-cutoff"),
        ("--adaptive-softmax-cutoff 30,10", "--adaptive-softmax-cutoff 30,10 must rise and stay below the 40 ids"),
        ("--adaptive-softmax-cutoff 10,40", "--adaptive-softmax-cutoff 10,40 must rise and stay below the 40 ids"),
        (
            "--max-tokens 8",
            "--max-tokens 8 is below the 16 tokens of the longest block of the split 'valid'; give",
        ),
        ("--max-tokens-valid 9", "--max-tokens-valid 9 is below the 16 tokens of the longest block of the split"),
        (
            "--max-tokens 8 --disable-validation",
            "--max-tokens 8 is below the 16 tokens of the longest block of the split 'train'",
        ),
        ("--fp16 --bf16", "--fp16 and --bf16 exclude each other"),
        ("--lr-scheduler cosine --lr 0.1", "--lr-scheduler cosine needs --lr-period-updates, or --max-update"),
        ("--lr-scheduler polynomial_decay", "--lr-scheduler polynomial_decay needs --total-num-update"),
        (
            "--lr-scheduler polynomial_decay --lr 0.5,0.25 --max-update 9",
            "--lr-scheduler polynomial_decay takes one --lr, but has 2 (0.5, 0.25); give one, or use",
        ),
        ("--lr-scheduler inverse_sqrt --lr 0.5,0.25", "--lr-scheduler inverse_sqrt takes one --lr, but has 2"),
        ("--lr-scheduler cosine --lr 1,1 --max-lr 2", "--lr-scheduler cosine takes one --lr, but has 2"),
        ("--lr-scheduler inverse_sqrt --warmup-updates 0", "--lr-scheduler inverse_sqrt needs --warmup-updates"),
        ("--adam-betas 0.9", "--adam-betas must be two numbers"),
        ("--dataset-impl lazy", "--dataset-impl must be one of mmap"),
        ("--valid-subset nowhere", ""),
        ("--log-format xml", "--log-format must be one of tqdm, simple, json, none, but is 'xml'"),
        ("--user-dir /nowhere/plugin", "--user-dir must be a directory with an __init__.py"),
        ("--restore-file /nowhere.pt", "checkpoint /nowhere.pt does not exist"),
    ],
)
def test_an_error_is_one_line(command: Command, data_dir: Path, tmp_path: Path, words: str, message: str) -> None:
    common = [data_dir, "--save-dir", tmp_path, *MODEL, *BATCHING, *OPTIMIZATION]
    outcome = command("fairseq-train", *common, *words.split(), "--max-epoch", "1")
    assert outcome.error.startswith(message)
    assert "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir())


def test_blocks_beyond_the_positions_are_refused_unless_they_may_be_left_out(
    command: Command, data_dir: Path, tmp_path: Path
) -> None:
    common = [data_dir, "--save-dir", tmp_path, *MODEL, *BATCHING, *OPTIMIZATION, "--max-epoch", "1"]
    refused = command("fairseq-train", *common, "--max-target-positions", "8")
    assert refused.code == 2 and "the model's 8 positions" in refused.error and not list(tmp_path.iterdir())


def test_training_blocks_beyond_the_positions_are_left_out_and_counted(
    command: Command, data_dir: Path, tmp_path: Path
) -> None:
    common = [data_dir, "--save-dir", tmp_path, *MODEL, *BATCHING, *OPTIMIZATION, "--max-epoch", "1"]
    words = ["--max-target-positions", "8", "--skip-invalid-size-inputs-valid-test", "--sample-break-mode", "eos"]
    tokens = np.fromfile(data_dir / "train.bin", "<u2")
    sizes = np.diff(np.flatnonzero(tokens == 2), prepend=-1)
    longer = int(sizes[sizes > 8].sum())
    for positions in ([], ["--decoder-learned-pos"]):
        outcome = command("fairseq-train", *common, "--restore-file", "checkpoint_last.pt", *words, *positions)
        assert outcome.code == 0
        assert any(f"'train': {longer} tokens in blocks of over 8 positions" in line for line in outcome.warnings)
        shutil.rmtree(tmp_path)


def test_a_data_directory_that_is_none(command: Command, tmp_path: Path) -> None:
    outcome = command("fairseq-train", tmp_path / "nowhere", *MODEL, *BATCHING, *OPTIMIZATION, "--max-epoch", "1")
    assert outcome.error == (
        f"data directory {tmp_path / 'nowhere'} does not exist; give the one that fairseq-preprocess --destdir wrote"
    )


def test_a_data_directory_without_a_dictionary(command: Command, tmp_path: Path) -> None:
    outcome = command("fairseq-train", tmp_path, *MODEL, *BATCHING, *OPTIMIZATION, "--max-epoch", "1")
    assert "dict.txt" in outcome.error


def test_without_a_batch_size(command: Command, data_dir: Path) -> None:
    assert command("fairseq-train", data_dir).error == (
        "--max-tokens or --batch-size is required: the size of a batch, such as --max-tokens 2048"
    )


def test_a_mistyped_flag(command: Command, data_dir: Path) -> None:
    error = command("fairseq-train", data_dir, "--adaptive-softmax-cutof", "3").error
    assert "did you mean --adaptive-softmax-cutoff?" in error


def test_traceback_shows_where(command: Command, data_dir: Path) -> None:
    outcome = command("fairseq-train", data_dir, "--traceback")
    assert outcome.code == 2
    assert "Traceback (most recent call last)" in outcome.err


# Several processes


def run_torchrun(num: int, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num)]
    return subprocess.run(
        [sys.executable, *launcher, "-m", "fairseq_cli.train", *map(str, words)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["adaptive_loss", "label_smoothed_cross_entropy"])
def test_two_processes_train_what_one_does_with_twice_the_batches(
    train: Command, data_dir: Path, tmp_path: Path, criterion: str
) -> None:
    """Rank r takes batches r, r + 2, …: update n of two processes is over the batches of update n with freq 2.

    A batch's dropout follows from its number within the update, and a sum of two is the same in either order: so the
    weights are equal to the bit.
    """
    dropout = shlex.split(
        "--dropout 0.2 --attention-dropout 0.1 --activation-dropout 0.1 --adaptive-softmax-dropout 0.1"
        f" --decoder-layerdrop 0.3 --max-epoch 2 --optimizer nag --lr 0.05 --clip-norm 0.5 --criterion {criterion}"
        " --label-smoothing 0.1"
    )
    one, two = tmp_path / "one", tmp_path / "two"
    assert train(one, *dropout, "--update-freq", 2).code == 0
    words = [data_dir, "--save-dir", two, *TRAINED, *dropout]
    done = run_torchrun(2, *words)
    assert done.returncode == 0, done.stderr
    a, b = load_checkpoint(one / "checkpoint_last.pt"), load_checkpoint(two / "checkpoint_last.pt")
    assert a.num_updates == b.num_updates
    for name, tensor in a.state.items():
        assert torch.equal(b.state[name], tensor), name
    assert b.extra_state["best"] == a.extra_state["best"]


@pytest.mark.slow
def test_more_processes_than_batches(data_dir: Path, tmp_path: Path) -> None:
    """One batch, two processes: the second one has nothing to do, and says so by an empty share."""
    small = tmp_path / "data"
    small.mkdir()
    (small / "dict.txt").write_bytes((data_dir / "dict.txt").read_bytes())
    for split in ("train", "valid"):
        write_split(small / split, [[4, 5, 6, 2]] * 4)
    words = [small, "--save-dir", tmp_path / "run", *TRAINED, "--max-epoch", "2"]
    done = run_torchrun(2, *words)
    assert done.returncode == 0, done.stderr[-2000:]
    assert load_checkpoint(tmp_path / "run" / "checkpoint_last.pt").num_updates == 2
