"""``fairseq-knnlm fit-lmbda`` and ``fairseq-eval-lm --lmbda-model``: fitted on one text, the same on another."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fairseq.data.dictionary import Dictionary
from fairseq_cli.shared.run import run
from tests.builders.tiny_lm import Command, Outcome, main_of, token_log_probs
from tests.oracles import lmbda as naive
from tests.oracles.cache import cache_distribution
from tests.oracles.cache import mixture as cache_mixture
from tests.oracles.knn import knn_probability, mixture

K = 24
CONTEXT = 6
# ln p_kNN is a float32 in an evaluation; of thousands, the roundings fall either way.
BITS = 1e-6
PRINTED = 2e-5  # printed log-probabilities have six decimals; products are float32


@pytest.fixture(scope="session")
def fitted(data_dir: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a directory with ``dstore``, ``index``, the retrievals ``valid`` and ``test``, and ``lmbda.json``."""
    root = tmp_path_factory.mktemp("lmbda")
    lm = f"{data_dir} --path {checkpoint} --context-window {CONTEXT} --log-format none --cpu"
    evaluate, build = main_of("fairseq-eval-lm"), main_of("build_dstore.py")
    dump = f"{lm} --gen-subset train --save-knnlm-dstore --dstore-mmap {root}/dstore"
    assert run("fairseq-eval-lm", evaluate, dump.split()) == 0
    words = f"--dstore-mmap {root}/dstore --faiss-index {root}/index --index-spec IVF8,Flat --log-format none"
    assert run("build_dstore.py", build, words.split()) == 0
    for split in ("valid", "test"):
        words = f"{lm} --gen-subset {split} {' '.join(neighbours(root))} --save-retrieval {root}/{split}"
        assert run("fairseq-eval-lm", evaluate, words.split()) == 0
    words = f"fit-lmbda {root}/valid --out {root}/lmbda.json --knn-temp 5 --log-format none"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fairseq.knn.weight.fit._STEPS", 60)
        patch.setattr("fairseq.knn.weight.report.best_kind", lambda judged: "network")
        assert run("fairseq-knnlm", main_of("fairseq-knnlm"), words.split()) == 0
    return root


def neighbours(root: Path) -> list[str]:
    return f"--knnlm --dstore-filename {root}/dstore --indexfile {root}/index --probe 3 --k {K}".split()


