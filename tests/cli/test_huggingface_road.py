"""Every command with a Hugging Face model: key types, several datastores, text that goes in and comes out."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq.hub import from_pretrained
from knnlm import KNN
from tests.builders.tiny_llama import BLOCKS, TEXT, K, LlamaRoad, make_road, write_tiny_llama
from tests.builders.tiny_lm import Command, Outcome

pytest.importorskip("transformers")

QUIET = ["--cpu", "--log-format", "none"]
LINES = "The river was fine\n\n    def total(x):\n"


@pytest.fixture(scope="session")
def residual_road(llama_road: LlamaRoad, tmp_path_factory: pytest.TempPathFactory) -> LlamaRoad:
    """Returns the same model and text with keys of another type."""
    root = tmp_path_factory.mktemp("residual")
    return make_road(root, llama_road.model, "--knn-keytype", "residual:0")


@pytest.fixture
def evaluate(command: Command, llama_road: LlamaRoad, tmp_path: Path) -> Callable[..., Outcome]:
    """Returns ``evaluate(*flags)``, which evaluates the valid split."""

    def call(*words: object) -> Outcome:
        road = llama_road
        data = [road.data, "--path", road.model, "--gen-subset", "valid", *BLOCKS, *QUIET]
        return command("fairseq-eval-lm", *data, *words)

    return call


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Returns a file of three prompts, one of them empty."""
    path = tmp_path / "prompts.txt"
    path.write_text(LINES, encoding="utf-8")
    return path


def two(first: LlamaRoad, second: LlamaRoad) -> list[object]:
    files = ["--dstore-filename", f"{first.store}:{second.store}", "--indexfile", f"{first.index}:{second.index}"]
    return ["--knnlm", *files, "--k", K, "--lmbda", 0.3]


def manifest(road: LlamaRoad) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(road.store.with_suffix(".json").read_text(encoding="utf-8"))
    return record


def test_the_manifest_names_key_type_and_tokenizer(llama_road: LlamaRoad, residual_road: LlamaRoad) -> None:
    from fairseq.storage.files import file_sha256

    assert manifest(llama_road)["key_type"] == "last_ffn_input"
    assert manifest(residual_road)["key_type"] == "residual:0"
    for road in (llama_road, residual_road):
        assert manifest(road)["settings"]["tokenizer_sha256"] == file_sha256(road.model / "tokenizer.json")


def test_queries_are_of_the_type_of_the_keys(
    evaluate: Callable[..., Outcome], residual_road: LlamaRoad, llama_road: LlamaRoad, command: Command
) -> None:
    """A token's own row is its nearest neighbour, at no distance, only where query and key are the same vector."""
    for road in (llama_road, residual_road):
        own = [road.data, "--path", road.model, "--gen-subset", "train", *BLOCKS, *QUIET]
        outcome = command("fairseq-eval-lm", *own, *road.flags, "--knn-temp", 1e-6)
        assert outcome.code == 0, outcome.err
        rows = manifest(road)["rows"]
        tokens = int(re.search(r"Evaluated (\d+) tokens", outcome.out)[1])  # type: ignore[index]
        share = float(re.search(r"the nearest has ([\d.]+)% of p_kNN", outcome.out)[1])  # type: ignore[index]
        assert tokens > rows > 0.9 * tokens
        assert share > 90, road.store
    assert evaluate(*residual_road.flags, "--knn-keytype", "residual:0").code == 0


def test_key_types_that_differ_are_refused(
    evaluate: Callable[..., Outcome], residual_road: LlamaRoad, llama_road: LlamaRoad
) -> None:
    outcome = evaluate(*two(llama_road, residual_road))
    assert outcome.code == 2
    assert "last_ffn_input" in outcome.err
    assert "residual:0" in outcome.err
    outcome = evaluate(*residual_road.flags, "--knn-keytype", "residual:1")
    assert outcome.code == 2
    assert f"{residual_road.store} has keys of type residual:0" in outcome.err


@pytest.mark.parametrize("typed", ["ffn_input:1", "ffn_input:-1", "last_ffn_input"])
def test_a_type_of_key_has_several_names(evaluate: Callable[..., Outcome], llama_road: LlamaRoad, typed: str) -> None:
    assert evaluate(*llama_road.flags, "--knn-keytype", typed).code == 0
    assert "is attention_input, but" in evaluate(*llama_road.flags, "--knn-keytype", "attention_input:1").error


def test_a_layer_counted_from_the_end_is_that_of_the_rows(
    evaluate: Callable[..., Outcome], residual_road: LlamaRoad
) -> None:
    assert evaluate(*residual_road.flags, "--knn-keytype", "residual:-2").code == 0


