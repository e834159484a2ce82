"""Evaluation in several processes, which torchrun or the command starts: they write what one writes, to the byte."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq.errors import ConfigError
from fairseq_cli.shared.eval_settings import EvalSettings
from tests.builders.cases import Artefacts
from tests.builders.tiny_lm import make_sentences, write_split

# Process 1 is killed when it has begun to score; process 0 then takes a while.
KILLED = """
import os, signal, time
from fairseq.evaluate.sequence_scorer import SequenceScorer

def scored_in_groups(*_):
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)

SequenceScorer.scored_in_groups = scored_in_groups
"""


def evaluate(*words: object, place: Path, torchrun: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs an evaluation in a process of its own, or in several that torchrun starts."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(torchrun)] if torchrun else []
    return subprocess.run(
        [sys.executable, *launcher, "-m", "fairseq_cli.eval_lm", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        cwd=place,
        timeout=300,
    )


@pytest.fixture(scope="module")
def flags(artefacts: Artefacts, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Returns the flags of an evaluation of some 6,000 tokens, with neighbours."""
    data = tmp_path_factory.mktemp("big")
    (data / "dict.txt").write_bytes((artefacts.data / "dict.txt").read_bytes())
    write_split(data / "big", make_sentences(800, 7))
    neighbours = ["--knnlm", "--dstore-filename", artefacts.store, "--indexfile", artefacts.index, "--k", 8]
    fixed = [data, "--path", artefacts.checkpoint, "--gen-subset", "big", "--cpu", "--max-tokens", 300]
    return [*fixed, "--log-format", "simple", *neighbours, "--lmbda", 0.25, "--knn-temp", 2]


def files_of(directory: Path) -> dict[str, bytes]:
    """Returns what was written, without times."""
    files = (path for path in directory.rglob("*") if path.is_file() and not path.name.endswith(".time.json"))
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "torchrun", "cut"),
    [("--distributed-world-size 2", 0, "--sample-break-mode eos"), ("", 3, "--context-window 8")],
)
def test_ranks_write_what_one_process_writes(
    flags: list[object], tmp_path: Path, flag: str, torchrun: int, cut: str
) -> None:
    words = [*flags, *cut.split(), *["--save-retrieval", "saved", "--results-path", "result.json"]]
    one, several = tmp_path / "one", tmp_path / "several"
    for place in (one, several):
        place.mkdir()
    alone = evaluate(*words, place=one)
    ranks = evaluate(*words, *flag.split(), place=several, torchrun=torchrun)
    assert (alone.returncode, ranks.returncode) == (0, 0), alone.stderr[-3000:] + ranks.stderr[-3000:]
    there, made = files_of(one), files_of(several)
    assert len(there) > 10
    assert {name: without_flag(data, flag) for name, data in made.items()} == there
    assert ranks.stdout.splitlines()[1:] == alone.stdout.splitlines()[1:]
    assert ranks.stderr.count("| fairseq-eval-lm: ") == 1, "one process tells of the run"


def without_flag(data: bytes, flag: str) -> bytes:
    """Returns what is in a file, without a flag of the command that a record names."""
    words = "".join(rf',\s*"{word}"' for word in flag.split())
    return re.sub(words.encode(), b"", data) if flag else data


@pytest.mark.slow
def test_an_error_of_the_first_rank_ends_all_with_its_line(flags: list[object], tmp_path: Path) -> None:
    """The second one waits for the first meanwhile."""
    (tmp_path / "r").write_text("somebody's")
    done = evaluate(*flags, "--save-retrieval", tmp_path / "r" / "under", place=tmp_path, torchrun=2)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if "fairseq-eval-lm: error" in line]
    assert len(errors) == 1, done.stderr[-3000:]
    assert "cannot be made, since" in errors[0]


@pytest.mark.slow
def test_a_rank_that_is_killed_is_named(flags: list[object], tmp_path: Path) -> None:
    """The other one meets it only when torchrun stops it."""
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "__init__.py").write_text(KILLED)
    done = evaluate(*flags, "--user-dir", tmp_path / "plugin", place=tmp_path, torchrun=2)
    errors = [line for line in done.stderr.splitlines() if line.startswith("fairseq-eval-lm: ")]
    assert errors == [
        "fairseq-eval-lm: error: rank 1 of 2 has ended; nothing is kept of a stopped evaluation; the same command"
        " starts from the beginning"
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--num-shards 2", "--num-shards 2 shares the work among jobs, but there are 2 processes"),
        ("--output-word-probs", "--output-word-probs prints words in the order of the text, but there are 2 processes"),
        ("--output-word-stats", "--output-word-stats counts the words of the whole text, but there are 2 processes"),
        (
            "--cache-size 10 --cache-lmbda 0.1",
            "cannot be sharded; leave out --num-shards, --distributed-world-size and torchrun",
        ),
    ],
)
def test_what_several_processes_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch, words: str, message: str) -> None:
    from fairseq.config.command_line import parse
    from fairseq_cli.eval_lm import flag_groups

    flags = parse("fairseq-eval-lm", "", flag_groups(), ["data-bin", "--path", "model.pt", *words.split()])
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        EvalSettings(flags)
    assert message in str(caught.value)
