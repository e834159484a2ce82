"""What is in an output's place stays: every output flag with everything that may be there already.

A cell of the matrix is an output, one of the files that it writes, and a thing that is there. With and without
``--overwrite`` no file may change that is not of the kind that is to be written and of this program.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.builders.cases import Artefacts
from tests.builders.outputs import OUTPUTS, THINGS, Output, make_everything, put, state


@pytest.fixture(scope="module")
def made(artefacts: Artefacts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Returns a directory with one of everything."""
    before = Path.cwd()
    root = tmp_path_factory.mktemp("outputs") / "all"
    make_everything(artefacts, root)
    os.chdir(before)
    yield root


@pytest.fixture
def everything(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the same, as the working directory; ``out`` is empty, and new for each test."""
    monkeypatch.chdir(made)
    shutil.rmtree("out", ignore_errors=True)
    Path("out").mkdir()
    return made


def tried(output: Output, file: str, thing: str, root: Path, *, overwrite: bool) -> list[str]:
    """Returns what is wrong when an output is written with a thing in one of its files' places."""
    shutil.rmtree("out")
    shutil.rmtree("trained", ignore_errors=True)
    Path("out").mkdir()
    put(thing, Path(file))
    before = state(root)
    code, said = output.call(overwrite=overwrite)
    after = state(root)
    errors = [line for line in said.splitlines() if ": error: " in line]
    wrong = []
    if code not in (0, 2) or (code == 2) != (len(errors) == 1) or "Traceback" in said:
        wrong.append(f"ended with {code}: {said[-500:]}")
    may_change = {file} if thing in output.files[file] and (overwrite or "--log-file" in output.words) else set()
    if output.words.startswith(("sweep", "fit-lmbda")):  # their sections of what is kept of a retrieval
        may_change |= {"retrieval/valid/results.json", "retrieval/valid/results.time.json"}
    changed = [path for path, was in before.items() if after.get(path) != was and path not in may_change]
    if changed:
        wrong.append(f"changed {changed}: {said[-300:]}")
    left = [path for path in after if path.endswith((".knnlm.tmp", ".knnlm.lock"))]
    if left:
        wrong.append(f"left {left}")
    return [f"{file} is {thing}, {'with' if overwrite else 'without'} --overwrite: {one}" for one in wrong]


def try_all(output: Output, things: Callable[[str], bool], root: Path) -> tuple[int, list[str]]:
    """Returns how many cells were tried, and what was wrong."""
    count, wrong = 0, []
    for file in output.files:
        for thing in filter(things, THINGS):
            for overwrite in (False, True)[: 1 + bool(output.flags)]:
                count += 1
                wrong += tried(output, file, thing, root, overwrite=overwrite)
    return count, wrong


@pytest.mark.slow
@pytest.mark.pitfall(29)
@pytest.mark.parametrize("name", OUTPUTS)
def test_nothing_is_lost(name: str, everything: Path, record_property: Callable[[str, object], None]) -> None:
    count, wrong = try_all(OUTPUTS[name], lambda thing: True, everything)
    record_property("cells", f"{name}: {count} cells, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
