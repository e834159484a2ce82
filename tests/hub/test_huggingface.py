"""A Hugging Face model loaded from Python scores, continues texts and shows neighbours as transformers and NumPy do."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairseq.errors import CheckpointError, ConfigError, DataError, MismatchError
from fairseq.hub import LanguageModelHub, from_pretrained
from knnlm import KNN, KNNLogitsProcessor
from tests.builders.cases import Call
from tests.builders.markdown import ROOT
from tests.builders.tiny_llama import LMBDA, TEMPERATURE, TEXT, K, LlamaRoad, write_tiny_llama

pytest.importorskip("transformers")

SHIFT, OPENING = 4, 0  # the tokenizer's <|endoftext|> opens a text
CODE = "def total(numbers):\n    return sum\n"
# Sums of float32 in rows of another length.
OTHER_ROWS = 1e-5
PYTHON_PAGE = ROOT / "docs" / "python.md"


@pytest.fixture(scope="module")
def lm(tiny_llama: Path) -> LanguageModelHub:
    return from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_llama).eval()


def knn_of(road: LlamaRoad) -> KNN:
    return KNN(road.store, road.index, k=K, lmbda=LMBDA, temperature=TEMPERATURE)


@pytest.fixture(scope="module")
def knn_lm(llama_road: LlamaRoad) -> LanguageModelHub:
    return from_pretrained(llama_road.model, knn=knn_of(llama_road))


@torch.no_grad()
def log_p_of(model: Any, ids: np.ndarray) -> np.ndarray:
    """Returns ln p of each token of a text by transformers, which reads the opening token first."""
    row = torch.tensor([[OPENING, *(ids - SHIFT).tolist()]])
    log_p_TV = model(row).logits[0].double().log_softmax(-1)
    return log_p_TV[:-1].gather(1, row[0, 1:, None])[:, 0].numpy()


def test_scores_are_those_of_transformers(lm: LanguageModelHub, model: Any) -> None:
    texts = [CODE, "The river", "", "é\r\n\tx  y"]
    for text, score in zip(texts, lm.score(texts), strict=True):
        ids = lm.encode(text).numpy()
        assert score.tokens.tolist() == ids.tolist()
        assert not score.eos
        np.testing.assert_allclose(score.positional_scores, log_p_of(model, ids), atol=OTHER_ROWS)


def test_a_text_without_tokens_has_no_perplexity(lm: LanguageModelHub) -> None:
    nothing = lm.score("")
    assert repr(nothing) == "Score(0 tokens)"
    assert np.isnan([nothing.perplexity, nothing.loss]).all() and nothing.total == 0


def test_a_long_text_is_scored_in_windows(lm: LanguageModelHub, model: Any) -> None:
    ids = lm.encode(TEXT).numpy()
    row, window = 128, 64
    assert len(ids) > 2 * row
    expected = list(log_p_of(model, ids[: row - window]))
    for start in range(row - window, len(ids), row - window):
        piece = ids[start - window - 1 : start + row - window]
        if start == row - window:  # the opening stands in front of the first block
            piece = ids[start - window : start + row - window]
            expected += list(log_p_of(model, piece)[window:])
            continue
        with torch.no_grad():
            log_p_TV = model(torch.tensor([(piece[:-1] - SHIFT).tolist()])).logits[0].double().log_softmax(-1)
        expected += log_p_TV.gather(1, torch.tensor(piece[1:, None] - SHIFT))[window:, 0].tolist()
    np.testing.assert_allclose(lm.score(TEXT).positional_scores, expected, atol=OTHER_ROWS)


def test_a_text_comes_back_as_it_was(lm: LanguageModelHub) -> None:
    for text in (CODE, "  two  spaces\t\r\n\n", "é 中 <|endoftext|> x", ""):
        assert lm.decode(lm.encode(text)) == text
    symbols = lm.apply_bpe(CODE)
    assert lm.binarize(symbols).tolist() == lm.encode(CODE).tolist()
    assert lm.remove_bpe(symbols) == CODE


def test_every_word_of_what_comes_next(lm: LanguageModelHub, model: Any) -> None:
    ids = lm.encode(CODE)
    with torch.no_grad():
        expected_TV = model(ids[None] - SHIFT).logits[0].double().log_softmax(-1)
    found_TV = lm(ids).logits
    np.testing.assert_allclose(found_TV[:, SHIFT:], expected_TV, atol=OTHER_ROWS)
    assert (found_TV[:, :SHIFT] == -torch.inf).all()


@torch.no_grad()
def test_the_model_is_called_as_fairseqs(lm: LanguageModelHub, model: Any) -> None:
    ids, inner = lm.encode(CODE)[None], lm.models[0]
    expected_TV = model(ids - SHIFT).logits[0]
    net_output = inner(src_tokens=ids, src_lengths=torch.tensor([ids.shape[1]]))
    scores, extra = net_output
    np.testing.assert_allclose(scores[0, :, SHIFT:], expected_TV, atol=OTHER_ROWS)
    log_p_TV = inner.get_normalized_probs(net_output, log_probs=True)[0]
    np.testing.assert_allclose(log_p_TV[:, SHIFT:], expected_TV.log_softmax(-1), atol=OTHER_ROWS)
    p_TV = inner.get_normalized_probs(net_output, log_probs=False)[0]
    np.testing.assert_allclose(p_TV[:, SHIFT:], expected_TV.softmax(-1), atol=OTHER_ROWS)
    assert not p_TV[:, :SHIFT].any(), "fairseq's four are no tokens of the model"
    features, more = inner.extract_features(ids)
    assert torch.equal(features, extra["features"]) and torch.equal(more["context_vectors"], extra["context_vectors"])


def test_the_pages_blocks_run_as_they_are(lm: LanguageModelHub, model: Any) -> None:
    """``docs/python.md``: the same lines for a model that has ``</s>`` behind a text and for one that has none."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PYTHON_PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    blocks = [block for block in blocks if "lm" in block and "from_pretrained" not in block and "dstore" not in block]
    assert len(blocks) == 3
    names: dict[str, Any] = {"lm": lm}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    ids, logits = names["ids"], names["logits"]
    assert len(logits) == len(ids) + 1
    found = logits[:-1].gather(1, ids[:, None])[:, 0]
    np.testing.assert_allclose(found, log_p_of(model, ids.numpy()), atol=OTHER_ROWS)


