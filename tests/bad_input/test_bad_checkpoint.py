"""Checkpoints that are torn, damaged, of another kind, or that lie about what is in them."""

import math
import shutil
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.builders.cases import EVAL, TRAIN, Call, Case, Place, check, parametrise

EMBEDDING = "decoder.embed_tokens.embeddings.0.0.weight"
FC1 = "decoder.layers.0.fc1.weight"
NO_GROUPS: dict[str, Any] = {"state": {}, "param_groups": []}
Record = dict[str, Any]


def changed(change: Callable[[Record], object], *, legacy: bool = False) -> Callable[[Place], list[object]]:
    """Returns the evaluation of a checkpoint that ``change`` has been at."""

    def make(place: Place) -> list[object]:
        record = torch.load(place.good.checkpoint, weights_only=False)
        change(record)
        torch.save(record, place / "model.pt", _use_new_zipfile_serialization=not legacy)
        return place.evaluate(path=place / "model.pt")

    return make


def resumed(change: Callable[[Record], object]) -> Callable[[Place], list[object]]:
    """Returns a training that goes on from such a checkpoint."""

    def make(place: Place) -> list[object]:
        changed(change)(place)
        adaptive = ["--adaptive-input", "--adaptive-softmax-cutoff", "10,30", "--no-decoder-final-norm"]
        adaptive += ["--adaptive-input-factor", 2, "--adaptive-softmax-factor", 2]
        adaptive += ["--tie-adaptive-weights", "--tie-adaptive-proj", "--criterion", "adaptive_loss"]
        return place.train(more=[*adaptive, "--restore-file", place / "model.pt", "--max-update", 4])

    return make


def other_moments(record: Record) -> None:
    """Leaves the optimizer's state in form, but its moments without their last column."""
    for moments in record["last_optimizer_state"]["state"].values():
        for name, moment in moments.items():
            if moment.dim():
                moments[name] = moment[..., :-1].clone()


def with_bytes(change: Callable[[bytes], bytes]) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        path = place.checkpoint()
        path.write_bytes(change(path.read_bytes()))
        return place.evaluate(path=path)

    return make


def flipped(position: float) -> Callable[[bytes], bytes]:
    """Returns what flips one bit, at a fraction of the file."""

    def change(data: bytes) -> bytes:
        at = int(len(data) * position)
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    return change


def flipped_weight(place: Place) -> list[object]:
    """Flips a bit among the weights themselves, which torch would load in silence."""
    path = place.checkpoint()
    weights = torch.load(path, weights_only=False)["model"][FC1].numpy().tobytes()
    data = path.read_bytes()
    assert data.count(weights) == 1
    at = data.index(weights) + 5
    path.write_bytes(data[:at] + bytes([data[at] ^ 64]) + data[at + 1 :])
    return place.evaluate(path=path)


def compressed(place: Place) -> list[object]:
    with zipfile.ZipFile(place.good.checkpoint) as old, zipfile.ZipFile(place / "model.pt", "w") as new:
        for part in old.namelist():
            new.writestr(part, old.read(part), zipfile.ZIP_DEFLATED)
    return place.evaluate(path=place / "model.pt")


def set_weight(name: str, value: Any) -> Callable[[Record], object]:
    return lambda record: record["model"].update({name: value})


def spoiled(name: str, value: float) -> Callable[[Record], object]:
    def change(record: Record) -> None:
        record["model"][name] = record["model"][name].clone()
        record["model"][name][3, 1] = value

    return change


def setting(**values: Any) -> Callable[[Record], object]:
    return lambda record: vars(record["args"]).update(values)


def part(name: str, value: Any) -> Callable[[Record], object]:
    return lambda record: record.update({name: value})


def extra(**values: Any) -> Callable[[Record], object]:
    return lambda record: record["extra_state"].update(values)


def copy_as_directory(place: Place) -> list[object]:
    shutil.copytree(place.good.checkpoint.parent, place / "run")
    return place.evaluate(path=place / "run")


def other(name: Callable[[Place], Path]) -> Callable[[Place], list[object]]:
    return lambda place: place.evaluate(path=name(place))


