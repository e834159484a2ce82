"""Datastores of every way to cut a text: rows are the tokens of the blocks, each once, in the order of the stream.

The oracle asks the model for one block at a time, so that nothing but the block can be its context.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairseq.checkpoints.format import load_checkpoint
from fairseq.data.config import LanguageModelingConfig
from fairseq.knn.datastore.store import DatastoreWriter
from fairseq.knn.dump import row_groups
from fairseq.tasks.language_modeling import LanguageModelingTask
from tests.builders.tiny_lm import NUM_SENTENCES, Command, make_sentences, token_log_probs
from tests.oracles.knn import knn_probability, mixture, nearest
from tests.oracles.windows import PAD, document_blocks, document_rows, greedy_blocks, isolated_rows, rows

FLOAT32_ATOL = 1e-5  # two layers in float32 under another padding
PRINTED = 2e-5  # printed log-probabilities have six decimals
SHORT = 5  # tokens of a block where sentences are the documents, so that they have several
BLOCK = 16  # the checkpoint's tokens_per_sample
SENTENCES = make_sentences(NUM_SENTENCES["train"], 0)
SIZES = [len(sentence) for sentence in SENTENCES]
STREAM = [token for sentence in SENTENCES for token in sentence]


def blocks_of(mode: str) -> list[tuple[int, int]]:
    ends = np.cumsum(SIZES).tolist()
    return {
        "none": [(start, min(start + BLOCK, len(STREAM))) for start in range(0, len(STREAM), BLOCK)],
        "complete": greedy_blocks(SIZES, BLOCK),
        "complete_doc": document_blocks(SIZES, BLOCK),
        "eos": list(zip([0, *ends[:-1]], ends, strict=True)),
    }[mode]


def rows_of(mode: str) -> list[tuple[list[int], list[int]]]:
    """Returns source and target of each row, the target padded where nothing is scored."""
    if mode == "isolated":
        return isolated_rows(STREAM, BLOCK)
    return (
        document_rows(STREAM, SIZES, SHORT, 0) if mode == "document" else rows(STREAM, SIZES, blocks_of(mode), BLOCK, 0)
    )


def read(prefix: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the keys and values of a datastore."""
    values = np.fromfile(f"{prefix}_vals.npy", np.int64)
    return np.fromfile(f"{prefix}_keys.npy", np.float32).reshape(len(values), -1), values


