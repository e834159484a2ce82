"""Several datastores in one evaluation, and in everything that is made from it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fairseq_cli.shared.run import run
from tests.builders.tiny_lm import Command, main_of

K, CONTEXT = 24, 6
FLAGS = ["--context-window", CONTEXT, "--log-format", "none", "--cpu"]
# The same float32 distances; the votes are added in another order.
BITS = 1e-6


@pytest.fixture(scope="session")
def stores(data_dir: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a datastore of train and one of valid, each with an index that finds the nearest."""
    root = tmp_path_factory.mktemp("stores")
    for split in ("train", "valid"):
        dump = [data_dir, "--path", checkpoint, "--gen-subset", split, "--save-knnlm-dstore", *FLAGS]
        dump += ["--dstore-mmap", root / split]
        build = ["--dstore-mmap", root / split, "--faiss-index", root / f"{split}.index", "--index-spec", "Flat"]
        assert run("fairseq-eval-lm", main_of("fairseq-eval-lm"), [str(word) for word in dump]) == 0
        assert run("build_dstore.py", main_of("build_dstore.py"), [str(w) for w in build] + ["--log-format=none"]) == 0
    return root


def named(root: Path, *names: str) -> list[object]:
    prefixes, indexes = (":".join(f"{root}/{name}{end}" for name in names) for end in ("", ".index"))
    return ["--dstore-filename", prefixes, "--indexfile", indexes]


@pytest.fixture
def evaluate(eval_lm: Command, stores: Path, tmp_path: Path) -> Callable[..., dict]:
    """Returns ``evaluate(names, *flags)``, which gives the results."""

    def call(names: str, *words: object) -> dict:
        knn = [
            "--knnlm",
            *named(stores, *names.split(":")),
            "--k",
            K,
            "--lmbda",
            0.4,
            "--overwrite",
            "--results-path",
            tmp_path / "r.json",
        ]
        outcome = eval_lm(*knn, "--context-window", CONTEXT, *words)
        assert outcome.code == 0, outcome.err
        return json.loads((tmp_path / "r.json").read_text())

    return call


@pytest.fixture
def saved(evaluate: Callable[..., dict], tmp_path: Path) -> Path:
    evaluate("train:valid", "--save-retrieval", tmp_path / "saved")
    return tmp_path / "saved"


def test_the_order_does_not_matter(evaluate: Callable[..., dict]) -> None:
    one, other, alone = evaluate("train:valid"), evaluate("valid:train"), evaluate("train")
    assert one["loss_base2"] == pytest.approx(other["loss_base2"], abs=BITS)
    assert abs(one["loss_base2"] - alone["loss_base2"]) > 1000 * BITS
    assert evaluate("train:train")["loss_base2"] == alone["loss_base2"]
    one, other, alone = one["inputs"], other["inputs"], alone["inputs"]
    assert len(one["datastores"]) == 2 and one["datastores"] == other["datastores"][::-1]
    assert one["store_id"] not in (other["store_id"], alone["store_id"])


