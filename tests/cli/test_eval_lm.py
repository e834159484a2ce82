"""``fairseq-eval-lm`` end to end: result lines, options, errors; parity with the original is another test's."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairseq.checkpoints.format import load_checkpoint
from tests.builders.tiny_lm import (
    BATCHING,
    MODEL,
    NUM_WORDS,
    OPTIMIZATION,
    TOKENS_PER_SAMPLE,
    TRAINED,
    Command,
    Outcome,
    num_tokens,
)

RESULT = re.compile(
    r"Evaluated (\d+) tokens in (\d+\.\d)s \((\d+\.\d\d) tokens/s\)\n"
    r"Loss \(base 2\): (\d+\.\d{4}), Perplexity: (\d+\.\d\d)\n\Z"
)
# The same float32 sums in other batches: products over rows of another number may be blocked otherwise.
OTHER_BATCHES = 1e-6


def result_of(outcome: Outcome, path: Path) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


@pytest.fixture
def evaluate(eval_lm: Command, tmp_path: Path) -> Any:
    """Returns ``evaluate(*flags)``: the JSON record of an evaluation."""

    def call(*words: object) -> dict[str, Any]:
        return result_of(
            eval_lm(*words, "--overwrite", "--results-path", tmp_path / "result.json"), tmp_path / "result.json"
        )

    return call


# The result


def test_the_result_lines_that_people_search_for(eval_lm: Command, data_dir: Path) -> None:
    outcome = eval_lm()
    assert outcome.code == 0
    found = RESULT.match(outcome.out)
    assert found is not None, outcome.out
    assert int(found[1]) == num_tokens(data_dir, "test")
    assert float(found[5]) == pytest.approx(2 ** float(found[4]), rel=1e-3)


@pytest.mark.parametrize(("given", "written"), [("r.json", "r.json"), ("results", "results/eval_valid.json")])
def test_results_path_is_a_file_or_a_directory(eval_lm: Command, tmp_path: Path, given: str, written: str) -> None:
    outcome = eval_lm("--gen-subset", "valid", "--results-path", tmp_path / given)
    record = result_of(outcome, tmp_path / written)
    found = RESULT.match(outcome.out)
    assert found is not None
    assert f"{record['loss_base2']:.4f}" == found[4]
    assert f"{record['ppl']:.2f}" == found[5]


def test_the_record_holds_the_result_and_every_setting(evaluate: Any, data_dir: Path, checkpoint: Path) -> None:
    record = evaluate("--context-window", 4, "--softmax-batch", 7)
    assert record["targets"] == num_tokens(data_dir, "test")
    assert record["loss_base2"] == pytest.approx(-record["log_p_sum_nats"] / record["targets"] / math.log(2))
    assert record["ppl"] == pytest.approx(2 ** record["loss_base2"])
    assert record["tokens_left_out"] == record["targets_joined_to_the_next"] == 0
    assert record["targets_of_probability_0"] == record["targets_not_a_number"] == {}
    assert (record["dtype"], record["device"]) == ("float32", "cpu")
    assert set(record["versions"]) >= {"fairseq-knnlm", "torch", "numpy", "python"}
    settings = record["settings"]
    assert settings["path"] == str(checkpoint)
    assert settings["data"] == str(data_dir)
    assert (settings["context_window"], settings["softmax_batch"]) == (4, 7)
    assert settings["tokens_per_sample"] == TOKENS_PER_SAMPLE - 4, "the block size in force"


@pytest.mark.usefixtures("cpu_with_bfloat16")
def test_a_result_is_repeated_from_its_record(eval_lm: Command, command: Command, tmp_path: Path) -> None:
    """The command that the record holds gives the record again, to the byte: the same seed gives the same bits."""
    path = tmp_path / "r.json"
    assert eval_lm("--context-window", 4, "--bf16", "--results-path", path).code == 0
    first = path.read_bytes()
    path.unlink()
    prog, *words = json.loads(first)["command"]
    again = command(prog, *words)
    assert again.code == 0
    assert path.read_bytes() == first
    assert "Computed in bfloat16\n" in again.out, "the format stands beside the result"
    inputs = json.loads(first)["inputs"]
    assert {len(text) for text in (*inputs["weights_sha256"], inputs["dictionary_sha256"], inputs["data_sha256"])} == {
        64
    }


def test_it_is_the_validation_loss_of_training(evaluate: Any, checkpoint: Path) -> None:
    """Without a context window both see the same blocks."""
    extra = load_checkpoint(checkpoint).extra_state
    assert evaluate("--gen-subset", "valid")["loss_base2"] == pytest.approx(extra["val_loss"], abs=OTHER_BATCHES)


def test_a_trained_model_is_better_than_chance(evaluate: Any) -> None:
    assert evaluate()["loss_base2"] < math.log2(NUM_WORDS) - 1


# What must not change it


@pytest.mark.parametrize("window", [0, 6])
@pytest.mark.parametrize(
    "words", [("--max-tokens", 64), ("--max-sentences", 3), ("--batch-size", 1), ("--softmax-batch", 5)]
)
def test_batching_does_not_change_the_result(evaluate: Any, words: tuple[str, int], window: int) -> None:
    whole = evaluate("--max-tokens", 4096, "--context-window", window)
    other = evaluate(*words, "--context-window", window)
    assert other["targets"] == whole["targets"]
    assert other["loss_base2"] == pytest.approx(whole["loss_base2"], abs=OTHER_BATCHES)


@pytest.mark.parametrize("mode", ["none", "complete", "complete_doc", "eos"])
@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.pitfall(11)
def test_shards_add_up_to_the_whole(evaluate: Any, mode: str, window: int) -> None:
    words = ("--sample-break-mode", mode, "--context-window", window, "--max-tokens", 64)
    whole = evaluate(*words)
    shards = [evaluate(*words, "--num-shards", 3, "--shard-id", i) for i in range(3)]
    assert sum(shard["targets"] for shard in shards) == whole["targets"]
    assert sum(shard["log_p_sum_nats"] for shard in shards) == pytest.approx(whole["log_p_sum_nats"], abs=1e-9)


def test_a_shard_says_that_it_is_a_part(eval_lm: Command, data_dir: Path) -> None:
    total, covered = num_tokens(data_dir, "test"), 0
    for number in range(3):
        evaluated, _, line = eval_lm("--max-tokens", 64, "--num-shards", 3, "--shard-id", number).out.splitlines()
        count = int(evaluated.split()[1])
        assert line == f"Shard {number} of 3: {count:,} of {total:,} tokens"
        covered += count
    assert covered == total


@pytest.mark.parametrize("workers", [0, 4])
@pytest.mark.pitfall(11)
def test_num_workers_does_nothing_and_says_so(eval_lm: Command, workers: int) -> None:
    plain, outcome = eval_lm("--context-window", 6), eval_lm("--context-window", 6, "--num-workers", workers)
    assert [w.split(":")[0] for w in outcome.warnings] == [f"--num-workers {workers} has no effect"]
    assert outcome.out.splitlines()[1] == plain.out.splitlines()[1]


# Blocks and context


@pytest.mark.parametrize("mode", ["none", "complete", "eos"])
def test_every_token_is_scored_once(evaluate: Any, data_dir: Path, mode: str) -> None:
    record = evaluate("--sample-break-mode", mode)
    assert record["targets"] + record["tokens_left_out"] == num_tokens(data_dir, "test")


def test_complete_doc_leaves_out_empty_lines(evaluate: Any, data_dir: Path) -> None:
    header = 9 + 8 + 1 + 8
    raw = (data_dir / "test.idx").read_bytes()
    count = int.from_bytes(raw[18:26], "little")
    sizes = np.frombuffer(raw[header : header + 4 * count], "<i4")
    assert (sizes == 1).any(), "the text is meant to have empty lines"
    record = evaluate("--sample-break-mode", "complete_doc")
    assert record["targets"] == sizes.sum() - (sizes == 1).sum()


@pytest.mark.parametrize("window", [1, 6, 15])
def test_a_context_window_scores_what_a_model_that_sees_it_says(
    evaluate: Any, data_dir: Path, checkpoint: Path, window: int
) -> None:
    """Block by block, without batches: the context's and the block's tokens in, the block's log-probabilities out."""
    from fairseq.data.config import LanguageModelingConfig
    from fairseq.tasks.language_modeling import LanguageModelingTask

    task = LanguageModelingTask(LanguageModelingConfig(data=str(data_dir), tokens_per_sample=TOKENS_PER_SAMPLE))
    model: Any = task.load_model(load_checkpoint(checkpoint), {}).eval()
    tokens = np.fromfile(data_dir / "test.bin", "<u2").astype(np.int64)
    stream = torch.from_numpy(np.concatenate([[2], tokens]))  # </s> opens the stream
    block, total = TOKENS_PER_SAMPLE - window, 0.0
    raw = (data_dir / "test.idx").read_bytes()
    count = int.from_bytes(raw[18:26], "little")
    sentence_ends = np.cumsum(np.frombuffer(raw[26 : 26 + 4 * count], "<i4"))
    assert (stream[sentence_ends] == 2).all(), "a block that begins a sentence has </s> before it in any case"
    with torch.no_grad():
        for start in range(0, len(tokens), block):
            end, first = min(start + block, len(tokens)), max(start - window, 0)
            features = model(stream[None, first:end]).features_BSC[0, start - first :]
            total += float(model.target_log_prob(features, stream[start + 1 : end + 1]).double().sum())
    record = evaluate("--context-window", window)
    assert record["targets"] == len(tokens)
    assert record["log_p_sum_nats"] == pytest.approx(total, rel=1e-6)


