"""``python -m fairseq_cli.average_checkpoints``: the mean of checkpoints, of whichever are meant."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq.checkpoints.average import chosen
from fairseq.checkpoints.config import AverageConfig
from fairseq.config.flags import Namespace
from fairseq.errors import ConfigError
from fairseq_cli.shared.run import run as run_command
from tests.builders.peer import last_line_of, peer_python
from tests.builders.tiny_lm import TOKENS_PER_SAMPLE, TRAINED, Command, main_of
from tests.cli.test_way_back import CHILD, PRINTED


def content(path: Path) -> dict[str, Any]:
    with torch.serialization.safe_globals([Namespace]):
        return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def run(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the directory of a run of three epochs, with shared words."""
    save_dir = tmp_path_factory.mktemp("average") / "run"
    words = [str(data_dir), "--save-dir", str(save_dir), *TRAINED, "--max-epoch", "3"]
    assert run_command("fairseq-train", main_of("fairseq-train"), [*words, "--share-decoder-input-output-embed"]) == 0
    return save_dir


def test_weights_are_the_means_of_float64(command: Command, run: Path, tmp_path: Path) -> None:
    names = [str(run / f"checkpoint{epoch}.pt") for epoch in (1, 2, 3)]
    done = command("average_checkpoints", "--inputs", *names, "--output", tmp_path / "mean.pt")
    assert done.code == 0, done.err
    assert all(name in done.out for name in names)
    mean, parts = content(tmp_path / "mean.pt"), [content(Path(name)) for name in names]
    assert set(mean["model"]) == set(parts[0]["model"])
    differs = 0
    for name, tensor in mean["model"].items():
        stacked = torch.stack([part["model"][name].double() for part in parts])
        torch.testing.assert_close(tensor, stacked.mean(0).to(tensor.dtype), rtol=1e-7, atol=1e-9, msg=name)
        differs += not torch.equal(tensor, parts[0]["model"][name])
    assert differs > 10
    assert mean["args"] == parts[0]["args"]
    assert mean["optimizer_history"] == parts[0]["optimizer_history"]
    assert json.loads((tmp_path / "mean.json").read_text())["num_updates"] > 0


def test_what_is_shared_stays_shared(command: Command, run: Path, tmp_path: Path) -> None:
    """A file of two names for one tensor holds it once."""
    raw = content(run / "checkpoint3.pt")
    weight = raw["model"]["decoder.layers.0.fc1.bias"]
    raw["model"]["decoder.layers.1.fc1.bias"] = weight
    torch.save(raw, tmp_path / "tied.pt")
    inputs = (tmp_path / "tied.pt", run / "checkpoint2.pt")
    assert command("average_checkpoints", "--inputs", *inputs, "--output", tmp_path / "mean.pt").code == 0
    state = content(tmp_path / "mean.pt")["model"]
    one, other = (state[f"decoder.layers.{layer}.fc1.bias"] for layer in (0, 1))
    assert one.data_ptr() == other.data_ptr()


def test_the_mean_is_evaluated_and_is_no_file_of_the_run(
    command: Command, run: Path, data_dir: Path, tmp_path: Path
) -> None:
    output = tmp_path / "mean.pt"
    words = ("--inputs", run, "--num-epoch-checkpoints", 2, "--output", output)
    assert command("average_checkpoints", *words).code == 0
    assert "run" not in content(output)["extra_state"]
    done = command("fairseq-eval-lm", data_dir, "--path", output, "--cpu")
    assert done.code == 0, done.err
    assert re.search(r"Loss \(base 2\): \d", done.out)
    assert "is there already" in command("average_checkpoints", *words).error
    assert command("average_checkpoints", *words, "--overwrite").code == 0


def pick(directory: Path, **given: Any) -> list[str]:
    return [path.name for path in chosen(AverageConfig((str(directory),), "out.pt", **given))]


def test_which_files_are_meant(tmp_path: Path, run: Path) -> None:
    names = "checkpoint1 checkpoint2 checkpoint10 checkpoint_1_5 checkpoint_2_10 checkpoint_11_9 checkpoint_last"
    for name in [*names.split(), *(f"checkpoint.best_loss_{value}" for value in ("4.7", "11.2", "5"))]:
        (tmp_path / f"{name}.pt").write_bytes((run / "checkpoint1.pt").read_bytes())
    assert pick(tmp_path, num_epoch_checkpoints=2) == ["checkpoint10.pt", "checkpoint2.pt"]
    assert pick(tmp_path, num_epoch_checkpoints=2, checkpoint_upper_bound=9) == ["checkpoint2.pt", "checkpoint1.pt"]
    assert pick(tmp_path, num_update_checkpoints=2) == ["checkpoint_2_10.pt", "checkpoint_11_9.pt"]
    assert pick(tmp_path, num_update_checkpoints=1, checkpoint_upper_bound=9) == ["checkpoint_11_9.pt"]
    assert pick(tmp_path, num_best_checkpoints=2) == ["checkpoint.best_loss_4.7.pt", "checkpoint.best_loss_5.pt"]
    with pytest.raises(ConfigError, match=r"--num-epoch-checkpoints 4: .* has only 3 such checkpoints; lower it"):
        pick(tmp_path, num_epoch_checkpoints=4)
    with pytest.raises(ConfigError, match="is a directory; say which of its checkpoints: --num-epoch-checkpoints N"):
        pick(tmp_path)


