"""Two datastores searched together, one of them with appended rows and compacted: ids lead to the right words.

ids    [ train, rows 40 to 59 gone | valid, rows 5 to 7 gone ][ test ]
         the datastore "life"                                   the datastore "test"
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fairseq.data.dictionary import Dictionary
from fairseq.knn.config import KNNConfig
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq_cli.shared.run import run
from knnlm import open_neighbours
from tests.builders.report_page import Page
from tests.builders.tiny_lm import Command, main_of, num_tokens

K, CONTEXT, FIRST = 24, 6, 10  # blocks of 10 tokens: the second one is the first with a full context
GONE = {"train": (40, 60), "valid": (5, 8)}
FLAGS = ["--context-window", CONTEXT, "--log-format", "none", "--cpu"]
# The same float32 distances; the votes are added in another order.
BITS = 1e-6


def call(prog: str, *words: object) -> None:
    assert run(prog, main_of(prog), [str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def root(data_dir: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes the datastores, their indexes, which find the nearest, and a retrieval."""
    root = tmp_path_factory.mktemp("segments")
    life, other = root / "life", root / "test"
    for prefix, split, *more in ((life, "train"), (life, "valid", "--append"), (other, "test")):
        words = [data_dir, "--path", checkpoint, "--gen-subset", split, "--save-knnlm-dstore", *FLAGS, *more]
        call("fairseq-eval-lm", *words, "--dstore-mmap", prefix)
    behind = num_tokens(data_dir, "train") - FIRST
    for start, (first, stop) in ((0, GONE["train"]), (behind, GONE["valid"])):
        call("fairseq-knnlm", "forget", life, "--rows", f"{start + first}:{start + stop}")
    call("fairseq-knnlm", "forget", life, "--compact")
    for prefix in (life, other):
        call("build_dstore.py", "--dstore-mmap", prefix, "--faiss-index", f"{prefix}.index", "--index-spec", "Flat")
    call("fairseq-eval-lm", data_dir, "--path", checkpoint, *FLAGS, *knn(root), "--save-retrieval", root / "saved")
    return root


def knn(root: Path) -> list[object]:
    stores, indexes = (":".join(f"{root / name}{end}" for name in ("life", "test")) for end in ("", ".index"))
    return ["--knnlm", "--dstore-filename", stores, "--indexfile", indexes, "--k", K, "--lmbda", 0.4]


def places(data_dir: Path) -> list[tuple[int, int, str, int]]:
    """Returns, for each id, its datastore, its row there, and the split and token that it is."""
    found: list[tuple[int, int, str, int]] = []
    for store, splits in enumerate((("train", "valid"), ("test",))):
        rows = [
            (split, position)
            for split in splits
            for position in range(FIRST, num_tokens(data_dir, split))
            if not GONE.get(split, (0, 0))[0] <= position - FIRST < GONE.get(split, (0, 0))[1]
        ]
        found += [(store, row, split, position) for row, (split, position) in enumerate(rows)]
    return found


def tokens_of(data_dir: Path) -> dict[str, list[int]]:
    return {split: np.fromfile(data_dir / f"{split}.bin", "<u2").tolist() for split in ("train", "valid", "test")}


def test_ids_lead_to_the_words_around_them(root: Path, data_dir: Path) -> None:
    retrieval, texts, of_id = Retrieval.open(root / "saved"), tokens_of(data_dir), places(data_dir)
    assert retrieval.manifest.datastore.rows == len(of_id)
    assert [part.offset for part in retrieval.parts] == [0, sum(store == 0 for store, *_ in of_id)]
    hits_NK, ids_NK = retrieval.hits_NK(slice(None)), np.asarray(retrieval.ids_NK)
    for ids, hits, target in zip(ids_NK.tolist(), hits_NK.tolist(), retrieval.target_N.tolist(), strict=True):
        assert hits == [texts[split][at] == target for _, _, split, at in (of_id[idx] for idx in ids)]
    config = KNNConfig(
        dstore_filename=f"{root}/life:{root}/test", indexfile=f"{root}/life.index:{root}/test.index", k=K
    )
    source = open_neighbours(config)
    splits, symbols = set(), Dictionary.load(data_dir / "dict.txt").symbols
    for idx, (_, _, split, at) in enumerate(of_id):
        passage = source.passage(idx, 3, 2)
        assert passage is not None
        words = [symbols[token] for token in texts[split]]
        assert passage.before.split() == words[max(at - 3, 0) : at] and passage.value == words[at]
        assert passage.after.split() == words[at + 1 : at + 3]
        splits.add(split)
    assert splits == {"train", "valid", "test"}


