"""``fairseq-eval-lm --cache-size``: the naive mixture from the command line in any batching; sweeps; refusals."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders.tiny_lm import TOKENS_PER_SAMPLE, Command, num_tokens, token_log_probs
from tests.oracles.cache import cache_distribution, mixture

WINDOW = 6
CACHE = ("--cache-size", 20, "--cache-theta", 0.3, "--cache-lmbda", 0.2)
PRINTED = 2e-5  # printed log-probabilities have six decimals; products are float32
OTHER_BATCHES = 1e-6  # the same float32 sums in other batches


@pytest.fixture
def record(eval_lm: Command, tmp_path: Path) -> Any:
    """Returns ``record(*flags)``: the JSON record of an evaluation that warns of nothing but a harm."""

    def call(*words: object) -> dict[str, Any]:
        outcome = eval_lm(*words, "--overwrite", "--results-path", tmp_path / "r.json")
        warnings = [line for line in outcome.warnings if "worse than the model alone" not in line]
        assert (outcome.code, warnings) == (0, []), outcome.err
        found: dict[str, Any] = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
        return found

    return call


def test_the_mixture_is_the_naive_one_of_the_datastores_vectors(eval_lm: Command, tmp_path: Path) -> None:
    """The vectors come from --save-knnlm-dstore, which writes them for every block with a full context."""
    words = ("--context-window", WINDOW)
    dump = ("--gen-subset", "test", "--save-knnlm-dstore", "--dstore-mmap", tmp_path / "d")
    assert eval_lm(*words, *dump).code == 0
    vectors = np.fromfile(tmp_path / "d_keys.npy", np.float32).reshape(-1, 16)
    targets = np.fromfile(tmp_path / "d_vals.npy", np.int64)
    lm, mixed = (token_log_probs(eval_lm(*words, *more, "--output-word-probs").out) for more in ((), CACHE))
    skipped = len(lm) - len(vectors)
    assert 0 < skipped < 20
    assert mixed[0] == pytest.approx(lm[0], abs=PRINTED), "an empty cache leaves its weight to the language model"
    for t in range(20, len(vectors), 5):
        cached = cache_distribution(vectors, targets, t, 20, 0.3, 40)
        assert cached is not None
        expected = mixture(math.exp(lm[skipped + t]), 0.0, cached[targets[t]], 0.0, 0.2)
        assert math.exp(mixed[skipped + t]) == pytest.approx(expected, abs=PRINTED)


@pytest.mark.parametrize("mode", ["none", "eos", "complete_doc"])
@pytest.mark.parametrize("window", [0, WINDOW])
def test_batching_does_not_change_the_result(record: Any, mode: str, window: int) -> None:
    """Without a context window blocks of other lengths would otherwise be taken by length."""
    words = ("--sample-break-mode", mode, "--context-window", window, *CACHE)
    whole = record(*words)
    for batching in (("--max-tokens", 64), ("--batch-size", 1), ("--batch-size", 7, "--softmax-batch", 3)):
        other = record(*words, *batching)
        assert other["targets"] == whole["targets"]
        assert other["loss_base2"] == pytest.approx(whole["loss_base2"], abs=OTHER_BATCHES)


def test_a_cache_of_everything_counts_words(eval_lm: Command, data_dir: Path) -> None:
    """θ = 0 and weight 1: the share of the target among all targets before it; the first one is the model's."""
    tokens = np.fromfile(data_dir / "test.bin", "<u2").astype(int).tolist()
    words = ("--cache-size", len(tokens), "--cache-theta", 0, "--cache-lmbda", 1, "--output-word-probs")
    outcome = eval_lm(*words)
    shares = [tokens[:t].count(tokens[t]) / t for t in range(1, len(tokens))]
    np.testing.assert_allclose(np.exp(token_log_probs(outcome.out)[1:]), shares, atol=PRINTED)
    assert [w.split(" targets")[0] for w in outcome.warnings[:-1]] == [str(shares.count(0))]
    assert "worse than the model alone: perplexity inf" in outcome.warnings[-1]


