"""``fairseq-score-lm``: the numbers of ``fairseq-eval-lm`` on the same lines, straight from text."""

import io
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders.tiny_lm import NUM_SENTENCES, NUM_WORDS, Command, Outcome, make_sentences, token_log_probs

SYMBOLS = ["<s>", "<pad>", "</s>", "<unk>", *(f"w{i}@@" if i % 4 == 1 else f"w{i}" for i in range(NUM_WORDS))]
SENTENCES = make_sentences(NUM_SENTENCES["test"], 2)
TEXT = "".join(" ".join(SYMBOLS[token] for token in sentence[:-1]) + "\n" for sentence in SENTENCES)
OTHER_BATCHES = 1e-5  # the same float32 sums in other batches
PRINTED = 1e-4  # four decimals


class Stdin:
    """A standard input that holds these bytes."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


@pytest.fixture
def score(command: Command, data_dir: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns ``score(text, *flags)``: the tiny model on what comes from the standard input."""

    def call(text: str | bytes, *words: object, data: Path = data_dir) -> Outcome:
        monkeypatch.setattr("sys.stdin", Stdin(text.encode() if isinstance(text, str) else text))
        return command("fairseq-score-lm", data, "--path", checkpoint, "--cpu", *words)

    return call


def records(outcome: Outcome) -> list[dict[str, Any]]:
    assert outcome.code == 0, outcome.err
    return [json.loads(line) for line in outcome.out.splitlines()]


def log2_ps(outcome: Outcome) -> list[float]:
    return [token["log2_p"] for record in records(outcome) for token in record["tokens"]]


def test_the_numbers_are_those_of_eval_lm(score: Any, eval_lm: Command) -> None:
    """Lines in batches, in order, equal sentences of a binarised split; empty ones are among them."""
    wanted = token_log_probs(eval_lm("--sample-break-mode", "eos", "--output-word-probs").out) / math.log(2)
    assert "\n\n" in TEXT
    for words in ([], ["--buffer-size", 1], ["--buffer-size", 7, "--max-tokens", 20]):
        found = score(TEXT, "--json", *words)
        np.testing.assert_allclose(log2_ps(found), wanted, atol=OTHER_BATCHES, rtol=0)
        tokens = [[token["token"] for token in record["tokens"]] for record in records(found)]
        assert tokens == [[SYMBOLS[token] for token in sentence] for sentence in SENTENCES]
        assert [record["line"] for record in records(found)] == list(range(1, len(SENTENCES) + 1))


def test_the_total_is_that_of_eval_lm(score: Any, eval_lm: Command) -> None:
    found, evaluated = score(TEXT), eval_lm("--sample-break-mode", "eos")
    loss, ppl = evaluated.out.splitlines()[-1].removeprefix("Loss (base 2): ").split(", Perplexity: ")
    assert found.out.splitlines()[-1].endswith(f", loss (base 2) {loss}, perplexity {ppl}")
    assert found.out.splitlines()[-1].startswith(f"{len(SENTENCES)} lines: {sum(map(len, SENTENCES))} tokens, ")


def test_a_line_for_people(score: Any) -> None:
    """Words with log2 p, an unknown one with what stood there; then the line's sum."""
    found, record = score("w0 zebra w2\n"), records(score("w0 zebra w2\n", "--json"))[0]
    p = [token["log2_p"] for token in record["tokens"]]
    words, total = found.out.splitlines()
    assert words == f"w0 [{p[0]:.4f}]\t<unk>(zebra) [{p[1]:.4f}]\tw2 [{p[2]:.4f}]\t</s> [{p[3]:.4f}]"
    assert total == (
        f"4 tokens, log2 p {sum(p):.4f}, loss (base 2) {-sum(p) / 4:.4f}, perplexity {2 ** (-sum(p) / 4):.2f}"
    )
    assert record["tokens"][1] == {"token": "<unk>", "log2_p": p[1], "unknown": "zebra"}
    assert (record["input"], record["line"]) == ("stdin", 1)
    assert record["log2_p"] == pytest.approx(sum(p))


@pytest.mark.pitfall(32)
def test_words_that_equal_specials_are_scored(score: Any) -> None:
    found = records(score("w0 <pad> w2 </s> <s>\n", "--json"))[0]["tokens"]
    assert [token["token"] for token in found] == ["w0", "<pad>", "w2", "</s>", "<s>", "</s>"]
    assert all(math.isfinite(token["log2_p"]) and "unknown" not in token for token in found)


@pytest.mark.pitfall(32)
def test_a_byte_order_mark_is_no_part_of_the_first_word(score: Any, data_dir: Path, tmp_path: Path) -> None:
    found, plain = score(b"\xef\xbb\xbfw0 w2\n"), score(b"w0 w2\n")
    assert found.out == plain.out and "stdin begins with a byte-order mark" in found.warnings[0]
    assert (score(b"\xef\xbb\xbf").code, score(b"\xef\xbb\xbf").out) == (0, "")
    marked = tmp_path / "dict.txt"
    marked.write_bytes(b"\xef\xbb\xbf" + (data_dir / "dict.txt").read_bytes())
    found = score(b"w0 w2\n", data=marked)
    assert found.out == plain.out and "dict.txt begins with a byte-order mark" in found.warnings[0]