@pytest.fixture
def fit(command: Command, fitted: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Returns ``fit(*flags)``: to the retrieval of valid."""
    monkeypatch.setattr("fairseq.knn.weight.fit._STEPS", 20)
    return lambda *words: command("fairseq-knnlm", "fit-lmbda", fitted / "valid", "--log-format", "none", *words)


@pytest.fixture
def weigh(eval_lm: Command, fitted: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """Returns ``weigh(*flags)``: test, with the fitted weight; its result is in ``r.json``."""

    def call(*words: object) -> Outcome:
        flags = (
            "--context-window",
            CONTEXT,
            "--lmbda-model",
            fitted / "lmbda.json",
            "--overwrite",
            "--results-path",
            tmp_path / "r.json",
        )
        return eval_lm(*neighbours(fitted), *flags, "--knn-temp", 5, *words)

    return call


def offline(fitted: Path, data_dir: Path, share: float) -> tuple[list[float], int]:
    """Returns the probabilities of test under the fitted weight, and how many searches are skipped: by loops."""
    record = json.loads((fitted / "lmbda.json").read_text())
    columns = {file.stem: np.load(file) for file in (fitted / "test").glob("*.npy")}
    hits = np.unpackbits(columns["hits"], axis=1, count=K, bitorder="little")
    values, counts = np.fromfile(fitted / "dstore_vals.npy", np.int64), Dictionary.load(data_dir / "dict.txt").counts
    thresholds = record["skip"]["thresholds"]
    threshold = np.interp(share, np.linspace(0, 1, len(thresholds)), thresholds) if share else -np.inf
    probabilities, skipped = [], 0
    for n, lm in enumerate(np.exp(columns["lm_log_prob"])):
        distances, ids = columns["distances"][n], columns["ids"][n]
        before = [columns["lm_max_log_prob"][n], columns["lm_entropy"][n], np.log1p(counts[columns["last_tokens"][n]])]
        weight = 0.0
        if naive.network(record["skip"]["network"], before) < threshold:
            skipped += 1
        elif ids[0] >= 0:
            after = naive.neighbour_features(distances, values[ids], 5)
            weight = naive.weight(record["weights"], [*before, *after])
        probabilities.append(mixture(lm, knn_probability(distances, ids, hits[n], 1, 5), weight))
    return probabilities, skipped


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_an_evaluation_gives_what_a_saved_retrieval_gives(weigh, fitted, data_dir, tmp_path, share) -> None:
    outcome = weigh("--skip-retrieval", share)
    assert outcome.code == 0, outcome.err
    found = json.loads((tmp_path / "r.json").read_text())
    probabilities, skipped = offline(fitted, data_dir, share if share < 1 else 1e9)
    loss = -np.log2(probabilities).mean()
    if share == 1:
        skipped = found["targets"]
        loss = -np.load(fitted / "test" / "lm_log_prob.npy").mean() / np.log(2)
    assert found["loss_base2"] == pytest.approx(loss, abs=BITS)
    assert (found["searches_skipped"], found["searches"]) == (skipped, found["targets"] - skipped)
    assert 0.3 < skipped / found["targets"] < 0.7 or share != 0.5
    assert f"Skipped {skipped} of {found['targets']} searches" in outcome.out
    assert found["inputs"]["lmbda_model_sha256"] and found["settings"]["skip_retrieval"] == share


def test_a_cache_takes_its_weight_from_both_and_leaves_the_shares_as_they_are(
    weigh, eval_lm, fitted, data_dir, tmp_path
) -> None:
    """The cache's vectors come from a datastore of test, which has every token with a full context."""
    dump = ("--gen-subset", "test", "--context-window", CONTEXT, "--save-knnlm-dstore", "--dstore-mmap", tmp_path / "d")
    assert eval_lm(*dump).code == 0
    vectors = np.fromfile(tmp_path / "d_keys.npy", np.float32).reshape(-1, 16)
    targets = np.fromfile(tmp_path / "d_vals.npy", np.int64)
    cache = ("--cache-size", 20, "--cache-theta", 0.3, "--cache-lmbda", 0.2)
    outcome = weigh("--skip-retrieval", 0.5, *cache, "--output-word-probs")
    assert outcome.code == 0, outcome.err
    found = np.exp(token_log_probs(outcome.out))
    both, skipped = offline(fitted, data_dir, 0.5)
    assert len(found) == len(both) and 0 < skipped < len(both)
    first = len(found) - len(targets)
    for t in range(20, len(targets), 3):
        cached = cache_distribution(vectors, targets, t, 20, 0.3, 40)
        expected = cache_mixture(both[first + t], 0.0, cached[targets[t]], 0.0, 0.2)
        assert found[first + t] == pytest.approx(expected, abs=PRINTED), t


@pytest.mark.parametrize("flags", ["--max-tokens 40", "--max-sentences 1"])
def test_batches_change_nothing(weigh, flags, tmp_path) -> None:
    losses = []
    for more in ((), flags.split()):
        assert weigh("--skip-retrieval", 0.3, *more).code == 0
        losses.append(json.loads((tmp_path / "r.json").read_text())["loss_base2"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)  # float32 under another padding, and tokens at the threshold


def test_what_is_known_of_a_token_is_saved(fitted, data_dir) -> None:
    columns = {file.stem: np.load(file) for file in (fitted / "test").glob("*.npy")}
    stream = np.fromfile(data_dir / "test.bin", np.uint16)
    assert columns["last_tokens"].tolist() == [2, *stream[:-1]]
    assert (columns["lm_max_log_prob"] >= columns["lm_log_prob"] - 1e-5).all()
    assert (columns["lm_max_log_prob"] <= 0).all() and (
        columns["lm_entropy"] >= -columns["lm_max_log_prob"] - 1e-5
    ).all()
    assert (columns["lm_entropy"] <= np.log(40) + 1e-5).all()


def test_targets_have_no_part_in_their_weights(fitted, data_dir, tmp_path) -> None:
    """Another target, and all that depends on it, in every row: the weights stay."""
    from fairseq.knn.retrieval.retrieval import Retrieval
    from fairseq.knn.weight.file import read_model
    from fairseq.knn.weight.tokens import open_counts, open_values, read_tokens

    shutil.copytree(fitted / "test", tmp_path / "changed")
    for name, value in (("targets", 7), ("hits", 0), ("lm_log_prob", -3.0)):
        array = np.load(tmp_path / "changed" / f"{name}.npy")
        np.save(tmp_path / "changed" / f"{name}.npy", np.full_like(array, value))
    weights = []
    for directory in (fitted / "test", tmp_path / "changed"):
        retrieval = Retrieval.open(directory)
        values_N, counts_V = (f(retrieval, None, allow_mismatch=False) for f in (open_values, open_counts))
        tokens = read_tokens(retrieval, values_N, counts_V, K, 5.0)
        model = read_model(fitted / "lmbda.json")
        weights.append(tokens.weights(model.weights))
        skipped = model.skip.skipped(tokens.features_NF[:, :3], 0.5)
        weights.append(skipped.astype(float))
    assert np.array_equal(weights[0], weights[2]) and np.array_equal(weights[1], weights[3])
    assert weights[0].std() > 0


def test_queries_with_other_targets_get_the_same_weights(fitted) -> None:
    import torch

    from fairseq.evaluate.mixture import Known, ScoredTokens
    from fairseq.knn.weight.apply import WeighedNeighbours
    from fairseq.knn.weight.file import read_model
    from knnlm import KNN_Dstore

    store = KNN_Dstore.open(fitted / "dstore", fitted / "index", k=K, probe=3, knn_temp=5.0)
    values = np.fromfile(fitted / "dstore_vals.npy", np.int64).tolist()
    (first, _), (second, _) = Counter(values).most_common(2)
    queries = torch.from_numpy(np.fromfile(fitted / "dstore_keys.npy", np.float32).reshape(-1, 16)[:30] + 0.1)
    known = Known(np.arange(30) % 5 + 4, np.linspace(-3, -0.1, 30), np.linspace(3, 0.1, 30))
    rest = {"block_idx_N": np.zeros(30, np.int64), "log_p_N": torch.zeros(30), "known": known}
    for share in (0.0, 0.5):
        weighed = WeighedNeighbours(store, read_model(fitted / "lmbda.json"), np.arange(40), share)
        one, other = (
            weighed.scores(ScoredTokens(query_ND=queries, target_N=torch.full((30,), target), **rest))
            for target in (first, second)
        )
        assert torch.equal(one.weight_N, other.weight_N)
        assert one.weight_N.count_nonzero() == 30 - weighed.num_skipped / 2
        assert share or not torch.equal(one.log_p_N, other.log_p_N)


def test_the_report_names_every_weight_and_what_skipping_costs(fit, fitted, tmp_path) -> None:
    outcome = fit("--out", tmp_path / "m.json", "--apply", fitted / "test", "--folds", 3, "--k", 10)
    assert outcome.code == 0, outcome.err
    manifest = json.loads((fitted / "valid" / "manifest.json").read_text())
    for words in ("language model", "best fixed λ (0.", "λ by nearest distance", "λ by token"):
        assert outcome.out.count(words) >= 2, words
    skipped = re.findall(r"--skip-retrieval (\S+) +skips +([\d.]+) % +[\d.]+", outcome.out)
    for rows in (skipped[:11], skipped[11:]):  # held out, and on test
        assert [share for share, _ in rows] == ["0", *(f"0.{n}" for n in range(1, 10)), "1"]
        percents = [float(percent) for _, percent in rows]
        assert percents == sorted(percents) and percents[0] == 0 and percents[-1] == 100
        assert percents[5] == pytest.approx(50, abs=20)
    assert f"language model{manifest['lm']['ppl']:26.2f}" in outcome.out
    record = json.loads((tmp_path / "m.json").read_text())
    unit, factor = manifest["distance_unit"], record["knn_temp"] / manifest["distance_unit"]
    assert record["k"] == 10 and 0.099 < factor < 10.1, "one of the multiples"
    assert (record["knn_temp_asked"], record["distance_unit"]) == ("auto", unit)
    assert record["fitted_for"]["store_id"] == manifest["identity"]["store_id"]
    held_out = record["held_out"]
    chosen = {"fixed": "fixed", "buckets": "buckets", "network": "network"}[record["weights"]["kind"]]
    assert held_out[chosen] == min(held_out[kind] for kind in ("fixed", "buckets", "network"))


def test_of_several_temperatures_the_best_on_held_out_folds_is_taken(fit, tmp_path) -> None:
    flags = ("--folds", 3, "--k", "4,24", "--knn-temp", "0.001,5,1000000")
    outcome = fit("--out", tmp_path / "m.json", *flags)
    assert outcome.code == 0, outcome.err
    lines = re.findall(r"--k (\d+) +--knn-temp (\S+) +held out, .*? +([\d.]+)\n", outcome.out)
    assert [(int(k), float(t)) for k, t, _ in lines] == [(k, t) for k in (4, 24) for t in (0.001, 5, 1e6)]
    record = json.loads((tmp_path / "m.json").read_text())
    by_setting = {(int(k), float(t)): float(ppl) for k, t, ppl in lines}
    assert by_setting[record["k"], record["knn_temp"]] == min(by_setting.values())
    assert len(set(by_setting.values())) > 1
    alone = fit("--out", tmp_path / "one.json", "--folds", 3, "--k", record["k"], "--knn-temp", record["knn_temp"])
    assert alone.code == 0, alone.err
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "m.json").read_bytes()
    assert "held out, " not in alone.out
    two = fit("--out", tmp_path / "two.json", "--folds", 2, "--k", "4,24")
    assert two.out.count("held out, ") == 2


def test_the_choice_of_a_sweep_is_what_is_fitted_and_auto_means_it(
    fitted: Path, command: Command, eval_lm: Command, tmp_path: Path
) -> None:
    shutil.copytree(fitted / "valid", tmp_path / "valid")
    flags = ("--lmbda", 0.3, "--k", 7, "--knn-temp", 3, "--no-figures")
    assert command("fairseq-knnlm", "sweep", tmp_path / "valid", *flags).code == 0
    outcome = command("fairseq-knnlm", "fit-lmbda", tmp_path / "valid", "--out", tmp_path / "m.json", "--folds", 2)
    assert outcome.code == 0, outcome.err
    assert "7 neighbours, temperature 3 (as fairseq-knnlm sweep has chosen on valid)" in outcome.out
    record = json.loads((tmp_path / "m.json").read_text())
    assert (record["k"], record["knn_temp"]) == (7, 3)
    store = ["--knnlm", "--dstore-filename", fitted / "dstore", "--indexfile", fitted / "index", "--probe", 3]
    model = ["--context-window", CONTEXT, "--lmbda-model", tmp_path / "m.json", "--results-path", tmp_path / "r.json"]
    assert eval_lm(*store, *model, "--knn-temp", "auto").code == 0
    settings = json.loads((tmp_path / "r.json").read_text())["settings"]
    assert (settings["k"], settings["knn_temp"]) == (7, 3)
    assert "leave --knn-temp out, or give 3" in eval_lm(*store, *model, "--overwrite", "--knn-temp", 2).error


def test_fitting_again_gives_the_same_bytes(fit, tmp_path) -> None:
    for name in ("a.json", "b.json"):
        assert fit("--out", tmp_path / name, "--folds", 2).code == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_k_and_temperature_that_were_chosen_need_not_be_typed(
    fit: Command, fitted: Path, eval_lm: Command, command: Command, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """As in the README: several to choose from; then the file alone, which is all that knows the choice."""
    assert fit("--out", tmp_path / "m.json", "--folds", 3, "--k", "4,16", "--knn-temp", "2,5").code == 0
    record = json.loads((tmp_path / "m.json").read_text())
    store = ["--knnlm", "--dstore-filename", fitted / "dstore", "--indexfile", fitted / "index", "--probe", 3]
    flags = ["--context-window", CONTEXT, "--lmbda-model", tmp_path / "m.json"]
    typed = ["--k", record["k"], "--knn-temp", record["knn_temp"]]
    assert record["k"] in (4, 16) and record["knn_temp"] in (2, 5), "not the defaults of the flags"
    first = eval_lm(*store, *flags, "--results-path", tmp_path / "r.json")
    assert first.code == 0, first.err
    assert not first.warnings
    assert first.out.splitlines()[1] == eval_lm(*store, *flags, *typed).out.splitlines()[1]
    settings = json.loads((tmp_path / "r.json").read_text())["settings"]
    assert (settings["k"], settings["knn_temp"]) == (record["k"], record["knn_temp"])
    assert eval_lm(*store, *flags, "--rerank", 20).code == 0, "more than the file's k, not than the flag's default"
    assert f"leave --k out, or give {record['k']}" in eval_lm(*store, *flags, "--k", 7).error
    lines = tmp_path / "lines"
    lines.write_text("w1 w2\n")
    score = [data_dir, "--path", checkpoint, "--cpu", "--input", lines, *store, "--lmbda-model", tmp_path / "m.json"]
    scored = command("fairseq-score-lm", *score)
    assert scored.code == 0, scored.err
    assert scored.out == command("fairseq-score-lm", *score, *typed).out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--lmbda 0.2", "--lmbda and --lmbda-model exclude each other"),
        ("--save-retrieval {tmp}/r", "--save-retrieval and --lmbda-model exclude each other"),
        ("--lmbda-model {tmp}/none.json", "does not exist"),
        ("--k 12", "leave --k out, or give 24"),
        ("--knn-temp 1", "leave --knn-temp out, or give 5"),
        ("--knn-sim-func dot", "fitted for knn_sim_func None, but this run has dot"),
        ("--skip-retrieval 1.5", "--skip-retrieval must be at most 1"),
        ("--lmbda-model {tmp}", "directory"),
    ],
)
def test_what_does_not_go_together_is_refused(weigh, tmp_path, flags: str, words: str) -> None:
    assert words in weigh(*flags.format(tmp=tmp_path).split()).error
    assert not (tmp_path / "r.json").exists()