def test_ids_are_kept_apart_and_lead_to_the_text(saved: Path, stores: Path, data_dir: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    ids, hits, targets = (np.load(saved / f"{name}.npy") for name in ("ids", "hits", "targets"))
    hits = np.unpackbits(hits, axis=1, count=K, bitorder="little")
    train, valid = manifest["datastore"]["parts"]
    assert (train["offset"], valid["offset"]) == (0, train["rows"])
    for part in (train, valid):
        split = Path(part["prefix"]).name
        text = np.fromfile(data_dir / f"{split}.bin", np.uint16)
        there = (ids >= part["offset"]) & (ids < part["offset"] + part["rows"])
        assert there.any()
        words = text[ids[there] - part["offset"] + part["first_position"]]
        assert np.array_equal(words == np.broadcast_to(targets[:, None], ids.shape)[there], hits[there] == 1)
    assert all(len(set(row)) == K for row in ids.tolist())


def test_a_sweep_says_what_a_run_says(saved: Path, command: Command, evaluate: Callable[..., dict]) -> None:
    flags = ["--lmbda", "0.1,0.7", "--knn-temp", 1, "--k", "3,24", "--no-figures"]
    assert command("fairseq-knnlm", "sweep", saved, *flags).code == 0
    found = json.loads((saved / "sweep" / "sweep.json").read_text())
    loss = evaluate("train:valid", "--lmbda", 0.7, "--k", 3)["loss_base2"]
    place = found["grid"]["k"].index(3), found["grid"]["lmbda"].index(0.7)
    assert found["loss_base2"][0][place[0]][place[1]] == pytest.approx(loss, abs=BITS)


def test_a_report_shows_which_datastore_a_neighbour_is_of(saved: Path, command: Command, data_dir: Path) -> None:
    outcome = command("fairseq-knnlm", "report", saved)
    assert outcome.code == 0, outcome.err
    page = (saved / "report.html").read_text()
    assert '"stores":["train","valid"]' in page.replace(" ", "") and '"store":[0,1]' in page.replace(" ", "")
    moved = command("fairseq-knnlm", "report", saved, "--dstore-data", data_dir, "--overwrite")
    assert "--dstore-data names 1, but" in moved.error
    assert "was saved with 2 datastores" in moved.error
    swapped = f"{data_dir / 'valid'}:{data_dir / 'train'}"
    assert "--dstore-data" in command("fairseq-knnlm", "report", saved, "--dstore-data", swapped, "--overwrite").error


def test_a_weight_is_fitted_and_used(saved: Path, command: Command, eval_lm: Command, stores: Path) -> None:
    out = saved.parent / "lmbda.json"
    fit = command("fairseq-knnlm", "fit-lmbda", saved, "--out", out, "--folds", 2)
    assert fit.code == 0, fit.err
    knn = ["--knnlm", "--k", K, "--lmbda-model", out, "--context-window", CONTEXT]
    assert eval_lm(*knn, *named(stores, "train", "valid")).code == 0
    assert "was fitted for store_id" in eval_lm(*knn, *named(stores, "train")).error
    wrong = command("fairseq-knnlm", "fit-lmbda", saved, "--out", out, "--dstore-filename", "x", "--overwrite")
    assert "--dstore-filename names 1, but" in wrong.error
    swapped = named(stores, "valid", "train")[:2]
    wrong = command("fairseq-knnlm", "fit-lmbda", saved, "--out", out, *swapped, "--overwrite")
    assert "give --dstore-filename its own" in wrong.error


def test_check_looks_at_each_and_at_all(
    command: Command, stores: Path, data_dir: Path, checkpoint: Path, tmp_path: Path
) -> None:
    both = named(stores, "train", "valid")
    outcome = command("fairseq-knnlm", "check", data_dir, "--path", checkpoint, *both)
    assert outcome.code == 0, outcome.err
    for split in ("train", "valid"):
        assert f"ok       {stores / split}: index recall" in outcome.out
    assert "ok       datastores together: 2 of one model and dictionary" in outcome.out
    mixed = [*both[:2], "--indexfile", f"{stores}/valid.index:{stores}/train.index"]
    outcome = command("fairseq-knnlm", "check", *mixed)
    assert outcome.code == 2 and f"FAILED   {stores / 'train'}: index rows" in outcome.out
    assert (
        "measure them one after the other" in command("fairseq-knnlm", "recall", *both[:2], "--index-spec=Flat").error
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dstore-filename", "a:b"], "--dstore-filename names 2, but --indexfile 1; give each datastore its index"),
        (["--dstore-filename", "a:", "--indexfile", "i:j"], "--dstore-filename must be names separated by colons"),
        (
            ["--dstore-filename", "{}/train:b", "--indexfile", "{}/train.index:j"],
            "j does not exist; make a datastore's index",
        ),
        (["--dstore-size", "9"], "--dstore-size 9 is of one datastore, but --dstore-filename names 2"),
        (["--indexfile", "{}/valid.index:{}/train.index"], "give --indexfile the datastore's own"),
        (["--dstore-fp16"], "--dstore-fp16: "),
    ],
)
def test_what_does_not_go_together(eval_lm: Command, stores: Path, words: list[str], message: str) -> None:
    given = [word.replace("{}", str(stores)) for word in words]
    flags = ["--knnlm", "--lmbda", 0.5, "--context-window", CONTEXT]
    first = named(stores, "train", "valid")
    if given == ["--dstore-filename", "a:b"]:
        first = named(stores, "train")
    assert message in eval_lm(*flags, *first, *given).error
