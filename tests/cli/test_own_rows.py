"""The datastore's own text: who says so, and ``--exclude-own-row``, with which no token finds itself."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fairseq_cli.shared.run import run
from tests.builders.tiny_lm import Command, Outcome, main_of, make_sentences, write_split

K, CONTEXT, WIDTH = 12, 6, 16


@pytest.fixture(scope="module")
def store(data_dir: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datastore of the training text, with an index that ranks exactly and one that ranks by coarse codes."""
    root = tmp_path_factory.mktemp("own")
    dump = f"{data_dir} --path {checkpoint} --gen-subset train --context-window {CONTEXT} --save-knnlm-dstore"
    assert run("fairseq-eval-lm", main_of("fairseq-eval-lm"), f"{dump} --dstore-mmap {root}/d --cpu".split()) == 0
    for name, spec in (("exact", "IVF8,Flat"), ("coarse", "IVF8,PQ2x4")):
        build = f"--dstore-mmap {root}/d --faiss-index {root}/{name} --index-spec {spec}"
        assert run("build_dstore.py", main_of("build_dstore.py"), build.split()) == 0
    return root / "d"


def neighbours(store: Path, index: str, *more: object) -> list[object]:
    files = ["--dstore-filename", store, "--indexfile", store.parent / index]
    return ["--knnlm", *files, "--probe", 8, "--k", K, "--lmbda", 0.4, "--gen-subset", "train", *more]


def saved(eval_lm: Command, directory: Path, *words: object, window: int = CONTEXT) -> dict[str, np.ndarray]:
    outcome = eval_lm(*words, "--context-window", window, "--save-retrieval", directory)
    assert outcome.code == 0, outcome.err
    return {file.stem: np.load(file) for file in directory.glob("*.npy")}


def own_rows(store: Path, positions: np.ndarray) -> np.ndarray:
    """Returns the row of each token: all from some token on have one, as the text and the values show."""
    first = json.loads(Path(f"{store}.json").read_bytes())["rows"]
    rows = positions - (len(positions) - first)
    return np.where(rows >= 0, rows, -1)


@pytest.mark.pitfall(33)
def test_no_token_finds_itself_and_all_others_are_found(eval_lm: Command, store: Path, tmp_path: Path) -> None:
    found = saved(eval_lm, tmp_path / "r", *neighbours(store, "exact", "--exclude-own-row"))
    own = own_rows(store, found["positions"])
    has_row = own >= 0
    assert 0 < (~has_row).sum() < 30 and (found["ids"] >= 0).all()
    assert not (found["ids"] == own[:, None]).any()
    # A token's query is the key of its own row: the same context, computed again.
    keys = np.fromfile(f"{store}_keys.npy", np.float32).reshape(-1, WIDTH).astype(np.float64)
    for token in np.flatnonzero(has_row)[::97]:
        distances = ((keys - keys[own[token]]) ** 2).sum(1)
        distances[own[token]] = np.inf
        assert found["distances"][token] == pytest.approx(np.sort(distances)[:K], abs=2e-4)


@pytest.mark.pitfall(33)
def test_codes_that_rank_another_row_first_make_no_difference(eval_lm: Command, store: Path, tmp_path: Path) -> None:
    codes = ["--knn-sim-func", "do_not_recomp_l2", "--no-load-keys"]
    nearest = saved(eval_lm, tmp_path / "n", *neighbours(store, "coarse", *codes, "--drop-top1"))
    own = own_rows(store, nearest["positions"])
    assert (nearest["ids"] == own[:, None]).any(axis=1).mean() > 0.1  # what dropping the nearest leaves in
    found = saved(eval_lm, tmp_path / "o", *neighbours(store, "coarse", *codes, "--exclude-own-row"))
    assert not (found["ids"] == own[:, None]).any() and (found["ids"] >= 0).all()


def loss_of(eval_lm: Command, tmp_path: Path, *words: object) -> float:
    outcome = eval_lm("--context-window", CONTEXT, "--results-path", tmp_path / "r.json", "--overwrite", *words)
    assert outcome.code == 0, outcome.err
    return float(json.loads((tmp_path / "r.json").read_bytes())["loss_base2"])


