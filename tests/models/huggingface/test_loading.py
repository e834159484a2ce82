"""From a directory to the model: what is read, and what is refused in one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairseq.checkpoints.huggingface import read_model_directory
from fairseq.errors import CheckpointError, ConfigError, DataError
from fairseq.knn.datastore.identity import use_keys
from fairseq.models.huggingface.loading import load_model
from fairseq.text.model_tokenizer import SHIFT
from tests.builders.model_families import tiny_model
from tests.builders.tiny_llama import write_tiny_llama


@pytest.fixture
def directory(tiny_llama: Path, tmp_path: Path) -> Path:
    """Returns a copy of a model's directory, to be spoilt."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def change_weights(directory: Path, **changed: torch.Tensor | None) -> None:
    """Replaces tensors of a directory by name, with ``__`` for dots; None takes one away."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in changed.items():
        tensors.pop(name.replace("__", "."), None)
        if tensor is not None:
            tensors[name.replace("__", ".")] = tensor
    save_file(tensors, path, metadata={"format": "pt"})


def change_config(directory: Path, **changed: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def shard(directory: Path) -> list[Path]:
    """Cuts a directory's weights into two files with an index, and returns these."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names, files, weight_map = sorted(tensors), [], {}
    for number, part in enumerate((names[:5], names[5:]), 1):
        files.append(directory / f"model-{number:05}-of-00002.safetensors")
        save_file({name: tensors[name] for name in part}, files[-1], metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, files[-1].name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return files


def scores(path: Path, **settings: Any) -> torch.Tensor:
    model = load_model(path, **settings)
    with torch.no_grad():
        return model.log_prob(model(torch.tensor([[2, 20, 30, 40]])).features_BSC[0])


def test_loading_is_silent_and_opens_with_the_tokenizers_token(
    tiny_llama: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = load_model(tiny_llama)
    assert (model.opening_id, model.key_type, model.longest_row) == (SHIFT, "last_ffn_input", 128)
    assert not model.training
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert capfd.readouterr() == ("", "")


def test_the_library_speaks_again_afterwards(tiny_llama: Path) -> None:
    from transformers.utils import logging

    logging.set_verbosity_warning()
    load_model(tiny_llama)
    assert logging.get_verbosity() == 30
    assert logging.is_progress_bar_enabled()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_the_weights_and_scores_are_float32(tiny_llama: Path, dtype: torch.dtype) -> None:
    whole, half = scores(tiny_llama), scores(tiny_llama, dtype=dtype)
    assert half.dtype == torch.float32
    assert load_model(tiny_llama, dtype=dtype).model.lm_head.weight.dtype == dtype
    assert 0 < (half - whole)[:, SHIFT:].abs().max() < 0.5


def test_a_directory_without_a_tokenizer_opens_with_the_configurations_token(directory: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink()
    change_config(directory, bos_token_id=None, eos_token_id=[7, 8])
    assert load_model(directory).opening_id == 7 + SHIFT


def test_shards_are_one_model(directory: Path, tiny_llama: Path) -> None:
    shard(directory)
    assert torch.equal(scores(directory), scores(tiny_llama))
    assert len(read_model_directory(directory).weight_files) == 2


def test_files_that_are_not_loaded_do_not_count(directory: Path, tiny_llama: Path) -> None:
    """A shard and an index of another model, left beside the whole file, and a copy under another name."""
    before = read_model_directory(tiny_llama).weights_sha256
    other = {name: tensor + 1 for name, tensor in load_file(directory / "model.safetensors").items()}
    save_file(other, directory / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(other, "model-00001-of-00001.safetensors")}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    torch.save(other, directory / "pytorch_model.bin")
    save_file(other, directory / "model.old.safetensors")
    assert torch.equal(scores(directory), scores(tiny_llama))
    found = read_model_directory(directory)
    assert [path.name for path in found.weight_files] == ["model.safetensors"] and found.weights_sha256 == before
    (directory / "model.safetensors").unlink()
    assert not torch.equal(scores(directory), scores(tiny_llama))
    found = read_model_directory(directory)
    assert [path.name for path in found.weight_files] == ["model-00001-of-00001.safetensors"]


def test_shards_without_an_index_are_no_weights(directory: Path) -> None:
    shard(directory)
    (directory / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"has .*-of-.*\.safetensors, but no model\.safetensors\.index\.json"):
        read_model_directory(directory).weights_sha256  # noqa: B018


def test_tensors_of_torchs_own_files_are_read(directory: Path, tiny_llama: Path) -> None:
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    assert torch.equal(scores(directory), scores(tiny_llama))
    assert len(read_model_directory(directory).weights_sha256) == 64


def test_the_hash_of_weights_is_that_of_the_files_as_they_are(directory: Path, tiny_llama: Path) -> None:
    before = read_model_directory(directory).weights_sha256
    assert before == read_model_directory(tiny_llama).weights_sha256
    change_weights(directory, model__norm__weight=torch.full((16,), 1.5))
    assert read_model_directory(directory).weights_sha256 != before


def spoil_missing(directory: Path) -> None:
    change_weights(directory, model__norm__weight=None)


def spoil_more(directory: Path) -> None:
    change_weights(directory, model__layers__2__mlp__up_proj__weight=torch.zeros(24, 16))


def spoil_shape(directory: Path) -> None:
    change_weights(directory, model__norm__weight=torch.zeros(8))


def spoil_nan(directory: Path) -> None:
    change_weights(directory, model__norm__weight=torch.full((16,), torch.nan))


def spoil_layers(directory: Path) -> None:
    change_config(directory, num_hidden_layers=3)


def spoil_fewer_layers(directory: Path) -> None:
    change_config(directory, num_hidden_layers=1)


def spoil_tail(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def spoil_header(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"\xff" * 64)


def spoil_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def spoil_shard(directory: Path) -> None:
    shard(directory)[1].unlink()


def spoil_index(directory: Path) -> None:
    shard(directory)
    (directory / "model.safetensors.index.json").write_text("[1, 2]")


def spoil_index_path(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../x.safetensors"}}')


def spoil_config(directory: Path) -> None:
    (directory / "config.json").write_text("{")


def spoil_kind(directory: Path) -> None:
    (directory / "config.json").write_text("{}")


def spoil_nesting(directory: Path) -> None:
    (directory / "config.json").write_text("[" * 100_000)


def spoil_header_nesting(directory: Path) -> None:
    header = b'{"a": ' + b"[" * 100_000
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def spoil_header_entry(directory: Path) -> None:
    header = b'{"a": {"data_offsets": [0, null]}}'
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def spoil_family(directory: Path) -> None:
    change_config(directory, model_type="camel")


def spoil_sizes(directory: Path) -> None:
    change_config(directory, num_attention_heads="many")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_missing, r"has no tensor model\.norm\.weight; config\.json and the files of weights"),
        (spoil_more, r"has tensors that config\.json has no place for: model\.layers\.2\.mlp\.up_proj\.weight"),
        (spoil_shape, r"has tensors of other shapes than config\.json says: model\.norm\.weight;"),
        (spoil_nan, r"weights in model\.norm\.weight are NaN or infinite"),
        (spoil_layers, r"has no tensor model\.layers\.2\.\S+, .* and \d+ more"),
        (spoil_fewer_layers, r"has no place for: model\.layers\.1\."),
        (spoil_tail, r"model\.safetensors must be \d+ bytes long by its header, but is \d+"),
        (spoil_header, r"model\.safetensors is not a whole safetensors file"),
        (spoil_weights, r"has no weights \(model\.safetensors\)"),
        (spoil_shard, r"model-00002-of-00002\.safetensors does not exist, but model\.safetensors\.index\.json names"),
        (spoil_index, r"index\.json is not an index of files of weights"),
        (spoil_index_path, r"names a file that is not in its directory"),
        (spoil_config, r"config\.json is not JSON"),
        (spoil_kind, r"config\.json names no model_type"),
        (spoil_nesting, r"config\.json is not JSON"),
        (spoil_header_nesting, r"model\.safetensors is not a whole safetensors file"),
        (spoil_header_entry, r"model\.safetensors is not a whole safetensors file"),
        (spoil_family, r"cannot be loaded as a causal language model .*camel"),
        (spoil_sizes, r"cannot be loaded as a causal language model"),
    ],
)
def test_what_is_torn_or_does_not_belong_together_is_refused_in_one_line(
    directory: Path, spoil: Any, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil(directory)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_model(read_model_directory(directory).path)
    assert "\n" not in str(caught.value)
    assert str(directory) in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_torn_tokenizer_is_told_by_the_flag_that_was_typed(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match=r"^--path: .*tokenizer\.json must be a tokenizer"):
        load_model(directory)


def test_code_of_a_directory_runs_only_when_it_is_asked_for(directory: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (directory / "own.py").write_text(
        f"""from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM
Path({str(marker)!r}).touch()
class OwnConfig(LlamaConfig):
    model_type = "own-llama"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""
    )
    code = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    change_config(directory, model_type="own-llama", auto_map=code)
    with pytest.raises(ConfigError, match=r"brings Python code of its own.*--trust-remote-code"):
        load_model(directory)
    assert not marker.exists()
    load_model(directory, trust_remote_code=True)
    assert marker.exists()


def test_a_model_that_fills_gaps_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertLMHeadModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    BertLMHeadModel(BertConfig(vocab_size=60, **sizes)).save_pretrained(tmp_path / "bert")
    with pytest.raises(CheckpointError, match=r"a bert model \(BertLMHeadModel\) is not causal"):
        load_model(tmp_path / "bert")


def test_a_model_of_experts_keeps_its_losses_out(tmp_path: Path) -> None:
    model = tiny_model("mixtral")
    model.config.output_router_logits = True
    model.save_pretrained(tmp_path / "experts")
    assert scores(tmp_path / "experts").isfinite()[:, SHIFT:].all()


def test_bos_of_the_tokenizer_stands_in_front_of_each_row(tmp_path: Path) -> None:
    model = load_model(write_tiny_llama(tmp_path / "bos", add_bos=True))
    assert model.reader.adds_bos
    with torch.no_grad():
        found = model(torch.tensor([[20, 30]])).features_BSC
        wanted = model(torch.tensor([[2, 20, 30]])).features_BSC[:, 1:]
    assert torch.allclose(found, wanted, atol=1e-6)


def test_a_model_without_a_feed_forward_network_of_a_known_name_has_other_keys(tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    RobertaForCausalLM(RobertaConfig(vocab_size=60, is_decoder=True, **sizes)).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert model.key_type == "final_norm" and model.key_dimension == 16
    with pytest.raises(CheckpointError, match=r"has no feed-forward network that is known by its name"):
        use_keys(model, None)
    with pytest.raises(CheckpointError, match=r"has no feed-forward network that is known by its name"):
        load_model(tmp_path, key_type="ffn_input:0")
    use_keys(model, "block_output:0")
    use_keys(model, None)
    assert model.key_type == "block_output:0"
    assert load_model(tmp_path, key_type="final_norm").key_type == "final_norm"


def with_more(directory: Path, more: dict[str, torch.Tensor], *, pickled: bool) -> Path:
    """Writes a tiny GPT-Neo, with tensors that older releases of transformers stored beside the weights."""
    from safetensors.torch import load_file, save_file
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 24, "vocab_size": 60}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "max_position_embeddings": 32}
    config = GPTNeoConfig(attention_types=[[["global", "local"], 1]], **sizes, **ids)
    GPTNeoForCausalLM(config).save_pretrained(directory)
    path = directory / "model.safetensors"
    tensors = {**load_file(path), **more}
    if pickled:
        torch.save(tensors, directory / "pytorch_model.bin")
        path.unlink()
    else:
        save_file(tensors, path, metadata={"format": "pt"})
    return directory


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("pickled", [False, True])
def test_constants_that_are_left_over_are_no_matter(tmp_path: Path, prefix: str, pickled: bool) -> None:
    attention = f"{prefix}h.1.attn.attention"
    more = {
        f"{attention}.bias": torch.ones(1, 1, 32, 32, dtype=torch.bool).tril(),
        f"{attention}.masked_bias": torch.tensor(-1e9),
        f"{attention}.rotary_emb.inv_freq": torch.ones(4),
    }
    assert scores(with_more(tmp_path, more, pickled=pickled)).isfinite()[:, SHIFT:].all()


def test_a_bias_that_was_learnt_is_not_left_over(tmp_path: Path) -> None:
    directory = with_more(tmp_path, {"transformer.h.1.attn.attention.bias": torch.ones(48)}, pickled=False)
    with pytest.raises(CheckpointError, match=r"config\.json has no place for: .*h\.1\.attn\.attention\.bias"):
        load_model(directory)


def test_a_pickle_of_more_than_tensors_is_refused_without_advice_to_run_it(tmp_path: Path) -> None:
    directory = with_more(tmp_path, {"more": Path("code")}, pickled=True)  # type: ignore[dict-item] # no tensor
    with pytest.raises(CheckpointError, match=r"holds more than tensors, .* it is refused") as caught:
        load_model(directory)
    assert "weights_only" not in str(caught.value)
