"""Ways to cut tokenized text for a Hugging Face model, against transformers' own logits of every row."""

import json
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.data.source_text import SourceText
from fairseq.hub import from_pretrained
from fairseq.text.model_tokenizer import SHIFT
from tests.builders.tiny_llama import TEXT, LlamaRoad, write_tiny_llama
from tests.builders.tiny_lm import Command
from tests.oracles.windows import EOS, PAD, document_rows, isolated_rows

pytest.importorskip("transformers")

SIZE, OPENING = 24, 0  # the tokenizer's first token ends and begins a text
RTOL = 1e-5


@pytest.fixture
def evaluate(command: Command, llama_road: LlamaRoad, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Returns ``evaluate(*flags)``: what an evaluation of the valid split has found."""

    def call(*words: object) -> dict[str, Any]:
        results = tmp_path / "found.json"
        given = ["--gen-subset", "valid", "--batch-size", 3, "--cpu", "--results-path", results, "--overwrite"]
        done = command("fairseq-eval-lm", llama_road.data, "--path", llama_road.model, *given, *words)
        assert done.code == 0, done.err
        found: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
        return found

    return call


def text_of(road: LlamaRoad) -> tuple[list[int], list[int]]:
    """Returns the ids and the sizes of the documents of the valid split."""
    text = MMapIndexedDataset(road.data / "valid")
    return text.tokens.astype(np.int64).tolist(), text.sizes.tolist()


def log_p_of(road: LlamaRoad, rows: list[tuple[list[int], list[int]]], *, bos: bool = False) -> tuple[float, int]:
    """Returns Σ ln p of the targets of rows by the model itself, and how many there are."""
    import torch
    from transformers import AutoModelForCausalLM

    model, total, count = AutoModelForCausalLM.from_pretrained(road.model, dtype=torch.float32), 0.0, 0
    for source, target in rows:
        begins = source[0] == EOS
        ids = [OPENING if token == EOS else token - SHIFT for token in source]
        ids = [OPENING] * (bos and not begins) + ids
        with torch.no_grad():
            log_p_TV = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)[len(ids) - len(source) :]
        for log_p_V, token in zip(log_p_TV, target, strict=True):
            if token != PAD:
                total, count = total + float(log_p_V[token - SHIFT]), count + 1
    return total, count


@pytest.mark.parametrize("bos", [False, True])
def test_isolated_blocks_are_those_of_run_clm(
    evaluate: Callable[..., dict[str, Any]], llama_road: LlamaRoad, bos: bool
) -> None:
    words = ["--sample-break-mode", "isolated", "--tokens-per-sample", SIZE, *["--add-bos-token"] * bos]
    found, wanted = evaluate(*words), log_p_of(llama_road, isolated_rows(text_of(llama_road)[0], SIZE), bos=bos)
    assert found["log_p_sum_nats"] == pytest.approx(wanted[0], rel=RTOL) and found["targets"] == wanted[1]


@pytest.mark.parametrize(("window", "bos"), [(0, False), (8, False), (8, True)])
def test_documents_are_each_for_themselves_and_counted_by_word(
    evaluate: Callable[..., dict[str, Any]], llama_road: LlamaRoad, window: int, bos: bool
) -> None:
    cut = ["--tokens-per-sample", SIZE, "--context-window", window, *["--add-bos-token"] * bos]
    found = evaluate("--sample-break-mode", "document", *cut)
    total, count = log_p_of(llama_road, document_rows(*text_of(llama_road), SIZE - window, window), bos=bos)
    assert found["log_p_sum_nats"] == pytest.approx(total, rel=RTOL) and found["targets"] == count
    source = SourceText.open(llama_road.data / "valid")
    assert source is not None
    ends = [source.first_token(number) for number in range(source.num_documents + 1)]
    texts = [source.text(start, end) for start, end in pairwise(ends)]
    assert found["words"] == sum(len(re.split(r"\s+", text)) for text in texts)
    assert found["bytes"] == sum(len(text.encode()) for text in texts)
    assert found["ppl_word"] == pytest.approx(np.exp(-total / found["words"]), rel=1e-3)
    assert found["bits_per_byte"] == pytest.approx(-total / np.log(2) / found["bytes"], rel=RTOL)


def test_a_row_has_the_models_positions_unless_a_flag_says_less(
    evaluate: Callable[..., dict[str, Any]], llama_road: LlamaRoad
) -> None:
    positions = json.loads((llama_road.model / "config.json").read_text())["max_position_embeddings"]
    assert evaluate()["settings"]["tokens_per_sample"] == positions < 1024
    assert evaluate("--tokens-per-sample", 20, "--context-window", 4)["settings"]["tokens_per_sample"] == 16


def test_a_datastore_says_that_bos_stands_in_front(command: Command, llama_road: LlamaRoad, tmp_path: Path) -> None:
    given = [llama_road.data, "--path", llama_road.model, "--gen-subset", "valid", "--batch-size", 3, "--cpu"]
    cut = ["--sample-break-mode", "none", "--tokens-per-sample", SIZE, "--save-knnlm-dstore"]
    for name, words in {"with": ["--add-bos-token"], "without": []}.items():
        done = command("fairseq-eval-lm", *given, *cut, "--dstore-mmap", tmp_path / name, *words)
        assert done.code == 0, done.err
    manifests = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("with", "without")]
    assert [manifest["settings"].get("bos_in_front") for manifest in manifests] == [True, None]
    keys = [np.fromfile(tmp_path / f"{name}_keys.npy", np.float32) for name in ("with", "without")]
    assert keys[0].shape == keys[1].shape and not np.allclose(*keys)
    done = command("fairseq-knnlm", "rows", tmp_path / "with", 30)
    assert done.code == 0, done.err


@pytest.fixture(scope="module")
def bos_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Returns a model whose tokenizer adds BOS, a copy of it without a tokenizer, and their data."""
    from fairseq_cli.preprocess import main as preprocess

    root = tmp_path_factory.mktemp("bos")
    model, bare, data = write_tiny_llama(root / "model", add_bos=True), root / "bare", root / "data"
    shutil.copytree(model, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    (root / "text").write_text(TEXT)
    preprocess(f"--only-source --tokenizer {model} --validpref {root / 'text'} --destdir {data}".split())
    return model, bare, data


def test_bos_of_the_data_stands_before_rows_of_a_model_without_a_tokenizer(
    command: Command, bos_models: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    model, bare, data = bos_models
    found = []
    for path in (model, bare):
        done = command(
            "fairseq-eval-lm",
            data,
            "--path",
            path,
            "--gen-subset",
            "valid",
            "--cpu",
            "--results-path",
            tmp_path / "r.json",
            "--overwrite",
        )
        assert done.code == 0, done.err
        assert not any("tokenizer of" in line for line in done.warnings)
        found.append(json.loads((tmp_path / "r.json").read_text()))
    assert found[0]["settings"]["tokens_per_sample"] == found[1]["settings"]["tokens_per_sample"] == 127
    assert found[0]["log_p_sum_nats"] == pytest.approx(found[1]["log_p_sum_nats"], rel=1e-6)


def test_a_tokenizer_that_is_at_odds_with_the_data_about_bos_is_told(
    command: Command, bos_models: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(bos_models[0], other)
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**settings, "add_bos_token": False}))
    done = command("fairseq-eval-lm", bos_models[2], "--path", other, "--gen-subset", "valid", "--cpu")
    assert done.code == 0, done.err
    told = (
        r"other opens a text with id 5 and puts nothing .* row, but by .* puts it in front of each row: the model's own"
    )
    assert re.search(told, "\n".join(done.warnings))


def test_ids_of_the_head_that_no_token_has_are_never_generated(command: Command, tmp_path: Path) -> None:
    """The data knows the tokenizer alone, and the head is padded."""
    model, bare = write_tiny_llama(tmp_path / "model", vocab_size=330), tmp_path / "bare"
    bare.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / name, bare)
    (tmp_path / "text").write_text(TEXT)
    data = tmp_path / "data"
    done = command(
        "fairseq-preprocess", "--only-source", "--tokenizer", bare, "--testpref", tmp_path / "text", "--destdir", data
    )
    assert done.code == 0, done.err
    how = [
        "--sampling",
        "--temperature",
        1000,
        "--max-len-b",
        40,
        "--prefix-size",
        1,
        "--cpu",
        "--nbest",
        5,
        "--beam",
        5,
    ]
    done = command("fairseq-generate", data, "--path", model, *how)
    assert done.code == 0, done.err
    words = (data / "dict.txt").read_text(encoding="utf-8").splitlines()
    assert len(words) == 300 and done.out.count("H-0") == 5
    assert "madeupword" not in done.out
    log_p_NV = from_pretrained(model, data_name_or_path=data).models[0].log_prob(torch.ones(1, 16))
    assert log_p_NV.isfinite().nonzero()[:, 1].tolist() == list(range(SHIFT, 304)) and log_p_NV.shape == (1, 334)


