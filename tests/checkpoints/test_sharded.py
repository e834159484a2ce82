"""Checkpoints in shards: what they hold against a checkpoint in one file of the same run; files that are damaged."""

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from fairseq.checkpoints import sharded
from fairseq.checkpoints.format import load_checkpoint, load_extra_state, read_raw
from fairseq.errors import CheckpointError, FairseqError
from fairseq.runtime.distributed import SingleProcess
from fairseq.storage.file_kinds import SHARDED_RECORD, is_sharded_checkpoint
from fairseq.storage.files import temporary_name
from fairseq_cli.shared.run import run
from tests.builders.tiny_lm import TRAINED, Command, main_of

SHORT = ["--max-epoch", "1", "--no-epoch-checkpoints"]
SHARDED = ["--ddp-backend", "fully_sharded"]
SHARD = "shard-00001-model-00001-of-00001.safetensors"


@pytest.fixture(scope="module")
def runs(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Returns the last checkpoints of two runs that differ in nothing but their form: one file, and shards."""
    found = []
    for name, more in (("plain", []), ("shards", SHARDED)):
        save_dir = tmp_path_factory.mktemp(name)
        words = [str(data_dir), "--save-dir", str(save_dir), *TRAINED, *SHORT, *more]
        assert run("fairseq-train", main_of("fairseq-train"), words) == 0
        found.append(save_dir / ("checkpoint_last.dcp" if more else "checkpoint_last.pt"))
    return found[0], found[1]


@pytest.fixture
def shards(runs: tuple[Path, Path], tmp_path: Path) -> Path:
    """Returns a copy of the checkpoint in shards, to break."""
    return Path(shutil.copytree(runs[1], tmp_path / "checkpoint_last.dcp"))


def same(a: Any, b: Any, where: str = "") -> None:
    """Asserts that two values are of one type and equal, tensors to the bit."""
    assert type(a) is type(b), (where, type(a), type(b))
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for name in a:
            same(a[name], b[name], f"{where}/{name}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{where}/{i}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    else:
        assert a == b or (a != a and b != b), where


def without_names(raw: dict[str, Any]) -> dict[str, Any]:
    """Returns what a checkpoint holds, without what tells runs of another directory and form."""
    args = {name: value for name, value in vars(raw["args"]).items() if name not in ("save_dir", "ddp_backend")}
    extra = {name: value for name, value in raw["extra_state"].items() if name != "run"}
    return {**raw, "args": dict(sorted(args.items())), "extra_state": extra}


def test_shards_hold_what_one_file_holds(runs: tuple[Path, Path]) -> None:
    plain, shards = map(read_raw, runs)
    assert plain["last_optimizer_state"]["state"] and len(plain["model"]) > 40
    for number, moments in plain["last_optimizer_state"]["state"].items():  # of which torch orders each its own way
        plain["last_optimizer_state"]["state"][number] = dict(sorted(moments.items()))
    same(without_names(plain), without_names(shards))


def test_no_file_is_a_pickle_and_each_tensor_is_stored_once(runs: tuple[Path, Path]) -> None:
    assert sorted(path.name for path in runs[1].iterdir()) == [SHARDED_RECORD, SHARD]
    record = json.loads((runs[1] / SHARDED_RECORD).read_text())
    tied = {name: first for name, first in record["weights"].items() if name != first}
    assert len(tied) == 5  # words of three bands, and projections of two
    with safe_open(runs[1] / SHARD, "pt") as file:
        names = {name.removeprefix("model.") for name in file.keys() if name.startswith("model.")}  # noqa: SIM118
    assert names == set(record["weights"].values())


def test_names_that_shared_a_tensor_share_it_again(runs: tuple[Path, Path]) -> None:
    def shared(path: Path) -> list[tuple[str, ...]]:
        names: dict[int, list[str]] = {}
        for name, tensor in load_checkpoint(path).state.items():
            names.setdefault(tensor.data_ptr(), []).append(name)
        return sorted(tuple(sorted(group)) for group in names.values() if len(group) > 1)

    assert shared(runs[0]) == shared(runs[1]) != []


def test_a_run_goes_on_from_shards_to_the_bit(train: Command, tmp_path: Path) -> None:
    assert train(tmp_path / "at-once", "--max-epoch", 2).code == 0
    assert train(tmp_path / "twice", *SHARDED, "--max-update", 7).code == 0
    done = train(tmp_path / "twice", *SHARDED, "--max-epoch", 2)
    assert any("checkpoint_last.dcp: epoch 1, 7 updates done" in line for line in done.log), done.log
    one, two = (read_raw(tmp_path / name) for name in ("at-once/checkpoint_last.pt", "twice/checkpoint_last.dcp"))
    same(one["model"], two["model"])
    assert one["extra_state"]["best"] == two["extra_state"]["best"]


def test_either_form_begins_from_the_other(train: Command, tmp_path: Path, runs: tuple[Path, Path]) -> None:
    weights = []
    for form, more in ((".pt", []), (".dcp", SHARDED)):
        for start in runs:
            save_dir = tmp_path / f"{start.name}-{form}"
            assert train(save_dir, "--restore-file", start, "--max-epoch", 2, *more).code == 0
            weights.append(load_checkpoint(save_dir / f"checkpoint_last{form}").weights_sha256)
    assert len(set(weights)) == 1


@pytest.mark.parametrize("is_sharded", [True, False])
def test_a_directory_with_the_other_form_is_not_begun_anew(
    train: Command, runs: tuple[Path, Path], is_sharded: bool
) -> None:
    other = runs[not is_sharded and 1]
    error = train(other.parent, *SHORT, *(SHARDED if is_sharded else [])).error
    how = "without" if is_sharded else "with"
    assert error.startswith(
        f"{other} is there, of a run {how} --ddp-backend fully_sharded; give --restore-file {other}"
    )


def test_convert_makes_what_a_plain_run_writes(command: Command, runs: tuple[Path, Path], tmp_path: Path) -> None:
    for suffix in (".pt", ".safetensors"):
        targets = [tmp_path / f"{name}{suffix}" for name in ("plain", "shards")]
        if suffix == ".pt":
            shutil.copy(runs[0], targets[0])
        else:
            assert command("fairseq-knnlm", "convert", runs[0], targets[0]).code == 0
        assert command("fairseq-knnlm", "convert", runs[1], targets[1]).code == 0
        if suffix == ".pt":
            assert targets[1].stat().st_size < targets[0].stat().st_size * 1.02  # tied weights are stored once
            plain, exported = (load_checkpoint(target) for target in targets)
            assert plain.weights_sha256 == exported.weights_sha256
            assert list(read_raw(targets[0])["model"]) == list(read_raw(targets[1])["model"])
        else:
            with safe_open(targets[0], "pt") as one, safe_open(targets[1], "pt") as two:
                assert sorted(one.keys()) == sorted(two.keys())
                assert all(torch.equal(one.get_tensor(name), two.get_tensor(name)) for name in one.keys())  # noqa: SIM118
    error = command("fairseq-knnlm", "convert", runs[1], tmp_path / "model.bin").error
    assert "is a checkpoint in shards, which becomes a file: its name must end in .pt or .safetensors" in error
    missing = runs[1].with_name("checkpoint_lost.dcp")
    error = command("fairseq-knnlm", "convert", missing, tmp_path / "new.pt").error
    assert error == f"checkpoint {missing} does not exist; did you mean {runs[1]}?"
    assert "is there already" in command("fairseq-knnlm", "convert", runs[1], targets[0]).error


def test_commands_read_shards_as_they_are(command: Command, data_dir: Path, runs: tuple[Path, Path]) -> None:
    outs = [command("fairseq-eval-lm", data_dir, "--path", path, "--cpu").out for path in runs]
    losses = [re.findall(r"Loss \(base 2\): ([\d.]+)", out) for out in outs]
    assert losses[0] == losses[1] != []
    said = command("fairseq-knnlm", "info", runs[1], runs[1].parent).out
    assert f"{runs[1]}: checkpoint in shards\n" in said and "checkpoint_last.dcp: a checkpoint in shards" in said
    error = command("fairseq-eval-lm", data_dir, "--path", runs[1].parent, "--cpu").error
    assert error.endswith(f"the file of a checkpoint: {runs[1].with_name('checkpoint_best.dcp')}")


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda at: (at / SHARD).unlink(), f"is not whole: {SHARD} is missing; use another checkpoint"),
        (
            lambda at: shutil.copy(at / SHARD, at / SHARD.replace("shard-00001", "shard-00002")),
            "is not whole: shard-00002-model-00001-of-00001.safetensors is not one of its files",
        ),
        (lambda at: append(at / SHARD), f"is damaged: {SHARD} has not the bytes that were written"),
        (lambda at: flip(at / SHARD), f"is damaged: {SHARD} has not the bytes that were written"),
        (
            lambda at: (at / SHARDED_RECORD).unlink(),
            "is not a whole checkpoint in shards: it has no sound checkpoint.json; use another",
        ),
    ],
    ids=["missing", "one too many", "longer", "a bit flipped", "no record"],
)
def test_damage_is_one_line(shards: Path, damage: Callable[[Path], object], error: str) -> None:
    damage(shards)
    with pytest.raises(CheckpointError) as found:
        load_checkpoint(shards)
    assert error in str(found.value) and str(shards) in str(found.value) and "\n" not in str(found.value)


def rewritten(shards: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the record, and makes it fit the files again, as somebody with bad intentions would."""
    record = json.loads((shards / SHARDED_RECORD).read_text())
    change(record)
    for name in record["files"]:
        file = sharded._described(shards / name)
        record["files"][name] = {"num_bytes": file.num_bytes, "sha256": file.sha256}
    (shards / SHARDED_RECORD).write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda r: r.update(version=2), "is of version 2, but this program reads version 1; update it"),
        (lambda r: r.update(more=1), "has the unknown field 'more'; use another checkpoint"),
        (lambda r: r.pop("weights"), "lacks the field 'weights'; use another checkpoint"),
        (lambda r: r["weights"].update({"decoder.x": "decoder.y"}), "is not a whole checkpoint in shards: "),
        (lambda r: r["numbers"].update(x={"a": 1}), "is not a whole checkpoint in shards: "),
        (lambda r: r.update(optimizer_history=[{"num_updates": "many"}]), "num_updates must be a whole number, not"),
        (lambda r: r["extra_state"].update(train_iterator=3), "extra_state: train_iterator must be a dict"),
    ],
)
def test_a_record_is_believed_in_nothing(shards: Path, change: Callable[[dict[str, Any]], object], error: str) -> None:
    rewritten(shards, change)
    with pytest.raises(CheckpointError) as found:
        load_checkpoint(shards)
    assert error in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize("offset", [10**13, 1])
