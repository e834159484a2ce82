"""kill -9 at random moments: the same command then ends with the files of a run that was never killed.

Every stage is killed in a process of its own, half of the time after a random time, half of the time at a random file
operation, up to six times in a row. Pitfalls 5, 6 and 19.
"""

import shlex
import shutil
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.builders.kill_child import Stage, contents, finish_and_compare, kill_and_compare, measure
from tests.builders.tiny_llama import write_tokenizer
from tests.builders.tiny_lm import NUM_WORDS, TRAINED, make_sentences

# The default suite has a few, for faults that any kill shows; the slow one more, for those of one moment in ten.
KILLS, KILLS_SLOW, KILLS_SOAK = 6, 30, 200
STOPS, STOPS_SLOW = 1, 4

EVALUATE = "data-bin --path checkpoints/checkpoint_last.pt --cpu --max-tokens 128 --log-format none"
DUMP = "--save-knnlm-dstore --gen-subset train --context-window 4"
TRAIN = ["data-bin", "--save-dir", "out", *TRAINED]
TRAIN += shlex.split("--max-epoch 2 --save-interval-updates 4 --keep-interval-updates 2 --keep-best-checkpoints 2")
INDEX = "--dstore_mmap dstore --faiss_index knn.index --log-format none"
STAGES: dict[str, tuple[str, list[str]]] = {
    "preprocess": (
        "fairseq-preprocess",
        shlex.split("--only-source --trainpref train.txt --validpref valid.txt --testpref valid.txt --destdir out"),
    ),
    "preprocess with a tokenizer": (
        "fairseq-preprocess",
        shlex.split("--only-source --tokenizer tokenizer --trainpref train.txt --validpref valid.txt --destdir out"),
    ),
    "train": ("fairseq-train", TRAIN),
    "dump": (
        "fairseq-eval-lm",
        shlex.split(f"{EVALUATE} {DUMP} --dstore-mmap out --save-interval-s 0"),
    ),
    "index training": (
        "build_dstore.py",
        shlex.split(f"{INDEX} --ncentroids 16 --code_size 8"),
    ),
    "index adding": (
        "build_dstore.py",
        shlex.split(f"{INDEX} --index-spec IVF4,SQ8 --save-interval-s 0 --num_keys_to_add_at_a_time 40"),
    ),
    "index in shards": (
        "build_dstore.py",
        shlex.split(
            f"{INDEX} --index-spec IVF4,SQ8 --num-shards 2 --with-rows --save-interval-s 0"
            " --num_keys_to_add_at_a_time 40"
        ),
    ),
    "index merged on the disk": (
        "build_dstore.py",
        shlex.split(f"{INDEX} --index-spec IVF4,SQ8 --num-shards 2 --merge disk"),
    ),
    "evaluation": (
        "fairseq-eval-lm",
        shlex.split(
            f"{EVALUATE} --knnlm --dstore-filename dstore --indexfile built.index --k 16 --lmbda 0.3"
            " --results-path results/valid.json --gen-subset valid --max-tokens 32"
        ),
    ),
    "retrieval": (
        "fairseq-eval-lm",
        shlex.split(
            f"{EVALUATE} --knnlm --dstore-filename dstore --indexfile built.index --k 16 --lmbda 0.3"
            " --save-retrieval out --gen-subset valid --max-tokens 32"
        ),
    ),
}