def test_batches_other_cuts_and_a_second_store_make_no_difference(
    eval_lm: Command, store: Path, tmp_path: Path, data_dir: Path, checkpoint: Path
) -> None:
    """A datastore of another text beside it, named first, has its rows counted before."""
    words = neighbours(store, "exact", "--exclude-own-row")
    whole = loss_of(eval_lm, tmp_path, *words)
    assert loss_of(eval_lm, tmp_path, *words, "--max-tokens", 48) == pytest.approx(whole, abs=1e-5)
    assert whole > loss_of(eval_lm, tmp_path, *words[:-1]) + 0.1  # the answer is there
    dump = f"{data_dir} --path {checkpoint} --gen-subset valid --context-window {CONTEXT} --save-knnlm-dstore"
    assert run("fairseq-eval-lm", main_of("fairseq-eval-lm"), f"{dump} --dstore-mmap {tmp_path}/v --cpu".split()) == 0
    build = f"--dstore-mmap {tmp_path}/v --faiss-index {tmp_path}/v.index --index-spec Flat"
    assert run("build_dstore.py", main_of("build_dstore.py"), build.split()) == 0
    rows = json.loads((tmp_path / "v.json").read_bytes())["rows"]
    two = [
        *words,
        "--dstore-filename",
        f"{tmp_path}/v:{store}",
        "--indexfile",
        f"{tmp_path}/v.index:{store.parent}/exact",
    ]
    found = saved(eval_lm, tmp_path / "two", *two)
    own = own_rows(store, found["positions"])
    assert not (found["ids"] == np.where(own >= 0, own + rows, -1)[:, None]).any()
    assert not (saved(eval_lm, tmp_path / "cut", *words, window=2)["ids"] == own[:, None]).any()
    assert (found["ids"] < rows).any() and (found["ids"] >= rows).any()


def test_another_text_is_refused(eval_lm: Command, store: Path) -> None:
    outcome = eval_lm(*neighbours(store, "exact", "--exclude-own-row"), "--gen-subset", "test")
    assert outcome.code == 2 and "test is not a text that" in outcome.err and outcome.err.count("\n") == 1
    outcome = eval_lm(*neighbours(store, "exact", "--exclude-own-row", "--drop-top1"))
    assert outcome.code == 2 and "exclude each other" in outcome.err


