"""``torchrun … fairseq-train --ddp-backend fully_sharded`` against one process with the whole model."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fairseq.checkpoints.format import load_checkpoint, read_raw
from fairseq.train.config import LAST
from tests.builders.tiny_lm import TRAINED, Command

TOLERANCE = 1e-5
SHARDED = ["--ddp-backend", "fully_sharded"]
LAST_SHARDS = "checkpoint_last.dcp"
# 9 batches an epoch: of its last update the second process has none.
UNTIED = (
    "--dropout 0 --attention-dropout 0 --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --optimizer nag"
    " --lr 0.05 --clip-norm 0.5"
)


def start(num: int, *words: object) -> "subprocess.Popen[str]":
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num)]
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "fairseq_cli.train", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def torchrun(num: int, *words: object) -> str:
    """Returns what several processes say; raises where one fails."""
    with start(num, *words) as processes:
        said, _ = processes.communicate(timeout=120)
    assert processes.returncode == 0, said
    return str(said)


def losses(lines: str) -> list[float]:
    return [float(loss) for loss in re.findall(r"\| (?:train|valid) \| loss ([\d.]+)", lines)]


def close(a: Path, b: Path) -> None:
    """Asserts that two checkpoints have the same weights and moments by the same names, as close as sums can be."""
    one, two = read_raw(a), read_raw(b)
    assert list(one["model"]) == list(two["model"])
    moments = [raw["last_optimizer_state"]["state"] for raw in (one, two)]
    assert moments[0].keys() == moments[1].keys()
    for name, tensor in one["model"].items():
        torch.testing.assert_close(two["model"][name], tensor, rtol=0, atol=TOLERANCE, msg=name)
    for number, of_one in moments[0].items():
        for name, tensor in of_one.items():
            torch.testing.assert_close(moments[1][number][name], tensor, rtol=TOLERANCE, atol=TOLERANCE, msg=name)


@pytest.mark.slow
def test_two_processes_that_share_a_model_train_what_one_does(
    command: Command, train: Command, data_dir: Path, tmp_path: Path
) -> None:
    """Losses, weights and moments, with dropout; then one process reads what two wrote, whole and as one file."""
    one, two = tmp_path / "one", tmp_path / "two"
    plain = train(one, "--update-freq", 2, "--max-epoch", 2)
    said = torchrun(2, data_dir, "--save-dir", two, *TRAINED, *SHARDED, "--max-epoch", 2)
    assert losses(said) == pytest.approx(losses("\n".join(plain.log)), abs=TOLERANCE)
    assert len(losses(said)) == 4
    close(one / LAST, two / LAST_SHARDS)
    exported = tmp_path / "exported.pt"
    assert command("fairseq-knnlm", "convert", two / LAST_SHARDS, exported).code == 0
    close(one / LAST, exported)
    evaluated = [
        command("fairseq-eval-lm", data_dir, "--path", path, "--cpu").out
        for path in (one / LAST, two / LAST_SHARDS, exported)
    ]
    found = [re.findall(r"Loss \(base 2\): ([\d.]+)", out) for out in evaluated]
    assert found[0] == found[1] == found[2] != []


@pytest.mark.slow
def test_any_number_of_processes_goes_on(train: Command, data_dir: Path, tmp_path: Path) -> None:
    """One that has the whole model, then three that share it, then two, then one, each an epoch.

    The validation has five batches, of which not all processes have as many. The output is not tied, and the loss is a
    class's. NAG, since Adam makes steps as long as
    others of a gradient that is nothing but rounding, such as that of k_proj.bias.
    """
    flags = [*UNTIED.split(), "--max-tokens-valid", 48]
    once, whole, shares = (tmp_path / name for name in ("once", "whole", "shares"))
    assert train(once, *flags, "--update-freq", "2,3,2,2", "--max-epoch", 4).code == 0
    assert train(whole, *flags, "--update-freq", 2, "--max-epoch", 1).code == 0
    words = [data_dir, "--save-dir", shares, *TRAINED, *SHARDED, *flags]
    said = torchrun(3, *words, "--restore-file", whole / LAST, "--max-epoch", 2)
    assert len(list((shares / LAST_SHARDS).glob("*.safetensors"))) == 3
    said += torchrun(2, *words, "--max-epoch", 3)
    assert f"resumed from {shares / LAST_SHARDS}: epoch 3" in said
    assert train(shares, *SHARDED, *flags, "--update-freq", 2, "--max-epoch", 4).code == 0
    close(once / LAST, shares / LAST_SHARDS)


@pytest.mark.slow
def test_processes_that_are_killed_leave_a_checkpoint_to_go_on_from(data_dir: Path, tmp_path: Path) -> None:
    """They save after every update, so that many are killed while they write."""
    save_dir = tmp_path / "run"
    words = [data_dir, "--save-dir", save_dir, *TRAINED, *SHARDED, "--save-interval-updates", 1]
    words += ["--keep-interval-updates", 1, "--disable-validation"]
    with start(2, *words, "--max-epoch", 500) as processes:
        while processes.poll() is None and not (save_dir / LAST_SHARDS).exists():
            time.sleep(0.05)
        time.sleep(0.3)
        children = Path(f"/proc/{processes.pid}/task/{processes.pid}/children").read_text().split()
        for child in (*children, processes.pid):
            os.kill(int(child), signal.SIGKILL)
        processes.communicate(timeout=60)
    before = load_checkpoint(save_dir / LAST_SHARDS).num_updates if (save_dir / LAST_SHARDS).exists() else 0
    said = torchrun(2, *words, "--max-update", before + 2)
    assert re.search(rf"resumed from {save_dir / LAST_SHARDS}: epoch \d+, \d+ updates done", said)
    assert load_checkpoint(save_dir / LAST_SHARDS).num_updates == before + 2
    assert not [path.name for path in save_dir.iterdir() if path.name.startswith(".")]