@pytest.fixture(scope="session")
def inputs(data_dir: Path, trained_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a directory with everything that a stage starts from: text, data, checkpoint, datastore and index."""
    directory = tmp_path_factory.mktemp("inputs") / "all"
    directory.mkdir()
    for name, count in (("train", 400), ("valid", 40)):
        lines = [" ".join(f"w{word - 4}" for word in s[:-1]) for s in make_sentences(count, seed=len(name))]
        (directory / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert NUM_WORDS < 100
    write_tokenizer(directory / "tokenizer")
    shutil.copytree(data_dir, directory / "data-bin")
    shutil.copytree(trained_dir, directory / "checkpoints")
    words = shlex.split(f"{EVALUATE} {DUMP} --dstore-mmap dstore")
    with_store = measure("dump", "fairseq-eval-lm", words, directory, directory.with_name("with-store")).expected
    words = shlex.split("--dstore_mmap dstore --faiss_index built.index --index-spec IVF4,SQ8 --log-format none")
    return measure("index", "build_dstore.py", words, with_store, directory.with_name("with-index")).expected


@pytest.fixture(scope="session")
def measured(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Stage]:
    """Returns ``measured(name)``: a stage, measured once by a run that is not killed."""

    @cache
    def stage_of(name: str) -> Stage:
        prog, words = STAGES[name]
        return measure(name, prog, words, inputs, tmp_path_factory.mktemp("expected") / "all")

    return stage_of


@pytest.fixture
def stage(request: pytest.FixtureRequest, measured: Callable[[str], Stage]) -> Stage:
    """Returns the stage that the test is about."""
    return measured(request.param)


stages = pytest.mark.parametrize("stage", list(STAGES), indirect=True)


@stages
@pytest.mark.parametrize("kills", [KILLS, pytest.param(KILLS_SLOW, marks=pytest.mark.slow)])
@pytest.mark.pitfall(5, 6, 19)
def test_a_killed_run_goes_on_to_the_same_files(
    stage: Stage, kills: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    tally = kill_and_compare(stage, tmp_path, kills, seed=1)
    record_property("kills", f"{stage.name}: {tally.kills} kills, {tally.compared} runs compared to the byte")
    assert tally.kills >= kills


@pytest.mark.parametrize("stops", [STOPS, pytest.param(STOPS_SLOW, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("stage", [name for name in STAGES if name != "index training"], indirect=True)
def test_a_run_that_is_told_to_stop_says_how_to_go_on(
    stage: Stage, tmp_path: Path, sent: int, code: int, stops: int
) -> None:
    stopped = 0
    for attempt in range(1, 30):
        directory = tmp_path / str(attempt)
        shutil.copytree(stage.inputs, directory)
        if stage.run(directory, after_s=stage.seconds * (attempt % 7) / 7, sent=sent) == code:
            stopped += 1
            last_line = Path(f"{directory}.log").read_text(encoding="utf-8").splitlines()[-1]
            assert last_line.startswith(f"{stage.prog}: stopped by {signal.Signals(sent).name}; "), last_line
            assert "the same command" in last_line
        finish_and_compare(stage, directory)
        if stopped == stops:
            return
    pytest.fail(f"stopped {stopped} times of {stops} in {attempt} attempts")


def error_of(log: Path) -> str:
    """Returns the one line of a user error, and checks that it is all there is of it."""
    text = log.read_text(encoding="utf-8")
    assert "Traceback" not in text
    lines = [line for line in text.splitlines() if ": error: " in line]
    assert len(lines) == 1, text
    return lines[0].split(": error: ", 1)[1]


@stages
@pytest.mark.parametrize("share", [0.75, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.5, 0.98))])
def test_a_full_disk_loses_nothing(stage: Stage, tmp_path: Path, share: float) -> None:
    """No file may grow beyond a share of the largest that the stage writes: the same error as of a full disk."""
    before = contents(stage.inputs)
    written = [len(data) for name, data in contents(stage.expected).items() if name not in before]
    directory = tmp_path / "full"
    shutil.copytree(stage.inputs, directory)
    assert stage.run(directory, largest_file=int(max(written) * share)) == 2
    error = error_of(Path(f"{directory}.log"))
    assert "File too large" in error
    assert any(name in error for name in ("out", "knn.index", "results")), f"which file? {error}"
    finish_and_compare(stage, directory)


@pytest.mark.soak
@stages
def test_a_run_that_is_killed_often_goes_on_to_the_same_files(
    stage: Stage, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    tally = kill_and_compare(stage, tmp_path, KILLS_SOAK, seed=2)
    record_property("kills", f"{stage.name}: {tally.kills} kills, {tally.compared} runs compared to the byte")
    assert tally.kills >= KILLS_SOAK
