"""Rows without neighbours: preprocessing, training and plain evaluation, each beside a live peer.

Seconds are those of the work alone where both programs print or log them (training from one progress line to the next,
"Evaluated … in … s"), and of the whole process for preprocessing.
"""

import lzma
import shlex
import shutil
from pathlib import Path

from bench import (
    BF16_BITS,
    EVAL_BITS,
    EVAL_WINDOW,
    EVALUATE,
    GOLDEN_MODEL,
    ROW,
    TRAIN_PART,
    Bench,
    Measured,
    Row,
    RowError,
    evaluated,
    peer_evaluation,
    seconds_per_update,
    timed_run,
    update_stamps,
    valid_loss,
    with_exact_loss,
)
from floors import evaluate_floor, read_floor, train_floor
from runs import Run

ARCH = shlex.split(
    "--arch transformer_lm_wiki103 --decoder-layers 4 --decoder-embed-dim 256 --decoder-input-dim 256"
    " --decoder-output-dim 256 --decoder-ffn-embed-dim 1024 --decoder-attention-heads 4"
    " --adaptive-input-cutoff 4000,10000 --adaptive-softmax-cutoff 4000,10000 --dropout 0.1"
)
TRAIN = shlex.split(
    "--task language_modeling --criterion adaptive_loss --optimizer nag --clip-norm 0.1 --lr-scheduler cosine"
    " --t-mult 2 --lr-period-updates 1236 --lr-shrink 0.75 --warmup-updates 100 --warmup-init-lr 1e-07"
    " --max-tokens 1024 --tokens-per-sample 256 --sample-break-mode none --skip-invalid-size-inputs-valid-test"
    " --seed 1 --no-save --log-format json --log-interval 10"
)
OUR_LR = shlex.split("--lr 0.0001 --max-lr 1.0 --min-lr 1e-09 --ddp-backend=no_c10d")
PEER_LR = shlex.split("--lr 1.0 --min-lr 0.0001 --stop-min-lr 1e-09 --ddp-backend=legacy_ddp")


def train_row(bench: Bench, *, bf16: bool) -> Row:
    """Returns training from random weights; with --bf16 the peer stays in float32."""
    name = "train-bf16" if bf16 else "train"
    words: list[str | Path] = [bench.data, *ARCH, *TRAIN, "--max-update", str(bench.updates)]
    tokens = 1024 * bench.updates
    counts = bench.band_counts("train")
    shares = [round(count * tokens / sum(counts)) for count in counts]

    def timed(done: Run) -> Measured:
        stamps = update_stamps(done.lines)
        if len(stamps) < 2:
            raise RowError("fewer than two progress lines of training")
        return timed_run(done, seconds_per_update(stamps) * bench.updates, valid_loss(done.lines))

    def ours() -> Measured:
        extra = ["--bf16"] if bf16 else []
        return timed(bench.run_ours(name, "-m", "fairseq_cli.train", *words, *OUR_LR, *extra))

    def peer() -> Measured:
        return timed(bench.run_peer(name, "fairseq-train", *words, *PEER_LR))

    return Row(
        name,
        f"train {bench.updates} updates of 1,024 tokens" + (", --bf16" if bf16 else ""),
        ours,
        train_floor(GOLDEN_MODEL, bench.updates, ROW, shares),
        peer if bench.peer else None,
        (tokens, "tokens"),
        tokens / bench.expected()["speed_of_the_original"]["train_tokens_per_s"],
        tolerance_part=TRAIN_PART,
        bf16=bf16,
    )


def eval_row(bench: Bench, *, bf16: bool) -> Row:
    """Returns plain evaluation with a context window."""
    name = "eval-bf16" if bf16 else "eval"
    golden = bench.expected()["eval"][0]
    results = bench.work / f"{name}.json"

    def ours() -> Measured:
        extra = ["--bf16"] if bf16 else []
        done = bench.run_ours(
            name,
            "-m",
            "fairseq_cli.eval_lm",
            bench.data,
            "--path",
            bench.checkpoint,
            *EVALUATE,
            *extra,
            "--results-path",
            results,
            "--overwrite",
        )
        return with_exact_loss(evaluated(done), results)

    return Row(
        name,
        "evaluate, window 192" + (", --bf16" if bf16 else ""),
        ours,
        evaluate_floor(GOLDEN_MODEL, ROW, ROW - EVAL_WINDOW, bench.band_counts("valid")),
        (lambda: peer_evaluation(bench, name)) if bench.peer else None,
        (golden["targets"], "tokens"),
        golden["targets"] / bench.expected()["speed_of_the_original"]["eval_tokens_per_s"],
        expected=golden["loss_fp64"],
        tolerance=BF16_BITS if bf16 else EVAL_BITS,
        bf16=bf16,
    )


def preprocess_row(bench: Bench) -> Row:
    """Returns binarising WikiText-2, whose files must equal the peer's byte for byte."""
    text, source = bench.work / "text", bench.golden.parents[1] / "data" / "wikitext-2"
    splits = ("train", "valid", "test")
    words: list[str | Path] = ["--only-source", "--workers", "1"]
    for split in splits:
        words += [f"--{split}pref", text / f"wiki.{split}.tokens"]
    text.mkdir(parents=True, exist_ok=True)
    for split in splits:
        unpack(source / f"wiki.{split}.tokens.xz", text / f"wiki.{split}.tokens")
    num_bytes = sum((text / f"wiki.{split}.tokens").stat().st_size for split in splits)
    mine, theirs = bench.work / "wikitext-2", bench.work / "wikitext-2-peer"

    def ours() -> Measured:
        shutil.rmtree(mine, ignore_errors=True)
        done = bench.run_ours("preprocess", "-m", "fairseq_cli.preprocess", *words, "--destdir", mine)
        return timed_run(done, note=compare_files(mine, theirs))

    def peer() -> Measured:
        shutil.rmtree(theirs, ignore_errors=True)
        done = bench.run_peer("preprocess", "fairseq-preprocess", *words, "--destdir", theirs)
        return timed_run(done, note=compare_files(mine, theirs))

    return Row(
        "preprocess",
        "preprocess WikiText-2",
        ours,
        read_floor(num_bytes),
        peer if bench.peer else None,
        (num_bytes / 1e6, "MB"),
        scales="python",
    )


def unpack(source: Path, target: Path) -> None:
    """Writes an xz file's contents, once."""
    if not target.exists():
        with lzma.open(source) as packed, target.with_suffix(".part").open("wb") as file:
            shutil.copyfileobj(packed, file)
        target.with_suffix(".part").rename(target)


def compare_files(mine: Path, theirs: Path) -> str:
    """Returns whether two data directories hold the same bytes."""
    if not theirs.is_dir():
        return "nothing of the peer's to compare with"
    names = ["dict.txt", *(f"{split}.{end}" for split in ("train", "valid", "test") for end in ("bin", "idx"))]
    apart = [name for name in names if (mine / name).read_bytes() != (theirs / name).read_bytes()]
    return f"DIFFER: {', '.join(apart)}" if apart else f"{len(names)} files byte-identical"
