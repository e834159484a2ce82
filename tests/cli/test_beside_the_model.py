"""What an evaluation prints beside the mixture: the model alone, what was found, and what to do where it harms."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq.config.flags import Flags
from fairseq.evaluate.config import EvalConfig
from fairseq.knn.config import KNNConfig
from fairseq_cli.shared.eval_settings import EvalSettings
from knnlm import KNN_Dstore
from tests.builders.cases import Artefacts
from tests.builders.tiny_lm import Command, Outcome

K = 300  # more than most of the four lists have
MODEL = r"The model alone: (\d+\.\d{4}) bits a token, perplexity (\d+\.\d\d)"
FOUND = r"Neighbours: (\d+\.\d) of k = (\d+) found \((\d+\.\d)% of the places are empty\); the nearest has (\d+\.\d)%"


@pytest.fixture
def evaluate(command: Command, artefacts: Artefacts, tmp_path: Path) -> Any:
    """Returns ``evaluate(*flags)``: an evaluation with neighbours of one list, and its JSON."""

    def call(*words: object) -> tuple[Outcome, dict[str, Any]]:
        flags = [artefacts.data, "--path", artefacts.checkpoint, "--cpu", "--context-window", 8, "--gen-subset", "test"]
        knn = ["--knnlm", "--dstore-filename", artefacts.store, "--indexfile", artefacts.index, "--probe", 1, "--k", K]
        results = ["--results-path", tmp_path / "r.json", "--overwrite"]
        outcome = command("fairseq-eval-lm", *flags, *knn, *results, *words)
        assert outcome.code == 0, outcome.err
        return outcome, json.loads((tmp_path / "r.json").read_text())

    return call


def naive(directory: Path, temperature: float) -> tuple[float, float, float]:
    """Returns the model's bits a token, the mean number of neighbours, and the nearest's mean share, by loops."""
    lm, ids, near = (np.load(directory / f"{name}.npy") for name in ("lm_log_prob", "ids", "distances"))
    found, shares = [], []
    for ids_K, near_K in zip(ids, near, strict=True):
        own = [float(d) for d, row in zip(near_K, ids_K, strict=True) if row >= 0]
        found.append(len(own))
        if own:
            shares.append(1 / sum(np.exp(-(d - min(own)) / temperature) for d in own))
    return -lm.sum() / len(lm) / np.log(2), float(np.mean(found)), float(np.mean(shares))


def check(outcome: Outcome, record: dict[str, Any], expected: tuple[float, float, float], k: int = K) -> None:
    loss, found, share = expected
    assert record["lm"] == {"loss_base2": pytest.approx(loss, abs=1e-6), "ppl": pytest.approx(2**loss, rel=1e-6)}
    said = {"k": k, "found_mean": found, "empty_share": 1 - found / k, "nearest_share": share}
    assert record["neighbours"] == pytest.approx(said, abs=1e-6)
    lines = outcome.out.splitlines()
    assert lines[0].startswith("Evaluated ") and lines[1].startswith("Loss (base 2): ")
    # What reads the two lines of old finds them alone.
    assert [len(re.findall(words, outcome.out)) for words in ("Evaluated", r"Loss \(base 2\)", "Perplexity")] == [1] * 3
    assert [float(x) for x in re.findall(MODEL, lines[2])[0]] == pytest.approx([loss, 2**loss], abs=0.006)
    printed = [float(x) for x in re.findall(FOUND, lines[3])[0]]
    assert printed == pytest.approx([found, k, 100 * (1 - found / k), 100 * share], abs=0.06)


def test_a_run_says_what_its_retrieval_holds(evaluate: Any, tmp_path: Path) -> None:
    """The same whether neighbours are kept or not, with a cache, and in two datastores, one of which is a copy."""
    flags = ("--lmbda", 0.25, "--knn-temp", 3)
    saved = evaluate(*flags, "--save-retrieval", tmp_path / "saved")
    expected = naive(tmp_path / "saved", 3.0)
    assert 0.05 < 1 - expected[1] / K < 0.9
    check(*saved, expected)
    kept = json.loads((tmp_path / "saved" / "results.json").read_text())["sections"]["evaluation"]
    assert (kept["lm"], kept["neighbours"]) == (saved[1]["lm"], saved[1]["neighbours"])
    check(*evaluate(*flags), expected)
    check(*evaluate(*flags, "--cache-size", 5, "--cache-lmbda", 0.1), expected)


def test_two_datastores_and_a_weight_of_each_tokens_own(
    evaluate: Any, command: Command, artefacts: Artefacts, tmp_path: Path
) -> None:
    valid = ["--gen-subset", "valid", "--context-window", 8, "--save-knnlm-dstore", "--dstore-mmap", tmp_path / "v"]
    assert command("fairseq-eval-lm", artefacts.data, "--path", artefacts.checkpoint, "--cpu", *valid).code == 0
    build = ["--dstore-mmap", tmp_path / "v", "--faiss-index", tmp_path / "v.index", "--index-spec", "IVF4,Flat"]
    assert command("build_dstore.py", *build).code == 0
    stores = ["--dstore-filename", f"{artefacts.store}:{tmp_path}/v"]
    stores += ["--indexfile", f"{artefacts.index}:{tmp_path}/v.index"]
    saved = evaluate(*stores, "--lmbda", 0.25, "--save-retrieval", tmp_path / "saved")
    expected = naive(tmp_path / "saved", 1.0)
    check(*saved, expected)
    check(*evaluate(*stores, "--lmbda", 0.25), expected)
    model = {
        "kind": "lmbda-model",
        "version": 1,
        "weights": {"kind": "fixed", "weight": 0.25},
        "skip": json.loads(_no_skip()),
        "k": K,
        "knn_temp": 1.0,
        "fitted_for": {},
        "held_out": {},
    }
    (tmp_path / "m.json").write_text(json.dumps(model))
    outcome, record = evaluate(*stores, "--lmbda-model", tmp_path / "m.json")
    check(outcome, record, expected)
    assert record["searches"] == record["targets"]


def _no_skip() -> str:
    """Returns a skip of no search: a network of one layer that says 0."""
    network = {
        "features": ["lm_max_log_prob", "lm_entropy", "log_count"],
        "mean": [0.0] * 3,
        "scale": [1.0] * 3,
        "members": [[{"weight": [[0.0] * 3], "bias": [0.0]}]],
    }
    return json.dumps({"network": network, "thresholds": [0.0] * 101})


def test_neighbours_that_harm_are_said_with_what_to_do(evaluate: Any) -> None:
    """One neighbour of a list has most of the weight; λ = 1e-9 changes no printed digit."""
    outcome, record = evaluate("--lmbda", 0.999, "--k", 1)
    assert record["loss_base2"] > record["lm"]["loss_base2"] + 0.1
    (line,) = [w for w in outcome.warnings if "worse than" in w]
    numbers = f"perplexity {record['ppl']:.2f} instead of {record['lm']['ppl']:.2f}"
    assert line.startswith(f"the mixture is worse than the model alone: {numbers}; choose λ and T on the valid split")
    assert "--save-retrieval DIR, then fairseq-knnlm sweep DIR" in line and "--knn-temp auto" in line
    infinite, record = evaluate("--lmbda", 1, "--k", 1, "--knn-temp", 10)
    assert record["loss_base2"] == float("inf")
    (line,) = [w for w in infinite.warnings if "worse than" in w]
    assert "perplexity inf instead of" in line and "auto" not in line
    (line,) = [w for w in evaluate("--lmbda", 0.999, "--k", 1, "--cache-size", 5)[0].warnings if "worse than" in w]
    (line,) = [w for w in evaluate("--lmbda", 1, "--k", 1, "--knn-sim-func", "dot")[0].warnings if "worse than" in w]
    assert "auto" not in line, "it is refused for inner products"
    for words, least in ((("--lmbda", 1e-9), 0), (("--lmbda", 0.25), 0.1)):
        outcome, record = evaluate(*words)
        assert least <= record["lm"]["loss_base2"] - record["loss_base2"], words
        assert not [w for w in outcome.warnings if "worse than" in w], words


def test_a_temperature_that_was_not_given_is_named_where_little_is_gained(evaluate: Any) -> None:
    def hints(*words: object) -> list[str]:
        return [line for line in evaluate("--lmbda", 1e-9, *words)[0].log if "--knn-temp was not given" in line]

    (line,) = hints()
    share = evaluate("--lmbda", 1e-9)[1]["neighbours"]["nearest_share"]
    assert "is 1: perplexity is 0.0% below" in line and f"has {share:.1%} of p_kNN; try --knn-temp auto" in line
    for words in (("--knn-temp", 1), ("--knn-temp", "auto"), ("--knn-sim-func", "dot"), ("--k", 4)):
        assert hints(*words) == [], words


def test_a_temperature_that_was_not_given_is_named_where_the_nearest_has_most_of_the_vote() -> None:
    flags = {"path": "m.pt", "knnlm": True, "dstore_filename": "d", "indexfile": "i", "lmbda": 0.25}
    settings = EvalSettings(Flags(flags, (EvalConfig, KNNConfig)))
    assert "the nearest neighbour has 51.0% of p_kNN" in settings.about_temperature(0.1, 0.51)
    assert settings.about_temperature(0.1, 0.49) == ""


def test_many_empty_places_are_said_with_numbers(evaluate: Any) -> None:
    (line,) = [w for w in evaluate("--lmbda", 0.25)[0].warnings if "empty" in w]
    assert "a search visits 1 of 4 lists" in line and re.search(r"give --probe [34], or", line)
    assert not [w for w in evaluate("--lmbda", 0.25, "--probe", 4)[0].warnings if "empty" in w]


def test_without_neighbours_nothing_stands_beside(command: Command, artefacts: Artefacts) -> None:
    flags = [artefacts.data, "--path", artefacts.checkpoint, "--cpu", "--log-format", "none"]
    assert len(command("fairseq-eval-lm", *flags).out.splitlines()) == 2
    cache = command("fairseq-eval-lm", *flags, "--cache-size", 1, "--cache-lmbda", 0.99, "--cache-theta", 0)
    assert len(cache.out.splitlines()) == 3 and re.search(MODEL, cache.out)
    assert any("worse than the model alone" in w and "lower --cache-lmbda" in w for w in cache.warnings)


def test_k_beyond_the_rows_is_all_rows_and_said_once(
    evaluate: Any, artefacts: Artefacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million places of no neighbour would take minutes; the search is asked for no more than there is."""
    rows, asked = json.loads(Path(f"{artefacts.store}.json").read_text())["rows"], []
    found = KNN_Dstore.found

    def counted(self: KNN_Dstore, queries_ND: Any, k: int) -> Any:
        asked.append(k)
        return found(self, queries_ND, k)

    monkeypatch.setattr(KNN_Dstore, "found", counted)
    flags = ("--lmbda", 0.25, "--probe", 4)
    all_rows, record = evaluate(*flags, "--k", rows)
    assert not all_rows.warnings and record["neighbours"]["found_mean"] == rows
    for more in ((), ("--rerank", 1 << 20), ("--save-retrieval", tmp_path / "r")):
        outcome, beyond = evaluate(*flags, "--k", 1 << 20, *more)
        assert beyond["loss_base2"] == record["loss_base2"] and beyond["neighbours"] == record["neighbours"]
        (line,) = outcome.warnings
        assert line == f"--k {1 << 20} is more than the {rows} rows of {artefacts.store}, and counts as --k {rows}"
    assert max(asked) == rows
    assert np.load(tmp_path / "r" / "ids.npy").shape[1] == rows
