"""One broken input a case: what is broken, the command that meets it, and what its one line must say.

    Case(name, command, make, expect)        make(place) breaks copies of sound files and returns the arguments

``check`` runs the command in this process and holds it to the rule for what a user can put right: exit code 2, one
line ``PROG: error: …`` that says what and where, no traceback, and not a file that was not there before.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fairseq_cli.shared.run import run
from tests.builders.tiny_lm import BATCHING, MODEL, NUM_WORDS, OPTIMIZATION, TRAINED, main_of, write_data

LONGEST_ERROR = 1000
EVAL, TRAIN, PREPROCESS, BUILD = "fairseq-eval-lm", "fairseq-train", "fairseq-preprocess", "build_dstore.py"
GENERATE, INTERACTIVE = "fairseq-generate", "fairseq-interactive"
KNNLM = "fairseq-knnlm"


@dataclass(frozen=True)
class Artefacts:
    """Sound files, made once for all cases and never changed.

    Attributes:
        root: the directory that holds all of them.
        data: a data-bin directory, uint16 ids.
        checkpoint: of the tiny model, with its optimizer's state.
        store: prefix of the datastore of its training text, 16 wide; ``store.json`` is its manifest.
        index: with inverted lists.
        retrieval: directory of retrievals of valid and test, with two caches.
    """

    root: Path
    data: Path
    checkpoint: Path
    store: Path
    index: Path
    retrieval: Path


@dataclass(frozen=True)
class Place:
    """A directory of one case's own, beside the sound files."""

    root: Path
    good: Artefacts

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def data(self) -> Path:
        """Returns a copy of the data directory, to be broken."""
        return Path(shutil.copytree(self.good.data, self.root / "data-bin"))

    def checkpoint(self) -> Path:
        """Returns a copy of the checkpoint."""
        return Path(shutil.copy(self.good.checkpoint, self.root / "model.pt"))

    def store(self) -> Path:
        """Returns the prefix of a copy of the datastore."""
        for suffix in ("_keys.npy", "_vals.npy", ".json"):
            shutil.copy(f"{self.good.store}{suffix}", f"{self.root / 'dstore'}{suffix}")
        return self.root / "dstore"

    def index(self) -> Path:
        """Returns a copy of the index, with its manifest."""
        for suffix in ("", ".json"):
            shutil.copy(f"{self.good.index}{suffix}", f"{self.root / 'knn.index'}{suffix}")
        return self.root / "knn.index"

    def retrieval(self, split: str = "valid") -> Path:
        """Returns a copy of a retrieval."""
        return Path(shutil.copytree(self.good.retrieval / split, self.root / split))

    def evaluate(self, *, data: Path | None = None, path: Path | None = None) -> list[object]:
        """Returns the arguments of an evaluation, of sound files unless others are given."""
        return [data or self.good.data, "--path", path or self.good.checkpoint, "--cpu", "--log-format", "none"]

    def neighbours(self, *, store: Path | None = None, index: Path | None = None) -> list[object]:
        """Returns the arguments of an evaluation with neighbours."""
        files = ["--dstore-filename", store or self.good.store, "--indexfile", index or self.good.index]
        return [*self.evaluate(), "--knnlm", *files, "--lmbda", "0.25", "--k", "8"]

    def generate(self) -> list[object]:
        """Returns the arguments of generating with neighbours, from lines or from a split."""
        return [*self.neighbours(), "--max-len-b", "3"]

    def train(self, *, data: Path | None = None, more: Iterable[object] = ()) -> list[object]:
        """Returns the arguments of a short training into this place."""
        flags = [*MODEL, *BATCHING, *OPTIMIZATION, "--max-update", 2]
        return [data or self.good.data, "--save-dir", self.root / "out", *flags, *more]

    def preprocess(self, text: bytes | None = b"a b c\n", more: Iterable[object] = ()) -> list[object]:
        """Returns the arguments of a binarisation of ``text`` into this place."""
        if text is not None:
            (self.root / "text").write_bytes(text)
        return ["--only-source", "--trainpref", self.root / "text", "--destdir", self.root / "out", *more]

    def build(self, *, store: Path | None = None, more: Iterable[object] = ()) -> list[object]:
        """Returns the arguments of building an index in this place."""
        words = ["--dstore-mmap", store or self.good.store, "--faiss-index", self.root / "new.index"]
        return [*words, "--index-spec", "Flat", "--log-format", "none", *more]


@dataclass(frozen=True)
class Case:
    """A broken input.

    Attributes:
        name: of the case, unique over all tables.
        command: that meets it.
        make: breaks something in the place and returns the command's arguments.
        expect: must be in the error; it names the file or the flag.
    """

    name: str
    command: str
    make: Callable[[Place], Sequence[object]]
    expect: str


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


Call = Callable[..., Outcome]


def parametrise(cases: Sequence[Case]) -> Any:
    """Returns the decorator that runs a test once for each case."""
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def runner(capsys: pytest.CaptureFixture[str]) -> Call:
    """Returns ``call(prog, *words)``, which runs a command in this process as its console script would."""

    def call(prog: str, *words: object) -> Outcome:
        capsys.readouterr()
        code = run(prog, main_of(prog), [str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


def check(case: Case, place: Place, call: Call) -> None:
    """Runs a case and holds the command to the rule."""
    words = case.make(place)
    before = snapshot(place.root)
    outcome = call(case.command, *words)
    check_error(case.command, outcome, case.expect)
    assert snapshot(place.root) == before


def check_error(prog: str, outcome: Outcome, expect: str) -> None:
    """Asserts that a command has refused its input in one line that holds ``expect``."""
    assert "Traceback" not in outcome.err
    assert outcome.code == 2, outcome.err
    lines = outcome.err.splitlines()
    assert [line for line in lines if ": error: " in line] == lines[-1:], outcome.err
    assert lines[-1].startswith(f"{prog}: error: "), lines
    assert expect in lines[-1]
    assert len(lines[-1]) < LONGEST_ERROR, "what a broken file holds is shown in part"
    assert outcome.out == ""


def snapshot(root: Path) -> dict[str, str]:
    """Returns the hash of every file under a directory, and the names of the directories, by path."""
    found = {}
    for path in sorted(root.rglob("*")):
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "not a file"
        found[str(path.relative_to(root))] = content
    return found


def make_artefacts(root: Path) -> Artefacts:
    """Returns sound files, written by the commands themselves."""
    data = write_data(root / "data-bin", [f"w{i}" for i in range(NUM_WORDS)])
    good = Artefacts(
        root, data, root / "run" / "checkpoint_last.pt", root / "dstore", root / "knn.index", root / "retrieval"
    )
    train = [data, "--save-dir", root / "run", *TRAINED, "--max-update", 2]
    dump = [data, "--path", good.checkpoint, "--cpu", "--gen-subset", "train", "--context-window", 8]
    dump += ["--save-knnlm-dstore", "--dstore-mmap", good.store]
    build = ["--dstore-mmap", good.store, "--faiss-index", good.index, "--index-spec", "IVF4,Flat"]
    save = [data, "--path", good.checkpoint, "--cpu", "--context-window", 8, "--knnlm", "--k", 8, "--lmbda", 0.25]
    save += ["--dstore-filename", good.store, "--indexfile", good.index, "--cache-size", "10,20"]
    saves = [
        (EVAL, [*save, "--gen-subset", split, "--save-retrieval", good.retrieval / split])
        for split in ("valid", "test")
    ]
    for prog, words in ((TRAIN, train), (EVAL, dump), (BUILD, build), *saves):
        assert run(prog, main_of(prog), [*map(str, words), "--log-format", "none"]) == 0
    return good