def test_a_token_that_the_model_has_not_is_refused(command: Command, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    model = write_tiny_llama(tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.add_tokens(["<new>"])
    tokenizer.save(str(model / "tokenizer.json"))
    text, data = tmp_path / "text", tmp_path / "data"
    text.write_text("a river <new> a river")
    named = ["--validpref", text, "--destdir", data]
    assert command("fairseq-preprocess", "--only-source", "--tokenizer", model, *named).code == 0
    outcome = command("fairseq-eval-lm", data, "--path", model, "--gen-subset", "valid", "--cpu")
    assert re.search(r"holds the id 304 \(.*, but the model of --path .*model has 304 ids", outcome.error)
    outcome = command("fairseq-score-lm", "--path", model, "--input", text, "--cpu")
    assert re.search(
        r"the text has the token '<new>' \(id 304\), which the tokenizer of .*and its model, of 304 ids", outcome.error
    )


def test_marks_of_subwords_are_not_looked_for(command: Command, llama_road: LlamaRoad) -> None:
    given = [llama_road.data, "--path", llama_road.model, "--gen-subset", "valid", "--cpu"]
    done = command("fairseq-eval-lm", *given, "--post-process", "@@ ")
    assert done.code == 0, done.err
    assert any(line.startswith("--post-process has no effect") for line in done.warnings)