def test_blocks_beyond_the_positions_are_left_out_and_counted(eval_lm: Command, tmp_path: Path, data_dir: Path) -> None:
    words = ("--sample-break-mode", "eos", "--model-overrides", "{'max_target_positions': 8}")
    outcome = eval_lm(*words, "--overwrite", "--results-path", tmp_path / "r.json")
    record = result_of(outcome, tmp_path / "r.json")
    assert record["tokens_left_out"] > 0
    assert record["targets"] + record["tokens_left_out"] == num_tokens(data_dir, "test")
    assert [w.split(" of more")[0] for w in outcome.warnings] == [f"{record['tokens_left_out']} tokens in blocks"]


# --tokens-per-sample and --model-overrides


@pytest.mark.pitfall(12)
def test_tokens_per_sample_has_no_effect_and_says_so(eval_lm: Command) -> None:
    plain, outcome = eval_lm(), eval_lm("--tokens-per-sample", 8)
    assert outcome.out.splitlines()[1] == plain.out.splitlines()[1]
    (warning,) = outcome.warnings
    assert warning.startswith("--tokens-per-sample 8 has no effect: the checkpoint's 16 is in force")
    assert "--model-overrides \"{'tokens_per_sample': 8}\"" in warning


def test_an_override_really_sets_it(evaluate: Any) -> None:
    plain, short = evaluate(), evaluate("--model-overrides", "{'tokens_per_sample': 4}")
    assert short["settings"]["tokens_per_sample"] == 4
    assert short["loss_base2"] != plain["loss_base2"]


