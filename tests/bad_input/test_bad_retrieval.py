"""Saved retrievals that are torn, edited or of something else, and their results; and what ``check`` says of each."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders.cases import KNNLM, Call, Case, Place, check, parametrise

Damage = Callable[[Path], object]
FLAGS: dict[str, list[object]] = {
    "sweep": ["--no-figures", "--resamples", 100],
    "sweep-cache": ["--no-figures", "--resamples", 100, "--lmbda", "0.1,0.2", "--cache-lmbda", 0.1],
    "fit-lmbda": ["--out", "lmbda.json", "--folds", 2],
    "report": [],
    "check": [],
}


def meets(subcommand: str, damage: Damage, *more: object) -> Callable[[Place], list[object]]:
    """Returns the arguments of a subcommand for a damaged copy of the retrieval of valid."""

    def make(place: Place) -> list[object]:
        directory = place.retrieval()
        damage(directory)
        words = [place / str(word) if str(word).endswith(".json") else word for word in FLAGS[subcommand]]
        return [subcommand, directory, *words, "--log-format", "none", *more]

    return make


def applied(subcommand: str, damage: Damage) -> Callable[[Place], list[object]]:
    """Returns the same for sound choices on valid that are applied to a damaged copy of test."""

    def make(place: Place) -> list[object]:
        damage(place.retrieval("test"))
        return [*meets(subcommand, lambda directory: None)(place), "--apply", place / "test"]

    return make


def manifest(**changes: object) -> Damage:
    """Returns a change of the manifest's fields; None takes one away."""

    def damage(directory: Path) -> None:
        record = json.loads((directory / "manifest.json").read_text())
        kept = {name: value for name, value in {**record, **changes}.items() if value is not None}
        (directory / "manifest.json").write_text(json.dumps(kept))

    return damage


def text(name: str, content: str) -> Damage:
    return lambda directory: (directory / name).write_text(content)


def column(name: str, change: Callable[[np.ndarray], Any]) -> Damage:
    """Returns a change of a column: ``change`` alters the array, or returns another."""

    def damage(directory: Path) -> None:
        array = np.load(directory / f"{name}.npy")
        changed = change(array)
        np.save(directory / f"{name}.npy", array if changed is None else changed)

    return damage


def put(place: Any, value: object) -> Callable[[np.ndarray], None]:
    return lambda array: array.__setitem__(place, value)


def torn(name: str) -> Damage:
    return lambda directory: (directory / name).write_bytes((directory / name).read_bytes()[:-40])


def flipped(directory: Path) -> None:
    """Flips the lowest bit of a log-probability: still a number, nearly the same."""
    path = directory / "lm_log_prob.npy"
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)


def of_test(directory: Path) -> None:
    """Makes the manifest speak of the other split."""
    record = json.loads((directory / "manifest.json").read_text())
    manifest(data=record["data"].replace("valid", "test"))(directory)


def results(**sections: object) -> Damage:
    """Returns results.json of these sections, of the retrieval."""
    from hashlib import sha256

    def damage(directory: Path) -> None:
        retrieval = sha256((directory / "manifest.json").read_bytes()).hexdigest()
        record = {"kind": "results", "version": 1, "retrieval": retrieval, "sections": sections}
        (directory / "results.json").write_text(json.dumps(record))

    return damage


