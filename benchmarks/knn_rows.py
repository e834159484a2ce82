"""Rows with a datastore: writing it, indexing it, and evaluating with 1,024 neighbours.

Nothing alive does this work of the original, so its recorded seconds are corrected. With neighbours there are living
parts as well: the peer's evaluation, then the search by FAISS, NumPy and torch alone (``plain.py``) of a sample of the
queries. Ours are what the command prints ("… keys in … s", "Evaluated … in … s"), and those of the whole process for
writing the datastore, as recorded.
"""

import json
import shlex
from pathlib import Path

import numpy as np
from bench import (
    DUMP_WINDOW,
    EVAL_WINDOW,
    EVALUATE,
    GOLDEN_MODEL,
    KNN_BITS,
    ROOT,
    ROW,
    Bench,
    Measured,
    Row,
    evaluated,
    number,
    peer_evaluation,
    remove,
    slug,
    timed_run,
    with_exact_loss,
)
from floors import Floor, dump_floor, evaluate_floor, index_floor, neighbours_floor

LISTS, CODE_BYTES, PROBE, K = 2336, 32, 32, 1024
INDEX = shlex.split("--dimension 256 --ncentroids 2336 --code_size 32")
OWN_DISTANCES = shlex.split("--no-load-keys --knn-sim-func do_not_recomp_l2")
DUMP = shlex.split(
    "--gen-subset train --sample-break-mode none --context-window 128 --max-tokens 896 --save-knnlm-dstore"
    " --dstore-size 340968"
)


def dump_row(bench: Bench, *, bf16: bool) -> Row:
    """Returns writing the datastore of the train split."""
    name = "dump-bf16" if bf16 else "dump"
    store = bench.work / "dstore-bf16" if bf16 else bench.store
    golden = bench.expected()

    def ours() -> Measured:
        remove(bench.work, f"{store.name}*")
        extra = ["--bf16"] if bf16 else []
        done = bench.run_ours(
            name,
            "-m",
            "fairseq_cli.eval_lm",
            bench.data,
            "--path",
            bench.checkpoint,
            *DUMP,
            "--dstore-mmap",
            store,
            *extra,
        )
        return timed_run(done, note=_compare_keys(bench.golden, store))

    return Row(
        name,
        "write datastore, 340,968 × 256" + (", --bf16" if bf16 else ""),
        ours,
        dump_floor(GOLDEN_MODEL, ROW, ROW - DUMP_WINDOW, golden["dump"]["rows"]),
        units=(golden["dump"]["rows"], "rows"),
        recorded_s=golden["speed_of_the_original"]["dump_wall_s"],
        bf16=bf16,
    )


def _compare_keys(golden: Path, store: Path) -> str:
    sample = np.load(golden / "dstore_sample.npz")
    keys_ND = np.memmap(f"{store}_keys.npy", np.float32, "r").reshape(-1, GOLDEN_MODEL.width)
    apart = float(np.abs(keys_ND[sample["rows"]] - sample["keys"]).max())
    values = np.fromfile(f"{store}_vals.npy", np.int64)
    same = np.array_equal(values, np.load(golden / "dstore_vals_all.npy"))
    return f"keys within {apart:.1e} of the original's (1e-4 in float32), values {'equal' if same else 'DIFFER'}"


def index_row(bench: Bench, spec: str | None) -> Row:
    """Returns building an index of the datastore: the original's by flags, or a factory string."""
    rows, width = bench.expected()["index"]["ntotal"], GOLDEN_MODEL.width
    flags = ["--index-spec", spec] if spec else INDEX
    speeds = bench.expected()["speed_of_the_original"]
    index = bench.work / f"{slug(spec)}.index"

    def ours() -> Measured:
        need_store(bench)
        remove(bench.work, f"{index.name}*")
        done = bench.run_ours(
            f"index-{slug(spec)}",
            ROOT / "build_dstore.py",
            "--dstore_mmap",
            bench.store,
            "--faiss_index",
            index,
            *flags,
        )
        seconds = number(r"keys in ([\d.]+)s", done.text)
        return timed_run(done, seconds, note=f"{index.stat().st_size / rows:.1f} bytes a key")

    return Row(
        f"index:{spec}" if spec else "index",
        f"index {spec or 'IVF2336,PQ32'}",
        ours,
        index_floor(rows, width, LISTS, CODE_BYTES) if not spec else Floor(disk_read_bytes=rows * width * 4),
        units=(rows, "keys"),
        recorded_s=speeds["index_train_s"] + speeds["index_add_s"],
    )