def test_pad_in_the_text_is_a_token_with_a_row(
    command: Command, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Every fifth word of the text is ``<pad>``, whose id is that of padding: the rows after it must not move."""
    data = tmp_path / "data-bin"
    data.mkdir()
    shutil.copy(data_dir / "dict.txt", data)
    sentences = [[1 if n % 5 == 4 else word for n, word in enumerate(s[:-1])] + s[-1:] for s in make_sentences(60, 7)]
    write_split(data / "train", sentences)
    tokens = np.array([token for sentence in sentences for token in sentence])
    common = [data, "--path", checkpoint, "--cpu", "--gen-subset", "train", "--context-window", CONTEXT]
    dump = command("fairseq-eval-lm", *common, "--save-knnlm-dstore", "--dstore-mmap", tmp_path / "d")
    assert dump.code == 0, dump.err
    build = ["--dstore-mmap", tmp_path / "d", "--faiss-index", tmp_path / "exact", "--index-spec", "Flat"]
    assert command("build_dstore.py", *build).code == 0
    flags = neighbours(tmp_path / "d", "exact", "--exclude-own-row", "--save-retrieval", tmp_path / "r")
    outcome = command("fairseq-eval-lm", *common, *flags)
    assert outcome.code == 0, outcome.err
    found = {file.stem: np.load(file) for file in (tmp_path / "r").glob("*.npy")}
    assert found["positions"].tolist() == list(range(len(tokens)))  # all are scored
    own = own_rows(tmp_path / "d", found["positions"])
    values = np.fromfile(tmp_path / "d_vals.npy", np.int64)
    assert values[own[own >= 0]].tolist() == tokens[own >= 0].tolist() and (values == 1).sum() > 50
    # Two rows may have the same context, hence the same key: of every token, only its own row is missing.
    keys = np.fromfile(tmp_path / "d_keys.npy", np.float32).reshape(-1, WIDTH).astype(np.float64)
    for token in np.flatnonzero(own >= 0)[::41]:
        distances = ((keys - keys[own[token]]) ** 2).sum(1)
        distances[own[token]] = np.inf
        assert found["distances"][token] == pytest.approx(np.sort(distances)[:K], abs=2e-4)
    assert not (found["ids"] == own[:, None]).any()


OWN_TEXT = "THE DATASTORE HOLDS THE EVALUATED TEXT: "


def own_text_warnings(outcome: Outcome) -> list[str]:
    return [line for line in outcome.warnings if OWN_TEXT in line]


def test_the_datastores_own_text_is_said_however_it_is_cut_and_wherever_it_lies(
    eval_lm: Command, command: Command, store: Path, tmp_path: Path, data_dir: Path, checkpoint: Path
) -> None:
    """The rows are of blocks with a window of 6; the same words were binarised again elsewhere."""
    rows = json.loads(Path(f"{store}.json").read_bytes())["rows"]
    shutil.copytree(data_dir, tmp_path / "again")
    words = neighbours(store, "exact", "--results-path", tmp_path / "r.json", "--overwrite")
    elsewhere = [tmp_path / "again", "--path", checkpoint, "--cpu"]
    for outcome in (
        eval_lm(*words, "--context-window", 2),
        eval_lm(*words, "--sample-break-mode", "eos"),
        eval_lm(*words, "--model-overrides", "{'tokens_per_sample': 12}"),
        command("fairseq-eval-lm", *elsewhere, *words, "--context-window", CONTEXT),
    ):
        (line,) = own_text_warnings(outcome)
        assert f"{rows} rows of {store} are tokens of " in line and "or evaluate with --exclude-own-row; or" in line
        assert f"fairseq-knnlm forget {store} --source train" in line
        record = json.loads((tmp_path / "r.json").read_bytes())
        assert record["own_text"] == [{"prefix": str(store), "source": "train", "rows": rows}]
    recall = ["--dstore-filename", store, "--indexfile", store.parent / "exact", "--sample", 20, "--k", 5]
    for split, times in (("train", 1), ("valid", 0)):
        outcome = command("fairseq-knnlm", "recall", *elsewhere, "--gen-subset", split, *recall)
        assert outcome.code == 0 and len(own_text_warnings(outcome)) == times, outcome.err
    for more in (["--exclude-own-row"], ["--drop-top1"], ["--gen-subset", "valid"]):
        outcome = eval_lm(*words, *more, "--context-window", CONTEXT)
        assert outcome.code == 0 and not own_text_warnings(outcome), more
        assert "own_text" not in json.loads((tmp_path / "r.json").read_bytes())


def test_every_command_that_shows_a_retrieval_of_the_own_text_says_so(
    eval_lm: Command, command: Command, store: Path, tmp_path: Path
) -> None:
    cache = ["--cache-size", 5, "--cache-lmbda", 0.1, "--context-window", CONTEXT]
    flags = neighbours(store, "exact", "--k", 4, *cache)
    for name, more in (("own", []), ("excluded", ["--exclude-own-row"])):
        assert eval_lm(*flags, *more, "--save-retrieval", tmp_path / name).code == 0
    older = shutil.copytree(tmp_path / "own", tmp_path / "older")  # of a version that did not record it
    record = json.loads((older / "manifest.json").read_bytes())
    assert len(record.pop("own_text")) == 1
    (older / "manifest.json").write_text(json.dumps(record), encoding="utf-8")
    quick = ["--no-figures", "--resamples", 100]
    for name, times in (("own", 1), ("older", 1), ("excluded", 0)):
        directory = tmp_path / name
        commands = [
            ["sweep", directory, "--knn-temp", 1, "--k", 4, *quick, "--overwrite"],
            ["sweep", tmp_path / "excluded", "--apply", directory, "--knn-temp", 1, "--k", 4, *quick, "--overwrite"],
            ["sweep-cache", directory, "--lmbda", 0.1, "--cache-lmbda", 0.1, *quick],
            ["fit-lmbda", directory, "--out", tmp_path / "m.json", "--k", 999],  # refused, but warned before
            ["report", directory],
        ]
        for words in commands:
            outcome = command("fairseq-knnlm", *words)
            assert outcome.code == 2 * (words[0] == "fit-lmbda"), outcome.err
            assert len(own_text_warnings(outcome)) == times, words
        assert (directory / "report.html").read_text(encoding="utf-8").count(f'role="alert">{OWN_TEXT}') == times
    assert any("is there already" in line for line in eval_lm(*flags, "--save-retrieval", older).log)


def test_a_text_that_was_appended_is_the_datastores_own_until_it_is_forgotten(
    eval_lm: Command, command: Command, store: Path, tmp_path: Path
) -> None:
    prefix, index = tmp_path / "d", tmp_path / "exact"
    for name in ("d_keys.npy", "d_vals.npy", "d.json", "exact", "exact.json"):
        shutil.copy(store.parent / name, tmp_path)
    valid = ["--gen-subset", "valid", "--context-window", CONTEXT]
    dump = eval_lm(*valid, "--save-knnlm-dstore", "--dstore-mmap", prefix, "--append")
    assert dump.code == 0, dump.err
    flags = [*neighbours(prefix, "exact"), *valid]
    assert not own_text_warnings(eval_lm(*flags))  # the index does not have the new rows yet
    assert command("build_dstore.py", "--dstore-mmap", prefix, "--faiss-index", index, "--append").code == 0
    (line,) = own_text_warnings(eval_lm(*flags))
    rows = [json.loads(Path(f"{name}.json").read_bytes())["rows"] for name in (prefix, store)]
    assert f"{rows[0] - rows[1]} rows of {prefix} are tokens of" in line
    assert command("fairseq-knnlm", "forget", prefix, "--rows", f"{rows[1]}:{rows[0] - 5}").code == 0
    assert f": 5 rows of {prefix}" in own_text_warnings(eval_lm(*flags))[0]
    assert command("fairseq-knnlm", "forget", prefix, "--source", "valid").code == 0
    assert not own_text_warnings(eval_lm(*flags))
    assert command("fairseq-knnlm", "forget", prefix, "--compact", "--indexfile", index).code == 0
    assert not own_text_warnings(eval_lm(*flags))
    assert len(own_text_warnings(eval_lm(*flags, "--gen-subset", "train"))) == 1
