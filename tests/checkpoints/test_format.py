"""Checkpoints: written whole, read as data, equal to what the older programs wrote."""

import io
import json
import pickle
import zipfile
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq.checkpoints.format import load_checkpoint, load_extra_state, save_checkpoint, weights_sha256
from fairseq.config.common import DeviceConfig
from fairseq.config.flags import resolve
from fairseq.errors import CheckpointError, ConfigError
from fairseq.models.transformer_config import TransformerConfig
from fairseq.models.transformer_lm import build_transformer_lm
from fairseq.models.upgrade import load_state, upgrade_state
from fairseq.optim.optimizers import NAG
from fairseq.runtime.precision import Precision, select_device
from tests.builders.small_model import BANDS, small_model

CONFIG = replace(BANDS, decoder_layers=1, no_decoder_final_norm=True)
FIELDS = {
    **CONFIG.__dict__,
    "arch": "transformer_lm",
    "criterion": "adaptive_loss",
    "adam_betas": (0.9, 0.98),
    "lr": (0.25, 0.1),
    "tokens_per_sample": 64,
}
EXTRA = {"train_iterator": {"epoch": 2, "iterations_in_epoch": 5, "shuffle": True}, "val_loss": 7.5, "best": 7.25}


def save(path: Path, **changes: Any) -> torch.nn.Module:
    model = small_model(CONFIG)
    optimizer = NAG(model.parameters(), 0.1, 0.9, 0.0)
    record = dict(
        fields=FIELDS,
        model_state=model.state_dict(),
        optimizer_state=optimizer.state_dict(),
        optimizer_name="nag",
        num_updates=17,
        extra_state=EXTRA,
    )
    save_checkpoint(path, **(record | changes))
    return model


def test_round_trip(tmp_path: Path) -> None:
    model = save(tmp_path / "c.pt")
    found = load_checkpoint(tmp_path / "c.pt")
    assert found.path == str(tmp_path / "c.pt")
    assert (found.num_updates, found.optimizer_name, found.extra_state) == (17, "nag", EXTRA)
    assert found.optimizer_state is not None and found.optimizer_state["param_groups"][0]["momentum"] == 0.9
    again = build_transformer_lm(resolve(TransformerConfig, found.fields), 40)
    assert load_state(again, found.state) == []
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_fields_survive_as_the_config_they_were(tmp_path: Path) -> None:
    save(tmp_path / "c.pt")
    assert resolve(TransformerConfig, load_checkpoint(tmp_path / "c.pt").fields) == CONFIG


def test_the_layout_is_the_one_that_older_programs_read(tmp_path: Path) -> None:
    save(tmp_path / "c.pt")
    with torch.serialization.safe_globals([Namespace]):
        raw = torch.load(tmp_path / "c.pt", weights_only=True)
    assert set(raw) == {"args", "model", "optimizer_history", "extra_state", "last_optimizer_state"}
    assert raw["args"].adaptive_softmax_cutoff == "8,16"
    assert raw["args"].adam_betas == "(0.9, 0.98)"
    assert raw["args"].lr == [0.25, 0.1]
    assert raw["optimizer_history"][-1] == {
        "criterion_name": "adaptive_loss",
        "optimizer_name": "nag",
        "lr_scheduler_state": {"best": 7.25},
        "num_updates": 17,
    }


def test_no_cutoff_is_written_as_none(tmp_path: Path) -> None:
    save(tmp_path / "c.pt", fields={"adaptive_softmax_cutoff": ()})
    assert load_checkpoint(tmp_path / "c.pt").fields["adaptive_softmax_cutoff"] == ()


def test_a_json_for_people_lies_beside_it(tmp_path: Path) -> None:
    save(tmp_path / "c.pt")
    readable = json.loads((tmp_path / "c.json").read_text())
    assert readable["num_updates"] == 17
    assert readable["settings"]["decoder_embed_dim"] == 16


def test_saving_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    save(tmp_path / "c.pt")
    before = (tmp_path / "c.pt").read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save(tmp_path / "c.pt", optimizer_state={"not data": lambda: None})
    assert (tmp_path / "c.pt").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.json", "c.pt"]


