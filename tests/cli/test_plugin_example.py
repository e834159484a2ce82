"""The plugin of examples/plugin works as its own text says."""

import shlex
from pathlib import Path

import pytest

from fairseq.optim import LR_SCHEDULERS
from tests.builders.tiny_lm import BATCHING, Command

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "plugin"


pytestmark = pytest.mark.usefixtures("own_plugins")

FLAGS = shlex.split(
    "--arch transformer_lm_tiny --lr-scheduler warmup_stable_decay --warmup-updates 2 --decay-updates 4"
)


def test_it_trains_and_is_evaluated(command: Command, data_dir: Path, tmp_path: Path) -> None:
    words = [data_dir, "--user-dir", EXAMPLE, *FLAGS, *BATCHING, "--lr", "0.25", "--max-update", 6, "--cpu"]
    outcome = command("fairseq-train", *words, "--save-dir", tmp_path)
    assert outcome.code == 0
    assert not outcome.warnings
    evaluation = ["--path", tmp_path / "checkpoint_last.pt", "--user-dir", EXAMPLE, "--cpu"]
    assert "Perplexity: " in command("fairseq-eval-lm", data_dir, *evaluation).out


def test_its_names_and_flags_are_in_the_help(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command("fairseq-train", "--user-dir", EXAMPLE, "--help")
    text = capsys.readouterr().out
    assert "warmup_stable_decay" in text
    assert "--decay-updates" in text


def test_without_it_the_names_are_unknown(command: Command, data_dir: Path) -> None:
    error = command("fairseq-train", data_dir, "--max-tokens", 64, "--arch", "transformer_lm_tiny").error
    assert "but is 'transformer_lm_tiny'; a plugin's needs --user-dir" in error
    assert "a plugin's needs --user-dir" in error


def test_the_schedule_rises_stays_and_falls() -> None:
    from fairseq.optim.config import OptimizationConfig
    from fairseq.plugins.user_dir import import_user_dir

    import_user_dir(str(EXAMPLE))
    config = LR_SCHEDULERS.config("warmup_stable_decay")
    assert config is not None
    lr_at = LR_SCHEDULERS.get("warmup_stable_decay")(
        config(warmup_updates=2, decay_updates=4), OptimizationConfig(lr=(8.0,), max_update=8)
    )
    assert [lr_at(n, 1) for n in range(9)] == [4, 8, 8, 8, 8, 6, 4, 2, 0]