def test_another_models_data_and_datastore_are_refused(
    command: Command, llama_road: LlamaRoad, data_dir: Path, tmp_path: Path
) -> None:
    words = ["--path", llama_road.model, "--gen-subset", "test", *QUIET]
    outcome = command("fairseq-eval-lm", data_dir, *words)
    assert outcome.code == 2
    assert f"fairseq-preprocess --only-source --tokenizer {llama_road.model}" in outcome.err
    other = write_tiny_llama(tmp_path / "other", add_bos=True)
    outcome = command("fairseq-eval-lm", llama_road.data, "--path", other, "--gen-subset", "test", *QUIET)
    assert outcome.code == 2
    assert "tokenizer" in outcome.err
    third = write_tiny_llama(tmp_path / "third", seed=9)
    road = [llama_road.data, "--path", third, "--gen-subset", "test", *BLOCKS, *QUIET, *llama_road.flags]
    outcome = command("fairseq-eval-lm", *road)
    assert outcome.code == 2
    assert "model weights" in outcome.err


def test_a_tokenizer_of_other_bytes_and_the_same_tokens_is_taken(
    command: Command, llama_road: LlamaRoad, tmp_path: Path
) -> None:
    other = write_tiny_llama(tmp_path / "other")
    path = other / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")
    outcome = command("fairseq-eval-lm", llama_road.data, "--path", other, "--gen-subset", "test", *BLOCKS, *QUIET)
    assert outcome.code == 0, outcome.err
    assert any("has the same tokens" in line for line in outcome.warnings)


def test_text_goes_in_and_comes_out_as_it_was(command: Command, llama_road: LlamaRoad, prompts: Path) -> None:
    flags = ["--path", llama_road.model, "--input", prompts, "--beam", 2, "--nbest", 2, "--max-len-b", 5, *QUIET]
    outcome = command("fairseq-interactive", *flags)
    assert outcome.code == 0, outcome.err
    lines = [line.split("\t") for line in outcome.out.splitlines()]
    assert [line[1] for line in lines if line[0].startswith("S-")] == LINES.splitlines()
    symbols = [line[2].split(" ") for line in lines if line[0].startswith("H-")]
    scores = [line[1].split(" ") for line in lines if line[0].startswith("P-")]
    assert [len(line) for line in symbols] == [len(line) for line in scores] == [5] * 6
    assert sum(line[0].startswith("D-") for line in lines) == 6
    same = command("fairseq-interactive", llama_road.data, *flags)
    assert same.out == outcome.out, "the data has nothing but the dictionary to add"


def test_neighbours_are_shown(command: Command, llama_road: LlamaRoad, prompts: Path) -> None:
    flags = ["--path", llama_road.model, "--input", prompts, "--beam", 1, "--max-len-b", 4, *QUIET]
    outcome = command("fairseq-interactive", *flags, *llama_road.flags, "--show-neighbours", 2)
    assert outcome.code == 0, outcome.err
    shown = [line.split("\t") for line in outcome.out.splitlines() if line.startswith("N-")]
    assert {line[1] for line in shown} == {"0", "1", "2", "3"}
    assert all(0 < float(line[3]) <= 1 for line in shown if line[4] != "-")


def test_generate_continues_a_split(command: Command, llama_road: LlamaRoad) -> None:
    flags = ["--path", llama_road.model, "--gen-subset", "test", "--tokens-per-sample", 32, "--prefix-size", 8]
    outcome = command("fairseq-generate", llama_road.data, *flags, "--beam", 1, "--max-len-b", 4, *QUIET)
    assert outcome.code == 0, outcome.err
    given = [line.split("\t")[1] for line in outcome.out.splitlines() if line.startswith("S-")]
    text = TEXT[40:420].replace("\n", "\\n")
    assert text.startswith(given[0])
    assert all(piece in text for piece in given)


def test_flags_of_words_are_refused(command: Command, llama_road: LlamaRoad, prompts: Path) -> None:
    for prog in ("fairseq-interactive", "fairseq-score-lm"):
        outcome = command(prog, "--path", llama_road.model, "--input", prompts, "--tokenizer", "space", *QUIET)
        assert outcome.code == 2
        assert "leave them out" in outcome.err