def test_the_checkpoints_own_value_does_not_warn(eval_lm: Command) -> None:
    assert not eval_lm("--tokens-per-sample", TOKENS_PER_SAMPLE).warnings


def test_a_typed_add_bos_token_that_the_checkpoint_has_does_not_warn(
    train: Command, command: Command, data_dir: Path, tmp_path: Path
) -> None:
    room = ("--max-tokens", 136, "--max-target-positions", 17)
    assert train(tmp_path, "--add-bos-token", *room, "--max-update", 2).code == 0
    words = [data_dir, "--path", tmp_path / "checkpoint_last.pt", "--cpu", "--add-bos-token"]
    outcome = command("fairseq-eval-lm", *words)
    assert outcome.code == 0
    assert not outcome.warnings


def test_the_published_override_is_accepted(eval_lm: Command) -> None:
    outcome = eval_lm("--model-overrides", "{'knn_keytype': 'last_ffn_input'}")
    assert outcome.code == 0
    assert not outcome.warnings


def test_an_override_reaches_the_model(eval_lm: Command) -> None:
    assert "do not fit its settings" in eval_lm("--model-overrides", "{'decoder_layers': 3}").error


@pytest.mark.pitfall(17)
def test_overrides_are_data(eval_lm: Command, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    outcome = eval_lm("--model-overrides", f"__import__('os').system('touch {mark}')")
    assert outcome.error.startswith("--model-overrides must be a Python literal such as ")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("{'dropot': 0}", "'dropot' is not a setting of "),
        ("{'decoder_layers': 'many'}", "the settings in "),
        ("{'decoder_layers': 1e999}", "the settings in "),
        ("{'tokens_per_sample': 'many'}", "--tokens-per-sample must be a whole number, but is 'many'"),
        ("[1]", "--model-overrides must be a dict with string keys"),
    ],
)
def test_overrides_that_are_none(eval_lm: Command, overrides: str, message: str) -> None:
    assert eval_lm("--model-overrides", overrides).error.startswith(message)


