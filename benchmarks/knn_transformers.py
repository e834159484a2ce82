"""Beside knn-transformers: the same model, texts, datastore and index, by its own program and by ours.

    git clone https://github.com/neulab/knn-transformers
    python benchmarks/knn_transformers.py knn-transformers --model DIR --train train.txt --valid valid.txt

Its files are copied, and two arguments that transformers 5 no longer knows are taken out of the copy. Both programs cut
the text into blocks that see nothing of each other (its --stride = --block_size). The validation text is cut to whole
blocks: what fills none is left out there, but scored here. Its loss is divided by one target too many for each block;
the table has the perplexity with the right number as well.
"""

import argparse
import json
import math
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runs import Run, run

OUTDATED = re.compile(r"^ *(use_auth_token=.*|tokenizer=tokenizer),\n", re.MULTILINE)
PEER_ENV = {
    "PYTHONPATH": "",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "WANDB_DISABLED": "true",
    "TOKENIZERS_PARALLELISM": "false",
}
CUTS_TRIED = 8
QUIET = ("--log-format", "none", "--cpu")


@dataclass(frozen=True)
class Setup:
    """What both programs are given.

    Attributes:
        args: of the command line.
        work: directory for all files.
    """

    args: argparse.Namespace
    work: Path

    @property
    def block(self) -> int:
        """Tokens in a block."""
        return int(self.args.block)

    @property
    def store(self) -> Path:
        """Prefix of the peer's datastore."""
        found = sorted(self.work.glob("peer/dstore_*_keys.npy"))
        return Path(str(found[0]).removesuffix("_keys.npy"))

    @property
    def rows(self) -> int:
        """Rows of the peer's datastore, as its name has them."""
        return int(self.store.name.split("_")[-2])

    @property
    def index(self) -> Path:
        """The peer's index."""
        return self.store.with_name(self.store.name.replace("dstore", "index", 1) + ".indexed")

    def peer(self, *words: object) -> Run:
        """Runs the peer's program."""
        args, program = self.args, self.work / "program"
        texts = ["--train_file", self.work / "train.txt", "--validation_file", self.work / "valid.txt"]
        places = ["--output_dir", self.work / "peer_out", "--dstore_dir", self.work / "peer", "--report_to", "none"]
        blocks = ["--block_size", self.block, "--stride", self.block, "--per_device_eval_batch_size", args.batch]
        command = [sys.executable, "run_clm.py", "--use_cpu", "--model_name_or_path", args.model, *texts, *places]
        return checked(run([str(word) for word in [*command, *blocks, *words]], env=PEER_ENV, cwd=program))

    def ours(self, prog: str, *words: object) -> Run:
        """Runs a command of ours."""
        module = {"fairseq-preprocess": "preprocess", "fairseq-eval-lm": "eval_lm", "fairseq-knnlm": "knnlm"}[prog]
        return checked(run([sys.executable, "-m", f"fairseq_cli.{module}", *(str(word) for word in words)]))

    def evaluate(self, name: str, split: str, *words: object) -> tuple[Run, dict[str, float]]:
        """Runs an evaluation of ours; returns the run and what its results say."""
        results = self.work / f"{name}.json"
        blocks = ["--sample-break-mode", "isolated", "--tokens-per-sample", self.block, "--batch-size", self.args.batch]
        more = ["--path", self.args.model, "--gen-subset", split, *blocks, *QUIET, "--results-path", results, *words]
        done = self.ours("fairseq-eval-lm", self.work / "data", *more)
        return done, json.loads(results.read_text()) if results.exists() else {}


def checked(done: Run) -> Run:
    """Returns a run that came to its end."""
    if done.code:
        raise SystemExit(f"{' '.join(done.command)}\n{done.text[-3000:]}\nexit code {done.code}")
    return done


