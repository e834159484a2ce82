"""``fairseq-eval-lm --save-retrieval``: what it keeps is what separate runs compute, whatever the batches."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fairseq.knn.datastore.row_map import first_position
from fairseq_cli.shared.run import run
from tests.builders.tiny_lm import Command, Outcome, main_of
from tests.oracles.knn import knn_probability, mixture

K = 40
CONTEXT = 6
# A float32 log-probability of about −10 is known to 1e-6, its rounding falls either way.
BITS = 1e-6
OWN = ["--knn-sim-func", "do_not_recomp_l2", "--no-load-keys"]


@pytest.fixture(scope="session")
def neighbours(data_dir: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Returns the flags of a datastore with an index that finds the nearest."""
    root = tmp_path_factory.mktemp("neighbours")
    dump = f"{data_dir} --path {checkpoint} --gen-subset train --context-window {CONTEXT} --save-knnlm-dstore"
    dump += f" --dstore-mmap {root}/dstore --log-format none --cpu"
    assert run("fairseq-eval-lm", main_of("fairseq-eval-lm"), dump.split()) == 0
    for name, spec in (("exact", "IVF8,Flat"), ("coarse", "IVF8,PQ4x4")):
        build = f"--dstore-mmap {root}/dstore --faiss-index {root}/{name} --index-spec {spec} --log-format none"
        assert run("build_dstore.py", main_of("build_dstore.py"), build.split()) == 0
    return f"--knnlm --dstore-filename {root}/dstore --indexfile {root}/exact --probe 8 --k {K}".split()


@pytest.fixture
def save(eval_lm: Command, neighbours: list[str], tmp_path: Path) -> Callable[..., Path]:
    """Returns ``save(name, *flags)``, which gives the directory."""

    def call(name: str, *words: object) -> Path:
        directory = tmp_path / name
        outcome = eval_lm(*neighbours, "--context-window", CONTEXT, "--save-retrieval", directory, *words)
        assert outcome.code == 0, outcome.err
        return directory

    return call


def columns(directory: Path) -> dict[str, np.ndarray]:
    return {file.stem: np.load(file) for file in directory.glob("*.npy")}


def loss_of(eval_lm: Command, tmp_path: Path, *words: object) -> float:
    outcome = eval_lm("--context-window", CONTEXT, "--overwrite", "--results-path", tmp_path / "r.json", *words)
    assert outcome.code == 0, outcome.err
    return float(json.loads((tmp_path / "r.json").read_text())["loss_base2"])


