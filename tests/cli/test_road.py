"""The whole road on a tiny text: every command once, and the mixture against a naive one."""

import contextlib
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.builders.tiny_lm import TRAINED, Command, main_of
from tests.oracles.knn import knn_probability, nearest

WIDTH, BLOCK, WINDOW, K = 16, 10, 6, 8
WINDOW_FLAGS = ["--sample-break-mode", "none", "--context-window", WINDOW, "--max-tokens", 64]
LOSS = r"Loss \(base 2\): ([\d.]+), Perplexity: ([\d.]+)"
# Printed log-probabilities have six decimals; distances are float32.
PRINTED = 2e-5


def make_text(count: int, seed: int) -> str:
    """Returns lines in which a word is mostly followed by the same other word; some lines are empty."""
    random = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        word, words = int(random.integers(24)), []
        for _ in range(int(random.integers(0, 12))):
            words.append(f"w{word}")
            word = (3 * word + 1) % 24 if random.random() < 0.85 else int(random.integers(24))
        lines.append(" ".join(words))
    return "".join(line + "\n" for line in lines)


@dataclass(frozen=True)
class Road:
    """Where everything lies."""

    data: Path
    checkpoint: Path
    store: Path
    index: Path


@pytest.fixture
def road(command: Command, tmp_path: Path) -> Road:
    """Goes the whole road, from text to index."""
    for seed, (split, count) in enumerate({"train": 160, "valid": 20, "test": 20}.items()):
        (tmp_path / f"{split}.txt").write_text(make_text(count, seed), encoding="utf-8")
    found = Road(tmp_path / "data-bin", tmp_path / "ck" / "checkpoint_best.pt", tmp_path / "dstore", tmp_path / "index")
    prefs = [f"--{split}pref={tmp_path / split}.txt" for split in ("train", "valid", "test")]
    cutoffs = ["--adaptive-input-cutoff", "10,20", "--adaptive-softmax-cutoff", "10,20"]
    train = [*TRAINED, *cutoffs, "--max-update", 8]
    dump = ["--gen-subset", "train", *WINDOW_FLAGS, "--save-knnlm-dstore", "--dstore-mmap", found.store]
    steps: list[tuple[str, list[object]]] = [
        ("fairseq-preprocess", ["--only-source", *prefs, "--destdir", found.data]),
        ("fairseq-train", [found.data, "--save-dir", found.checkpoint.parent, *train]),
        ("fairseq-eval-lm", [found.data, "--path", found.checkpoint, *dump]),
        ("build_dstore.py", ["--dstore_mmap", found.store, "--faiss_index", found.index, "--index_spec", "Flat"]),
    ]
    for prog, words in steps:
        assert command(prog, *words).code == 0, prog
    return found


def eval_words(road: Road, *more: object) -> list[object]:
    return [road.data, "--path", road.checkpoint, "--gen-subset", "valid", *WINDOW_FLAGS, *more]


def knn_words(road: Road, lmbda: float) -> list[object]:
    # --probe has no effect on a Flat index; 8 neighbours keep the oracle's votes apart.
    files = ["--dstore-filename", road.store, "--indexfile", road.index]
    return eval_words(road, "--knnlm", *files, "--k", K, "--lmbda", lmbda, "--output-word-probs")


def token_log_probs(out: str) -> np.ndarray:
    """Returns every token's printed log-probability, block by block."""
    lines = [line for line in out.splitlines() if re.match(r"\d+ ", line)]
    return np.array([float(p) for line in lines for p in re.findall(r"\[(-?[\d.]+|-inf)\]", line)])


def test_neighbours_lower_the_perplexity(command: Command, road: Road) -> None:
    base = re.search(LOSS, command("fairseq-eval-lm", *eval_words(road)).out)
    mixed = re.search(LOSS, command("fairseq-eval-lm", *knn_words(road, 0.5)).out)
    assert base and mixed
    assert float(mixed[2]) < 0.9 * float(base[2])


def test_the_mixture_is_of_the_two_printed_probabilities(command: Command, road: Road) -> None:
    lm, mixed, knn = (token_log_probs(command("fairseq-eval-lm", *knn_words(road, w)).out) for w in (0, 0.3, 1))
    assert np.exp(mixed) == pytest.approx(0.7 * np.exp(lm) + 0.3 * np.exp(knn), abs=PRINTED)
    base = token_log_probs(command("fairseq-eval-lm", *eval_words(road, "--output-word-probs")).out)
    assert np.array_equal(lm, base), "λ = 0 is exactly the language model"


def test_the_cache_is_the_third_part(command: Command, road: Road) -> None:
    cache = ["--cache-size", 50, "--cache-theta", 0.2, "--cache-lmbda"]
    lm, knn = (token_log_probs(command("fairseq-eval-lm", *knn_words(road, w)).out) for w in (0, 1))
    alone = command("fairseq-eval-lm", *eval_words(road, *cache, 1, "--output-word-probs"))
    all_three = command("fairseq-eval-lm", *knn_words(road, 0.3), *cache, 0.25)
    assert all_three.warnings == []
    expected = 0.45 * np.exp(lm) + 0.3 * np.exp(knn) + 0.25 * np.exp(token_log_probs(alone.out))
    assert np.exp(token_log_probs(all_three.out)) == pytest.approx(expected, abs=PRINTED)


