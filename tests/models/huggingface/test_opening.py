"""From ``--path DIR`` to the model and its scores, by the same ways as a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fairseq_cli.validate
from fairseq.checkpoints.format import Checkpoint, load_checkpoint
from fairseq.checkpoints.huggingface import read_model_directory
from fairseq.config.common import DeviceConfig
from fairseq.errors import CheckpointError, ConfigError, MismatchError
from fairseq.evaluate.sequence_scorer import SequenceScorer
from fairseq.models.huggingface.adapter import HuggingFaceModel
from fairseq.models.huggingface.loading import load_model
from fairseq.runtime.precision import Precision
from fairseq.tasks import opening
from fairseq.tasks.opening import OpenedModels, open_models
from fairseq.text.model_tokenizer import SHIFT
from tests.builders.model_families import tiny_model
from tests.builders.tiny_llama import write_tiny_llama


def data_directory(directory: Path, num_words: int) -> str:
    """Returns a data directory with a dictionary of so many words and fairseq's four."""
    directory.mkdir()
    (directory / "dict.txt").write_text("".join(f"w{word} 1\n" for word in range(num_words)))
    return str(directory)


def opened(path: Path | str, data: str, **fields: Any) -> OpenedModels:
    precision = Precision(DeviceConfig(cpu=True), torch.device("cpu"))
    settings: Mapping[str, Any] = {"data": data, **fields}
    return open_models(str(path), "language_modeling", "{}", settings, precision)


def test_a_directory_opens_as_a_checkpoint_does(tiny_llama: Path, tmp_path: Path) -> None:
    found = opened(tiny_llama, data_directory(tmp_path / "data", 300))
    assert found.max_positions == 128
    assert found.task_config.tokens_per_sample == 128
    assert isinstance(found.models[0], HuggingFaceModel)
    assert found.identity.key_type == "last_ffn_input"
    assert (found.identity.vocabulary_size, found.identity.key_dimension) == (304, 16)


def test_a_dictionary_of_more_ids_than_are_scored_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=r"has 305 words, but the model of --path .* scores 304"):
        opened(tiny_llama, data_directory(tmp_path / "data", 301))


def test_bos_takes_a_position_of_rows_that_nobody_gave_a_length(tmp_path: Path) -> None:
    model, data = write_tiny_llama(tmp_path / "model", add_bos=True), data_directory(tmp_path / "data", 300)
    assert opened(model, data).task_config.tokens_per_sample == 127
    many = write_tiny_llama(tmp_path / "long", add_bos=True, max_position_embeddings=1025)
    assert opened(many, data).task_config.tokens_per_sample == 1024


def test_bos_that_is_asked_for_takes_a_position_as_well(tiny_llama: Path, tmp_path: Path) -> None:
    data = data_directory(tmp_path / "data", 300)
    assert opened(tiny_llama, data, add_bos_token=True).task_config.tokens_per_sample == 127