@pytest.fixture
def dump(eval_lm: Command, tmp_path: Path) -> Any:
    """Returns ``dump(name, *flags)``: the prefix of the training split's datastore."""

    def call(name: str, *words: object) -> Path:
        prefix = tmp_path / name
        done = eval_lm("--gen-subset", "train", "--save-knnlm-dstore", "--dstore-mmap", prefix, *words)
        assert done.code == 0, done.err
        return prefix

    return call


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes groups so small that a text has many of them."""
    monkeypatch.setattr(row_groups, "GROUP_ROWS", 60)


def naive_keys(checkpoint: Path, data_dir: Path, mode: str) -> np.ndarray:
    loaded = load_checkpoint(checkpoint)
    model = LanguageModelingTask(LanguageModelingConfig(str(data_dir))).load_model(loaded, {}).eval()
    keys = []
    for source, target in rows_of(mode):
        with torch.no_grad():
            keys.append(model(torch.tensor([source]), 0).ffn_input_BSC[0].numpy()[target.count(PAD) :])
    return np.concatenate(keys)


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("mode", ["none", "complete", "complete_doc", "eos", "isolated", "document"])
def test_rows_are_the_tokens_of_the_blocks_whatever_the_batches(
    dump: Any, checkpoint: Path, data_dir: Path, mode: str
) -> None:
    wanted = naive_keys(checkpoint, data_dir, mode)
    tokens = [token for _, target in rows_of(mode) for token in target if token != PAD]
    cut = ["--model-overrides", f"{{'tokens_per_sample': {SHORT}}}"] if mode == "document" else []
    for name, words in {"wide": [], "narrow": ["--max-tokens", 20], "two": ["--batch-size", 2]}.items():
        keys, values = read(dump(name, "--sample-break-mode", mode, *cut, *words))
        assert values.tolist() == tokens
        np.testing.assert_allclose(keys, wanted, atol=FLOAT32_ATOL, rtol=0)


def test_sentences_have_a_row_for_every_token(dump: Any) -> None:
    prefix = dump("d", "--sample-break-mode", "eos")
    manifest = json.loads(prefix.with_suffix(".json").read_text(encoding="utf-8"))
    assert manifest["rows"] == len(STREAM)
    assert manifest["settings"]["sample_break_mode"] == "eos"
    assert not {"longest_block", "add_bos_token"} & set(manifest["settings"])


def test_sentences_longer_than_the_model_are_counted_and_have_no_rows(
    eval_lm: Command, data_dir: Path, tmp_path: Path
) -> None:
    short = [sentence for sentence in SENTENCES if len(sentence) <= 8]
    done = eval_lm(
        "--gen-subset",
        "train",
        "--sample-break-mode",
        "eos",
        "--save-knnlm-dstore",
        "--dstore-mmap",
        tmp_path / "d",
        "--model-overrides",
        "{'max_target_positions': 8}",
    )
    assert done.code == 0, done.err
    left_out = len(STREAM) - sum(map(len, short))
    assert any(w.startswith(f"{left_out} tokens in blocks of more than the model's 8 positions") for w in done.warnings)
    assert read(tmp_path / "d")[1].tolist() == [token for sentence in short for token in sentence]
    settings = json.loads((tmp_path / "d.json").read_text(encoding="utf-8"))["settings"]
    assert settings["longest_block"] == 8


def test_tokens_without_a_full_context_are_counted(eval_lm: Command, tmp_path: Path) -> None:
    words = ["--gen-subset", "train", "--context-window", 6, "--save-knnlm-dstore", "--dstore-mmap", tmp_path / "d"]
    done = eval_lm(*words)
    assert done.code == 0, done.err
    assert "skipped the first 10 tokens: their blocks have less than 6 tokens of context" in done.log


@pytest.mark.usefixtures("few_rows")
def test_a_dump_of_sentences_that_was_stopped_goes_on_to_the_same_bytes(
    dump: Any, eval_lm: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dump("whole", "--sample-break-mode", "eos")
    append, calls = DatastoreWriter.append, []

    def failing(self: DatastoreWriter, keys_ND: Any, values_N: Any) -> None:
        calls.append(len(values_N))
        if len(calls) == 4:
            append(self, keys_ND[:7], values_N[:7])  # stopped in the middle of a group
            raise OSError(28, "No space left on device")
        append(self, keys_ND, values_N)

    words = ["--gen-subset", "train", "--sample-break-mode", "eos", "--save-knnlm-dstore"]
    with monkeypatch.context() as patch:
        patch.setattr(DatastoreWriter, "append", failing)
        assert eval_lm(*words, "--dstore-mmap", tmp_path / "parts").code == 2
    done = eval_lm(*words, "--dstore-mmap", tmp_path / "parts")
    assert any(f"has {sum(calls[:3]) + 7} of {len(STREAM)} rows; going on" in line for line in done.log)
    for suffix in ("_keys.npy", "_vals.npy", ".json"):
        assert Path(f"{tmp_path / 'parts'}{suffix}").read_bytes() == Path(f"{whole}{suffix}").read_bytes()


def test_neighbours_of_sentences(dump: Any, command: Command, eval_lm: Command, tmp_path: Path) -> None:
    """The mixture of every token of every sentence against a naive one."""
    prefix, eos = dump("d", "--sample-break-mode", "eos"), ["--sample-break-mode", "eos"]
    words = ["--dstore_mmap", prefix, "--faiss_index", tmp_path / "index", "--index_spec", "Flat"]
    assert command("build_dstore.py", *words).code == 0
    keys, values = read(prefix)
    write = ["--gen-subset", "test", "--save-knnlm-dstore", "--dstore-mmap", tmp_path / "queries"]
    assert eval_lm(*eos, *write).code == 0
    queries, targets = read(tmp_path / "queries")
    alone = eval_lm(*eos, "--output-word-probs")
    files = ["--dstore-filename", prefix, "--indexfile", tmp_path / "index", "--k", 8, "--lmbda", 0.3]
    mixed = eval_lm(*eos, "--output-word-probs", "--knnlm", *files)
    assert mixed.code == 0, mixed.err
    expected = []
    for lm, query, target in zip(np.exp(token_log_probs(alone.out)), queries, targets, strict=True):
        distances, ids = nearest(keys, query, 8)
        expected.append(np.log(mixture(lm, knn_probability(distances, ids, values[ids], int(target), 1.0), 0.3)))
    np.testing.assert_allclose(token_log_probs(mixed.out), expected, atol=PRINTED, rtol=0)