def test_the_best_by_a_metric_of_any_name_and_by_one_alone(tmp_path: Path, run: Path) -> None:
    for value in ("3", "1", "2", "nan"):
        (tmp_path / f"checkpoint.best_top 1-acc+_{value}.pt").write_bytes((run / "checkpoint1.pt").read_bytes())
    best = [f"checkpoint.best_top 1-acc+_{value}.pt" for value in (1, 2)]
    assert pick(tmp_path, num_best_checkpoints=2) == best
    (tmp_path / "checkpoint.best_loss_0.5.pt").write_bytes((run / "checkpoint1.pt").read_bytes())
    with pytest.raises(ConfigError, match=r"the best by one metric, but .* has some by loss and by top 1-acc\+; name"):
        pick(tmp_path, num_best_checkpoints=2)


@pytest.mark.parametrize(
    "words, error",
    [
        ("--inputs RUN/checkpoint1.pt gone.pt --output OUT/m.pt", "checkpoint gone.pt does not exist"),
        ("--inputs RUN/checkpoint1.pt RUN/checkpoint2.pt --num-epoch-checkpoints 2 --output OUT/m.pt", "needs one dir"),
        ("--inputs RUN --num-epoch-checkpoints 2 --num-best-checkpoints 2 --output OUT/m.pt", "exclude each other"),
        ("--inputs RUN/checkpoint1.pt --checkpoint-upper-bound 2 --output OUT/m.pt", "--checkpoint-upper-bound needs"),
        ("--inputs RUN/checkpoint1.pt --output RUN/checkpoint1.pt --overwrite", "RUN/checkpoint1.pt"),
        ("--output OUT/m.pt", "--inputs is required"),
        ("--inputs --output OUT/m.pt", "expected at least one argument"),
    ],
)
def test_mistakes_have_one_line(command: Command, run: Path, tmp_path: Path, words: str, error: str) -> None:
    before = (run / "checkpoint1.pt").read_bytes()
    filled = words.replace("RUN", str(run)).replace("OUT", str(tmp_path)).split()
    assert error.replace("RUN", str(run)) in command("average_checkpoints", *filled).error
    assert (run / "checkpoint1.pt").read_bytes() == before
    assert not list(tmp_path.iterdir())


def test_models_of_other_shapes_are_refused(command: Command, train: Command, run: Path, tmp_path: Path) -> None:
    assert train(tmp_path / "other", "--max-update", 1, "--decoder-ffn-embed-dim", 8).code == 0
    inputs = (run / "checkpoint1.pt", tmp_path / "other" / "checkpoint_last.pt")
    error = command("average_checkpoints", "--inputs", *inputs, "--output", tmp_path / "m.pt").error
    assert "are not of one model: decoder.layers.0.fc1.bias is " in error


def test_help_is_light() -> None:
    program = (
        "import sys\nfrom fairseq_cli.average_checkpoints import main\ntry:\n    main(['--help'])\n"
        "except SystemExit:\n    sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("usage: average_checkpoints --inputs FILE … --output FILE [FLAGS]")


@pytest.mark.slow
def test_fairseq_reads_the_mean(command: Command, run: Path, data_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "mean.pt"
    assert command("average_checkpoints", "--inputs", run, "--num-epoch-checkpoints", 3, "--output", output).code == 0
    job = [str(data_dir), "--path", str(output), "--max-tokens", "128", "--cpu"]
    done = command("fairseq-eval-lm", *job)
    [ours] = re.findall(r"Loss \(base 2\): ([\d.]+)", done.out)
    more = ["--sample-break-mode", "none", "--tokens-per-sample", str(TOKENS_PER_SAMPLE), "--num-workers", "0"]
    (tmp_path / "jobs.json").write_text(json.dumps({"mean": [*job, *more]}))
    said = json.loads(last_line_of(peer_python(), str(CHILD), str(tmp_path / "jobs.json"), cwd=tmp_path))["mean"]
    [theirs] = re.findall(r"Loss \(base 2\): ([\d.]+)", said)
    assert float(theirs) == pytest.approx(float(ours), abs=PRINTED)