def test_the_record_holds_the_settings(record: Any) -> None:
    found = record(*CACHE)["settings"]
    assert (found["cache_size"], found["cache_theta"], found["cache_lmbda"]) == ([20], [0.3], [0.2])
    assert "cache_size" not in record()["settings"]


def test_a_sweep_is_one_run_per_setting(record: Any, eval_lm: Command) -> None:
    words = ("--cache-size", "5,20", "--cache-theta", "0,0.3", "--cache-lmbda", "0,0.1,0.4")
    swept = record(*words)
    assert len(swept["sweep"]) == 12
    losses = [row["loss_base2"] for row in swept["sweep"]]
    assert losses == sorted(losses)
    assert swept["loss_base2"] == losses[0]
    for row in swept["sweep"]:
        flags = [(f"--{name.replace('_', '-')}", row[name]) for name in ("cache_size", "cache_theta", "cache_lmbda")]
        alone = record(*(word for pair in flags for word in pair)) if row["cache_lmbda"] else record()
        assert row["loss_base2"] == pytest.approx(alone["loss_base2"], abs=OTHER_BATCHES)
    out = eval_lm(*words).out.splitlines()
    assert out[0].split()[:3] == ["--cache-size", "--cache-theta", "--cache-lmbda"]
    assert len(out) == 1 + 12 + 2
    assert float(out[1].split()[3]) == pytest.approx(losses[0], abs=5e-5)
    assert f"Loss (base 2): {losses[0]:.4f}" in out[-1]


def test_no_weight_is_no_cache_and_says_so(eval_lm: Command) -> None:
    plain, outcome = eval_lm(), eval_lm("--cache-size", 20)
    assert outcome.warnings == ["--cache-size has no effect with --cache-lmbda 0; give --cache-lmbda, such as 0.1"]
    assert outcome.out.splitlines()[1] == plain.out.splitlines()[1]


@pytest.mark.parametrize("flag", ["--cache-lmbda", "--cache-theta"])
def test_without_a_size_there_is_no_cache(eval_lm: Command, flag: str) -> None:
    assert [w.split(":")[0] for w in eval_lm(flag, 0.5).warnings] == [f"{flag} 0.5 has no effect"]


def test_every_target_is_scored_once(record: Any, data_dir: Path) -> None:
    assert record(*CACHE)["targets"] == num_tokens(data_dir, "test")
    assert TOKENS_PER_SAMPLE < 20, "the cache crosses blocks"


def test_a_cache_that_does_not_fit_is_refused(eval_lm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairseq.runtime.resources.free_memory_bytes", lambda: 3 * 20 * 16 * 4 - 1)
    assert eval_lm(*CACHE).error.startswith("a cache of 20 vectors needs 0.00 MiB of memory, but")


def test_several_checkpoints_are_refused(eval_lm: Command, checkpoint: Path) -> None:
    error = eval_lm("--path", f"{checkpoint}:{checkpoint}", *CACHE).error
    assert error == "--path names several checkpoints, but a cache holds the vectors of one; give one"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--num-shards 2",
            "--cache-size needs the text in order and cannot be sharded; leave out"
            " --num-shards, --distributed-world-size and torchrun",
        ),
        ("--cache-lmbda 0.1,0.2 --output-word-probs", "words are printed for one cache setting, but there are several"),
        ("--cache-lmbda 0.1,0.2 --output-word-stats", "words are printed for one cache setting, but there are several"),
    ],
)
def test_what_a_cache_does_not_go_with(eval_lm: Command, words: str, message: str) -> None:
    assert eval_lm(*CACHE, *words.split()).error.startswith(message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--lmbda 0.9", "--lmbda 0.9 and --cache-lmbda 0.2 must add up to at most 1, but are 1.1; lower one"),
        ("--lmbda 0.2 --cache-theta 1,2", "--knnlm with lists of cache settings needs --save-retrieval"),
    ],
)
def test_weights_of_three_are_checked_before_files_are_opened(eval_lm: Command, words: str, message: str) -> None:
    knn = ("--knnlm", "--dstore-filename", "nowhere", "--indexfile", "nowhere")
    assert eval_lm(*CACHE, *knn, *words.split()).error.startswith(message)