def mixture(road: LlamaRoad, queries_ND: torch.Tensor, log_p_N: np.ndarray, target_N: np.ndarray) -> np.ndarray:
    """Returns ln p of each target by brute force over the rows of the datastore's files, in float64."""
    record = json.loads(road.store.with_suffix(".json").read_text())
    keys_ND = np.memmap(f"{road.store}_keys.npy", np.float32, "r", shape=(record["rows"], record["dimension"]))
    values_N = np.memmap(f"{road.store}_vals.npy", np.int64, "r").ravel()
    found = []
    for query_D, log_p, target in zip(queries_ND.double().numpy(), log_p_N, target_N, strict=True):
        distance_N = ((keys_ND.astype(np.float64) - query_D) ** 2).sum(1)
        near_K = np.argsort(distance_N, kind="stable")[:K]
        vote_K = np.exp(-(distance_N[near_K] - distance_N[near_K].min()) / TEMPERATURE)
        p_knn = vote_K[values_N[near_K] == target].sum() / vote_K.sum()
        found.append(np.log((1 - LMBDA) * np.exp(log_p) + LMBDA * p_knn))
    return np.array(found)


def test_neighbours_are_mixed_as_brute_force_does(
    llama_road: LlamaRoad, lm: LanguageModelHub, knn_lm: LanguageModelHub, model: Any
) -> None:
    queries_ND, target_N = lm.context_vectors(CODE)
    score = knn_lm.score(CODE)
    expected_N = mixture(llama_road, queries_ND, score.lm_scores.numpy(), target_N.numpy())
    np.testing.assert_allclose(score.positional_scores, expected_N, rtol=0, atol=1e-6)
    np.testing.assert_allclose(score.lm_scores, log_p_of(model, target_N.numpy()), atol=OTHER_ROWS)


def test_neighbours_are_shown_with_the_text_around_them(knn_lm: LanguageModelHub) -> None:
    found = knn_lm.neighbours("return sum", k=4, words=3)
    assert [len(each.neighbours) for each in found] == [4] * len(found)
    rows = [row for each in found for row in each.neighbours]
    lines = [(TEXT + "".join(reversed(TEXT.splitlines(keepends=True))) + TEXT.upper())]
    assert all(f"{row.before}" in lines[0] and f"{row.after}" in lines[0] for row in rows)
    assert not any("\n" in str(row.line) for row in rows)


def test_scores_are_those_of_the_command(llama_road: LlamaRoad, call: Call, tmp_path: Path) -> None:
    text = (llama_road.data.parent / "test.txt").read_text(encoding="utf-8")
    flags = ["--path", llama_road.model, "--gen-subset", "test", "--tokens-per-sample", 112, "--context-window", 16]
    quiet = ["--cpu", "--log-format", "none", "--results-path", tmp_path / "r.json"]
    outcome = call("fairseq-eval-lm", llama_road.data, *flags, *quiet, *llama_road.flags)
    assert outcome.code == 0, outcome.err
    record = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    lm = from_pretrained(llama_road.model, knn=knn_of(llama_road), tokens_per_sample=112)
    score = lm.score(text, context_window=16)
    assert len(score) == record["targets"]
    assert score.loss == pytest.approx(record["loss_base2"], abs=1e-6)
    assert score.at(0).loss == pytest.approx(record["lm"]["loss_base2"], abs=1e-6)


@pytest.mark.parametrize("prompt", ["The river", CODE, "x"])
def test_greedy_text_is_that_of_transformers(lm: LanguageModelHub, model: Any, prompt: str) -> None:
    ids = lm.encode(prompt)[None] - SHIFT
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False)
    assert lm.sample(prompt, max_len_b=10) == lm.decode(out[0].numpy() + SHIFT).removesuffix("<|endoftext|>")


