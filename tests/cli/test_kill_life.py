"""kill -9 while rows are appended, forgotten or compacted: the same command then ends with the same files."""

import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders.kill_child import Stage, finish_and_compare, kill_and_compare, measure
from tests.cli.test_kill import DUMP, EVALUATE, inputs  # noqa: F401 - a fixture

KILLS, KILLS_SOAK = 4, 200
STAGES: dict[str, tuple[str, list[str]]] = {
    "append": (
        "fairseq-eval-lm",
        shlex.split(
            f"{EVALUATE} {DUMP} --gen-subset valid --append --dstore-mmap dstore --save-interval-s 0 --max-tokens 40"
        ),
    ),
    "index append": (
        "build_dstore.py",
        shlex.split(
            "--dstore_mmap dstore --faiss_index built.index --append --save-interval-s 0 --log-format none"
            " --num_keys_to_add_at_a_time 40"
        ),
    ),
    "forget": ("fairseq-knnlm", shlex.split("forget dstore --rows 100:400")),
    "compact": (
        "fairseq-knnlm",
        shlex.split("forget dstore --compact --indexfile built.index --save-interval-s 0 --log-format none"),
    ),
}


@pytest.fixture(scope="session")
def life(inputs: Path) -> dict[str, Stage]:  # noqa: F811
    """Returns every stage, measured by a run that is not killed; each begins where the one before it ended."""
    stages, start = {}, inputs
    for name, (prog, words) in STAGES.items():
        stages[name] = measure(name, prog, words, start, inputs.with_name(f"after-{name.replace(' ', '-')}"))
        start = stages[name].expected
    return stages


stages = pytest.mark.parametrize("name", list(STAGES))


@stages
@pytest.mark.pitfall(5)
def test_a_killed_run_goes_on_to_the_same_files(
    life: dict[str, Stage], name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    tally = kill_and_compare(life[name], tmp_path, KILLS, seed=1)
    record_property("kills", f"{name}: {tally.kills} kills, {tally.compared} runs compared to the byte")
    assert tally.kills >= KILLS


@pytest.mark.slow
@stages
def test_a_kill_at_every_file_operation(life: dict[str, Stage], name: str, tmp_path: Path) -> None:
    stage = life[name]
    for operation in range(1, stage.operations + 1):
        directory = tmp_path / str(operation)
        shutil.copytree(stage.inputs, directory)
        assert stage.run(directory, kill_at=operation) in (-signal.SIGKILL, 0)
        finish_and_compare(stage, directory)
        shutil.rmtree(directory)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["append", "index append", "compact"])
@pytest.mark.parametrize("share", [0.5, 0.98])
def test_a_full_disk_loses_nothing(life: dict[str, Stage], name: str, tmp_path: Path, share: float) -> None:
    stage, directory = life[name], tmp_path / "full"
    grown = "built.index" if name == "index append" else "dstore_keys.npy"
    largest = (stage.expected / grown).stat().st_size
    shutil.copytree(stage.inputs, directory)
    assert stage.run(directory, largest_file=int(largest * share)) == 2
    assert "Traceback" not in Path(f"{directory}.log").read_text(encoding="utf-8")
    finish_and_compare(stage, directory)


@pytest.mark.soak
@stages
def test_a_run_that_is_killed_often_goes_on_to_the_same_files(
    life: dict[str, Stage], name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    tally = kill_and_compare(life[name], tmp_path, KILLS_SOAK, seed=2)
    record_property("kills", f"{name}: {tally.kills} kills, {tally.compared} runs compared to the byte")
    assert tally.kills >= KILLS_SOAK