def test_score_lm_scores_whole_lines(command: Command, llama_road: LlamaRoad, prompts: Path) -> None:
    from fairseq.hub import from_pretrained

    outcome = command("fairseq-score-lm", "--path", llama_road.model, "--input", prompts, "--json", *QUIET)
    assert outcome.code == 0, outcome.err
    records = [json.loads(line) for line in outcome.out.splitlines()]
    lm = from_pretrained(llama_road.model)
    for line, record in zip(LINES.splitlines(), records, strict=True):
        expected = lm.score(line)
        found = [token["log2_p"] for token in record["tokens"]]
        np.testing.assert_allclose(found, expected.positional_scores / np.log(2), atol=1e-5)
        assert [token["text"] for token in record["tokens"]] == list(expected.words)
        assert [token["token"] for token in record["tokens"]] == [lm.dictionary[idx] for idx in expected.tokens]


def test_tokens_are_shown_as_text(command: Command, llama_road: LlamaRoad, tmp_path: Path) -> None:
    """White space is that of the text, and each byte of what is cut is named."""
    from fairseq.hub import from_pretrained

    (tmp_path / "text").write_text("the ß\n", encoding="utf-8")
    outcome = command("fairseq-score-lm", "--path", llama_road.model, "--input", tmp_path / "text", *QUIET)
    shown = [part.partition(" [-")[0] for part in outcome.out.splitlines()[0].split("\t")]
    assert "".join(shown) == "the <0xC3><0x9F>" and len(shown) > 2
    found = from_pretrained(llama_road.model).score("a\n\tb")
    assert "".join(found.words) == "a\n\tb"
    table = found.table().splitlines()
    assert [line.split()[0] for line in table[1:]] == ["a", "↵", "⇥", "b"]