@pytest.mark.parametrize("beam", [1, 3])
def test_transformers_own_generate_uses_the_datastore(
    llama_road: LlamaRoad, knn_lm: LanguageModelHub, model: Any, beam: int
) -> None:
    ids = knn_lm.encode("The river")[None] - SHIFT
    settings: dict[str, Any] = dict(max_new_tokens=8, do_sample=False, num_beams=beam, min_new_tokens=8)
    with KNNLogitsProcessor(model, llama_road.model, knn_of(llama_road)) as knn:
        out = model.generate(ids, attention_mask=torch.ones_like(ids), logits_processor=[knn], **settings)
    ours = knn_lm.generate("The river", beam, max_len_b=8, min_len=8)[0]
    assert (out[0, ids.shape[1] :] + SHIFT).tolist() == ours.tokens_T.tolist()


@pytest.fixture
def steps(llama_road: LlamaRoad, model: Any) -> Iterator[list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
    """Yields what a processor was given and gave in every step of two prompts, padded on the left."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llama_road.model, padding_side="left")
    tokenizer.pad_token = tokenizer.eos_token
    inputs = tokenizer(["The river", CODE], return_tensors="pt", padding=True)
    found = []
    with KNNLogitsProcessor(model, llama_road.model, knn_of(llama_road)) as knn:

        def noted(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            mixed = knn(input_ids, scores)
            found.append((input_ids, scores.clone(), mixed))
            return mixed

        more = {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask}
        model.generate(**more, logits_processor=[noted], max_new_tokens=5, do_sample=False, pad_token_id=0)
    yield found


def test_processed_scores_are_the_mixture(
    llama_road: LlamaRoad, lm: LanguageModelHub, steps: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
) -> None:
    assert len(steps) == 5
    sizes = [len(lm.encode("The river")), len(lm.encode(CODE))]
    for step, (input_ids, scores, mixed) in enumerate(steps):
        for row, size in enumerate(sizes):
            text = input_ids[row, -(size + step) :] + SHIFT
            query_D = lm(text).extra["context_vectors"][-1]
            log_p_V = scores[row].double().log_softmax(-1).numpy()
            some = np.arange(0, len(log_p_V), 7)
            expected = mixture(llama_road, query_D.expand(len(some), -1), log_p_V[some], some + SHIFT)
            np.testing.assert_allclose(mixed[row, some], expected, atol=OTHER_ROWS)


def test_a_processor_is_not_for_another_model(llama_road: LlamaRoad, model: Any, tmp_path: Path) -> None:
    other = write_tiny_llama(tmp_path / "other", seed=6)
    with pytest.raises(Exception, match="model weights"):
        KNNLogitsProcessor(model, other, knn_of(llama_road))
    with (
        KNNLogitsProcessor(model, None, knn_of(llama_road)) as knn,
        pytest.raises(ConfigError, match="rows are needed"),
    ):
        knn(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 300))
    assert not model.base_model._forward_hooks
    with pytest.raises(ConfigError, match="its with block has ended"):
        knn(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 300))


def test_what_means_nothing_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bpe"):
        from_pretrained(tiny_llama, bpe="gpt2")
    with pytest.raises(ConfigError, match="checkpoint_file"):
        from_pretrained(tiny_llama, "model.safetensors")
    with pytest.raises(ConfigError, match="decoder_layers"):
        from_pretrained(tiny_llama, decoder_layers=3)
    with pytest.raises(ConfigError, match=r"nope is neither a directory \(.*Hugging Face model\).*\(org/model\)"):
        from_pretrained("nope")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises((CheckpointError, DataError)):
        from_pretrained(tmp_path)


def test_data_of_another_tokenizer_is_refused(llama_road: LlamaRoad, tmp_path: Path) -> None:
    other = write_tiny_llama(tmp_path / "other", add_bos=True)
    with pytest.raises(MismatchError, match=r"but the tokenizer of --path .*other is another"):
        from_pretrained(other, data_name_or_path=llama_road.data)


def test_half_of_the_memory(tiny_llama: Path, lm: LanguageModelHub, cpu_with_bfloat16: None) -> None:
    half = from_pretrained(tiny_llama, dtype="bfloat16")
    assert next(half.parameters()).dtype == torch.bfloat16
    assert half.score(CODE).loss == pytest.approx(lm.score(CODE).loss, rel=0.02)
    assert half.bfloat16() is half
    with pytest.raises(ConfigError, match="dtype='float32'"):
        half.float()
    with pytest.raises(ConfigError, match="dtype must be one of"):
        from_pretrained(tiny_llama, dtype="float64")


def test_an_end_that_is_no_token_ends_nothing(tiny_llama: Path, tmp_path: Path, lm: LanguageModelHub) -> None:
    """As of a ``GPT2Config`` of another tokenizer, which says 50256 all the same."""
    import shutil

    directory = tmp_path / "model"
    shutil.copytree(tiny_llama, directory)
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((directory / name).read_text()) | {"eos_token_id": 50256}
        (directory / name).write_text(json.dumps(settings))
    assert from_pretrained(directory).sample("The weather", max_len_b=5) == lm.sample("The weather", max_len_b=5)