def prepare(setup: Setup, peer: Path) -> None:
    """Copies the peer's program, and writes the texts for both: lines for it, JSONL for us."""
    program = setup.work / "program"
    program.mkdir()
    for path in peer.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        (program / path.name).write_text(OUTDATED.sub("", text), encoding="utf-8")
    shutil.copyfile(setup.args.train, setup.work / "train.txt")
    lines = whole_blocks(Path(setup.args.model), Path(setup.args.valid), setup.block, setup.args.tokens)
    (setup.work / "valid.txt").write_text("".join(lines), encoding="utf-8")
    for split in ("train", "valid"):
        texts = (setup.work / f"{split}.txt").read_text(encoding="utf-8").splitlines(keepends=True)
        (setup.work / f"{split}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def whole_blocks(model: Path, valid: Path, block: int, most: int) -> list[str]:
    """Returns the first lines of a text, the last one cut, that have a whole number of blocks of tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    lines, counts = valid.read_text(encoding="utf-8").splitlines(keepends=True), [0]
    for line in lines:
        counts.append(counts[-1] + len(tokenizer.encode(line).ids))
    for wanted in range(min(counts[-1], most) // block * block, 0, -block):
        number = next(n for n, count in enumerate(counts) if count >= wanted) - 1
        line, rest = lines[number], wanted - counts[number]
        # Where a token ends; a cut within a word can make others of what stands before it.
        for _, end in tokenizer.encode(line).offsets[rest - 1 : rest + CUTS_TRIED]:
            if len(tokenizer.encode(line[:end]).ids) == rest:
                return [*lines[:number], line[:end]]
    raise SystemExit(f"{valid} has no {block} tokens; give a longer text, or a smaller --block")


def printed(done: Run, name: str) -> float:
    """Returns a figure of those that the peer prints at the end."""
    found = re.findall(rf"^\s*{name}\s*=\s*([\d.]+)", done.text, re.MULTILINE)
    return float(found[-1])


def table(setup: Setup) -> list[str]:
    """Runs everything, and returns the lines of the table."""
    args, block = setup.args, setup.block
    neighbours = ["--k", args.k, "--lmbda", args.lmbda, "--probe", args.probe]
    save = setup.peer("--do_eval", "--eval_subset", "train", "--save_knnlm_dstore")
    width = int(setup.store.name.split("_")[-1])
    codes = ["--ncentroids", args.lists, "--code_size", args.code_size or width // 4, "--probe", args.probe]
    build = setup.peer("--dstore_size", setup.rows, "--build_index", *codes)
    alone = setup.peer("--do_eval", "--eval_subset", "validation")
    knn = setup.peer(
        *(
            "--do_eval",
            "--eval_subset",
            "validation",
            "--knn",
            "--dstore_size",
            setup.rows,
            "--knn_temp",
            args.knn_temp,
        ),
        *neighbours,
    )
    texts = ["--trainpref", setup.work / "train.jsonl", "--validpref", setup.work / "valid.jsonl"]
    setup.ours(
        "fairseq-preprocess", "--only-source", "--tokenizer", args.model, *texts, "--destdir", setup.work / "data"
    )
    own_save, _ = setup.evaluate(
        "dump", "train", "--save-knnlm-dstore", "--dstore-fp16", "--dstore-mmap", setup.work / "own"
    )
    words = ["--dstore-mmap", setup.work / "adopted", "--data", setup.work / "data", "--path", args.model, *QUIET]
    adopt = setup.ours("fairseq-knnlm", "adopt", setup.store, *words)
    own_alone, alone_found = setup.evaluate("alone", "valid")
    files = ["--knnlm", "--dstore-filename", setup.work / "adopted", "--indexfile", setup.index, *neighbours]
    files += ["--knn-temp", args.knn_temp]
    own_knn, found = setup.evaluate("knn", "valid", *files, "--knn-sim-func", "do_not_recomp_l2")
    own_exact, exact_found = setup.evaluate("exact", "valid", *files)
    right = block / (block - 1)
    rows = [
        ("write the datastore", save, own_save, "", "", ""),
        ("build the index", build, None, "", "", ""),
        ("adopt the datastore", None, adopt, "", "", ""),
        ("evaluate the model alone", alone, own_alone, *_figures(alone, right, alone_found)),
        ("… with neighbours, the index's distances", knn, own_knn, *_figures(knn, right, found)),
        ("… exact distances", None, own_exact, "", "", f"{exact_found['ppl']:.2f}"),
    ]
    heads = ("step", "theirs, s", "GiB", "ours, s", "GiB", "their perplexity", "with their targets counted", "ours")
    lines = [" | ".join(heads), " | ".join(["---", *["---:"] * 7])]
    for name, theirs, ours, *figures in rows:
        cells = [name]
        for done in (theirs, ours):
            cells += [f"{done.wall_s:.1f}", f"{done.peak_rss_gib:.2f}"] if done else ["", ""]
        lines.append(" | ".join([*cells, *figures]))
    what = f"{setup.rows} rows of {width}, {int(found['targets'])} targets, k {args.k}, λ {args.lmbda}"
    return [
        f"{what}, T {args.knn_temp}, {num_lists(setup.index)} lists, {args.probe} visited",
        "",
        *(f"| {x} |" for x in lines),
    ]


def num_lists(path: Path) -> int:
    """Returns how many lists the peer's index has, whatever --ncentroids said."""
    import faiss

    return int(faiss.read_index(str(path)).nlist)


def _figures(done: Run, right: float, found: dict[str, float]) -> tuple[str, str, str]:
    """Returns the peer's perplexity, the same by the right number of targets, and ours."""
    loss = math.log(printed(done, "perplexity"))
    return f"{math.exp(loss):.2f}", f"{math.exp(loss * right):.2f}", f"{found['ppl']:.2f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("peer", type=Path, help="directory of a checkout of knn-transformers")
    parser.add_argument("--model", required=True, type=Path, help="directory of a Hugging Face model")
    parser.add_argument("--train", required=True, type=Path, help="text file of the datastore")
    parser.add_argument("--valid", required=True, type=Path, help="text file to evaluate")
    parser.add_argument("--tokens", type=int, default=1 << 16, help="most tokens to evaluate (default: %(default)s)")
    parser.add_argument("--block", type=int, default=1024, help="tokens in a block (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="blocks in a batch (default: %(default)s)")
    parser.add_argument("--k", type=int, default=64, help="neighbours (default: %(default)s)")
    parser.add_argument("--lmbda", type=float, default=0.25, help="their weight (default: %(default)s)")
    parser.add_argument("--knn-temp", type=float, default=1.0, help="T (default: %(default)s)")
    parser.add_argument("--lists", type=int, default=64, help="lists of the index (default: %(default)s)")
    parser.add_argument("--code-size", type=int, help="bytes of a code (default: a quarter of the width)")
    parser.add_argument("--probe", type=int, default=8, help="lists that are visited (default: %(default)s)")
    parser.add_argument("--work", type=Path, help="keep all files in this new directory")
    args = parser.parse_args(argv)
    for name in ("peer", "model", "train", "valid"):
        setattr(args, name, getattr(args, name).absolute())
    with tempfile.TemporaryDirectory() as name:
        work = (args.work or Path(name) / "work").absolute()
        work.mkdir(parents=True)
        setup = Setup(args, work)
        prepare(setup, args.peer)
        print("\n".join(table(setup)))


if __name__ == "__main__":
    main()