def knn_row(bench: Bench, *, exact: bool, spec: str | None = "golden") -> Row:
    """Returns evaluation with 1,024 neighbours, by the original's index or one that an index row has built."""
    golden = bench.expected()["knn"][3 if exact else 2]
    kind = "exact" if exact else "own"
    name = f"knn-{kind}" if spec == "golden" else f"knn-{kind}:{spec or 'default'}"
    index = bench.golden / "knn.index" if spec == "golden" else bench.work / f"{slug(spec)}.index"
    results = bench.work / f"{slug(name)}.json"
    own = [] if exact else OWN_DISTANCES
    speed = bench.expected()["speed_of_the_original"][
        f"knn_k1024_{'recompute' if exact else 'no_recompute'}_tokens_per_s"
    ]
    rows, targets = bench.expected()["index"]["ntotal"], bench.expected()["eval"][0]["targets"]

    def peer() -> Measured:
        need_store(bench)
        need_queries(bench)
        model = peer_evaluation(bench, slug(name))
        words = [
            bench.store,
            index,
            bench.queries,
            *f"--k {K} --probe {PROBE}".split(),
            *(["--exact"] if exact else []),
        ]
        done = bench.run_ours(f"plain-{kind}", ROOT / "benchmarks" / "plain.py", *words)
        search = json.loads(done.last_line)["seconds"]
        return Measured(
            model.seconds + search,
            model.wall_s + done.wall_s,
            max(model.peak_rss_gib, done.peak_rss_gib),
            max(model.others, done.others),
            note=f"the model {model.seconds:.1f} s, neighbours {search:.1f} s",
        )

    def ours() -> Measured:
        need_store(bench)
        neighbours = ["--knnlm", "--dstore-filename", bench.store, "--indexfile", index, *own]
        neighbours += f"--k {K} --lmbda 0.25 --probe {PROBE}".split()
        words = [bench.data, "--path", bench.checkpoint, *EVALUATE, *neighbours]
        words += ["--results-path", results, "--overwrite"]
        done = bench.run_ours(slug(name), "-m", "fairseq_cli.eval_lm", *words)
        return with_exact_loss(evaluated(done), results)

    language_model = evaluate_floor(GOLDEN_MODEL, ROW, ROW - EVAL_WINDOW, bench.band_counts("valid"))
    return Row(
        name,
        f"kNN k=1024, {'distances recomputed' if exact else 'the index’s own distances'}, {spec or 'our IVF2336,PQ32'}",
        ours,
        language_model + neighbours_floor(targets, K, GOLDEN_MODEL.width, rows, LISTS, PROBE, CODE_BYTES, exact=exact),
        peer if bench.peer else None,
        peer_name="peer and FAISS",
        units=(targets, "tokens"),
        recorded_s=targets / speed,
        scales="gather" if exact else "faiss",
        parts=_parts(bench, exact=exact),
        expected=golden["loss_base2"],
        tolerance=KNN_BITS,
    )


def _parts(bench: Bench, *, exact: bool) -> tuple[tuple[float, str], ...]:
    """Returns the original's seconds by what they went to: the model, then the search, then reading keys."""
    speeds, targets = bench.expected()["speed_of_the_original"], bench.expected()["eval"][0]["targets"]
    model = targets / speeds["eval_tokens_per_s"]
    own = targets / speeds["knn_k1024_no_recompute_tokens_per_s"]
    everything = targets / speeds["knn_k1024_recompute_tokens_per_s"]
    found = ((model, "gemm"), (own - model, "faiss"))
    return (*found, (everything - own, "gather")) if exact else found


def need_store(bench: Bench) -> None:
    """Writes the datastore, unmeasured, if no dump row has."""
    if not Path(f"{bench.store}.json").exists():
        dump_row(bench, bf16=False).ours()


def need_queries(bench: Bench) -> None:
    """Writes the datastore of the valid split, unmeasured, whose keys are the queries of an evaluation of it."""
    if not Path(f"{bench.queries}.json").exists():
        bench.run_ours(
            "queries",
            "-m",
            "fairseq_cli.eval_lm",
            bench.data,
            "--path",
            bench.checkpoint,
            *EVALUATE,
            "--save-knnlm-dstore",
            "--dstore-mmap",
            bench.queries,
        )
