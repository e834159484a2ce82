"""Files and command lines from strangers: data only, whatever they say.

Each payload would touch the file ``mark`` if anything ran it. The command must refuse in one line, without the mark.
``test_the_payloads_work`` runs them on purpose, so that an absent mark means something. That no module calls
what could run them is held by test_layers.py.
"""

import json
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.builders.cases import BUILD, EVAL, TRAIN, Call, Place, check_error, snapshot


class Payload:
    """Unpickles by calling ``function(*args)``."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.parts = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.parts


def payloads(mark: Path) -> dict[str, Payload]:
    code = f"open({str(mark)!r}, 'w').close()"
    return {
        "os.system": Payload(os.system, f"touch {mark}"),
        "eval": Payload(eval, code),
        "exec": Payload(exec, code),
        "subprocess": Payload(subprocess.call, ["touch", str(mark)]),
        "Path.touch": Payload(Path.touch, mark),
        "open": Payload(open, str(mark), "w"),
    }


KINDS = tuple(payloads(Path("mark")))
PLACES: dict[str, Callable[[dict[str, Any], Any], object]] = {
    "beside": lambda record, evil: record.update(more=evil),
    "args": lambda record, evil: setattr(record["args"], "arch", evil),
    "model": lambda record, evil: record["model"].update({"decoder.x": evil}),
    "extra_state": lambda record, evil: record["extra_state"].update(train_meters={"loss": [evil]}),
    "train_iterator": lambda record, evil: record["extra_state"]["train_iterator"].update(epoch=evil),
    "optimizer_history": lambda record, evil: record["optimizer_history"].append({"num_updates": evil}),
    "optimizer_state": lambda record, evil: record["last_optimizer_state"]["state"].update({0: {"step": evil}}),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_the_payloads_work(kind: str, tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(payloads(tmp_path / "mark")[kind]))
    assert (tmp_path / "mark").exists()


def refused(place: Place, call: Call, prog: str, words: list[object], expect: str) -> None:
    """Asserts that a command refuses, and neither the mark nor any other file is there afterwards."""
    before = snapshot(place.root)
    check_error(prog, call(prog, *words), expect)
    assert not (place / "mark").exists()
    assert snapshot(place.root) == before


def evil_checkpoint(place: Place, where: str, kind: str, *, legacy: bool) -> Path:
    record = torch.load(place.good.checkpoint, weights_only=False)
    PLACES[where](record, payloads(place / "mark")[kind])
    torch.save(record, place / "evil.pt", _use_new_zipfile_serialization=not legacy)
    return place / "evil.pt"


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_checkpoint_runs_nothing(where: str, legacy: bool, place: Place, call: Call) -> None:
    path = evil_checkpoint(place, where, "os.system", legacy=legacy)
    refused(place, call, EVAL, place.evaluate(path=path), "evil.pt was not loaded: it names posix.system")


@pytest.mark.parametrize("kind", KINDS)
def test_no_payload_runs_on_resuming(kind: str, place: Place, call: Call) -> None:
    path = evil_checkpoint(place, "optimizer_state", kind, legacy=False)
    refused(place, call, TRAIN, place.train(more=["--restore-file", path]), "evil.pt was not loaded")


def test_a_bare_pickle_is_no_checkpoint(place: Place, call: Call) -> None:
    (place / "evil.pt").write_bytes(pickle.dumps({"model": payloads(place / "mark")["exec"]}))
    refused(place, call, EVAL, place.evaluate(path=place / "evil.pt"), "evil.pt")


@pytest.mark.parametrize("name", ["_keys.npy", "_vals.npy"])
@pytest.mark.parametrize("manifest", [True, False], ids=["manifest", "bare"])
def test_arrays_of_objects_are_not_read_as_such(name: str, manifest: bool, place: Place, call: Call) -> None:
    store = place.store()
    objects = np.array([payloads(place / "mark")["os.system"]] * 40, dtype=object)
    with (place / f"dstore{name}").open("wb") as file:
        np.save(file, objects, allow_pickle=True)
    if not manifest:
        (place / "dstore.json").unlink()
    refused(place, call, BUILD, place.build(store=store, more=["--dimension", 16]), f"dstore{name}")


@pytest.mark.parametrize("file", ["dict.txt", "test.idx", "test.bin"])
def test_pickles_in_place_of_data_are_not_read_as_such(file: str, place: Place, call: Call) -> None:
    data = place.data()
    (data / file).write_bytes(pickle.dumps(payloads(place / "mark")["os.system"], protocol=2))
    refused(place, call, EVAL, place.evaluate(data=data), f"data-bin/{file}")


@pytest.mark.parametrize(
    ("flag", "expect"),
    [
        ("--model-overrides", "--model-overrides must be a Python literal"),
        ("--max-tokens", "--max-tokens must be a whole number"),
        ("--lmbda", "--lmbda must be a number"),
        ("--k", "--k must be a whole number"),
    ],
)
@pytest.mark.parametrize("wrapped", ["{}", "{{'dropout': {}}}", "[{}]", "({},)"])
def test_flags_are_not_evaluated(flag: str, expect: str, wrapped: str, place: Place, call: Call) -> None:
    code = wrapped.format(f"__import__('os').system('touch {place / 'mark'}')")
    refused(place, call, EVAL, [*place.neighbours(), flag, code], expect)


@pytest.mark.parametrize("flag", ["--adam-betas", "--lr", "--update-freq", "--adaptive-softmax-cutoff"])
def test_lists_of_numbers_are_not_evaluated(flag: str, place: Place, call: Call) -> None:
    code = f"(__import__('os').system('touch {place / 'mark'}'),)"
    refused(place, call, TRAIN, place.train(more=[flag, code]), f"{flag} must be")


def test_settings_of_a_checkpoint_are_not_evaluated(place: Place, call: Call) -> None:
    record = torch.load(place.good.checkpoint, weights_only=False)
    record["args"].adaptive_softmax_cutoff = f"(__import__('os').system('touch {place / 'mark'}'),)"
    torch.save(record, place / "evil.pt")
    refused(place, call, EVAL, place.evaluate(path=place / "evil.pt"), "--adaptive-softmax-cutoff must be")


@pytest.mark.parametrize("path", ["../../outside", "/etc/passwd", "keys; touch mark", "$(touch mark)"])
@pytest.mark.parametrize("field", ["keys", "path", "prefix", "index_path"])
def test_a_manifest_names_no_files(field: str, path: str, place: Place, call: Call) -> None:
    """A manifest has no field that is a path to be opened: one that brings one along is refused."""
    store = place.store()
    record = json.loads((place / "dstore.json").read_bytes())
    (place / "dstore.json").write_text(json.dumps({**record, field: path}), encoding="utf-8")
    refused(place, call, BUILD, place.build(store=store), f"dstore.json has the unknown field {field!r}")


@pytest.mark.parametrize("name", ["key_type", "key_dtype", "value_dtype", "state", "kind"])
def test_paths_in_the_fields_of_a_manifest_are_not_followed(name: str, place: Place, call: Call) -> None:
    store = place.store()
    record = json.loads((place / "dstore.json").read_bytes())
    (place / "dstore.json").write_text(json.dumps({**record, name: f"../../{place / 'mark'}"}), encoding="utf-8")
    words = [*place.neighbours(store=store), "--knn-keytype", "last_ffn_input"]
    refused(place, call, EVAL, words, "dstore")


def test_what_a_manifest_records_of_paths_is_never_opened(place: Place, call: Call) -> None:
    """``settings`` records where data and checkpoint were, for people; other places are other people's business."""
    store, fifo = place.store(), place / "fifo"
    os.mkfifo(fifo)  # opening it would wait for ever
    record = json.loads((place / "dstore.json").read_bytes())
    record["settings"].update(data=str(fifo), checkpoint=str(fifo))
    (place / "dstore.json").write_text(json.dumps(record), encoding="utf-8")
    assert call(BUILD, *place.build(store=store)).code == 0
