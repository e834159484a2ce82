"""``fairseq-knnlm report``: what the file holds, and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from fairseq.knn.datastore.manifest import write_manifest
from tests.builders.report_page import Page
from tests.builders.shown_retrieval import FIRST, NASTY, shown_retrieval
from tests.builders.small_store import small_manifest
from tests.builders.tiny_lm import Command
from tests.oracles.knn import knn_probability


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return shown_retrieval(tmp_path)


def test_the_page_holds_text_probabilities_and_neighbours(command: Command, directory: Path) -> None:
    done = command("fairseq-knnlm", "report", directory, "--log-format", "none", "--neighbours", 5, "--k", 10)
    assert done.code == 0, done.err
    page = Page(directory / "report.html")
    columns = {file.stem: np.load(file) for file in directory.glob("*.npy")}
    words = (directory.parent / "data-bin/dict.txt").read_text(encoding="utf-8").split("\n")[:-1]
    symbols = ["<s>", "<pad>", "</s>", "<unk>", *(line.rsplit(" ", 1)[0] for line in words)]
    source = np.fromfile(directory.parent / "data-bin/train.bin", "<u2")
    hits = np.unpackbits(columns["hits"], axis=1, count=12, bitorder="little")
    assert [page.facts["words"][w] for w in page.array("word")] == [symbols[t] for t in columns["targets"]]
    assert page.facts["settings"] == {"k": 10, "temperature": 2.0, "lmbda": 0.25}
    place, distance = page.array("place").reshape(-1, 5), page.array("distance").reshape(-1, 5)
    piece, start, shown = page.array("piece"), page.array("start"), page.array("source")
    for token in range(120):
        p = knn_probability(
            columns["distances"][token, :10], columns["ids"][token, :10], hits[token, :10].astype(int), 1, 2.0
        )
        assert np.exp(page.array("knn")[token]) == pytest.approx(p, rel=1e-5)
        assert page.array("lm")[token] == pytest.approx(columns["lm_log_prob"][token], rel=1e-6)
        for rank in range(5):
            wanted, at = columns["ids"][token, rank], int(place[token, rank])
            assert (at == 0xFFFFFFFF) == (wanted < 0)
            if wanted >= 0:
                number = np.searchsorted(piece, at, side="right") - 1
                assert start[number] + at - piece[number] == wanted + FIRST
                assert page.facts["words"][shown[at]] == symbols[source[wanted + FIRST]]
                assert distance[token, rank] == columns["distances"][token, rank]
    assert page.facts["rows"] == {"at": [FIRST], "row": [0], "store": [0]}
    assert page.facts["runs"] == [[0, 7], [60, 65]]
    counts = np.bincount(source, minlength=len(symbols))
    assert page.facts["counts"] == [counts[symbols.index(word)] for word in page.facts["words"]]


def test_words_that_look_like_markup_stay_words(command: Command, directory: Path) -> None:
    assert command("fairseq-knnlm", "report", directory, "--log-format", "none").code == 0
    page = Page(directory / "report.html")
    assert set(NASTY) <= set(page.facts["words"])
    assert page.tags.count("script") == len(page.scripts) and "img" not in page.tags
    assert page.fetched == ["#text"]
    text = (directory / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"https?://|@import|url\(", text)
    assert "innerHTML" not in text and "document.write" not in text
    assert "default-src 'none'" in text


def test_the_same_bytes_twice_and_nothing_replaced_unasked(command: Command, directory: Path) -> None:
    out = directory.parent / "out.html"
    words = ["fairseq-knnlm", "report", directory, "--out", out, "--log-format", "none"]
    assert command(*words).code == 0
    first = out.read_bytes()
    other = [*words, "--lmbda", 0.5]
    assert command(*other).error == f"--out: {out} is there already; give another path, or --overwrite to replace it"
    assert out.read_bytes() == first
    assert command(*other, "--overwrite").code == 0 and out.read_bytes() != first
    assert command(*words, "--overwrite").code == 0 and out.read_bytes() == first
    out.write_bytes(first[:-1])
    assert command(*words).code == 0 and out.read_bytes() == first, "the same command replaces what it wrote"
    assert not list(directory.glob("report.html")) and not list(directory.parent.glob(".*"))


def test_the_first_tokens_and_the_largest_changes(command: Command, tmp_path: Path) -> None:
    directory = shown_retrieval(tmp_path, tokens=600, source_tokens=3000)
    flags = ["--log-format", "none", "--max-tokens", 500, "--max-megabytes", 0.05, "--lmbda", 0.5, "--knn-temp", 7]
    done = command("fairseq-knnlm", "report", directory, *flags)
    assert done.code == 0
    assert done.out.startswith("500 of 600 tokens, k 12, temperature 7, λ 0.5: perplexity ")
    page = Page(directory / "report.html")
    chosen = page.array("chosen")
    assert 0 < len(chosen) < 500 and page.facts["with_neighbours"] == len(chosen)
    lm, knn = page.array("lm").astype(float), page.array("knn").astype(float)
    gain = np.log(0.5 * np.exp(lm) + 0.5 * np.exp(knn)) - lm
    assert {int(np.argmax(gain)), int(np.argmin(gain))} <= set(chosen.tolist())


def test_what_does_not_fit_is_one_line(command: Command, directory: Path) -> None:
    def refused(*words: object) -> str:
        return command("fairseq-knnlm", "report", *words, "--log-format", "none").error

    expected = f"--k 13 is more than the 12 neighbours of each token in {directory}; give fewer, or save it again with"
    assert refused(directory, "--k", 13) == f"{expected} as many"
    assert "must be at most 1" in refused(directory, "--lmbda", 1.5)
    assert "must be a saved retrieval" in refused(directory.parent)
    other = directory.parent / "data-bin"
    assert "its tokens differ" in refused(directory, "--data", other / "train")
    assert "give --dstore-data the text" in refused(directory, "--dstore-data", other / "valid")
    assert not (directory / "report.html").exists()
    for name in ("distances", "ids"):
        np.save(directory / f"{name}.npy", np.load(directory / f"{name}.npy")[:, :3])
    assert "must be" in refused(directory)


def test_the_sweeps_figures_are_in_the_page(command: Command, directory: Path) -> None:
    (directory / "sweep").mkdir()
    (directory / "sweep" / "lmbda.svg").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert command("fairseq-knnlm", "report", directory, "--log-format", "none").code == 0
    [[name, url]] = Page(directory / "report.html").facts["figures"]
    assert name == "lmbda" and url.startswith("data:image/svg+xml;base64,")


def test_the_page_begins_where_the_sweep_has_chosen(command: Command, directory: Path) -> None:
    """A retrieval is mostly saved at λ 0, which weighs nothing; what is typed is stronger than the choice."""
    manifest = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps({**manifest, "lmbda": 0.0, "distance_unit": 3.0}))

    def report(*flags: object) -> tuple[str, dict, str]:
        done = command("fairseq-knnlm", "report", directory, "--overwrite", "--log-format", "none", *flags)
        assert done.code == 0, done.err
        facts = Page(directory / "report.html").facts
        return done.out, facts["settings"], facts["origin"]

    out, settings, origin = report()
    assert settings == {"k": 12, "temperature": 2.0, "lmbda": 0.0} and origin == "as in the saved run"
    assert "λ 0 leaves neighbours no weight: give --lmbda" in out and "largest share of the gain" not in out
    done = command(
        "fairseq-knnlm", "sweep", directory, "--lmbda", "0.15,0.3", "--k", 7, "--knn-temp", 5, "--no-figures"
    )
    assert done.code == 0, done.err
    chosen = float(done.out.split("Chosen on ")[1].split()[2])
    out, settings, origin = report()
    assert (
        settings == {"k": 7, "temperature": 5.0, "lmbda": chosen}
        and origin == "as fairseq-knnlm sweep has chosen on valid"
    )
    assert "these settings gain nothing" in out and "largest share of the gain" not in out and origin in out
    _, settings, origin = report("--lmbda", 0.4, "--knn-temp", "auto")
    assert settings == {"k": 7, "temperature": 6.0, "lmbda": 0.4}
    assert origin == "by --lmbda and --knn-temp, else as fairseq-knnlm sweep has chosen on valid"


@pytest.mark.parametrize(("lmbda", "gains"), [(0.01, True), (0.95, False)])
def test_groups_have_a_share_of_a_gain_where_there_is_one(
    command: Command, directory: Path, lmbda: float, gains: bool
) -> None:
    done = command("fairseq-knnlm", "report", directory, "--log-format", "none", "--lmbda", lmbda)
    lm, mixture = map(float, re.search(r"perplexity ([\d.]+) → ([\d.]+)", done.out).groups())
    assert (mixture < lm) == gains
    assert done.out.count("the largest share of the gain comes from") == (4 if gains else 0)
    assert ("these settings gain nothing" in done.out) == (not gains)


def test_the_page_says_that_its_datastore_has_changed(command: Command, directory: Path) -> None:
    """Rows that were forgotten since are still shown: whoever is sent the page has to know."""
    store, now = directory.parent / "store", small_manifest(state="complete", weights_sha256="1" * 64)
    write_manifest(Path(f"{store}.json"), now)
    manifest = json.loads((directory / "manifest.json").read_text())
    recorded = {"datastore": {**manifest["datastore"], "prefix": str(store)}, "identity": {"store_id": "0" * 64}}
    (directory / "manifest.json").write_text(json.dumps({**manifest, **recorded}))
    assert command("fairseq-knnlm", "report", directory, "--log-format", "none").code == 0
    text = (directory / "report.html").read_text(encoding="utf-8")
    [banner] = re.findall(r'<p class="banner" role="alert">(.*?)</p>', text)
    assert f"but {store} is {now.store_id[:12]} now: rows were appended or forgotten" in banner