def test_a_weight_without_neighbours_is_refused(eval_lm, fitted) -> None:
    assert "give --knnlm" in eval_lm("--lmbda-model", fitted / "lmbda.json").error
    assert "give --lmbda-model" in eval_lm(*neighbours(fitted), "--lmbda", 0.1, "--skip-retrieval", 0.5).error


def test_another_model_is_refused_or_allowed(weigh, fitted, tmp_path) -> None:
    record = json.loads((fitted / "lmbda.json").read_text())
    record["fitted_for"]["weights_sha256"] = "0" * 64
    (tmp_path / "m.json").write_text(json.dumps(record))
    assert "weights_sha256 000000000000" in weigh("--lmbda-model", tmp_path / "m.json").error
    outcome = weigh("--lmbda-model", tmp_path / "m.json", "--allow-mismatch")
    assert outcome.code == 0 and any("weights_sha256" in warning for warning in outcome.warnings)


def changed_retrieval(fitted: Path, tmp_path: Path, what: str) -> Path:
    directory = tmp_path / "changed"
    shutil.copytree(fitted / "valid", directory)
    manifest = json.loads((directory / "manifest.json").read_text())
    if what == "no columns":
        del manifest["files"]["lm_entropy.npy"]
    elif what == "store":
        manifest["identity"]["store_id"] = "0" * 64
    elif what == "dictionary":
        manifest["identity"]["dictionary_sha256"] = "0" * 64
    elif what == "prefix":
        manifest["datastore"]["prefix"] = str(tmp_path / "nowhere")
    elif what in ("lm_entropy", "last_tokens", "lm_log_prob"):
        array = np.load(directory / f"{what}.npy")
        array[3] = -1 if what == "last_tokens" else np.nan
        np.save(directory / f"{what}.npy", array)
    elif what == "ids":
        ids = np.load(directory / "ids.npy")
        ids[0, 0] = 10**6
        np.save(directory / "ids.npy", ids)
    elif what == "dtype":
        np.save(directory / "lm_entropy.npy", np.load(directory / "lm_entropy.npy").astype(np.float64))
    elif what == "no neighbours":
        distances, ids = (np.load(directory / f"{name}.npy") for name in ("distances", "ids"))
        np.save(directory / "distances.npy", np.full_like(distances, np.inf))
        np.save(directory / "ids.npy", np.full_like(ids, -1))
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no columns", "saved without"),
        ("store", "give --dstore-filename its own"),
        ("dictionary", "give --dictionary its own"),
        ("prefix", "does not exist"),
        ("lm_entropy", "must be finite"),
        ("lm_log_prob", "no numbers"),
        ("last_tokens", "ids must be from 0 to 39"),
        ("ids", "names row 1000000"),
        ("dtype", "must be float32"),
        ("no neighbours", "nothing to fit"),
    ],
)
def test_a_retrieval_that_cannot_be_fitted_is_refused(command, fitted, tmp_path, what: str, words: str) -> None:
    directory = changed_retrieval(fitted, tmp_path, what)
    outcome = command("fairseq-knnlm", "fit-lmbda", directory, "--out", tmp_path / "m.json", "--log-format", "none")
    assert words in outcome.error
    assert not (tmp_path / "m.json").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", "--out is required"),
        ("--out {tmp}/m.json --k 25", "more than the 24 neighbours"),
        ("--out {tmp}/m.json --folds 100", "is more than the"),
        ("--out {tmp}/m.json --knn-temp 0", "--knn-temp must be above 0"),
        ("--out {tmp}/m.json --apply {tmp}", "no manifest.json"),
        ("--out {tmp}/m.json --dictionary {tmp}/none", "none"),
        ("--out {tmp}/there.json", "is not a fitted weight that this program wrote"),
        ("--out {tmp}/there.json/m.json", "there.json"),
    ],
)
def test_flags_that_do_not_fit_the_retrieval_are_refused(fit, tmp_path, flags: str, words: str) -> None:
    (tmp_path / "there.json").write_text("mine")
    assert words in fit(*flags.format(tmp=tmp_path).split()).error
    assert not (tmp_path / "m.json").exists() and (tmp_path / "there.json").read_text() == "mine"