def test_every_token_has_its_row(save, data_dir, neighbours):
    directory = save("r", "--lmbda", 0.3)
    found, manifest = columns(directory), json.loads((directory / "manifest.json").read_text())
    tokens = np.fromfile(data_dir / "test.bin", np.uint16)
    assert np.array_equal(found["positions"], np.arange(len(tokens)))
    assert np.array_equal(found["targets"], tokens)
    assert np.array_equal(found["blocks"], np.arange(len(tokens)) // (16 - CONTEXT))
    prefix = Path(neighbours[2])
    values = np.fromfile(f"{prefix}_vals.npy", np.int64)
    hits = np.unpackbits(found["hits"], axis=1, count=K, bitorder="little")
    assert np.array_equal(hits == 1, values[found["ids"]] == found["targets"][:, None])
    assert (np.diff(found["distances"], axis=1) >= 0).all()
    assert all(len(set(row)) == K for row in found["ids"].tolist())
    store = manifest["datastore"]
    text = np.fromfile(data_dir / "train.bin", np.uint16)
    assert Path(store["data"]) == data_dir / "train" and store["rows"] == len(values)
    assert np.array_equal(text[store["first_position"] :], values)
    assert (manifest["k"], manifest["lmbda"], manifest["num_tokens"]) == (K, 0.3, len(tokens))
    assert manifest["data"] == str(data_dir / "test") and manifest["dictionary"] == str(data_dir / "dict.txt")
    searched = {"probe": 8, "rerank": None, "knn_sim_func": None, "metric": "l2", "computed_in": "float32"}
    cut = {"context_window": CONTEXT, "tokens_per_sample": 16 - CONTEXT, "sample_break_mode": "none"}
    assert manifest["settings"].items() >= {**searched, **cut}.items()


@pytest.mark.parametrize(
    ("flags", "recorded"),
    [
        (f"--probe 3 {' '.join(OWN)}", {"probe": 3, "rerank": None, "knn_sim_func": "do_not_recomp_l2"}),
        ("--probe 5 --rerank 60 --k 20", {"probe": 5, "rerank": 60, "knn_sim_func": None}),
    ],
)
def test_the_search_is_recorded_as_it_was_typed(save, flags, recorded):
    manifest = json.loads((save("r", "--knn-temp", 2.5, *flags.split()) / "manifest.json").read_text())
    assert manifest["settings"].items() >= recorded.items()
    assert (manifest["knn_temp"], manifest["k"], manifest["lmbda"]) == (2.5, 20 if "--k 20" in flags else K, 0.0)


def test_auto_is_recorded_as_the_number_that_it_came_to(save, eval_lm, neighbours, tmp_path):
    manifest = json.loads((save("r", "--knn-temp", "auto", "--lmbda", 0.3) / "manifest.json").read_text())
    keys = np.fromfile(f"{neighbours[2]}_keys.npy", np.float32).reshape(-1, 16).astype(np.float64)
    nearest = []
    for row in np.linspace(0, len(keys) - 1, 1000).astype(int):
        squares = ((keys - keys[row]) ** 2).sum(1)
        nearest.append(squares[squares > 1e-6 * (keys[row] ** 2).sum()].min())
    unit = float(f"{np.median(nearest):.3g}")
    found = {"knn_temp": pytest.approx(2 * unit, rel=5e-3), "knn_temp_asked": "auto", "distance_unit": unit}
    assert manifest.items() >= found.items()
    words = ("--context-window", CONTEXT, "--lmbda", 0.3, "--knn-temp", "auto", "--results-path", tmp_path / "a.json")
    outcome = eval_lm(*neighbours, *words)
    assert outcome.code == 0 and sum("--knn-temp auto is" in line for line in outcome.log) == 1
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["settings"].items() >= found.items()
    assert result["loss_base2"] == manifest["mixture"]["loss_base2"]
    typed = loss_of(eval_lm, tmp_path, *neighbours, "--knn-temp", manifest["knn_temp"], "--lmbda", 0.3)
    assert typed == result["loss_base2"]
    assert "distance_unit" in json.loads((save("t", "--knn-temp", 3) / "manifest.json").read_text())
    assert "--knn-temp must be a number or auto, but is 'abc'" in eval_lm(*neighbours, "--knn-temp", "abc").error


def test_separate_runs_say_the_same(save, eval_lm, neighbours, tmp_path):
    directory = save("r", "--lmbda", 0.3)
    found, manifest = columns(directory), json.loads((directory / "manifest.json").read_text())
    hits = np.unpackbits(found["hits"], axis=1, count=K, bitorder="little")
    for lmbda, k, temperature in ((0.3, K, 1.0), (0.6, 7, 10.0), (0.1, 1, 0.5), (0.0, K, 1.0)):
        total = 0.0
        for n, lm in enumerate(np.exp(found["lm_log_prob"])):
            p = knn_probability(found["distances"][n, :k], found["ids"][n, :k], hits[n, :k], 1, temperature)
            total += np.log2(mixture(lm, p, lmbda))
        flags = ("--lmbda", lmbda, "--k", k, "--knn-temp", temperature)
        assert loss_of(eval_lm, tmp_path, *neighbours, *flags) == pytest.approx(-total / len(hits), abs=BITS), flags
    assert manifest["mixture"]["loss_base2"] == loss_of(eval_lm, tmp_path, *neighbours, "--lmbda", 0.3)
    assert manifest["lm"]["loss_base2"] == loss_of(eval_lm, tmp_path)


@pytest.mark.parametrize(
    "flags",
    [
        "--max-tokens 33",
        "--context-window 0",
        "--context-window 0 --max-tokens 40",
        "--sample-break-mode complete_doc",
        "--sample-break-mode eos --context-window 0",
    ],
)
def test_rows_are_in_stream_order_whatever_the_batches(save, data_dir, flags):
    """Without a context window blocks are scored by length."""
    one = columns(save("one", *flags.split(), "--max-sentences", 1))
    many = columns(save("many", *flags.split()))
    tokens = np.fromfile(data_dir / "test.bin", np.uint16)
    assert (np.diff(many["positions"]) > 0).all() and (np.diff(many["blocks"]) >= 0).all()
    assert np.array_equal(many["targets"], tokens[many["positions"]])
    for name in ("targets", "positions", "blocks"):
        assert np.array_equal(one[name], many[name])
    for name in ("lm_log_prob", "distances"):
        assert np.allclose(one[name], many[name], rtol=1e-4, atol=1e-4)
    assert (one["ids"] == many["ids"]).mean() > 0.99


def test_a_lambda_of_0_retrieves_all_the_same(save, eval_lm, tmp_path):
    without = columns(save("0"))
    for name, array in columns(save("r", "--lmbda", 0.4)).items():
        assert np.array_equal(array, without[name]), name


@pytest.mark.pitfall(25)
def test_a_sweep_says_what_separate_runs_say(save, eval_lm, command, neighbours, tmp_path):
    """With an index whose distances are not those of p_kNN, with --rerank, as the sweep's flags have it."""
    coarse = [*neighbours, "--indexfile", neighbours[4].replace("exact", "coarse")]
    for name, words in (("exact", neighbours), ("coarse", coarse), ("own", [*coarse, *OWN])):
        directory = save(name, *words[5:])
        flags = "--lmbda 0:1:0.1 --k 1,7,40 --knn-temp 0.5,3 --no-figures --log-format none"
        outcome = command("fairseq-knnlm", "sweep", directory, *flags.split())
        assert outcome.code == 0, outcome.err
        found = json.loads((directory / "sweep" / "sweep.json").read_text())
        chosen = found["best"]["flags"].split()
        assert ("--rerank" in chosen) == (name != "own" and "40" not in chosen)
        best = loss_of(eval_lm, tmp_path, *words, *chosen)
        assert min(x for t in found["loss_base2"] for k in t for x in k if x is not None) == pytest.approx(
            best, abs=BITS
        )
        for t, j, i in ((0, 0, 3), (1, 1, 9), (1, 2, 5)):
            setting = ["--knn-temp", (0.5, 3)[t], "--k", (1, 7, 40)[j], "--lmbda", i / 10]
            again = [] if name == "own" else ["--rerank", 40]
            loss = loss_of(eval_lm, tmp_path, *words, *setting, *again)
            assert found["loss_base2"][t][j][i] == pytest.approx(loss, abs=BITS), (name, setting)


def test_rerank_takes_the_nearest_of_more(save, neighbours):
    """The index's own distances rank roughly: a run with fewer neighbours of it finds others."""
    coarse = ["--indexfile", neighbours[4].replace("exact", "coarse")]
    many, few = columns(save("many", *coarse)), columns(save("few", *coarse, "--k", 5, "--rerank", K))
    assert np.array_equal(few["distances"], many["distances"][:, :5])
    assert (few["ids"] == many["ids"][:, :5]).mean() > 0.98  # two that are equally far may change places
    assert (columns(save("rough", *coarse, "--k", 5))["distances"] > few["distances"]).mean() > 0.1


def files_of(directory):
    """What a repetition gives again: all but how long it took."""
    return {file.name: file.read_bytes() for file in directory.iterdir() if not file.name.endswith(".time.json")}


def test_the_usual_result_is_printed_and_a_finished_one_is_kept(eval_lm, neighbours, tmp_path):
    words = [*neighbours, "--lmbda", 0.3, "--context-window", CONTEXT]
    plain = eval_lm(*words).out.splitlines()[-1]
    saved = eval_lm(*words, "--save-retrieval", tmp_path / "r")
    assert saved.out.splitlines()[-1] == plain and not saved.warnings
    before = files_of(tmp_path / "r")
    refused = eval_lm(*words, "--save-retrieval", tmp_path / "r", "--k", 3)
    assert "is a finished retrieval of another command; give another directory, or --overwrite" in refused.error
    assert files_of(tmp_path / "r") == before
    again = eval_lm(*words, "--save-retrieval", tmp_path / "r")
    assert again.out.splitlines()[-1] == plain and any("is there already, of this model" in line for line in again.log)
    assert files_of(tmp_path / "r") == before
    assert eval_lm(*words, "--save-retrieval", tmp_path / "r", "--k", 3, "--overwrite").code == 0
    assert columns(tmp_path / "r")["ids"].shape[1] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--save-retrieval r", "--save-retrieval keeps neighbours, but there are none; give --knnlm"),
        ("--knnlm --path a:b --save-retrieval r", "names several checkpoints"),
        ("--knnlm --k 8 --rerank 4", "--rerank 4 must be at least --k 8"),
    ],
)
def test_what_does_not_go_together(eval_lm: Command, neighbours: list[str], words: str, message: str) -> None:
    outcome: Outcome = eval_lm(*(neighbours if "--knnlm" in words else ()), *words.split())
    assert message in outcome.error
    assert not Path("r").exists()


@pytest.mark.parametrize(
    ("window", "block", "mode", "first"),
    [
        (0, 8, "none", 0),
        (8, 8, "none", 8),
        (9, 8, "none", 16),
        (3, 8, "none", 8),
        (8, 8, "eos", None),
        (8, 0, "", None),
    ],
)
def test_where_a_datastore_begins(window, block, mode, first):
    settings = {"context_window": window, "tokens_per_sample": block, "sample_break_mode": mode}
    assert first_position(settings) == first