SOUND: Damage = lambda directory: None  # noqa: E731
SWAPPED = column("distances", lambda array: array[:, ::-1].copy())
CASES = [
    Case("retrieval-gone", KNNLM, lambda p: ["sweep", p / "gone"], "gone must be a saved retrieval, but has"),
    Case("retrieval-manifest-torn", KNNLM, meets("sweep", torn("manifest.json")), "manifest.json must be JSON"),
    Case("retrieval-manifest-empty", KNNLM, meets("report", text("manifest.json", "")), "manifest.json must be JSON"),
    Case("retrieval-manifest-list", KNNLM, meets("sweep", text("manifest.json", "[1]")), "must be of kind 'retrieval'"),
    Case("retrieval-of-the-future", KNNLM, meets("fit-lmbda", manifest(version=99)), "is of version 99"),
    Case("retrieval-unfinished", KNNLM, meets("sweep-cache", manifest(state="writing")), "is unfinished; run its"),
    Case("retrieval-without-k", KNNLM, meets("sweep", manifest(k=None)), "lacks the field 'k'"),
    Case("retrieval-k-true", KNNLM, meets("report", manifest(k=True)), "'k' must be a whole number, but is True"),
    Case("retrieval-no-tokens", KNNLM, meets("sweep", manifest(num_tokens=0)), "'num_tokens' must be at least 1"),
    Case("retrieval-another-k", KNNLM, meets("sweep", manifest(k=9)), "must be int32 of shape"),
    Case("retrieval-files-elsewhere", KNNLM, meets("sweep", manifest(files={"../x.npy": {}})), "which is no column"),
    Case("retrieval-column-gone", KNNLM, meets("sweep", lambda d: (d / "hits.npy").unlink()), "hits.npy does not"),
    Case("retrieval-column-torn", KNNLM, meets("sweep", torn("distances.npy")), "distances.npy must be a whole .npy"),
    Case("retrieval-column-empty", KNNLM, meets("report", text("ids.npy", "")), "ids.npy must be a whole .npy"),
    Case("retrieval-column-text", KNNLM, meets("fit-lmbda", text("ids.npy", "words " * 99)), "ids.npy must be a whole"),
    Case(
        "retrieval-column-dtype",
        KNNLM,
        meets("sweep", column("distances", lambda a: a.astype("<f8"))),
        "distances.npy must be float32",
    ),
    Case("retrieval-column-short", KNNLM, meets("sweep", column("blocks", lambda a: a[:-1])), "blocks.npy must be"),
    Case(
        "retrieval-targets-out-of-range",
        KNNLM,
        meets("report", column("targets", put(3, 999))),
        "targets.npy: ids must be from 0 to",
    ),
    Case("retrieval-distances-swapped", KNNLM, meets("sweep", SWAPPED), "must have their neighbours nearest first"),
    Case("retrieval-distances-swapped-cache", KNNLM, meets("sweep-cache", SWAPPED), "neighbours nearest first"),
    Case("retrieval-lm-nan", KNNLM, meets("fit-lmbda", column("lm_log_prob", put(5, np.nan))), "lm_log_prob.npy holds"),
    Case("retrieval-cache-gone", KNNLM, meets("sweep-cache", manifest(cache=None)), "was saved without a cache"),
    Case(
        "retrieval-cache-one-setting",
        KNNLM,
        meets("sweep-cache", column("cache_log_prob", lambda a: a[:, :1])),
        "cache_log_prob.npy must be float32",
    ),
    Case("retrieval-ids-beyond", KNNLM, meets("fit-lmbda", column("ids", put((2, 1), 10**6))), "names row 1000000"),
    Case("retrieval-dictionary-gone", KNNLM, meets("fit-lmbda", manifest(dictionary="/gone/d.txt")), "/gone/d.txt"),
    Case("retrieval-store-gone", KNNLM, meets("fit-lmbda", manifest(datastore={"prefix": "/gone/d"})), "/gone/d_vals"),
    Case("retrieval-other-split", KNNLM, meets("report", of_test), "the scored text must be the one that"),
    Case("retrieval-hits-flipped", KNNLM, meets("report", column("hits", lambda a: ~a)), "have another value in the"),
    Case("retrieval-more-neighbours", KNNLM, meets("sweep", SOUND, "--k", 9), "--k 9 is more than the 8 neighbours"),
    Case("retrieval-more-neighbours-cache", KNNLM, meets("sweep-cache", SOUND, "--k", 9), "--k 9 is more than the 8"),
    Case(
        "applied-to-another-model",
        KNNLM,
        applied("sweep", manifest(identity={"weights_sha256": "f" * 64})),
        "was saved with weights_sha256 ffffffffffff, but",
    ),
    Case(
        "applied-to-other-caches",
        KNNLM,
        applied(
            "sweep-cache", manifest(cache={"settings": [{"cache_size": size, "cache_theta": 0.5} for size in (1, 2)]})
        ),
        "was saved with other caches than",
    ),
    Case("results-torn-sweep", KNNLM, meets("sweep", text("results.json", "{")), "results.json must be JSON"),
    Case("results-torn-cache", KNNLM, meets("sweep-cache", text("results.json", "{")), "results.json must be JSON"),
    Case("results-torn-fit", KNNLM, meets("fit-lmbda", text("results.json", "")), "results.json must be JSON"),
    Case("results-torn-report", KNNLM, meets("report", text("results.json", "[")), "results.json must be JSON"),
    Case("results-of-another-kind", KNNLM, meets("report", text("results.json", "{}")), "must be of kind 'results'"),
    Case(
        "results-of-the-future",
        KNNLM,
        meets("report", text("results.json", '{"kind": "results", "version": 2}')),
        "results.json is of version 2",
    ),
    Case(
        "results-without-sections",
        KNNLM,
        meets("sweep", text("results.json", '{"kind": "results", "version": 1}')),
        "results.json lacks the field 'retrieval'",
    ),
    Case("results-section-unsound", KNNLM, meets("report", results(sweep={"chosen_on": 3})), "section 'sweep' is not"),
    Case(
        "results-section-words",
        KNNLM,
        meets("report", results(lmbda={"fitted_on": {"split": "v", "ppl": {}}})),
        "the section 'lmbda' is not sound",
    ),
]