@pytest.mark.parametrize("prog", ["fairseq-score-lm", "fairseq-interactive"])
def test_a_model_without_a_tokenizer(command: Command, llama_road: LlamaRoad, tmp_path: Path, prog: str) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(llama_road.model, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    outcome = command(prog, "--path", bare, "--input", os.devnull, *QUIET)
    assert outcome.code == 2
    assert f"--path: {bare} has no tokenizer.json; copy it there" in outcome.err


def test_a_models_name_that_was_mistyped(command: Command, llama_road: LlamaRoad) -> None:
    typed = str(llama_road.model)[:-1]
    outcome = command("fairseq-eval-lm", llama_road.data, "--path", typed, *QUIET)
    assert outcome.code == 2
    assert f"{typed} does not exist; did you mean {llama_road.model}?" in outcome.err
    outcome = command("fairseq-eval-lm", llama_road.data, "--path", llama_road.data / "other", *QUIET)
    assert "or --path the directory of a Hugging Face model" in outcome.err


def test_a_line_longer_than_a_row_is_scored_in_windows(command: Command, llama_road: LlamaRoad, tmp_path: Path) -> None:
    from fairseq.hub import from_pretrained

    text = TEXT.replace("\n", " ") * 2
    (tmp_path / "long.txt").write_text(text + "\n", encoding="utf-8")
    flags = ["--path", llama_road.model, "--input", tmp_path / "long.txt", "--json", *QUIET]
    outcome = command("fairseq-score-lm", *flags)
    assert outcome.code == 0, outcome.err
    found = [token["log2_p"] for token in json.loads(outcome.out)["tokens"]]
    expected = from_pretrained(llama_road.model).score(text)
    np.testing.assert_allclose(found, expected.positional_scores / np.log(2), atol=1e-5)


def test_a_word_model_still_needs_its_dictionary(command: Command, checkpoint: Path) -> None:
    outcome = command("fairseq-score-lm", "--path", checkpoint, *QUIET)
    assert outcome.code == 2
    assert "data directory data-bin (the default) does not exist" in outcome.err


def test_the_road_to_its_end(
    command: Command, evaluate: Callable[..., Outcome], llama_road: LlamaRoad, tmp_path: Path
) -> None:
    """Saved neighbours, sweep, λ of each token, report, check, rows, info."""
    saved, road = tmp_path / "saved", llama_road

    def done(*words: object) -> Outcome:
        outcome = command(*[str(word) if i == 0 else word for i, word in enumerate(words)])  # type: ignore[arg-type]
        assert outcome.code == 0, outcome.err
        return outcome

    knnlm = ["fairseq-knnlm"]
    quiet = ["--log-format", "none"]
    assert evaluate(*road.flags, "--save-retrieval", saved).code == 0
    swept = done(*knnlm, "sweep", saved, "--no-figures", *quiet)
    assert re.search(r"T is [\d.]+ × [\d.]+, the median", swept.out)
    done(*knnlm, "report", saved, "--out", tmp_path / "page.html", *quiet)
    assert (tmp_path / "page.html").stat().st_size > 10_000
    done(*knnlm, "info", road.store, *quiet)
    done(*knnlm, "check", "--dstore-filename", road.store, "--indexfile", road.index, *quiet)
    done(*knnlm, "rows", road.store, "0:4", *quiet)
    fitted = tmp_path / "fitted.lmbda"
    done(*knnlm, "fit-lmbda", saved, "--out", fitted, "--folds", 2, *quiet)
    weighed = evaluate(*road.flags[:5], "--lmbda-model", fitted)
    assert weighed.code == 0, weighed.err
    assert evaluate(*road.flags, "--cache-size", 20, "--cache-lmbda", 0.1).code == 0


def test_recall_asks_with_vectors_of_the_type(command: Command, residual_road: LlamaRoad, tmp_path: Path) -> None:
    """The rows' own text finds its rows by the same kind of vector only; else they have nine tenths of the weight."""
    road = residual_road
    text = [road.data, "--path", road.model, "--gen-subset", "train", "--context-window", 8]
    flags = ["--dstore-filename", road.store, "--indexfile", road.index, "--k", 4, "--knn-temp", 1e-4, "--probe", 1]
    outcome = command("fairseq-knnlm", "recall", *text, *flags, "--lmbda", 0.9, *QUIET, "--json", tmp_path / "r.json")
    assert outcome.code == 0, outcome.err
    record = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert all(row["loss"] < record["lm_loss_base2"] - 1 for row in record["rows"])


def test_append_and_forget(command: Command, llama_road: LlamaRoad, tmp_path: Path) -> None:
    road = make_road(tmp_path / "road", llama_road.model, "--knn-keytype", "block_output")
    dump = [road.data, "--path", road.model, *BLOCKS, *QUIET, "--save-knnlm-dstore", "--dstore-mmap", road.store]
    before = manifest(road)["rows"]
    outcome = command("fairseq-eval-lm", *dump, "--gen-subset", "valid", "--append", "--knn-keytype", "residual")
    assert outcome.code == 2
    assert "keys of type" in outcome.err
    outcome = command("fairseq-eval-lm", *dump, "--gen-subset", "valid", "--append")
    assert outcome.code == 0, outcome.err
    assert manifest(road)["rows"] > before
    outcome = command("fairseq-knnlm", "forget", road.store, "--rows", "0:10", "--log-format", "none")
    assert outcome.code == 0, outcome.err


@pytest.fixture(scope="module")
def bos_road(llama_road: LlamaRoad, tmp_path_factory: pytest.TempPathFactory) -> LlamaRoad:
    """Returns the same model and text, with BOS in front of each row of the datastore."""
    return make_road(tmp_path_factory.mktemp("bos"), llama_road.model, "--add-bos-token")


def test_bos_of_the_rows_must_be_that_of_the_queries(
    evaluate: Callable[..., Outcome], bos_road: LlamaRoad, llama_road: LlamaRoad
) -> None:
    """Either way round: a key with BOS in front is another vector."""
    told = r"BOS in front of each row \(--add-bos-token\): {}, but this run has {}; do as the run that wrote it"
    assert re.search(told.format("yes", "no"), evaluate(*bos_road.flags).error)
    assert re.search(told.format("no", "yes"), evaluate(*llama_road.flags, "--add-bos-token").error)
    assert evaluate(*bos_road.flags, "--add-bos-token").code == 0
    assert evaluate(*bos_road.flags, "--allow-mismatch").code == 0


def test_recall_asks_with_bos_where_the_rows_have_it(command: Command, bos_road: LlamaRoad) -> None:
    text = [bos_road.data, "--path", bos_road.model, "--gen-subset", "valid", "--context-window", 8]
    flags = ["--dstore-filename", bos_road.store, "--indexfile", bos_road.index, "--k", 4, "--probe", 1]
    done = command("fairseq-knnlm", "recall", *text, *flags, *QUIET)
    assert done.code == 0, done.err


def test_python_puts_bos_in_front_where_the_rows_have_it(bos_road: LlamaRoad) -> None:
    knn = KNN(bos_road.store, bos_road.index, k=K)
    assert from_pretrained(bos_road.model, knn=knn).models[0].reader.adds_bos
    assert not from_pretrained(bos_road.model).models[0].reader.adds_bos


def test_rows_that_are_appended_without_bos_are_told_by_the_flag(
    command: Command, bos_road: LlamaRoad, tmp_path: Path
) -> None:
    road = make_road(tmp_path, bos_road.model, "--add-bos-token")
    data = [road.data, "--path", road.model, "--gen-subset", "valid", *BLOCKS, "--cpu"]
    done = command("fairseq-eval-lm", *data, "--save-knnlm-dstore", "--dstore-mmap", road.store, "--append")
    assert done.code == 0, done.err
    wanted = "was written with --add-bos-token yes, but the appended rows have no: their keys mean something else"
    assert any(wanted in line for line in done.warnings)