def test_an_unknown_override_is_answered_with_the_nearest(eval_lm: Command) -> None:
    assert eval_lm("--model-overrides", "{'dropot': 0}").error.endswith("; did you mean dropout?")


# Words


def test_remove_bpe_counts_words(evaluate: Any, data_dir: Path) -> None:
    """Every fourth word of the text ends in @@; the last one of a block has no successor and counts as a word."""
    whole = evaluate()
    tokens = np.fromfile(data_dir / "test.bin", "<u2").astype(np.int64)
    is_part = (tokens >= 4) & ((tokens - 4) % 4 == 1)
    blocks = np.arange(len(tokens)) // TOKENS_PER_SAMPLE
    joined = int((is_part[:-1] & (blocks[1:] == blocks[:-1])).sum())
    for words in (["--remove-bpe"], ["--remove-bpe", "@@ "], ["--remove-bpe", "@@"]):
        record = evaluate(*words)
        assert record["targets_joined_to_the_next"] == joined
        assert record["log_p_sum_nats"] == pytest.approx(whole["log_p_sum_nats"], abs=1e-9)
        counted = whole["targets"] - joined
        assert record["loss_base2"] == pytest.approx(-whole["log_p_sum_nats"] / counted / math.log(2))


def test_word_probs_are_printed_by_block(eval_lm: Command, evaluate: Any, data_dir: Path) -> None:
    total = evaluate()["log_p_sum_nats"]
    outcome = eval_lm("--output-word-probs")
    *lines, _, _ = outcome.out.splitlines()
    blocks = {int(line.split(" ", 1)[0]): line.split(" ", 1)[1].split("\t") for line in lines}
    assert sorted(blocks) == list(range(-(-num_tokens(data_dir, "test") // TOKENS_PER_SAMPLE)))
    words = [re.fullmatch(r"(\S+) \[(-?\d+\.\d{6})\]", word) for block in blocks.values() for word in block]
    assert all(words)
    assert sum(float(word[2]) for word in words if word) == pytest.approx(total, abs=1e-3)
    assert RESULT.search(outcome.out)


def test_word_stats_are_a_table_by_count(eval_lm: Command, evaluate: Any, data_dir: Path) -> None:
    total = evaluate()["log_p_sum_nats"]
    *lines, _, _ = eval_lm("--output-word-stats").out.splitlines()
    table = [line.split("\t") for line in lines]
    assert all(len(row) == 6 for row in table)
    counts = [int(row[1]) for row in table]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == num_tokens(data_dir, "test")
    assert sum(float(row[2]) for row in table) == pytest.approx(total, abs=0.01)
    assert {row[3] for row in table} == {"False"}
    assert len({row[0] for row in table}) == len(table)


def test_word_stats_of_joined_words(eval_lm: Command) -> None:
    *lines, _, _ = eval_lm("--output-word-stats", "--remove-bpe").out.splitlines()
    joined = {row[0] for row in (line.split("\t") for line in lines) if row[3] == "True"}
    assert "w1w2" in joined


# Ensembles, devices


def test_an_ensemble_is_the_mean_of_probabilities(
    eval_lm: Command, train: Command, checkpoint: Path, tmp_path: Path
) -> None:
    assert train(tmp_path / "b", "--max-update", 20, "--seed", 7).code == 0
    other = tmp_path / "b" / "checkpoint_last.pt"

    def log_p(path: str) -> dict[int, list[float]]:
        *lines, _, _ = eval_lm("--path", path, "--output-word-probs").out.splitlines()
        return {int(line.split(" ", 1)[0]): [float(x) for x in re.findall(r"\[(-?[\d.]+)\]", line)] for line in lines}

    a, b, both = log_p(str(checkpoint)), log_p(str(other)), log_p(f"{checkpoint}:{other}")
    for block, values in both.items():
        mean = np.log((np.exp(a[block]) + np.exp(b[block])) / 2)
        assert values == pytest.approx(mean.tolist(), abs=5e-6), "six decimals are printed"


def test_an_ensemble_of_one_model_twice_is_that_model(eval_lm: Command, evaluate: Any, checkpoint: Path) -> None:
    assert evaluate("--path", f"{checkpoint}:{checkpoint}")["loss_base2"] == pytest.approx(
        evaluate()["loss_base2"], abs=1e-9
    )


@pytest.mark.usefixtures("cpu_with_bfloat16")
def test_bf16_is_near_and_is_recorded(evaluate: Any) -> None:
    plain, half = evaluate(), evaluate("--bf16")
    assert half["dtype"] == "bfloat16"
    assert half["loss_base2"] == pytest.approx(plain["loss_base2"], abs=0.05)


def test_fp16_on_a_cpu_warns_and_changes_nothing(eval_lm: Command) -> None:
    plain, outcome = eval_lm(), eval_lm("--fp16")
    assert outcome.out.splitlines()[1] == plain.out.splitlines()[1]
    assert [w.split(",")[0] for w in outcome.warnings] == ["--fp16 has no effect on a CPU"]


def test_a_plain_checkpoint_without_adaptive_softmax(command: Command, data_dir: Path, tmp_path: Path) -> None:
    words = [data_dir, "--save-dir", tmp_path, *MODEL, *BATCHING, *OPTIMIZATION, "--max-update", 3]
    assert command("fairseq-train", *words).code == 0
    outcome = command("fairseq-eval-lm", data_dir, "--path", tmp_path / "checkpoint_last.pt")
    assert RESULT.search(outcome.out)


@pytest.mark.parametrize("log_format", ["json", "simple", "tqdm", "none"])
def test_progress_never_touches_stdout(eval_lm: Command, log_format: str) -> None:
    outcome = eval_lm("--log-format", log_format, "--log-interval", 1, "--max-tokens", 64)
    assert RESULT.match(outcome.out)


def test_the_log_interval_counts_batches(eval_lm: Command) -> None:
    outcome = eval_lm("--log-format", "json", "--log-interval", 2, "--max-tokens", 64)
    assert len([line for line in outcome.log if line.startswith("{")]) >= 2


@pytest.mark.pitfall(20)
def test_a_target_of_probability_0_is_counted_and_named(
    command: Command, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    raw = torch.load(checkpoint, weights_only=False)
    for name in ("decoder.embed_tokens.embeddings.0.0.weight", "decoder.adaptive_softmax.head.word_proj.weight"):
        raw["model"][name] = raw["model"][name].clone()
        raw["model"][name][4] = 3e38  # finite, but no product with it is
    torch.save(raw, tmp_path / "nan.pt")
    words = ["--path", tmp_path / "nan.pt", "--results-path", tmp_path / "r.json"]
    outcome = command("fairseq-eval-lm", data_dir, *words)
    assert outcome.code == 0
    assert any("have no number as their probability" in warning for warning in outcome.warnings)
    assert outcome.out.endswith("Loss (base 2): nan, Perplexity: nan\n")
    record = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert sum(record["targets_not_a_number"].values()) > 0


# Errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--path /nowhere.pt", "checkpoint /nowhere.pt does not exist; give --path"),
        ("--context-window 16", "--context-window 16 must be smaller than the checkpoint's tokens_per_sample, 16"),
        ("--context-window -1", "--context-window must be at least 0, but is -1"),
        (
            "--max-tokens 8",
            "--max-tokens 8 is below the 16 tokens of the longest block of the split 'test'; give",
        ),
        ("--num-shards 2 --shard-id 2", "--shard-id 2 must be below --num-shards 2"),
        ("--sample-break-mode full", "--sample-break-mode must be one of none, complete, complete_doc, eos"),
        ("--task translation", "--task translation is not here: it is for translation"),
        ("--gen-subset nowhere", ""),
        ("--knnlm", "--knnlm needs a datastore and its index; give --dstore-filename and --indexfile as well"),
        ("--save-knnlm-dstore", "--save-knnlm-dstore needs to know where; give --dstore-mmap"),
        ("--lmbda 1.5", "--lmbda must be at most 1, but is 1.5"),
        ("--contxt-window 4", "unrecognised argument --contxt-window; did you mean --context-window?"),
    ],
)
def test_an_error_is_one_line(eval_lm: Command, words: str, message: str) -> None:
    outcome = eval_lm(*words.split())
    assert outcome.error.startswith(message)
    assert "Traceback" not in outcome.err
    assert outcome.out == ""


def test_without_a_path(command: Command, data_dir: Path) -> None:
    assert command("fairseq-eval-lm", data_dir).error.startswith(
        "--path is required: checkpoint to evaluate, or directory of a Hugging Face model;"
    )


def test_a_missing_split_is_named(eval_lm: Command) -> None:
    assert "nowhere" in eval_lm("--gen-subset", "nowhere").error


def test_a_directory_is_no_checkpoint(eval_lm: Command, trained_dir: Path) -> None:
    assert eval_lm("--path", trained_dir).error.startswith(
        f"checkpoint {trained_dir} is a directory of checkpoints; give --path"
    )


def test_a_text_file_is_no_checkpoint(eval_lm: Command, data_dir: Path) -> None:
    assert eval_lm("--path", data_dir / "dict.txt").error.startswith(f"{data_dir / 'dict.txt'} ")


def test_a_dictionary_of_another_size(command: Command, data_dir: Path, checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "data"
    other.mkdir()
    for path in data_dir.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    with (other / "dict.txt").open("a", encoding="utf-8") as file:
        file.write("one-more 1\n")
    error = command("fairseq-eval-lm", other, "--path", checkpoint).error
    assert "was trained with another dictionary than" in error


@pytest.mark.pitfall(2)
def test_a_dictionary_of_the_same_size_with_other_words(
    command: Command, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Pitfall 2: the ids fit, the words do not, and the perplexity would only look right."""
    other = tmp_path / "data"
    shutil.copytree(data_dir, other)
    lines = (other / "dict.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (other / "dict.txt").write_text("".join(lines[::-1]), encoding="utf-8")
    assert "was trained with another dictionary than" in command("fairseq-eval-lm", other, "--path", checkpoint).error


@pytest.mark.parametrize("bos", [(), ("--add-bos-token",)], ids=["plain", "with <s>"])
@pytest.mark.pitfall(4)
def test_rows_of_a_datastore_follow_the_rule(
    command: Command, data_dir: Path, tmp_path: Path, bos: tuple[str, ...]
) -> None:
    """total − ⌈W/B⌉·B rows; an added <s> is context too, so that fewer blocks fill the window."""
    words = [*TRAINED, "--max-update", "1", *bos]
    words += ["--max-target-positions", "40"]
    assert command("fairseq-train", data_dir, "--save-dir", tmp_path / "ck", *words).code == 0
    dump = ["--save-knnlm-dstore", "--dstore-mmap", tmp_path / "dstore", "--context-window", 11, "--max-tokens", 64]
    path = tmp_path / "ck" / "checkpoint_last.pt"
    assert command("fairseq-eval-lm", data_dir, "--path", path, "--gen-subset", "valid", *dump).code == 0
    total = (data_dir / "valid.bin").stat().st_size // 2
    block = TOKENS_PER_SAMPLE - 11
    rows = (tmp_path / "dstore_vals.npy").stat().st_size // 8
    assert rows == total - -(-11 // (block + len(bos))) * block


def test_traceback_shows_where(eval_lm: Command) -> None:
    outcome = eval_lm("--path", "/nowhere.pt", "--traceback")
    assert outcome.code == 2
    assert "Traceback (most recent call last)" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("fairseq-eval-lm: error: checkpoint /nowhere.pt")