@parametrise(CASES)
def test_a_broken_retrieval_is_one_line(case: Case, place: Place, call: Call) -> None:
    check(case, place, call)


# What is damaged, and the findings that must fail, and no others.
FOUND: dict[str, tuple[Damage, set[str]]] = {
    "unfinished": (manifest(state="writing"), {"retrieval"}),
    "torn": (torn("distances.npy"), {"retrieval"}),
    "bit": (flipped, {"retrieval sha256"}),
    "row outside": (column("ids", put((2, 1), 10**6)), {"retrieval sha256", "retrieval ids"}),
    "row below": (column("ids", put((2, 1), -2)), {"retrieval sha256", "retrieval ids", "retrieval distances"}),
    "twice": (column("ids", lambda a: put((4, 1), a[4, 0])(a)), {"retrieval sha256", "retrieval ids"}),
    "order": (SWAPPED, {"retrieval sha256", "retrieval distances"}),
    "NaN": (column("distances", put((0, 0), np.nan)), {"retrieval sha256", "retrieval distances"}),
    "p above 1": (column("lm_log_prob", put(7, 0.5)), {"retrieval sha256", "retrieval log-probabilities"}),
    "hits": (column("hits", lambda a: ~a), {"retrieval sha256", "retrieval hits"}),
    "stream": (column("blocks", lambda a: a[::-1].copy()), {"retrieval sha256", "retrieval order"}),
    "split": (of_test, {"retrieval targets"}),
    "model": (manifest(identity={"weights_sha256": "f" * 64}), {"retrieval weights"}),
    "results": (text("results.json", "{"), {"retrieval results"}),
}


def failed(out: str) -> set[str]:
    lines = [line for line in out.splitlines() if line.startswith("FAILED")]
    return {line.removeprefix("FAILED").split(":")[0].strip() for line in lines}


@pytest.mark.parametrize("name", FOUND)
def test_check_names_what_is_damaged(name: str, place: Place, call: Call) -> None:
    damage, expected = FOUND[name]
    directory = place.retrieval()
    damage(directory)
    words = ["--path", place.good.checkpoint, "--log-format", "none"]
    outcome = call(KNNLM, "check", place.good.data, "--retrieval", directory, *words)
    assert outcome.code == 2, outcome.err
    # Whether the neighbour that was overwritten was a hit is left to chance.
    may_fail = {"retrieval hits"} if name in ("twice", "row below") else set()
    assert failed(outcome.out) - may_fail == expected, outcome.out


def test_check_of_a_sound_retrieval(place: Place, call: Call) -> None:
    outcome = call(KNNLM, "check", place.retrieval(), "--log-format", "none")
    assert outcome.code == 0, outcome.out + outcome.err
    assert not failed(outcome.out) and "skipped" not in outcome.out, outcome.out