WIDTHS = ("decoder_embed_dim", "decoder_input_dim", "decoder_output_dim")
NOT_WHOLE = "model.pt is not a whole checkpoint"
SPLIT = "decoder.layers.0.self_attn.in_proj_weight"
CASES = [
    Case("pt-empty", EVAL, with_bytes(lambda _: b""), NOT_WHOLE),
    Case("pt-cut-at-the-start", EVAL, with_bytes(lambda d: d[:100]), NOT_WHOLE),
    Case("pt-cut-in-half", EVAL, with_bytes(lambda d: d[: len(d) // 2]), NOT_WHOLE),
    Case("pt-one-byte-short", EVAL, with_bytes(lambda d: d[:-1]), NOT_WHOLE),
    Case("pt-zeros", EVAL, with_bytes(lambda d: bytes(len(d))), NOT_WHOLE),
    Case("pt-hole", EVAL, with_bytes(lambda d: d[:5000] + bytes(4096) + d[9096:]), "model.pt is damaged: the checksum"),
    Case("pt-flip-in-the-pickle", EVAL, with_bytes(flipped(0.01)), "model.pt is damaged: the checksum"),
    Case("pt-flip-in-a-weight", EVAL, flipped_weight, "model.pt is damaged: the checksum of its part"),
    Case("pt-compressed", EVAL, compressed, "is compressed"),
    Case("pt-is-text", EVAL, other(lambda p: p.good.data / "dict.txt"), "dict.txt is a dictionary, not a checkpoint"),
    Case("pt-is-an-index", EVAL, other(lambda p: p.good.index), "knn.index is a FAISS index, not a checkpoint"),
    Case("pt-is-its-json", EVAL, other(lambda p: p.good.checkpoint.with_suffix(".json")), "checkpoint_last.pt"),
    Case("pt-is-missing", EVAL, other(lambda p: p / "none.pt"), "none.pt does not exist"),
    Case("pt-is-a-directory", EVAL, copy_as_directory, "run is a directory"),
    Case("pt-is-dev-zero", EVAL, other(lambda _: Path("/dev/zero")), "/dev/zero"),
    Case("pt-path-is-empty", EVAL, lambda p: [*p.evaluate(), "--path", ""], "--path is required"),
    Case("pt-path-of-colons", EVAL, lambda p: [*p.evaluate(), "--path", "::"], "--path is required"),
    Case("pt-name-too-long", EVAL, lambda p: [*p.evaluate(), "--path", "x" * 300], "File name too long"),
    Case("pt-no-model", EVAL, changed(lambda r: r.pop("model")), "model.pt is not a fairseq checkpoint"),
    Case("pt-model-is-a-list", EVAL, changed(part("model", [1])), "it has no 'model' state dict"),
    Case("pt-model-is-empty", EVAL, changed(part("model", {})), "model.pt"),
    Case("pt-is-a-bare-state-dict", EVAL, changed(lambda r: r.update(r.pop("model"))), "it has no 'model' state dict"),
    Case("pt-no-settings", EVAL, changed(lambda r: r.pop("args")), "model.pt records no settings"),
    Case("pt-settings-are-text", EVAL, changed(part("args", "--dropout 0.1")), "model.pt records no settings"),
    Case("pt-settings-are-empty", EVAL, changed(part("args", Namespace())), "model.pt"),
    Case("pt-cfg-is-a-list", EVAL, changed(lambda r: r.update(args=None, cfg=[1])), "model.pt records no settings"),
    Case("pt-cfg-model-is-text", EVAL, changed(lambda r: r.update(args=None, cfg={"model": "x"})), "model.pt"),
    Case("pt-nan", EVAL, changed(spoiled(FC1, math.nan)), f"model.pt: the weights '{FC1}' must be finite"),
    Case("pt-nan-legacy", EVAL, changed(spoiled(FC1, math.nan), legacy=True), f"the weights '{FC1}' must be finite"),
    Case("pt-inf", EVAL, changed(spoiled(EMBEDDING, -math.inf)), f"the weights '{EMBEDDING}' must be finite"),
    Case("pt-nan-on-resuming", TRAIN, resumed(spoiled(FC1, math.nan)), f"the weights '{FC1}' must be finite"),
    Case("pt-weight-is-a-number", EVAL, changed(set_weight(FC1, 1)), "model.pt is not a fairseq checkpoint"),
    Case("pt-weight-is-complex", EVAL, changed(set_weight(FC1, torch.zeros(32, 16) * 1j)), "must be a dense tensor"),
    Case("pt-weight-is-sparse", EVAL, changed(set_weight(FC1, torch.eye(16).to_sparse())), "must be a dense tensor"),
    Case("pt-weight-is-whole", EVAL, changed(set_weight(FC1, torch.ones(32, 16).long())), f"{FC1} is of torch.int64"),
    Case("pt-weight-is-virtual", EVAL, changed(set_weight(FC1, torch.zeros(1).expand(10**12))), "larger than what is"),
    Case("pt-weight-of-other-shape", EVAL, changed(set_weight(FC1, torch.zeros(16, 32))), f"{FC1} is (16, 32) instead"),
    Case("pt-weight-too-many", EVAL, changed(set_weight("decoder.x", torch.zeros(1))), "decoder.x is not part of"),
    Case("pt-weight-is-missing", EVAL, changed(lambda r: r["model"].pop(FC1)), f"{FC1} is missing"),
    Case("pt-weight-name-is-a-number", EVAL, changed(lambda r: r["model"].update({7: FC1})), "model.pt is not"),
    Case("pt-old-attention-in-two", EVAL, changed(set_weight(SPLIT, torch.zeros(2, 3))), "must be three equal parts"),
    Case("pt-layers-lie", EVAL, changed(setting(decoder_layers=3)), "decoder.layers.2.self_attn"),
    Case("pt-layers-lie-wildly", EVAL, changed(setting(decoder_layers=9_999)), "decoder_layers is 9999"),
    Case("pt-layers-beyond", EVAL, changed(setting(decoder_layers=10**12)), "--decoder-layers must be at most"),
    Case("pt-width-lies-wildly", EVAL, changed(setting(**dict.fromkeys(WIDTHS, 2**24))), "do not fit its settings"),
    Case("pt-width-beyond-memory", EVAL, changed(setting(**dict.fromkeys(WIDTHS, 2**40))), "model is too large for"),
    Case("pt-width-negative", EVAL, changed(setting(decoder_embed_dim=-16)), "--decoder-embed-dim must be at least 1"),
    Case("pt-width-is-text", EVAL, changed(setting(decoder_embed_dim="wide")), "--decoder-embed-dim must be a whole"),
    Case("pt-heads-do-not-divide", EVAL, changed(setting(decoder_attention_heads=5)), "--decoder-attention-heads 5"),
    Case("pt-dropout-nan", EVAL, changed(setting(dropout=math.nan)), "--dropout must be a number"),
    Case("pt-factor-infinite", EVAL, changed(setting(adaptive_input_factor=math.inf)), "factor"),
    Case("pt-factor-huge", EVAL, changed(setting(adaptive_input_factor=1e308)), "factor"),
    Case("pt-cutoff-falls", EVAL, changed(setting(adaptive_softmax_cutoff="30,10")), "cutoff"),
    Case("pt-cutoff-is-code", EVAL, changed(setting(adaptive_softmax_cutoff="(exit(1),)")), "--adaptive-softmax-cut"),
    Case("pt-setting-is-a-tensor", EVAL, changed(setting(relu_dropout=torch.zeros(2))), "its settings must be plain"),
    Case("pt-context-negative", EVAL, changed(setting(tokens_per_sample=-3)), "tokens_per_sample"),
    Case("pt-context-is-text", EVAL, changed(setting(tokens_per_sample="x")), "--tokens-per-sample must be a whole"),
    Case("pt-positions-text", EVAL, changed(setting(max_target_positions="x")), "--max-target-positions must be"),
    Case("pt-unknown-maths", EVAL, changed(setting(base_layers=1)), "base_layers = 1"),
    Case("pt-history-is-text", EVAL, changed(part("optimizer_history", "x")), "optimizer_history must be a list"),
    Case(
        "pt-history-of-numbers",
        EVAL,
        changed(part("optimizer_history", [1])),
        "optimizer_history must be a dict",
    ),
    Case("pt-updates-negative", EVAL, changed(part("optimizer_history", [{"num_updates": -1}])), "num_updates must be"),
    Case("pt-updates-infinite", EVAL, changed(part("optimizer_history", [{"num_updates": math.inf}])), "num_updates"),
    Case("pt-optimizer-is-a-list", EVAL, changed(part("last_optimizer_state", [])), "last_optimizer_state must be"),
    Case("pt-extra-is-a-list", EVAL, changed(part("extra_state", [1])), "extra_state must be a dict"),
    Case("pt-extra-hash-is-a-number", EVAL, changed(extra(dictionary_sha256=7)), "extra_state: dictionary_sha256 must"),
    Case("pt-epoch-is-text", TRAIN, resumed(extra(train_iterator={"epoch": "x"})), "extra_state: epoch must be"),
    Case("pt-epoch-negative", TRAIN, resumed(extra(train_iterator={"epoch": -1})), "extra_state: epoch must be"),
    Case("pt-iterator-is-a-list", TRAIN, resumed(extra(train_iterator=[1])), "extra_state: train_iterator must be"),
    Case("pt-loss-scale-is-text", TRAIN, resumed(extra(loss_scaler={"scale": "x"})), "loss_scaler: 'scale' must be a"),
    Case("pt-valids-is-text", TRAIN, resumed(extra(validations="x")), "extra_state: validations must be a list"),
    Case(
        "pt-valids-of-text",
        TRAIN,
        resumed(extra(validations=[["x", 1.0]])),
        "validations must be pairs of",
    ),
    Case("pt-valids-of-one", TRAIN, resumed(extra(validations=[[3]])), "extra_state: validations must be pairs of"),
    Case("pt-valids-of-counts", TRAIN, resumed(extra(validations=[3])), "extra_state: validations must be pairs of"),
    Case(
        "pt-valids-negative",
        TRAIN,
        resumed(extra(validations=[[-3, 1.0]])),
        "validations must be pairs of",
    ),
    Case("pt-valids-of-none", TRAIN, resumed(extra(validations=[[3, None]])), "validations must be pairs of"),
    Case("pt-best-is-text", TRAIN, resumed(extra(best="x")), "extra_state: best must be a number"),
    Case("pt-optimizer-torn", TRAIN, resumed(part("last_optimizer_state", {"state": {}})), "model.pt"),
    Case("pt-optimizer-empty", TRAIN, resumed(part("last_optimizer_state", NO_GROUPS)), "model.pt is damaged"),
    Case("pt-optimizer-of-other-shapes", TRAIN, resumed(other_moments), "for a parameter of shape"),
    Case("pt-optimizer-gone", TRAIN, resumed(part("last_optimizer_state", None)), "model.pt has no optimizer state"),
]


@parametrise(CASES)
def test_bad_checkpoint(case: Case, place: Place, call: Call) -> None:
    check(case, place, call)
