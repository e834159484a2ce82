"""The examples of docs/plugins.md that are whole plugins train a model."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.plugins import own_registries, write_plugin
from tests.builders.tiny_lm import Command
from tests.plugins.test_classes import train

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
BLOCKS = [block for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) if "import" in block]


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    with own_registries():
        yield


def test_a_model_of_replaced_parts_and_its_student_train(command: Command, data_dir: Path, tmp_path: Path) -> None:
    plugin = write_plugin(tmp_path, {"__init__.py": "\n".join(BLOCKS)})
    assert len(BLOCKS) == 2
    teacher = tmp_path / "teacher"
    outcome = train(command, data_dir, plugin, teacher, "--arch", "adapter_lm", "--adapter-dim", 4)
    assert outcome.code == 0, outcome.err
    assert not outcome.warnings
    checkpoint = ("--user-dir", plugin, "--path", teacher / "checkpoint_last.pt", "--cpu")
    assert "Perplexity: " in command("fairseq-eval-lm", data_dir, *checkpoint).out

    words = ["--criterion", "teacher", "--teacher-path", teacher / "checkpoint_last.pt"]
    outcome = train(command, data_dir, plugin, tmp_path / "student", *words)
    assert outcome.code == 0, outcome.err
    assert not outcome.warnings
    student = ("--user-dir", plugin, "--path", tmp_path / "student" / "checkpoint_last.pt", "--cpu")
    losses = []
    for weight in (0, 0.5, 1):
        out = command("fairseq-validate", data_dir, *student, "--teacher-weight", weight).out
        losses.append(float(re.findall(r" \| loss ([\d.]+)", out)[0]))
    assert losses[1] == pytest.approx((losses[0] + losses[2]) / 2, abs=1e-4)
    assert losses[0] != losses[2]
    plain = command("fairseq-eval-lm", data_dir, *student, "--gen-subset", "valid").out
    assert losses[0] == pytest.approx(float(re.findall(r"Loss \(base 2\): ([\d.]+)", plain)[0]), abs=1e-3)