def legacy(path: Path) -> None:
    """Writes torch's container of before 1.6."""
    model = build_transformer_lm(CONFIG, 40)
    record = {"args": Namespace(**CONFIG.__dict__), "model": model.state_dict()}
    torch.save(record, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.02, 0.1, 0.5, 0.9, 0.99, -1])
def test_a_torn_file_is_one_clear_error(tmp_path: Path, container: str, kept: float) -> None:
    path = tmp_path / "c.pt"
    save(path) if container == "zip" else legacy(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: -1 if kept == -1 else int(len(whole) * kept)])
    with pytest.raises(CheckpointError, match=r"c\.pt (is not a whole checkpoint|was not loaded)") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_the_legacy_container_is_read(tmp_path: Path) -> None:
    legacy(tmp_path / "c.pt")
    assert load_checkpoint(tmp_path / "c.pt").fields["decoder_layers"] == 1


@pytest.mark.parametrize("content", [b"the cat sat on the mat\n", b"\x80\x04N.", b"PK\x03\x04", b"{}"])
def test_another_kind_of_file_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"c\.pt (is not a|was not loaded|is a text, not a)"):
        load_checkpoint(tmp_path / "c.pt")


class Payload:
    """Unpickles by touching a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("place", ["args", "extra_state", "model", "last_optimizer_state"])
@pytest.mark.parametrize("new_container", [True, False])
@pytest.mark.pitfall(17)
def test_loading_never_runs_code_from_the_file(tmp_path: Path, place: str, new_container: bool) -> None:
    mark = tmp_path / "mark"
    record: dict[str, Any] = {"args": Namespace(), "model": {}, "extra_state": {}}
    torch.save(record | {place: {"x": Payload(mark)}}, tmp_path / "c.pt", _use_new_zipfile_serialization=new_container)
    with pytest.raises(CheckpointError, match=r"c\.pt was not loaded"):
        load_checkpoint(tmp_path / "c.pt")
    assert not mark.exists()


def test_a_bare_pickle_does_not_run_either(tmp_path: Path) -> None:
    (tmp_path / "c.pt").write_bytes(pickle.dumps(Payload(tmp_path / "mark")))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "c.pt")
    assert not (tmp_path / "mark").exists()


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pt does not exist; give --path"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is a directory; give --path"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"weights": {}}, "has no 'model' state dict"),
        ({"model": {}}, "neither 'args' nor 'cfg' is there"),
        ({"model": {"a": 1}, "args": Namespace()}, "other things than tensors"),
        ([1, 2], "has no 'model' state dict"),
    ],
)
def test_data_that_is_no_checkpoint_is_refused(tmp_path: Path, record: Any, message: str) -> None:
    torch.save(record, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "c.pt")


def test_the_nested_config_of_the_last_fairseq_is_flattened(tmp_path: Path) -> None:
    cfg = {
        "model": Namespace(arch="transformer_lm_gbw", decoder_layers=3, tie_adaptive_proj=True),
        "task": {"_name": "language_modeling", "tokens_per_sample": 512},
        "common": {"seed": 4},
    }
    torch.save({"args": None, "cfg": cfg, "model": {"decoder.version": torch.tensor([3.0])}}, tmp_path / "c.pt")
    fields = load_checkpoint(tmp_path / "c.pt").fields
    assert (fields["arch"], fields["decoder_layers"], fields["tokens_per_sample"], fields["seed"]) == (
        "transformer_lm_gbw",
        3,
        512,
        4,
    )


def test_weights_hash_depends_on_names_shapes_and_values_only() -> None:
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}
    same = {"b": torch.ones(2, dtype=torch.float16), "a": torch.arange(6.0).view(2, 3).t().contiguous().t()}
    assert weights_sha256(state) == weights_sha256(same)
    assert weights_sha256(state) != weights_sha256(state | {"b": torch.tensor([1.0, 1.0000001])})
    assert weights_sha256(state) != weights_sha256(state | {"a": torch.arange(6.0).view(3, 2)})
    assert weights_sha256(state) != weights_sha256({"a": state["a"], "c": state["b"]})


def test_weights_hash_of_a_model_is_that_of_its_file(tmp_path: Path) -> None:
    model = save(tmp_path / "c.pt")
    loaded = load_checkpoint(tmp_path / "c.pt").state
    assert weights_sha256(loaded) == weights_sha256(upgrade_state(model.state_dict()))


def test_golden_checkpoints_hold_equal_weights_in_two_layouts(golden_dir: Path) -> None:
    new, old = (load_checkpoint(golden_dir / f"checkpoint_{name}.pt") for name in ("best", "2019_layout"))
    assert weights_sha256(new.state) == weights_sha256(old.state)


@pytest.mark.parametrize("name", ["checkpoint_best.pt", "checkpoint_2019_layout.pt"])
def test_golden_fields(golden_dir: Path, name: str) -> None:
    found = load_checkpoint(golden_dir / name)
    config = resolve(TransformerConfig, found.fields)
    assert (config.decoder_layers, config.decoder_embed_dim, config.decoder_ffn_embed_dim) == (4, 256, 1024)
    assert (config.decoder_attention_heads, config.adaptive_softmax_cutoff) == (4, (4000, 10000))
    assert config.adaptive_input and config.tie_adaptive_weights and config.tie_adaptive_proj
    assert config.no_decoder_final_norm
    assert found.fields["tokens_per_sample"] == 256
    assert found.num_updates == 1336
    assert load_state(build_transformer_lm(config, 16304), found.state) == []


@pytest.mark.pitfall(14)
def test_the_cpu_is_taken_when_asked_for() -> None:
    assert select_device(DeviceConfig(cpu=True)).type == "cpu"


@pytest.mark.usefixtures("cpu_with_bfloat16")
@pytest.mark.parametrize(
    ("config", "name"),
    [(DeviceConfig(), "float32"), (DeviceConfig(bf16=True), "bfloat16")],
)
def test_precision(config: DeviceConfig, name: str) -> None:
    precision = Precision(config, torch.device("cpu"))
    with precision.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert precision.name == name == str(product.dtype).removeprefix("torch.")


def test_float16_on_a_cpu_is_float32_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert Precision(DeviceConfig(fp16=True), torch.device("cpu")).name == "float32"
    assert "--fp16 has no effect on a CPU" in caplog.text


def test_bfloat16_is_float32_on_a_cpu_that_lacks_it_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fairseq.runtime.precision.cpu_has_bfloat16", lambda: False)
    assert Precision(DeviceConfig(bf16=True), torch.device("cpu")).name == "float32"
    assert "--bf16 has no effect: this CPU has no instructions for it" in caplog.text


def test_two_formats_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="--fp16 and --bf16 exclude each other"):
        Precision(DeviceConfig(fp16=True, bf16=True), torch.device("cpu"))


def test_the_extra_state_alone(tmp_path: Path) -> None:
    save(tmp_path / "c.pt")
    assert load_extra_state(tmp_path / "c.pt") == EXTRA
    other = tmp_path / "\udcff.pt"  # a name that is no text
    (tmp_path / "c.pt").rename(other)
    assert load_extra_state(other) == EXTRA


@pytest.mark.parametrize("kind", ["missing", "directory", "text", "torn", "no dict", "no extra", "code", "compressed"])
def test_what_is_no_checkpoint_has_no_extra_state(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c.pt"
    save(path)
    content = path.read_bytes()
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "text":
        path.write_text("somebody's", encoding="utf-8")
    elif kind == "torn":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "no dict":
        torch.save([1], path)
    elif kind == "no extra":
        torch.save({"extra_state": 3}, path)
    elif kind == "code":
        torch.save({"extra_state": {"best": print}}, path)
    elif kind == "compressed":
        with zipfile.ZipFile(io.BytesIO(content)) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for part in whole.infolist():
                packed.writestr(part.filename, whole.read(part))
    assert load_extra_state(path) == {}
