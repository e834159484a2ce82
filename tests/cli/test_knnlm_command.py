"""fairseq-knnlm: check finds each kind of damage, adopt mends what can be mended, convert loses nothing."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_lm import Command, Outcome, num_tokens

from fairseq.checkpoints import load_checkpoint
from fairseq.knn.manifest import DatastoreManifest, read_manifest

WIDTH, BLOCK, WINDOW = 16, 12, 4
LOSS = "Loss (base 2):"
LEAST_RECALL = 0.98  # every list is visited, and codes of a byte move a distance by a percent or so


@pytest.fixture
def knnlm(command: Command) -> Command:
    def call(*words: object) -> Outcome:
        return command("fairseq-knnlm", *words)

    return call


@pytest.fixture
def run_dir(command: Command, data_dir: Path, trained_dir: Path, tmp_path: Path) -> Path:
    """Returns a directory with data, checkpoint, datastore and index that belong together."""
    directory = tmp_path / "run"
    shutil.copytree(data_dir, directory / "data-bin")
    shutil.copy(trained_dir / "checkpoint_last.pt", directory / "model.pt")
    words = [directory / "data-bin", "--path", directory / "model.pt", "--cpu", "--gen-subset", "train"]
    dump = ["--save-knnlm-dstore", "--dstore-mmap", directory / "dstore", "--context-window", WINDOW]
    assert command("fairseq-eval-lm", *words, *dump).code == 0
    index = ["--dstore_mmap", directory / "dstore", "--faiss_index", directory / "i", "--index-spec", "IVF4,SQ8"]
    assert command("build_dstore.py", *index).code == 0
    return directory


def all_of(run_dir: Path) -> list[object]:
    return [run_dir / "data-bin", "--path", run_dir / "model.pt", "--dstore-filename", run_dir / "dstore",
            "--indexfile", run_dir / "i", "--k", 8, "--probe", 4, "--sample", 20, "--log-format", "none"]  # fmt: skip


def failed(outcome: Outcome) -> list[str]:
    return [line.split(None, 1)[1].split(":")[0] for line in outcome.out.splitlines() if line.startswith("FAILED")]


# check


def test_a_run_in_order_passes(knnlm: Command, run_dir: Path) -> None:
    outcome = knnlm("check", *all_of(run_dir), "--json", run_dir / "findings.json")
    assert outcome.code == 0, outcome.out
    assert not failed(outcome)
    recall = re.search(r"recall@8 (\d\.\d+), nprobe 4, ", outcome.out)
    assert recall is not None
    assert float(recall[1]) >= LEAST_RECALL
    assert "0.00 % of results are −1, 20 of 20 keys find their own row" in outcome.out
    findings = json.loads((run_dir / "findings.json").read_text(encoding="utf-8"))
    assert len(findings) == len(outcome.out.splitlines())


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(bytes(data))


def set_key(run_dir: Path, row: int, value: float) -> None:
    keys = np.memmap(run_dir / "dstore_keys.npy", np.float32, "r+").reshape(-1, WIDTH)
    keys[row] = value
    keys.flush()


def set_value(run_dir: Path, row: int, value: int) -> None:
    values = np.memmap(run_dir / "dstore_vals.npy", np.int64, "r+")
    values[row] = value
    values.flush()


def other_weights(run_dir: Path) -> None:
    raw = torch.load(run_dir / "model.pt", weights_only=False)
    raw["model"]["decoder.layers.0.fc1.bias"] += 1
    torch.save(raw, run_dir / "model.pt")


def other_words(run_dir: Path) -> None:
    path = run_dir / "data-bin" / "dict.txt"
    path.write_text(path.read_text(encoding="utf-8").replace("w5@@ ", "other "), encoding="utf-8")


DAMAGE: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "a flipped bit in the keys": (
        lambda d: flip(d / "dstore_keys.npy", 4 * WIDTH * 70 + 5), ["checksums of dstore_keys.npy"],
        "rows 0 to ",
    ),
    "a flipped bit in the values": (
        lambda d: flip(d / "dstore_vals.npy", 80), ["checksums of dstore_vals.npy"], "are damaged (1 chunks)",
    ),
    "a key that is no number": (
        lambda d: set_key(d, 33, np.nan), ["checksums of dstore_keys.npy", "keys that are not finite"],
        "1, first in row 33",
    ),
    "a key of zeros": (
        lambda d: set_key(d, 33, 0), ["checksums of dstore_keys.npy", "keys that are all zero"], "1, first in row 33",
    ),
    "a value beyond the vocabulary": (
        lambda d: set_value(d, 7, 4000), ["checksums of dstore_vals.npy", "datastore, values"],
        "1 outside, first in row 7",
    ),
    "a truncated file of keys": (
        lambda d: (d / "dstore_keys.npy").write_bytes(b"short"), ["datastore"], "must have",
    ),
    "another model": (other_weights, ["datastore, origin"], "was written with model weights"),
    "another dictionary": (
        other_words, ["checkpoint and dictionary", "datastore, origin"], "was trained with another dictionary",
    ),
    "a flipped bit in the index": (
        lambda d: flip(d / "i", (d / "i").stat().st_size - 40), ["index, checksum"],
        "is not the file that its manifest names",
    ),
    "an id beyond the dictionary": (
        lambda d: flip(d / "data-bin" / "train.bin", 201), ["split train"], "holds the id",
    ),
    "a torn checkpoint": (
        lambda d: (d / "model.pt").write_bytes((d / "model.pt").read_bytes()[:5000]), ["checkpoint"], "model.pt",
    ),
    "no index": (lambda d: (d / "i").unlink(), ["index"], "is unfinished"),
}  # fmt: skip


@pytest.mark.parametrize("what", list(DAMAGE))
def test_damage_is_found_and_named(knnlm: Command, run_dir: Path, what: str) -> None:
    damage, expected, words = DAMAGE[what]
    damage(run_dir)
    outcome = knnlm("check", *all_of(run_dir))
    assert failed(outcome) == expected
    assert words in outcome.out
    assert f"{len(expected)} of " in outcome.error


def test_an_index_of_another_datastore(knnlm: Command, run_dir: Path) -> None:
    manifest = json.loads((run_dir / "i.json").read_text(encoding="utf-8"))
    (run_dir / "i.json").write_text(json.dumps({**manifest, "store_id": "0" * 64}), encoding="utf-8")
    outcome = knnlm("check", *all_of(run_dir), "--fast")
    assert failed(outcome) == ["index and datastore"]
    assert "was built from datastore 000000000000, but" in outcome.out
    assert "skipped  datastore, checksums: --fast" in outcome.out


def test_help_and_unknown_subcommands(knnlm: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        knnlm("--help")
    assert end.value.code == 0
    listed = capsys.readouterr().out
    assert all(f"\n  {name} " in listed for name in ("check", "info", "adopt", "convert"))
    assert "chek is no subcommand of fairseq-knnlm; did you mean check?" in knnlm("chek").error
    assert "nothing to check" in knnlm("check").error


# info


def test_info_knows_every_file(knnlm: Command, run_dir: Path) -> None:
    for name, words in {
        "data-bin/dict.txt": "kind:              dictionary",
        "data-bin/valid.idx": "kind:              binarised data",
        "data-bin/valid": "kind:              binarised data",
        "model.pt": "kind:              checkpoint",
        "dstore": "state:             complete",
        "dstore_vals.npy": "values:            int64, below 40",
        "i": "kind:              FAISS index, IndexIVFScalarQuantizer",
        "i.json": "kind:              manifest of an index",
        "dstore.json": "kind:              manifest of a datastore",
    }.items():
        outcome = knnlm("info", run_dir / name)
        assert outcome.code == 0, outcome.err
        assert words in outcome.out, name
    (run_dir / "other.json").write_text("{}", encoding="utf-8")
    assert "none that this toolkit writes" in knnlm("info", run_dir / "other.json").error
    assert "does not exist" in knnlm("info", run_dir / "nothing").error


# adopt


@pytest.fixture
def foreign(run_dir: Path) -> Callable[..., Path]:
    """Returns a function that lays the datastore out as another tool does."""

    def make(name: str, key_dtype: str, value_dtype: str, zero_rows: int = 0, offset: int = 0) -> Path:
        keys = np.fromfile(run_dir / "dstore_keys.npy", np.float32).reshape(-1, WIDTH).astype(key_dtype)
        values = (np.fromfile(run_dir / "dstore_vals.npy", np.int64) + offset).astype(value_dtype)
        prefix = run_dir / "theirs" / name.format(rows=len(keys) + zero_rows)
        prefix.parent.mkdir()
        for part, array in (("keys", keys), ("vals", values)):
            rest = np.zeros((zero_rows, *array.shape[1:]), array.dtype)
            np.concatenate([array, rest]).tofile(f"{prefix}_{part}.npy")
        return prefix

    return make


CUT = ["--gen-subset", "train", "--tokens-per-sample", BLOCK, "--context-window", WINDOW]


@pytest.mark.parametrize(
    ("name", "key_dtype", "value_dtype"),
    [
        ("theirs_size{rows}_embed16_fp16", "float16", "int64"),
        ("dstore_gpt2_{rows}_16", "float16", "int32"),
        ("dstore", "float16", "int64"),
        ("dstore", "float32", "int64"),
    ],
)
def test_other_layouts_are_adopted(
    knnlm: Command,
    command: Command,
    run_dir: Path,
    foreign: Callable[..., Path],
    name: str,
    key_dtype: str,
    value_dtype: str,
) -> None:
    source = foreign(name, key_dtype, value_dtype)
    before = {path: path.read_bytes() for path in source.parent.iterdir()}
    target = run_dir / "mine"
    outcome = knnlm("adopt", source, "--dimension", WIDTH, "--dstore-mmap", target)
    assert outcome.code == 0, outcome.err
    manifest = read_manifest(Path(f"{target}.json"), DatastoreManifest)
    assert manifest is not None
    assert (manifest.key_dtype, manifest.value_dtype, manifest.dimension) == (key_dtype, value_dtype, WIDTH)
    assert {path: path.read_bytes() for path in source.parent.iterdir()} == before, "the originals are left alone"
    assert knnlm("check", run_dir / "data-bin", "--dstore-filename", target).code == 0
    assert (
        command("build_dstore.py", "--dstore_mmap", target, "--faiss_index", run_dir / "j", "--index-spec", "Flat").code
        == 0
    )
    knn = ["--knnlm", "--k", 8, "--lmbda", 0.5, "--cpu", "--gen-subset", "valid", "--path", run_dir / "model.pt"]
    outcome = command(
        "fairseq-eval-lm", run_dir / "data-bin", *knn, "--dstore-filename", target, "--indexfile", run_dir / "j"
    )
    assert LOSS in outcome.out


@pytest.mark.pitfall(1)
def test_overflown_values_are_mended_from_the_data(
    knnlm: Command, run_dir: Path, foreign: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """40,000 becomes −25,536 in 16 bits; the data say which it was."""
    data = run_dir / "data-bin"
    shift = 40_000
    lines = [f"x{i} 1\n" for i in range(shift)]
    (data / "dict.txt").write_text("".join(lines) + (data / "dict.txt").read_text(encoding="utf-8"), encoding="utf-8")
    tokens = np.fromfile(data / "train.bin", np.uint16)
    (tokens + np.uint16(shift)).tofile(data / "train.bin")
    source = foreign("dstore", "float32", "int16", offset=shift)
    values = np.fromfile(f"{source}_vals.npy", np.int16)
    assert (values < 0).all()
    target = run_dir / "mine"
    words = [source, "--dimension", WIDTH, "--dstore-size", len(values), "--dstore-mmap", target]
    assert "int16 values" in knnlm("adopt", *words).error
    assert not Path(f"{target}.json").exists()
    assert knnlm("adopt", *words, "--data", data, *CUT).code == 0
    mended = np.fromfile(f"{target}_vals.npy", np.int64)
    assert mended.tolist() == (np.fromfile(run_dir / "dstore_vals.npy", np.int64) + shift).tolist()
    error = knnlm("adopt", *words, "--data", data, *CUT, "--tokens-per-sample", 9, "--overwrite").error
    assert "the value of row 0 is" in error or "rows differ" in error


@pytest.mark.pitfall(3)
def test_a_zero_tail_is_cut_off(knnlm: Command, run_dir: Path, foreign: Callable[..., Path]) -> None:
    source = foreign("dstore", "float32", "int64", zero_rows=17)
    rows = num_tokens(run_dir / "data-bin", "train") - WINDOW
    assert "give --dstore-mmap a new prefix" in knnlm("adopt", source, "--dimension", WIDTH).error
    outcome = knnlm("adopt", source, "--dimension", WIDTH, "--dstore-mmap", run_dir / "mine")
    assert any("the last 17 keys are zeros, never written" in warning for warning in outcome.warnings)
    manifest = read_manifest(run_dir / "mine.json", DatastoreManifest)
    assert manifest is not None
    assert abs(manifest.rows - rows) <= BLOCK
    assert (run_dir / "mine_keys.npy").read_bytes() == (run_dir / "dstore_keys.npy").read_bytes()
    assert (run_dir / "mine_vals.npy").read_bytes() == (run_dir / "dstore_vals.npy").read_bytes()


def test_a_checkpoint_vouches_for_the_keys(knnlm: Command, run_dir: Path, foreign: Callable[..., Path]) -> None:
    source = foreign("dstore", "float16", "int64")
    words = ["adopt", source, "--dimension", WIDTH, "--dstore-fp16", "--dstore-mmap", run_dir / "mine"]
    data = ["--data", run_dir / "data-bin", *CUT]
    assert knnlm(*words, *data, "--path", run_dir / "model.pt").code == 0
    manifest = read_manifest(run_dir / "mine.json", DatastoreManifest)
    ours = read_manifest(run_dir / "dstore.json", DatastoreManifest)
    assert manifest is not None
    assert ours is not None
    assert manifest.weights_sha256 == ours.weights_sha256
    assert manifest.dictionary_sha256 == ours.dictionary_sha256
    raw = torch.load(run_dir / "model.pt", weights_only=False)
    raw["model"]["decoder.layers.0.fc1.weight"] = torch.randn_like(raw["model"]["decoder.layers.0.fc1.weight"])
    torch.save(raw, run_dir / "model.pt")
    error = knnlm(*words, *data, "--path", run_dir / "model.pt", "--overwrite").error
    assert "the keys from row 0 on are not those that" in error


def test_what_cannot_be_adopted(knnlm: Command, run_dir: Path, foreign: Callable[..., Path]) -> None:
    source = foreign("dstore", "float32", "int64")
    assert "has a manifest already" in knnlm("adopt", run_dir / "dstore").error
    assert "not rows of 17-wide keys" in knnlm("adopt", source, "--dimension", 17).error
    assert "does not exist" in knnlm("adopt", run_dir / "nowhere").error
    assert "give --tokens-per-sample" in knnlm("adopt", source, "--data", run_dir / "data-bin").error
    values = np.fromfile(f"{source}_vals.npy", np.int64)
    values[5] = 39 - values[5]
    values.tofile(f"{source}_vals.npy")
    error = knnlm("adopt", source, "--dimension", WIDTH, "--data", run_dir / "data-bin", *CUT).error
    assert "the value of row 5 is" in error
    assert "1 of" in error


# convert


def test_weights_go_to_safetensors_and_back(
    knnlm: Command, command: Command, run_dir: Path, data_dir: Path, trained_dir: Path
) -> None:
    exported, back = run_dir / "model.safetensors", run_dir / "back.pt"
    assert knnlm("convert", run_dir / "model.pt", "--to", exported).code == 0
    assert knnlm("convert", exported, "--to", back).code == 0
    one, other = load_checkpoint(run_dir / "model.pt"), load_checkpoint(back)
    assert one.state.keys() == other.state.keys()
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)
    assert one.num_updates == other.num_updates
    outcomes = [
        command("fairseq-eval-lm", data_dir, "--path", run_dir / name, "--cpu") for name in ("model.pt", "back.pt")
    ]
    assert [outcome.code for outcome in outcomes] == [0, 0], outcomes[1].err
    assert outcomes[0].out.splitlines()[1] == outcomes[1].out.splitlines()[1]
    assert LOSS in outcomes[0].out
    assert "exists; --overwrite replaces it" in knnlm("convert", run_dir / "model.pt", "--to", exported).error
    words = ["--restore-file", back, "--reset-optimizer", "--max-update", 62, "--save-dir", run_dir / "more"]
    from tiny_lm import ADAPTIVE, BATCHING, MODEL, OPTIMIZATION

    assert command("fairseq-train", data_dir, *MODEL, *ADAPTIVE, *BATCHING, *OPTIMIZATION, *words).code == 0


@pytest.mark.parametrize("damage", ["", "not safetensors", "other metadata", "other kinds"])
def test_what_cannot_be_converted(knnlm: Command, run_dir: Path, damage: str) -> None:
    from safetensors.torch import save_file

    path = run_dir / "x.safetensors"
    if damage == "not safetensors":
        path.write_bytes(b"\xff" * 100)
    elif damage:
        metadata = {"format": "fairseq-knnlm weights, version 1", "fairseq": '{"num_updates": "x"}'}
        save_file({"a": torch.zeros(2)}, path, metadata if damage == "other kinds" else {})
    outcome = knnlm("convert", path, "--to", run_dir / "out.pt")
    assert "x.safetensors" in outcome.error
    assert not (run_dir / "out.pt").exists()
    assert "must end in .pt" in knnlm("convert", run_dir / "model.pt", "--to", run_dir / "a.pt").error