def test_settings_of_fairseqs_models_have_no_effect(
    tiny_llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data, precision = (
        {"data": data_directory(tmp_path / "data", 300)},
        Precision(DeviceConfig(cpu=True), torch.device("cpu")),
    )
    typed = "{'dropout': 0.3, 'decoder_layers': 7, 'tokens_per_sample': 64}"
    found = open_models(str(tiny_llama), "language_modeling", typed, data, precision)
    assert found.task_config.tokens_per_sample == 64
    told = [line for line in caplog.messages if "has no effect: it is no setting of the model" in line]
    assert ["dropout" in told[0], "decoder_layers" in told[1], len(told)] == [True, True, 2]
    with pytest.raises(ConfigError, match="n_layers"):
        open_models(str(tiny_llama), "language_modeling", "{'n_layers': 7}", data, precision)


def test_the_positions_of_a_recurrent_model_are_found(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "rwkv", "context_length": 96}')
    assert read_model_directory(tmp_path).default_block() == 96


def test_bos_before_rows_of_two_kinds_of_models_is_refused(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "load_checkpoint", lambda path: Checkpoint(path, {}, {}, None, {}, 0, ""))
    data, path = data_directory(tmp_path / "data", 300), f"{tiny_llama}:{tmp_path / 'words.pt'}"
    with pytest.raises(ConfigError, match=r"--add-bos-token with --path .*words.pt: a Hugging Face model puts its own"):
        opened(path, data, add_bos_token=True)


def test_rows_that_are_longer_than_the_positions_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    data = data_directory(tmp_path / "data", 300)
    with pytest.raises(ConfigError, match=r"rows of 129 tokens .* are longer than the 128 positions of the model"):
        opened(tiny_llama, data, tokens_per_sample=129)
    with pytest.raises(ConfigError, match=r"rows of 128 tokens .* are longer than the 127 positions of the model"):
        opened(tiny_llama, data, tokens_per_sample=128, add_bos_token=True)
    assert opened(tiny_llama, data, tokens_per_sample=127, add_bos_token=True).max_positions == 127


def test_commands_that_need_a_checkpoints_file_say_so(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is a Hugging Face model, which only commands that read a text take"):
        load_checkpoint(str(tiny_llama))
    data = data_directory(tmp_path / "data", 300)
    for name in ("valid.idx", "valid.bin"):
        (tmp_path / "data" / name).touch()
    with pytest.raises(CheckpointError, match="has no criterion of fairseq-train's; fairseq-eval-lm tells"):
        fairseq_cli.validate.main([data, "--path", str(tiny_llama), "--cpu"])


class InTwoPasses(HuggingFaceModel):
    """The same model, which is asked twice."""

    target_and_certainty = property()  # type: ignore[assignment] # which raises AttributeError


@torch.no_grad()
def test_the_scorer_asks_the_head_once_where_it_can() -> None:
    model, precision = tiny_model("gemma2"), Precision(DeviceConfig(cpu=True), torch.device("cpu"))
    features_NC, target_N = torch.randn(9, 16), torch.arange(9) + SHIFT
    rows: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda module, args, out: rows.append(out.shape[-2]))
    found: list[tuple[Tensor, ...]] = []
    for kind, passes in ((HuggingFaceModel, 1), (InTwoPasses, 2)):
        adapter = kind(model, 5)
        rows.clear()
        found.append(SequenceScorer([adapter], precision)._with_certainty(adapter, features_NC, target_N))
        assert sum(rows) == 9 * passes
    for once, twice in zip(*found, strict=True):
        assert torch.allclose(once, twice, atol=1e-6)


@pytest.mark.slow
@torch.no_grad()
def test_a_real_model_scores_as_its_own_run_does(smollm2: Path) -> None:
    """Also with neighbours' keys of every kind, and by a cache."""
    adapter = load_model(smollm2)
    generator = torch.Generator().manual_seed(1)
    ids_BT = torch.randint(SHIFT, adapter.vocabulary_size, (2, 40), generator=generator)
    wanted_BTV = adapter.model(ids_BT - SHIFT, use_cache=False).logits.double().log_softmax(2)
    out = adapter(ids_BT, 1)
    target_BS = ids_BT[:, 1:].roll(-1, 1)
    found_N = adapter.target_log_prob(out.features_BSC.flatten(0, 1), target_BS.flatten())
    wanted_N = wanted_BTV[:, 1:].gather(2, target_BS[:, :, None] - SHIFT).flatten()
    assert (found_N.double() - wanted_N).abs().max() <= 5e-5  # logits up to 30, in float32
    for kind in ("attention_input", "residual:3", "block_output:15", "final_norm"):
        adapter.use_keys(kind)
        assert adapter(ids_BT[:, :4]).ffn_input_BSC.shape == (2, 4, 576)
    cache = adapter.new_cache(2, 40)
    assert cache is not None
    adapter.extend(ids_BT[:, :20], torch.tensor([20, 20]), cache)
    last_BSC = adapter.extend(ids_BT[:, 20:], torch.tensor([20, 20]), cache).features_BSC
    assert torch.allclose(last_BSC, out.features_BSC[:, 19:], atol=1e-3)