def test_a_share_that_claims_to_be_part_of_more_is_refused(shards: Path, offset: int) -> None:
    """The rest would be zeros, and as many as the file says."""
    data = (shards / SHARD).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    offsets = json.loads(header["__metadata__"]["DCP_SHARDING_INFO"])
    name = "model.decoder.layers.0.fc1.weight"
    offsets[name]["saved_offsets"][0] = offset
    header["__metadata__"]["DCP_SHARDING_INFO"] = json.dumps(offsets)
    changed = json.dumps(header).encode()
    (shards / SHARD).write_bytes(struct.pack("<Q", len(changed)) + changed + data[8 + length :])
    rewritten(shards, lambda record: None)
    with pytest.raises(CheckpointError, match=rf"is not a whole checkpoint in shards: {name} has \d+ numbers, of"):
        load_checkpoint(shards)


def test_what_lies_about_a_damaged_one_is_not_known(shards: Path) -> None:
    assert load_extra_state(shards)["run"]["id"]
    (shards / SHARDED_RECORD).write_text('{"kind": "sharded checkpoint"}')
    assert load_extra_state(shards) == {}


def test_a_write_that_fails_leaves_the_checkpoint_before(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, before = read_raw(shards), load_checkpoint(shards)
    stored = json.loads((shards / SHARDED_RECORD).read_text())["weights"]

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sharded, "_save", full)
    with pytest.raises(FairseqError, match=rf"^{shards} was not written: .*No space left on device"):
        sharded.write(shards, raw, stored, SingleProcess())
    assert load_checkpoint(shards).weights_sha256 == before.weights_sha256
    monkeypatch.undo()
    sharded.write(shards, raw, stored, SingleProcess())  # over what is left
    assert is_sharded_checkpoint(shards) and not temporary_name(shards).exists()
    same(read_raw(shards), raw)
