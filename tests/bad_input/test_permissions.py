"""Files that may not be read, and directories that may not be written to.

Permissions do not bind the superuser, so the commands run with the rights of nobody where the tests run as root.
"""

import concurrent.futures.process  # noqa: F401 - commands import it when Python's own files cannot be read
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.builders.cases import (
    BUILD,
    EVAL,
    PREPROCESS,
    TRAIN,
    Artefacts,
    Call,
    Case,
    Place,
    check_error,
    parametrise,
    snapshot,
)
from tests.builders.tiny_lm import main_of

NOBODY = 65534
Make = Callable[[Place], list[object]]


@pytest.fixture
def open_place(artefacts: Artefacts) -> Iterator[Place]:
    """Returns a place that others may walk into, with a copy of the sound files; ``tmp_path`` lets nobody in."""
    root = Path(tempfile.mkdtemp(prefix="fairseq-test-"))
    try:
        copy = Path(shutil.copytree(artefacts.root, root / "sound"))
        for path in (root, *root.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        names = ("data", "checkpoint", "store", "index")
        moved = {name: copy / getattr(artefacts, name).relative_to(artefacts.root) for name in names}
        (root / "place").mkdir()
        yield Place(root / "place", replace(artefacts, root=copy, **moved))
    finally:
        shutil.rmtree(root)


@contextlib.contextmanager
def without_rights() -> Iterator[None]:
    """Takes the superuser's rights away for a while."""
    for prog in (BUILD, EVAL, PREPROCESS, TRAIN):
        main_of(prog)  # nobody may be unable to read our modules
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def unreadable(
    pick: Callable[[Place], Path], words: Callable[[Place], list[object]]
) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        pick(place).chmod(0)
        return words(place)

    return make


def text(place: Place) -> Path:
    (place / "text").write_text("a b\n", encoding="utf-8")
    return place / "text"


DENIED = "Permission denied"
CASES = [
    Case("denied-dict", EVAL, unreadable(lambda p: p.good.data / "dict.txt", Place.evaluate), f"dict.txt: {DENIED}"),
    Case("denied-idx", EVAL, unreadable(lambda p: p.good.data / "test.idx", Place.evaluate), f"test.idx: {DENIED}"),
    Case("denied-bin", EVAL, unreadable(lambda p: p.good.data / "test.bin", Place.evaluate), f"test.bin: {DENIED}"),
    Case("denied-checkpoint", EVAL, unreadable(lambda p: p.good.checkpoint, Place.evaluate), f"last.pt: {DENIED}"),
    Case("denied-index", EVAL, unreadable(lambda p: p.good.index, Place.neighbours), f"knn.index: {DENIED}"),
    Case(
        "denied-keys",
        BUILD,
        unreadable(lambda p: Path(f"{p.good.store}_keys.npy"), Place.build),
        f"dstore_keys.npy: {DENIED}",
    ),
    Case(
        "denied-manifest",
        EVAL,
        unreadable(lambda p: Path(f"{p.good.store}.json"), Place.neighbours),
        f"dstore.json: {DENIED}",
    ),
    Case("denied-text", PREPROCESS, unreadable(text, lambda p: p.preprocess(None)), f"text: {DENIED}"),
    Case("denied-save-dir", TRAIN, Place.train, f"out: {DENIED}"),
    Case("denied-destdir", PREPROCESS, Place.preprocess, f"out: {DENIED}"),
    Case("denied-new-index", BUILD, Place.build, DENIED),
    Case("denied-results", EVAL, lambda p: [*p.evaluate(), "--results-path", p / "results"], f"results: {DENIED}"),
]


@parametrise(CASES)
def test_without_permission(case: Case, open_place: Place, call: Call) -> None:
    words = case.make(open_place)
    open_place.root.chmod(0o555)
    before = snapshot(open_place.root)
    with without_rights():
        outcome = call(case.command, *words)
    check_error(case.command, outcome, case.expect)
    assert snapshot(open_place.root) == before
