"""Lists of paths, and colons in names."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq.config.path_lists import colon_hint, join_paths, split_paths, unescaped
from fairseq.hub import from_pretrained
from knnlm import KNN
from tests.builders.cases import Artefacts, Call


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a", ["a"]),
        ("a:b", ["a", "b"]),
        (r"a\:b", ["a:b"]),
        (r"a\:b:c", ["a:b", "c"]),
        (r"c:\:b", ["c", ":b"]),
        (r"a\b:c", [r"a\b", "c"]),
        ("a:", ["a", ""]),
        ("", [""]),
        ("::", ["", "", ""]),
        (r"\:\:", ["::"]),
    ],
)
def test_a_list_is_cut_at_colons_that_are_not_escaped(text: str, names: list[str]) -> None:
    assert split_paths(text) == names


@given(st.lists(st.text(alphabet=":ab/ .", min_size=1), min_size=1))
def test_names_that_were_joined_come_back(names: list[str]) -> None:
    assert split_paths(join_paths(names)) == names
    assert [unescaped(join_paths([name])) for name in names] == names


def test_a_list_that_is_there_as_one_name_is_told_how_to_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:b").write_bytes(b"")
    assert colon_hint("a:b") == r"; for a name that has a colon, write 'a\:b'"
    assert colon_hint("a:c") == colon_hint("a") == ""


@pytest.fixture
def coloned(artefacts: Artefacts, tmp_path: Path) -> Path:
    """A directory with a colon in its name, in which everything lies."""
    place = tmp_path / "12:30"
    place.mkdir()
    for name, target in (("data", artefacts.data), ("checkpoint.pt", artefacts.checkpoint), ("index", artefacts.index)):
        (place / name).symlink_to(target)
    (place / "index.json").symlink_to(f"{artefacts.index}.json")
    for suffix in ("_keys.npy", "_vals.npy", ".json"):
        (place / f"store{suffix}").symlink_to(f"{artefacts.store}{suffix}")
    return place


def escaped(path: Path) -> str:
    return os.fspath(path).replace(":", r"\:")


def test_every_list_takes_a_name_with_a_colon(coloned: Path, artefacts: Artefacts, call: Call, tmp_path: Path) -> None:
    data, path, store, index = (escaped(coloned / name) for name in ("data", "checkpoint.pt", "store", "index"))
    model = [data, "--path", path, "--gen-subset", "test", "--cpu"]
    knn = ["--knnlm", "--lmbda", 0.3, "--k", 4, "--dstore-filename", store, "--indexfile", index]
    plain_knn = [
        "--knnlm",
        "--lmbda",
        0.3,
        "--k",
        4,
        "--dstore-filename",
        artefacts.store,
        "--indexfile",
        artefacts.index,
    ]
    plain = call("fairseq-eval-lm", artefacts.data, "--path", artefacts.checkpoint, *model[3:], *plain_knn)
    found = call("fairseq-eval-lm", *model, *knn, "--save-retrieval", tmp_path / "saved")
    assert found.code == plain.code == 0, found.err
    assert found.out.splitlines()[1].startswith("Loss (base 2): ")
    assert found.out.splitlines()[1] == plain.out.splitlines()[1]
    both = ["--dstore-filename", f"{store}:{artefacts.store}", "--indexfile", f"{index}:{artefacts.index}"]
    assert call("fairseq-eval-lm", *model, *knn[:5], *both).code == 0
    assert call("fairseq-eval-lm", data, "--path", f"{path}:{path}", *model[3:]).code == 0
    for words in (
        ["check", data, "--path", path, "--dstore-filename", store, "--indexfile", index, "--k", 4],
        ["recall", "--dstore-filename", store, "--indexfile", artefacts.index, "--k", 2, "--sample", 4],
        ["report", tmp_path / "saved", "--dstore-data", data],
        ["fit-lmbda", tmp_path / "saved", "--dstore-filename", store, "--out", tmp_path / "l.json", "--folds", 2],
    ):
        done = call("fairseq-knnlm", *words)
        assert done.code == 0, done.err
    lm = from_pretrained(coloned, "checkpoint.pt", coloned / "data", knn=KNN(coloned / "store", coloned / "index", k=4))
    assert len(lm.score("w1 w2")) == 3


def test_what_was_meant_as_one_name_is_said(coloned: Path, call: Call) -> None:
    flags = ["--gen-subset", "test", "--cpu"]
    found = call("fairseq-eval-lm", escaped(coloned / "data"), "--path", coloned / "checkpoint.pt", *flags)
    assert found.code == 2 and rf"write '{escaped(coloned / 'checkpoint.pt')}'" in found.err
    found = call("fairseq-eval-lm", coloned / "data", "--path", escaped(coloned / "checkpoint.pt"), *flags)
    assert found.code == 2 and rf"write '{escaped(coloned / 'data')}'" in found.err
