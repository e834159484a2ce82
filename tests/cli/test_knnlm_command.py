"""``fairseq-knnlm``: whatever is damaged, that check fails and no other; and what the other subcommands print."""

import hashlib
import inspect
import json
import pickle
import re
import shutil
import struct
import typing
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from fairseq.config.registry import load
from fairseq_cli.knnlm import SUBCOMMANDS
from fairseq_cli.shared.run import run
from tests.builders.tiny_lm import Command, Outcome, main_of

WIDTH = 16


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def built(data_dir: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a directory with data, checkpoint, datastore and index that belong together."""
    root = tmp_path_factory.mktemp("knnlm") / "all"
    shutil.copytree(data_dir, root / "data-bin")
    shutil.copy(checkpoint, root / "model.pt")
    record = {
        "dictionary": {"sha256": sha256(root / "data-bin/dict.txt")},
        "splits": {s: {"bin_sha256": sha256(root / f"data-bin/{s}.bin")} for s in ("train", "valid", "test")},
    }
    (root / "data-bin/preprocess.json").write_text(json.dumps(record))
    dump = f"{root}/data-bin --path {root}/model.pt --gen-subset train --context-window 6 --save-knnlm-dstore"
    dump += f" --dstore-mmap {root}/dstore --log-format none --cpu"
    assert run("fairseq-eval-lm", main_of("fairseq-eval-lm"), dump.split()) == 0
    build = f"--dstore-mmap {root}/dstore --faiss-index {root}/knn.index --index-spec IVF8,Flat --log-format none"
    assert run("build_dstore.py", main_of("build_dstore.py"), build.split()) == 0
    return root


@pytest.fixture
def files(built: Path, tmp_path: Path) -> Path:
    """Returns a copy of it, to be damaged."""
    shutil.copytree(built, tmp_path / "all")
    return tmp_path / "all"


@pytest.fixture
def check(command: Command, files: Path) -> Callable[..., Outcome]:
    """Returns ``check(*flags)``: everything is given."""

    def call(*words: object) -> Outcome:
        return command(
            "fairseq-knnlm",
            "check",
            files / "data-bin",
            "--path",
            files / "model.pt",
            "--dstore-filename",
            files / "dstore",
            "--indexfile",
            files / "knn.index",
            "--log-format",
            "none",
            *words,
        )

    return call


def found(outcome: Outcome, status: str) -> dict[str, str]:
    """Returns the findings of a status, by what was checked."""
    matches = [re.fullmatch(r"(\w+) +([^:]+): (.+)", line) for line in outcome.out.splitlines()]
    assert matches and all(matches), outcome.out
    return {m[2]: m[3] for m in matches if m is not None and m[1] == status}


def edit(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset, 0 if offset >= 0 else 2)
        file.write(data)


def flip(path: Path, offset: int) -> None:
    edit(path, offset, bytes([path.read_bytes()[offset] ^ 1]))


def rows_of(files: Path) -> int:
    return (files / "dstore_vals.npy").stat().st_size // 8


def reweighted(files: Path, value: float) -> None:
    raw = torch.load(files / "model.pt", weights_only=False)
    next(t for name, t in raw["model"].items() if name.endswith("fc1.weight"))[0, 0] = value
    torch.save(raw, files / "model.pt")


def other_index(files: Path, keys: np.ndarray, *, manifest: bool = False) -> None:
    index = faiss.IndexFlatL2(keys.shape[1])
    index.add(keys)
    faiss.write_index(index, str(files / "knn.index"))
    if not manifest:
        (files / "knn.index.json").unlink()


def renumbered(files: Path) -> None:
    """Makes an index whose ids are no rows."""
    keys = np.fromfile(files / "dstore_keys.npy", np.float32).reshape(-1, WIDTH)
    index = faiss.IndexIDMap(faiss.IndexFlatL2(WIDTH))
    index.add_with_ids(keys, np.arange(len(keys)) + 1)
    faiss.write_index(index, str(files / "knn.index"))
    (files / "knn.index.json").unlink()


def noise(rows: int, width: int = WIDTH) -> np.ndarray:
    return 50 + np.random.default_rng(3).standard_normal((rows, width)).astype(np.float32)


class Bomb:
    """A pickle that would make a file, were it run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def change_json(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_what_belongs_together_passes(check: Command, files: Path, tmp_path: Path) -> None:
    outcome = check("--json", tmp_path / "findings.json")
    assert outcome.code == 0, outcome.err + outcome.out
    assert not found(outcome, "FAILED") and not found(outcome, "skipped")
    fine = found(outcome, "ok")
    assert fine["index recall"].startswith(("9", "100.0%")) and fine["index keys"].startswith("100.0%")
    assert fine["datastore keys filled"] and fine["data train sha256"] and fine["checkpoint model"]
    record = json.loads((tmp_path / "findings.json").read_text())
    assert record["failed"] == 0 and len(record["findings"]) == len(outcome.out.splitlines())


# What is done to the files, further flags, and the checks that must fail.
DAMAGE: dict[str, tuple[Callable[[Path], object], str, set[str]]] = {
    "a token": (lambda f: flip(f / "data-bin/valid.bin", 0), "", {"data valid sha256"}),
    "an id": (lambda f: edit(f / "data-bin/valid.bin", 0, b"\xff\xff"), "--fast", {"data valid ids"}),
    "torn text": (lambda f: edit(f / "data-bin/valid.idx", 18, b"\xff" * 8), "", {"data valid sizes"}),
    "no such split": (lambda f: None, "--gen-subset train,gone", {"data gone sizes"}),
    "the dictionary": (
        lambda f: edit(f / "data-bin/dict.txt", (f / "data-bin/dict.txt").stat().st_size, b"more 1\n"),
        "",
        {"dictionary", "checkpoint dictionary", "datastore dictionary"},
    ),
    "a dictionary line": (lambda f: (f / "data-bin/dict.txt").write_text("the\n"), "", {"dictionary"}),
    "preprocess.json": (lambda f: (f / "data-bin/preprocess.json").write_text("[" * 10**5), "", {"preprocess.json"}),
    "a torn checkpoint": (lambda f: edit(f / "model.pt", -2000, b"\0" * 2000), "", {"checkpoint"}),
    "a checkpoint with code": (
        lambda f: (f / "model.pt").write_bytes(pickle.dumps(Bomb(f / "executed"))),
        "",
        {"checkpoint"},
    ),
    "another checkpoint": (lambda f: reweighted(f, 0.5), "", {"datastore weights"}),
    "a NaN weight": (lambda f: reweighted(f, float("nan")), "", {"checkpoint"}),
    "a byte of the keys": (lambda f: flip(f / "dstore_keys.npy", 4 * WIDTH * 77), "", {"datastore keys sha256"}),
    "a byte of the values": (lambda f: flip(f / "dstore_vals.npy", 8 * 77), "", {"datastore values sha256"}),
    "a NaN key": (
        lambda f: edit(f / "dstore_keys.npy", 4 * WIDTH * 77, struct.pack("<f", float("nan"))),
        "--fast",
        {"datastore keys finite"},
    ),
    "a zero row": (
        lambda f: edit(f / "dstore_keys.npy", 4 * WIDTH * 77, bytes(4 * WIDTH)),
        "--fast",
        {"datastore keys filled"},
    ),
    "a zero tail": (
        lambda f: edit(f / "dstore_keys.npy", -40 * WIDTH, bytes(40 * WIDTH)),
        "--fast",
        {"datastore keys filled"},
    ),
    "a value": (lambda f: edit(f / "dstore_vals.npy", 8 * 77, struct.pack("<q", 40)), "--fast", {"datastore values"}),
    "a short store": (lambda f: edit(f / "dstore_keys.npy", 10**6, b"0"), "", {"datastore sizes"}),
    "the manifest": (lambda f: (f / "dstore.json").write_text("{"), "", {"datastore manifest"}),
    "an unfinished store": (lambda f: change_json(f / "dstore.json", state="writing"), "", {"datastore sizes"}),
    "too few checksums": (
        lambda f: change_json(f / "dstore.json", keys_sha256=["", ""]),
        "",
        {"datastore keys sha256"},
    ),
    "a byte of the index, seen": (lambda f: flip(f / "knn.index", 20000), "--fast", {"index fingerprint"}),
    "a byte of the index": (lambda f: flip(f / "knn.index", 20000), "", {"index sha256"}),
    "a torn index": (lambda f: edit(f / "knn.index", 0, b"garbage"), "--fast", {"index fingerprint", "index"}),
    "an index's size": (lambda f: edit(f / "knn.index", 10**6, b"0"), "", {"index size"}),
    "an index of other keys": (lambda f: other_index(f, noise(rows_of(f))), "", {"index keys"}),
    "ids beyond the rows": (renumbered, "", {"index keys"}),
    "an index of fewer keys": (lambda f: other_index(f, noise(rows_of(f) - 1)), "", {"index rows"}),
    "an index of another width": (lambda f: other_index(f, noise(rows_of(f), 8)), "", {"index width"}),
    "an index replaced": (
        lambda f: other_index(f, noise(rows_of(f)), manifest=True),
        "",
        {"index size", "index"},
    ),
    "an index of another store": (
        lambda f: change_json(f / "knn.index.json", store_id="0" * 64),
        "",
        {"index store"},
    ),
    "the index's manifest": (lambda f: (f / "knn.index.json").write_text("null"), "", {"index manifest"}),
    "no datastore": (lambda f: [p.unlink() for p in f.glob("dstore*")], "", {"datastore sizes"}),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_exactly_the_damaged_part_fails(check: Command, files: Path, name: str) -> None:
    damage, flags, expected = DAMAGE[name]
    damage(files)
    outcome = check(*flags.split())
    assert set(found(outcome, "FAILED")) == expected, outcome.out
    assert outcome.error.startswith(f"{len(expected)} of {len(outcome.out.splitlines())} checks failed")
    assert "Traceback" not in outcome.err and not (files / "executed").exists()


def test_the_damaged_rows_are_named(check: Command, files: Path) -> None:
    flip(files / "dstore_keys.npy", 0)
    edit(files / "dstore_keys.npy", -40 * WIDTH, bytes(40 * WIDTH))
    failures = found(check(), "FAILED")
    rows = rows_of(files)
    assert f"rows 0 to {rows - 1}" in failures["datastore keys sha256"]
    assert f"rows {rows - 10} to {rows - 1}, 10 at the end, were never filled" in failures["datastore keys filled"]


def test_fewer_neighbours_than_asked_for_is_a_warning(check: Command) -> None:
    outcome = check("--probe", 1, "--k", 5000)
    assert outcome.code == 0
    assert "raise --probe" in found(outcome, "warning")["index −1"]


def test_a_store_without_a_manifest(command: Command, files: Path) -> None:
    (files / "dstore.json").unlink()
    outcome = command("fairseq-knnlm", "check", "--dstore-filename", files / "dstore", "--dimension", WIDTH)
    assert outcome.code == 0 and set(found(outcome, "warning")) == {"datastore manifest"}
    assert f"{rows_of(files)} rows" in found(outcome, "ok")["datastore sizes"]


def test_there_must_be_something_to_check(command: Command) -> None:
    assert "nothing to check" in command("fairseq-knnlm", "check").error


def test_subcommands(command: Command) -> None:
    for word in ("chek", "Check"):
        assert "did you mean check?" in command("fairseq-knnlm", word).error
    assert "is missing" in command("fairseq-knnlm").error
    assert "did you mean --dstore-filename?" in command("fairseq-knnlm", "check", "--dstore-filname", "x").error


def test_info_says_what_files_are(command: Command, files: Path) -> None:
    names = (
        "data-bin/dict.txt",
        "data-bin/valid.idx",
        "data-bin/valid.bin",
        "model.pt",
        "dstore",
        "dstore_vals.npy",
        "dstore.json",
        "knn.index",
        "knn.index.trained",
        "knn.index.json",
        "model.pt",
    )
    outcome = command("fairseq-knnlm", "info", *(files / name for name in names))
    assert outcome.code == 0, outcome.err
    kinds = [line.split(": ", 1)[1] for line in outcome.out.splitlines() if not line.startswith(" ")]
    assert kinds == [
        "dictionary",
        "binarised text",
        "binarised text",
        "checkpoint",
        "datastore",
        "datastore",
        "manifest of a datastore",
        "FAISS index",
        "FAISS index without keys (trained, to be filled)",
        "manifest of an index",
        "checkpoint",
    ]
    for line in (
        "ids: 40",
        "written by: this program",
        "updates: 60",
        f"rows: {rows_of(files)}",
        "type: IndexIVFFlat",
        f"keys: {rows_of(files)}",
        "nlist: 8",
        "specification: IVF8,Flat",
    ):
        assert f"  {line}\n" in outcome.out, line


def test_info_of_what_is_unfinished(command: Command, files: Path) -> None:
    change_json(files / "dstore.json", state="writing", rows_written=rows_of(files) // 2)
    (files / "knn.index").rename(files / "knn.index.partial")
    outcome = command("fairseq-knnlm", "info", files / "dstore", files / "knn.index")
    assert f"unfinished datastore, {rows_of(files) // 2} of {rows_of(files)} rows (50 %)" in outcome.out
    assert "unfinished index, as far as knn.index.partial" in outcome.out


def test_info_of_a_foreign_store_lists_the_layouts_that_fit(command: Command, tmp_path: Path) -> None:
    (tmp_path / "x_keys.npy").write_bytes(bytes(5 * 8 * 4))
    (tmp_path / "x_vals.npy").write_bytes(bytes(5 * 8))
    outcome = command("fairseq-knnlm", "info", tmp_path / "x")
    assert "may be: 5 rows of 8-wide float32 keys and int64 values\n" in outcome.out
    assert "may be: 10 rows of 8-wide float16 keys and int32 values\n" in outcome.out


@pytest.mark.parametrize(
    "name, data",
    [
        ("a.json", b"{}"),
        ("b.json", b"[" * 10**5),
        ("c", b"hello\0"),
        ("d.pt", b"PK\x03\x04 torn"),
        ("e", b"IwFl torn"),
        ("f.idx", b"MMIDIDX\0\0"),
        ("g.safetensors", b"\xff" * 7 + b"\x7f{}"),
        ("h", b""),
        ("dict.txt", b"the\n"),
    ],
)
def test_info_of_what_is_unknown_or_torn_is_one_line(command: Command, tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    outcome = command("fairseq-knnlm", "info", tmp_path / name)
    assert outcome.error and outcome.out == ""


def test_info_of_a_directory_lists_what_is_in_it(command: Command, files: Path, tmp_path: Path) -> None:
    (tmp_path / "stores").mkdir()
    for file in files.glob("dstore*"):
        shutil.copy(file, tmp_path / "stores")
    (tmp_path / "stores" / "notes.txt").write_text("two stores\n", encoding="utf-8")
    (tmp_path / "stores" / "x").write_bytes(b"\0\1")
    rows = json.loads((files / "dstore.json").read_text())["rows"]
    lines = command("fairseq-knnlm", "info", tmp_path / "stores").out.splitlines()
    assert lines[0] == f"{tmp_path / 'stores'}: directory with the datastore {tmp_path / 'stores' / 'dstore'}"
    assert lines[1].startswith(f"  dstore: datastore, {rows} rows of width ")
    assert lines[2:] == ["  notes.txt: text", "  x: of no kind that is known"]
    data = command("fairseq-knnlm", "info", files / "data-bin").out
    tokens = command("fairseq-knnlm", "info", files / "data-bin" / "train.idx").out
    assert re.search(r"tokens: (\d+)", tokens)[1] in re.search(r"  train: .* (\d+) tokens", data)[1]


def loss(outcome: Outcome) -> str:
    line = re.search(r"Loss \(base 2\).*", outcome.out)
    assert line is not None, outcome.err
    return line[0]


def evaluated(command: Command, files: Path, model: Path, results: Path) -> dict[str, object]:
    outcome = command("fairseq-eval-lm", files / "data-bin", "--path", model, "--cpu", "--results-path", results)
    assert outcome.code == 0, outcome.err
    record = json.loads(results.read_text())
    return {name: record[name] for name in ("loss_base2", "log_p_sum_nats", "targets")}


def test_convert_and_back_is_the_same_bit_for_bit(command: Command, files: Path, tmp_path: Path) -> None:
    weights, back = tmp_path / "m.safetensors", tmp_path / "back.pt"
    assert command("fairseq-knnlm", "convert", files / "model.pt", weights).code == 0
    assert command("fairseq-knnlm", "convert", weights, back).code == 0
    assert evaluated(command, files, back, tmp_path / "b.json") == evaluated(
        command, files, files / "model.pt", tmp_path / "a.json"
    )
    info = command("fairseq-knnlm", "info", weights, back).out
    assert "updates: 60" in info and "weights (safetensors)" in info
    shas = {
        re.search(r"weights sha256: (\w+)", command("fairseq-knnlm", "info", m).out)[1]  # type: ignore[index]
        for m in (back, files / "model.pt")
    }
    assert len(shas) == 1
    assert "--overwrite to replace it" in command("fairseq-knnlm", "convert", weights, back).error
    assert command("fairseq-knnlm", "convert", weights, back, "--overwrite").code == 0


@pytest.mark.parametrize("name", ["checkpoint_best.pt", "checkpoint_2019_layout.pt"])
def test_convert_reads_the_originals_checkpoints(command: Command, golden_dir: Path, tmp_path: Path, name: str) -> None:
    for source, target in (
        (golden_dir / name, tmp_path / "m.safetensors"),
        (tmp_path / "m.safetensors", tmp_path / "m.pt"),
    ):
        assert command("fairseq-knnlm", "convert", source, target).code == 0
    outcome = command(
        "fairseq-knnlm", "check", golden_dir / "data-bin", "--path", tmp_path / "m.pt", "--gen-subset", "test"
    )
    assert outcome.code == 0 and "its weights fit" in found(outcome, "ok")["checkpoint model"]
    shas = [
        re.search(r"weights sha256: (\w+)", command("fairseq-knnlm", "info", m).out)[1]  # type: ignore[index]
        for m in (tmp_path / "m.pt", golden_dir / name)
    ]
    assert shas[0] == shas[1]


def test_convert_refuses(command: Command, files: Path, tmp_path: Path) -> None:
    assert (
        "must end in .safetensors" in command("fairseq-knnlm", "convert", files / "model.pt", tmp_path / "x.pt").error
    )
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"\xff" * 100)
    assert "not a whole .safetensors file" in command("fairseq-knnlm", "convert", torn, tmp_path / "x.pt").error
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, torn)
    assert "must name the format" in command("fairseq-knnlm", "convert", torn, tmp_path / "x.pt").error
    assert not (tmp_path / "x.pt").exists()


def test_convert_names_the_extra_that_is_missing(
    command: Command, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "safetensors.torch", None)
    error = command("fairseq-knnlm", "convert", files / "model.pt", tmp_path / "m.safetensors").error
    assert "fairseq-knnlm[safetensors]" in error


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_a_subcommands_function_takes_what_the_table_gives(name: str) -> None:
    subcommand = SUBCOMMANDS[name]
    arguments = list(inspect.signature(load(subcommand.function)).parameters.values())
    assert len(arguments) == len(subcommand.configs) + len(subcommand.more)
    for argument, config in zip(arguments, subcommand.configs, strict=False):
        assert config in (argument.annotation, *typing.get_args(argument.annotation))
    more = arguments[len(subcommand.configs) :]
    assert [argument.name == "seed" for argument in more] == [name == "seed" for name in subcommand.more]


@pytest.mark.parametrize("has_text", [False, True])
def test_recall_prints_and_writes_a_table(
    command: Command, files: Path, tmp_path: Path, has_text: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Every list is visited, so that nothing is missed; a loss needs a text, and what belongs to it says so."""
    words = ["--dstore-filename", files / "dstore", "--indexfile", files / "knn.index", "--k", 5, "--probe", 8]
    text = [files / "data-bin", "--path", files / "model.pt", "--gen-subset", "valid", "--cpu"] if has_text else []
    words += ["--sample", 20, "--context-window", 6, "--log-format", "none", "--json", tmp_path / "table.json"]
    outcome = command("fairseq-knnlm", "recall", *text, *words)
    assert outcome.code == 0, outcome.err
    first, *table = outcome.out.splitlines()
    source = f"{files}/data-bin, valid" if has_text else "the datastore's own rows"
    assert first == f"20 queries: {source}; k 5"
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert len(table) == 1 + len(rows) == 4  # column names; exact search, the index's own distances, and exact ones
    assert [row["recall"] for row in rows] == [1.0, pytest.approx(1, abs=0.05), pytest.approx(1, abs=0.05)]
    assert all((row["loss"] is not None) == has_text for row in rows)
    warning = "--context-window has no effect: without DATA and --path there is no loss"
    assert (warning in caplog.text) != has_text


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("eval", "fairseq-eval-lm"),
        ("eval-lm", "fairseq-eval-lm"),
        ("build", "fairseq-build-dstore"),
        ("train", "fairseq-train"),
    ],
)
def test_a_command_of_its_own_is_named(command: Command, word: str, meant: str) -> None:
    assert f"error: {word} is a command of its own: {meant} " in command("fairseq-knnlm", word, "data-bin").err