def test_files_and_kinds_of_line_ends(score: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"w0 w1@@\r\nw2\rw3")
    (tmp_path / "b.txt").write_bytes(b"\nw4\n")
    found = records(score("w6", "--json", "--input", f"{tmp_path / 'a.txt'},-,{tmp_path / 'b.txt'}"))
    words = [" ".join(token["token"] for token in record["tokens"][:-1]) for record in found]
    assert words == ["w0 w1@@", "w2", "w3", "w6", "", "w4"]
    assert [(Path(record["input"]).name, record["line"]) for record in found] == [
        ("a.txt", 1),
        ("a.txt", 2),
        ("a.txt", 3),
        ("stdin", 1),
        ("b.txt", 1),
        ("b.txt", 2),
    ]


def test_a_dictionary_is_all_that_is_needed_of_the_data(score: Any, data_dir: Path, tmp_path: Path) -> None:
    words = Path(shutil.copy(data_dir / "dict.txt", tmp_path / "words.txt"))
    assert score("w0 w2\n", data=words).out == score("w0 w2\n").out


def test_nothing_to_read_is_nothing_to_say(score: Any) -> None:
    found = score("")
    assert (found.code, found.out) == (0, "")


@pytest.fixture
def neighbours(eval_lm: Command, command: Command, tmp_path: Path) -> list[object]:
    """Returns the flags of neighbours, from a datastore of sentences."""
    store, index = tmp_path / "d", tmp_path / "index"
    words = ["--gen-subset", "train", "--sample-break-mode", "eos", "--save-knnlm-dstore", "--dstore-mmap", store]
    assert eval_lm(*words).code == 0
    build = ["--dstore_mmap", store, "--faiss_index", index, "--index_spec", "Flat"]
    assert command("build_dstore.py", *build).code == 0
    return ["--knnlm", "--dstore-filename", store, "--indexfile", index, "--k", 8]


def test_neighbours_are_mixed_in_as_eval_lm_does(score: Any, eval_lm: Command, neighbours: list[object]) -> None:
    flags = [*neighbours, "--lmbda", 0.3]
    wanted = token_log_probs(eval_lm("--sample-break-mode", "eos", "--output-word-probs", *flags).out) / math.log(2)
    found = score(TEXT, "--json", *flags)
    np.testing.assert_allclose(log2_ps(found), wanted, atol=OTHER_BATCHES, rtol=0)
    # The model alone stands beside it: the same lines without neighbours.
    alone = score(TEXT, "--json")
    beside = [token["lm_log2_p"] for record in records(found) for token in record["tokens"]]
    assert beside == log2_ps(alone) and "lm_log2_p" not in alone.out
    assert [(r["lm_loss_base2"], r["lm_ppl"]) for r in records(found)] == [
        (r["loss_base2"], r["ppl"]) for r in records(alone)
    ]
    lines = zip(score(TEXT, *flags).out.splitlines()[1::2], score(TEXT).out.splitlines()[1::2], strict=True)
    for mixed, plain in lines:
        assert mixed.rsplit("; the model alone ", 1)[1] == plain.rsplit("perplexity ", 1)[1]
    both = score(TEXT, *flags).out.splitlines()[-1], score(TEXT).out.splitlines()[-1]
    assert both[0].rsplit("; the model alone ", 1)[1] == both[1].rsplit("perplexity ", 1)[1]


def test_probability_0_is_null_in_json_and_infinite_in_print(score: Any, neighbours: list[object]) -> None:
    """With λ = 1 an unknown word has no vote: no neighbour's token is <unk>."""
    flags = [*neighbours, "--lmbda", 1]
    record = records(score("w0 zebra\n", "--json", *flags))[0]
    assert record["tokens"][1]["log2_p"] is record["log2_p"] is record["ppl"] is None
    assert "<unk>(zebra) [-inf]" in score("w0 zebra\n", *flags).out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"w0\nw1 \xff\n", "stdin:2: the text must be UTF-8, but holds byte 0xff (at 6); convert"),
        (b"w0\n" + b"w0 " * 16, "stdin:2: a line must have at most 16 tokens, but has 17 with its </s>; cut it"),
        (
            "w0\n".encode("utf-16"),
            "stdin:1: the text must be UTF-8, but begins with the byte-order mark of UTF-16",
        ),
    ],
)
def test_a_bad_line_is_named(score: Any, text: bytes, message: str) -> None:
    assert message in score(text).error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--path", ""], "--path is required: the file of a checkpoint"),
        (["--input", "gone.txt"], "--input must name text files, but gone.txt does not exist"),
        (["--max-tokens", "2"], "--max-tokens 2 is below the 3 tokens of stdin:1; give more"),
        (["--knnlm"], "--knnlm needs a datastore and its index; give --dstore-filename"),
        (["--inptu", "x"], "unrecognised argument --inptu; did you mean --input?"),
    ],
)
def test_errors(score: Any, words: list[str], message: str) -> None:
    assert message in score("w0 w2\n", *words).error


def test_there_must_be_a_dictionary(score: Any, tmp_path: Path) -> None:
    assert "does not exist; give the one that fairseq-preprocess" in score("w0\n", data=tmp_path / "gone").error


def test_a_line_is_scored_without_torchs_compiler_and_without_faiss(data_dir: Path, checkpoint: Path) -> None:
    """Either takes as long to import as everything else together."""
    program = (
        "import sys; from fairseq_cli.score_lm import main;"
        f"main([{str(data_dir)!r}, '--path', {str(checkpoint)!r}, '--cpu']);"
        "print(sorted({'torch._dynamo', 'faiss'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], input="w0\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
