"""Which vector of a Hugging Face model makes the best key: perplexity with neighbours, for each ``--knn-keytype``.

    python benchmarks/key_types.py DATA --path MODEL [--rows 8000] [--types ffn_input,attention_input,…]

DATA is what ``fairseq-preprocess --tokenizer MODEL`` wrote, with train and valid. For each type: a datastore of the
first rows of train, an exact index (Flat), one search for valid, and a sweep over k, T and λ on it. The figures are the
best on the text that they were chosen on: they compare types with each other.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from runs import run

TYPES = "attention_input,residual,ffn_input,block_output,final_norm,ffn_input:15"
COMMAND = (sys.executable, "-m", "fairseq_cli.eval_lm")


def checked(*words: object) -> float:
    """Runs a command and returns its seconds; ends the program where it fails."""
    done = run([str(word) for word in words])
    if done.code:
        sys.exit(f"{' '.join(done.command)}\n{done.text[-2000:]}")
    return done.wall_s


def figures(args: argparse.Namespace, key_type: str, work: Path) -> tuple[float, float, float, str]:
    """Returns perplexity alone and with neighbours, the seconds of all, and the best setting."""
    evaluate = [*COMMAND, args.data, "--path", args.path, "--sample-break-mode", "document", "--max-tokens", "2048"]
    evaluate += ["--tokens-per-sample", str(args.window), "--context-window", str(args.context)]
    store = ["--dstore-mmap", work / "dstore", "--dstore-size", args.rows]
    write = [*evaluate, "--gen-subset", "train", "--save-knnlm-dstore", *store, "--knn-keytype", key_type]
    seconds = checked(*write)
    index = work / "knn.index"
    build = [sys.executable, "-m", "build_dstore", "--dstore-mmap", work / "dstore", "--faiss-index", index]
    seconds += checked(*build, "--index-spec", "Flat")
    found = ["--knnlm", "--dstore-filename", work / "dstore", "--indexfile", index, "--k", 1024, "--knn-temp", "auto"]
    kept = work / "retrieval"
    seconds += checked(*evaluate, "--gen-subset", "valid", *found, "--lmbda", 0.25, "--save-retrieval", kept)
    seconds += checked(sys.executable, "-m", "fairseq_cli.knnlm", "sweep", kept)
    record = json.loads((kept / "sweep" / "sweep.json").read_text())
    result, best = record["chosen_on"]["result"], record["best"]
    setting = f"{best['flags']} = {best['knn_temp_in_units']:g} of the median distance"
    return result["lm_ppl"], result["ppl"], seconds, setting


def main() -> None:
    """Prints one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--path", required=True)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--context", type=int, default=256)
    args = parser.parse_args()
    print(f"{'key':<18} {'alone':>8} {'with neighbours':>16} {'seconds':>8}  best setting")
    for key_type in args.types.split(","):
        with tempfile.TemporaryDirectory() as work:
            alone, mixed, seconds, setting = figures(args, key_type, Path(work))
        print(f"{key_type:<18} {alone:8.2f} {mixed:16.2f} {seconds:8.0f}  {setting}", flush=True)


if __name__ == "__main__":
    main()
