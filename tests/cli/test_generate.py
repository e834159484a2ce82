"""``fairseq-generate`` and ``fairseq-interactive``: the lines that they print, and what they do with what is typed."""

import io
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fairseq_cli.shared.run import run
from tests.builders.tiny_lm import NUM_WORDS, TOKENS_PER_SAMPLE, Command, Outcome, main_of, num_tokens

CONTEXT, K = 6, 30
# Four decimals are printed of log-probabilities and scores; another batch may round the last one the other way.
PRINTED = 1.1e-4


@pytest.fixture
def generate(command: Command, data_dir: Path, checkpoint: Path) -> Callable[..., Outcome]:
    """Returns ``generate(*flags)``: the tiny model behind the first four tokens of the test split's blocks."""

    def call(*words: object) -> Outcome:
        sound = [data_dir, "--path", checkpoint, "--cpu", "--log-format", "none", "--prefix-size", 4, "--max-len-b", 9]
        outcome = command("fairseq-generate", *sound, *words)
        assert outcome.code == 0, outcome.err
        return outcome

    return call


@pytest.fixture
def interactive(command: Command, data_dir: Path, checkpoint: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """Returns ``interactive(text, *flags)``: the tiny model behind lines of text."""

    def call(text: str | bytes, *words: object) -> Outcome:
        (tmp_path / "prompts").write_bytes(text if isinstance(text, bytes) else text.encode())
        sound = [data_dir, "--path", checkpoint, "--cpu", "--input", tmp_path / "prompts", "--max-len-b", 6]
        return command("fairseq-interactive", *sound, *words)

    return call


@pytest.fixture(scope="session")
def neighbours(data_dir: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """Returns the flags of the training text's datastore."""
    root = tmp_path_factory.mktemp("neighbours")
    dump = f"{data_dir} --path {checkpoint} --gen-subset train --context-window {CONTEXT} --save-knnlm-dstore"
    dump += f" --dstore-mmap {root}/dstore --log-format none --cpu"
    assert run("fairseq-eval-lm", main_of("fairseq-eval-lm"), dump.split()) == 0
    build = f"--dstore-mmap {root}/dstore --faiss-index {root}/index --index-spec IVF8,Flat --log-format none"
    assert run("build_dstore.py", main_of("build_dstore.py"), build.split()) == 0
    return ["--knnlm", "--dstore-filename", root / "dstore", "--indexfile", root / "index", "--probe", 8, "--k", K]


def lines_of(outcome: Outcome, kind: str) -> list[list[str]]:
    """Returns the fields of every line ``kind-ID``, the number first."""
    found = [line.split("\t") for line in outcome.out.splitlines() if line.startswith(f"{kind}-")]
    return [[fields[0][2:], *fields[1:]] for fields in found]


def same_lines(found: list[str], expected: list[str]) -> bool:
    """Returns whether lines are equal up to the last decimal of their numbers."""

    def alike(a: str, b: str) -> bool:
        return a == b or ("." in a and "." in b and abs(float(a) - float(b)) <= PRINTED)

    words = [([w for line in lines for w in line.split()]) for lines in (found, expected)]
    return len(words[0]) == len(words[1]) and all(map(alike, *words))


def symbols() -> list[str]:
    return [f"w{i}@@" if i % 4 == 1 else f"w{i}" for i in range(NUM_WORDS)]


def words_of(data_dir: Path, split: str = "test") -> list[str]:
    names = ["<s>", "<pad>", "</s>", "<unk>", *symbols()]
    return [names[idx] for idx in np.fromfile(data_dir / f"{split}.bin", np.uint16)]


def test_every_block_has_its_lines(generate, data_dir) -> None:
    outcome = generate("--beam", 3, "--nbest", 2)
    num_blocks = -(-num_tokens(data_dir, "test") // TOKENS_PER_SAMPLE)
    assert [line[0] for line in lines_of(outcome, "S")] == [str(idx) for idx in range(num_blocks)]
    assert {line[0] for line in outcome.out.splitlines()} == {"S", "T", "H", "D", "P"}
    stream = words_of(data_dir)
    for (idx, prompt), (_, target) in zip(lines_of(outcome, "S"), lines_of(outcome, "T"), strict=True):
        start = int(idx) * TOKENS_PER_SAMPLE
        block = stream[start : start + TOKENS_PER_SAMPLE]
        assert prompt.split() == [word for word in block[:4] if word != "</s>"]
        assert target.split() == [word for word in block[4 : 4 + 9] if word != "</s>"]
    texts, scores = lines_of(outcome, "H"), lines_of(outcome, "P")
    assert [text[0] for text in texts] == [str(idx) for idx in range(num_blocks) for _ in range(2)]
    assert lines_of(outcome, "D") == texts
    for (_, score, text), (_, positional) in zip(texts, scores, strict=True):
        numbers = [float(number) for number in positional.split()]
        assert len(numbers) - len(text.split()) in (0, 1), "one for each word, and one for </s>"
        assert float(score) == pytest.approx(sum(numbers) / len(numbers), abs=PRINTED)
        assert all(number < 0 for number in numbers)


def test_scores_are_in_base_2(generate, eval_lm) -> None:
    """Where the sixth token of a block is the one that the model chooses, eval-lm has its probability, in nats."""
    complete = ["--sample-break-mode", "complete"]  # every block begins with a sentence, as a prompt does
    outcome = generate(*complete, "--beam", 1, "--prefix-size", 5, "--max-len-b", 1)
    blocks = [line for line in eval_lm(*complete, "--output-word-probs").out.splitlines() if re.match(r"\d+ ", line)]
    logs = {line.split()[0]: [float(p) for p in re.findall(r"\[(-[\d.]+)\]", line)] for line in blocks}
    compared = 0
    for (idx, score, text), (_, target) in zip(lines_of(outcome, "H"), lines_of(outcome, "T"), strict=True):
        if target and text == target:
            assert float(score) == pytest.approx(logs[idx][5] / math.log(2), abs=PRINTED)
            compared += 1
    assert compared, "some word must be the one that the model chooses"


def test_batches_and_shards_change_nothing(generate) -> None:
    drawn = ["--sampling", "--beam", 2, "--nbest", 2, "--sampling-topp", 0.9]
    whole = generate(*drawn).out.splitlines()
    assert same_lines(generate(*drawn, "--batch-size", 1).out.splitlines(), whole)
    assert same_lines(generate(*drawn, "--max-tokens", 60).out.splitlines(), whole)
    shards = [generate(*drawn, "--num-shards", 3, "--shard-id", shard) for shard in range(3)]
    parts = [line for shard in shards for line in shard.out.splitlines()]
    parts.sort(key=lambda line: int(line.split()[0][2:]))  # stable: the lines of a prompt stay in order
    assert same_lines(parts, whole)
    assert not same_lines(generate(*drawn, "--seed", 2).out.splitlines(), whole)


def test_subwords_are_joined_in_what_is_printed(generate) -> None:
    plain, joined = generate("--beam", 2), generate("--beam", 2, "--remove-bpe")
    assert "@@" in plain.out and "@@" not in joined.out
    for kind in "ST":
        for (_, text), (_, other) in zip(lines_of(plain, kind), lines_of(joined, kind), strict=True):
            assert f"{text} ".replace("@@ ", "").strip() == other
    assert lines_of(plain, "P") == lines_of(joined, "P")
    other = generate("--beam", 2, "--remove-bpe=sentencepiece")
    assert other.out == plain.out
    assert other.warnings == ["--post-process has no effect: no word of the dictionary begins with ▁"]


def test_neighbours_are_mixed_in_and_named(generate, neighbours, data_dir) -> None:
    plain = generate("--beam", 1)
    none = generate("--beam", 1, *neighbours, "--lmbda", 0, "--show-neighbours", 2)
    assert [line for line in none.out.splitlines() if line[0] != "N"] == plain.out.splitlines()
    assert none.warnings == ["--lmbda 0 leaves neighbours no weight; give --lmbda, such as 0.25"]
    mixed = generate("--beam", 1, *neighbours, "--lmbda", 1, "--show-neighbours", K)
    assert lines_of(mixed, "H") != lines_of(plain, "H")
    votes: dict[tuple[str, int], float] = {}
    for idx, position, word, share, row, distance, passage in lines_of(mixed, "N"):
        votes[idx, int(position)] = votes.get((idx, int(position)), 0.0) + float(share)
        if row == "-":
            continue
        assert f"[{word}]" in passage and 0 < float(share) <= 1 and float(distance) >= 0
        before = passage.split(f"[{word}]")[0].split()
        stream, at = words_of(data_dir, "train"), int(row) + 10  # a context of 6 takes one block of 16 − 6
        assert stream[at] == word and stream[max(at - len(before), 0) : at] == before
    for idx, positional in lines_of(mixed, "P"):
        shares = [votes[idx, position] for position in range(len(positional.split()))]
        # With λ = 1 the probability is the neighbours' alone; shares are printed to six decimals.
        assert np.log2(shares) == pytest.approx([float(x) for x in positional.split()], abs=1e-3)


def test_a_datastore_without_its_text_is_shown_without_it(generate, neighbours, data_dir, tmp_path) -> None:
    for suffix in ("_keys.npy", "_vals.npy", ".json"):
        content = Path(f"{neighbours[2]}{suffix}").read_bytes()
        moved = content.replace(str(data_dir).encode(), str(tmp_path / "gone").encode())
        (tmp_path / f"dstore{suffix}").write_bytes(moved)
    words = [*neighbours, "--dstore-filename", tmp_path / "dstore", "--lmbda", 0.5, "--show-neighbours"]
    outcome = generate("--beam", 1, "--num-shards", 20, *words)
    assert any(warning.startswith("rows are shown without their text: ") for warning in outcome.warnings)
    assert all(line[-1] == "" for line in lines_of(outcome, "N"))


def test_lines_are_continued_in_order(interactive) -> None:
    outcome = interactive("w1@@ w2 w3\n\nw30 w31\r\nw5@@ w6", "--beam", 2)
    assert outcome.code == 0, outcome.err
    assert [line[0] for line in lines_of(outcome, "H")] == ["0", "1", "2", "3"]
    assert [line[1] for line in lines_of(outcome, "S")] == ["w1@@ w2 w3", "", "w30 w31", "w5@@ w6"]
    assert not outcome.warnings and lines_of(outcome, "T") == []
    buffered = interactive("w1@@ w2 w3\n\nw30 w31\r\nw5@@ w6", "--beam", 2, "--buffer-size", 3)
    assert same_lines(buffered.out.splitlines(), outcome.out.splitlines())


def test_generate_and_interactive_agree(generate, interactive) -> None:
    drawn = ["--sampling", "--beam", 2, "--max-len-b", 9]
    split = generate(*drawn)
    lines = "".join(f"{prompt}\n" for _, prompt in lines_of(split, "S"))
    found = {idx: text for idx, _, text in lines_of(interactive(lines, *drawn), "H")}
    for (idx, prompt), (_, _, text) in zip(lines_of(split, "S"), lines_of(split, "H"), strict=True):
        if len(prompt.split()) == 4:  # no end of a sentence, which a line cannot hold
            assert found[idx] == text


def test_what_the_model_cannot_read_is_said(interactive) -> None:
    outcome = interactive("w1@@ w222 w2 w222 oops\n" + "w4 " * 40)
    assert outcome.code == 0, outcome.err
    assert outcome.warnings[0] == "line 1: not in the dictionary, and read as <unk>: w222, oops"
    assert outcome.warnings[1].startswith("line 2 has 40 words, but the model reads 15 at most: only the last 7")
    assert lines_of(outcome, "S")[0][1] == "w1@@ <unk> w2 <unk> <unk>"
    assert lines_of(outcome, "S")[1][1].split() == ["w4"] * 7


def test_a_line_that_is_no_text_ends_it_after_those_before(interactive) -> None:
    outcome = interactive(b"w2\n\xff\xfe\n")
    assert "prompts:2: the text must be UTF-8, but holds byte 0xff" in outcome.error
    assert [line[0] for line in lines_of(outcome, "H")] == ["0"]


def test_the_standard_input_is_the_default(
    command: Command, data_dir: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"w2 w3\n")))
    outcome = command("fairseq-interactive", data_dir, "--path", checkpoint, "--cpu", "--max-len-b", 3)
    assert [line[:2] for line in outcome.out.splitlines()] == ["S-", "H-", "D-", "P-"]