def test_weights_of_three_from_saved_retrievals_are_those_of_separate_runs(
    command: Command, road: Road, tmp_path: Path
) -> None:
    files = ["--knnlm", "--dstore-filename", road.store, "--indexfile", road.index, "--k", K, "--lmbda", 0.1]
    for split in ("valid", "test"):
        caches = ["--cache-size", "5,50", "--cache-theta", "0,0.2", "--save-retrieval", tmp_path / split]
        assert command("fairseq-eval-lm", *eval_words(road, *files, *caches, "--gen-subset", split)).code == 0
    grids = ["--lmbda", "0:1:0.2", "--cache-lmbda", "0:1:0.2", "--apply", tmp_path / "test"]
    swept = command("fairseq-knnlm", "sweep-cache", tmp_path / "valid", *grids)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in swept.out.splitlines()[4:8]]
    assert [row[0] for row in rows] == ["language model", "+ cache", "+ neighbours", "+ both"], swept.err
    for _, *found, flags in rows:
        for split, ppl in zip(("valid", "test"), found, strict=True):
            mixed = [*files, *flags.split()] if "--lmbda" in flags.split() else flags.split()
            alone = re.search(LOSS, command("fairseq-eval-lm", *eval_words(road, *mixed, "--gen-subset", split)).out)
            assert alone is not None
            assert float(ppl) == pytest.approx(float(alone[2]), abs=0.011), "two printed decimals"


def test_the_neighbours_are_the_naive_ones(command: Command, road: Road, tmp_path: Path) -> None:
    words = ["--save-knnlm-dstore", "--dstore-mmap", tmp_path / "queries"]
    assert command("fairseq-eval-lm", *eval_words(road, *words)).code == 0
    keys, queries = (np.fromfile(f"{p}_keys.npy", np.float32).reshape(-1, WIDTH) for p in (road.store, words[2]))
    values, targets = (np.fromfile(f"{p}_vals.npy", np.int64) for p in (road.store, words[2]))
    skipped = -(-WINDOW // BLOCK) * BLOCK
    printed = token_log_probs(command("fairseq-eval-lm", *knn_words(road, 1)).out)[skipped:]
    assert len(printed) == len(queries)
    for query, target, log_p in list(zip(queries, targets, printed, strict=True))[::7]:
        distances, ids = nearest(keys, query, K)
        assert np.exp(log_p) == pytest.approx(knn_probability(distances, ids, values[ids], target, 1.0), abs=1e-4)


def test_a_store_of_another_model_is_refused_in_one_line(command: Command, road: Road, tmp_path: Path) -> None:
    words = [road.data, "--save-dir", tmp_path / "other", *TRAINED]
    cutoffs = ["--adaptive-input-cutoff", "10,20", "--adaptive-softmax-cutoff", "10,20"]
    assert command("fairseq-train", *words, *cutoffs, "--max-update", 1, "--seed", 2).code == 0
    later = ["--path", tmp_path / "other" / "checkpoint_last.pt"]
    refused = command("fairseq-eval-lm", *knn_words(road, 0.5), *later)
    assert str(road.store) in refused.error
    allowed = command("fairseq-eval-lm", *knn_words(road, 0.5), *later, "--allow-mismatch")
    assert allowed.code == 0
    assert any(str(road.store) in line for line in allowed.warnings)


README = Path(__file__).resolve().parents[2] / "README.md"
RECIPES = README.parent / "examples" / "knnlm" / "README.md"
HUGGING_FACE = README.parent / "docs" / "huggingface.md"


@pytest.mark.parametrize(
    ("document", "count"), [(README, 36), (RECIPES, 6), (HUGGING_FACE, 8)], ids=["README", "recipes", "Hugging Face"]
)
def test_the_documents_commands_name_flags_that_exist(document: Path, count: int) -> None:
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(
        r"^ *(?:echo .* \| *|python )?(fairseq-[a-z-]+|build_dstore\.py) (.*)$", text, flags=re.MULTILINE
    )
    assert len(commands) == count
    for prog, words in commands:
        typed = {word.replace("_", "-") for word in shlex.split(words, comments=True) if word.startswith("--")}
        known = flags_of(prog, *(words.split()[:1] if prog == "fairseq-knnlm" else ()))
        assert typed <= known, f"{document.name}: {prog} does not know {typed - known}"


def flags_of(prog: str, *subcommand: str) -> set[str]:
    """Returns the flags of a command, read off its help."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main_of(prog)([*subcommand, "--help"])
    return set(re.findall(r"--[a-z0-9][a-z0-9-]*", out.getvalue()))