def test_a_retrieval_of_fewer_neighbours_is_not_applied_to(fit, fitted, eval_lm, tmp_path) -> None:
    """Features of 24 neighbours are none of 5."""
    few = [*neighbours(fitted), "--k", 5, "--context-window", CONTEXT, "--save-retrieval", tmp_path / "few"]
    assert eval_lm(*few).code == 0
    outcome = fit("--out", tmp_path / "m.json", "--folds", 2, "--apply", tmp_path / "few")
    assert "more than the 5 neighbours" in outcome.error
    assert not (tmp_path / "m.json").exists()


def test_results_that_cannot_be_added_to_are_said_before_the_fit(command, fitted, tmp_path, monkeypatch) -> None:
    shutil.copytree(fitted / "valid", tmp_path / "valid")
    (tmp_path / "valid" / "results.json").write_text("{}")
    monkeypatch.setattr("fairseq.knn.weight.report.cross_validate", None)  # it is not come to
    outcome = command("fairseq-knnlm", "fit-lmbda", tmp_path / "valid", "--out", tmp_path / "m.json")
    assert f"{tmp_path}/valid/results.json" in outcome.error
    assert not (tmp_path / "m.json").exists()


def test_another_models_retrieval_is_not_applied_to(fit, fitted, tmp_path) -> None:
    shutil.copytree(fitted / "test", tmp_path / "other")
    manifest = json.loads((tmp_path / "other" / "manifest.json").read_text())
    manifest["identity"]["weights_sha256"] = "0" * 64
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(manifest))
    assert "fit it again" in fit("--out", tmp_path / "m.json", "--apply", tmp_path / "other").error
    assert not (tmp_path / "m.json").exists()


def test_info_knows_the_file(command, fitted) -> None:
    outcome = command("fairseq-knnlm", "info", fitted / "lmbda.json")
    assert outcome.code == 0, outcome.err
    assert "fitted weight λ" in outcome.out and "λ: by token" in outcome.out and "knn_temp: 5" in outcome.out