def test_the_report_names_row_and_datastore(root: Path, data_dir: Path, command: Command) -> None:
    """As the page's script does: from a neighbour's place to its piece, and from there to its row."""
    done = command("fairseq-knnlm", "report", root / "saved", "--neighbours", K, "--overwrite")
    assert done.code == 0, done.err
    page, texts, of_id = Page(root / "saved" / "report.html"), tokens_of(data_dir), places(data_dir)
    rows, names = page.facts["rows"], page.facts["stores"]
    assert names == ["life", "test"] and rows["store"] == [0, 0, 0, 0, 1]
    piece, start, shown = page.array("piece"), page.array("start"), page.array("source")
    symbols = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        *(w.split()[0] for w in (data_dir / "dict.txt").read_text().split("\n") if w),
    ]
    ids_NK = np.asarray(Retrieval.open(root / "saved").ids_NK)
    assert len(page.array("chosen")) == len(ids_NK)
    for at, idx in zip(page.array("place").tolist(), ids_NK.reshape(-1).tolist(), strict=True):
        number = int(np.searchsorted(piece, at, side="right")) - 1
        place = int(start[number]) + at - int(piece[number])
        part = int(np.searchsorted(rows["at"], place, side="right")) - 1
        store, row, split, position = of_id[idx]
        assert (rows["store"][part], rows["row"][part] + place - rows["at"][part]) == (store, row)
        assert page.facts["words"][shown[at]] == symbols[texts[split][position]]
    split = f"{data_dir / 'train'}:{data_dir / 'test'}"
    one = command("fairseq-knnlm", "report", root / "saved", "--overwrite", "--dstore-data", split)
    assert "is one text, but" in one.error and "was written from 2" in one.error
    both = command("fairseq-knnlm", "report", root / "saved", "--overwrite", "--dstore-data", f"{data_dir}:{data_dir}")
    assert both.code == 0, both.err


def test_a_sweep_says_what_a_run_says(root: Path, command: Command, eval_lm: Command, tmp_path: Path) -> None:
    flags = ["--lmbda", "0.1,0.7", "--knn-temp", 1, "--k", "3,24", "--no-figures", "--out", tmp_path]
    swept = command("fairseq-knnlm", "sweep", root / "saved", *flags)
    (own,) = swept.warnings  # two datastores, one of which is of the test text itself
    assert swept.code == 0 and "THE DATASTORE HOLDS THE EVALUATED TEXT" in own, swept.err
    found = json.loads((tmp_path / "sweep.json").read_text())
    run_of = eval_lm(
        *knn(root),
        "--context-window",
        CONTEXT,
        "--lmbda",
        0.7,
        "--k",
        3,
        "--overwrite",
        "--results-path",
        tmp_path / "r.json",
    )
    assert run_of.code == 0, run_of.err
    place = found["grid"]["k"].index(3), found["grid"]["lmbda"].index(0.7)
    loss = json.loads((tmp_path / "r.json").read_text())["loss_base2"]
    assert found["loss_base2"][0][place[0]][place[1]] == pytest.approx(loss, abs=BITS)


def test_a_retrieval_of_an_earlier_state_is_told_from_one_of_another_datastore(
    root: Path, command: Command, tmp_path: Path
) -> None:
    for path in root.glob("life*"):
        shutil.copy(path, tmp_path)
    named = ["--retrieval", root / "saved", "--dstore-filename", f"{tmp_path / 'life'}:{root / 'test'}"]
    assert command("fairseq-knnlm", "check", *named).out.count("ok       retrieval datastore") == 2
    assert command("fairseq-knnlm", "forget", tmp_path / "life", "--rows", "0:9").code == 0
    checked = command("fairseq-knnlm", "check", *named)
    assert checked.code == 0 and "warning  retrieval datastore: retrieved from" in checked.out, checked.out
    assert "ok       retrieval hits" in checked.out
    shutil.copytree(root / "saved", tmp_path / "saved")
    manifest = tmp_path / "saved" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f"{root / 'life'}", f"{tmp_path / 'life'}"))
    swept = command("fairseq-knnlm", "sweep", tmp_path / "saved", "--no-figures")
    assert swept.code == 0 and any("of its earlier state" in line for line in swept.warnings)
    assert command("fairseq-knnlm", "forget", tmp_path / "life", "--compact").code == 0
    assert "FAILED   retrieval datastore" in command("fairseq-knnlm", "check", *named).out
