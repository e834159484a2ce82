"""A datastore's life by its commands: append, rows, forget, compact; against datastores of their own."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fairseq.storage.files import locked
from tests.builders.tiny_lm import Command, Outcome, num_tokens, token_log_probs

WIDTH, BLOCK, WINDOW = 16, 12, 4
FIRST = BLOCK  # the first block whose context is full begins here
LOSS = r"Loss \(base 2\): ([\d.]+)"


def arrays(prefix: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.fromfile(f"{prefix}_keys.npy", np.float32).reshape(-1, WIDTH), np.fromfile(f"{prefix}_vals.npy", np.int64)


@pytest.fixture
def dump(eval_lm: Command) -> Callable[..., Outcome]:
    def call(prefix: Path, split: str, *words: object) -> Outcome:
        done = eval_lm(
            "--gen-subset", split, "--context-window", WINDOW, "--save-knnlm-dstore", "--dstore-mmap", prefix, *words
        )
        assert done.code == 0, done.err
        return done

    return call


@pytest.fixture
def store(dump: Callable[..., Outcome], tmp_path: Path) -> Path:
    """Returns a datastore of train, to which valid has been appended."""
    dump(tmp_path / "dstore", "train")
    dump(tmp_path / "dstore", "valid", "--append", "--max-tokens", 64)
    return tmp_path / "dstore"


def test_appended_rows_are_those_of_a_datastore_of_their_own(
    dump: Callable[..., Outcome], store: Path, tmp_path: Path, command: Command, data_dir: Path, checkpoint: Path
) -> None:
    for split in ("train", "valid"):
        dump(tmp_path / split, split)
    parts = [arrays(tmp_path / split) for split in ("train", "valid")]
    for found, *wanted in zip(arrays(store), *parts, strict=True):
        np.testing.assert_allclose(found, np.concatenate(wanted), atol=1e-5)  # another batching, other last bits
    assert np.array_equal(arrays(store)[1], np.concatenate([part[1] for part in parts]))
    assert "nothing to do" in " ".join(dump(store, "valid", "--append").log)
    assert not list(tmp_path.glob("dstore.*append*"))
    checked = command("fairseq-knnlm", "check", data_dir, "--path", checkpoint, "--dstore-filename", store)
    assert checked.code == 0, checked.out
    rows = [len(part[1]) for part in parts]
    assert f"train {rows[0]} of {rows[0]} rows; valid {rows[1]} of {rows[1]} rows" in checked.out
    assert f"datastore segment 1: all {rows[1]} values" in checked.out
    info = command("fairseq-knnlm", "info", store, f"{store}.json").out
    assert info.count("segment 1: ") == 2


def test_an_index_takes_what_was_appended(
    dump: Callable[..., Outcome], command: Command, tmp_path: Path, data_dir: Path
) -> None:
    prefix, index, whole = tmp_path / "dstore", tmp_path / "knn.index", tmp_path / "whole.index"
    words = ["--dstore_mmap", prefix, "--faiss_index"]
    dump(prefix, "train")
    assert command("build_dstore.py", *words, index, "--index-spec", "IVF8,Flat").code == 0
    dump(prefix, "test", "--append")
    assert "--append adds rows to it" in command("build_dstore.py", *words, index, "--index-spec", "IVF8,Flat").error
    done = command("build_dstore.py", *words, index, "--append", "--ncentroids", 9)
    assert done.code == 0 and any("--append keeps what the index was built with" in line for line in done.warnings)
    assert re.search(r"the appended rows, against the old ones: \d\.\d\d times as far", " ".join(done.log)), done.log
    assert "nothing to do" in " ".join(command("build_dstore.py", *words, index, "--append").log)
    import faiss

    shutil.copy(f"{index}.trained", whole)  # the same centroids, all rows at once
    built = faiss.read_index(str(whole))
    built.add(arrays(prefix)[0])
    built.nprobe = 8
    found = faiss.read_index(str(index))
    queries = arrays(prefix)[0][::97]
    assert np.array_equal(built.search(queries, 5)[0], found.search(queries, 5)[0])
    record = json.loads(Path(f"{index}.json").read_text())
    assert record["rows"] == found.ntotal == len(arrays(prefix)[1]) and record["trained_on"]
    assert command("build_dstore.py", *words, index, "--append", "--retrain").code == 0
    assert "trained_on" not in json.loads(Path(f"{index}.json").read_text())
    assert "nothing to do" in " ".join(command("build_dstore.py", *words, index, "--append", "--retrain").log)


def test_appending_is_refused_where_rows_would_not_belong(
    dump: Callable[..., Outcome], eval_lm: Command, tmp_path: Path, command: Command, data_dir: Path
) -> None:
    prefix = tmp_path / "dstore"
    words = ["--save-knnlm-dstore", "--dstore-mmap", prefix, "--append", "--context-window", WINDOW]
    words += ["--gen-subset", "test"]
    assert "does not exist" in eval_lm(*words).error
    dump(prefix, "train")
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    record = json.loads(Path(f"{prefix}.json").read_text())
    for name in ("weights_sha256", "dictionary_sha256"):
        Path(f"{prefix}.json").write_text(json.dumps({**record, name: "0" * 64}))
        assert "was written with" in eval_lm(*words).error
    Path(f"{prefix}.json").write_bytes(files[Path(f"{prefix}.json")])
    assert "exclude each other" in eval_lm(*words, "--overwrite").error
    assert "have float16" in eval_lm(*words, "--dstore-fp16").error
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files
    other = dump(prefix, "test", "--append", "--context-window", 2)
    assert any("--context-window 4, but the appended rows have 2" in line for line in other.warnings)
    index = ["--dstore_mmap", prefix, "--faiss_index", tmp_path / "none.index", "--append"]
    assert "does not exist, so nothing can be added" in command("build_dstore.py", *index).error
    assert "give --append" in command("build_dstore.py", *index[:4], "--retrain").error


def test_an_adopted_datastores_files_are_not_written_to(
    dump: Callable[..., Outcome], command: Command, tmp_path: Path
) -> None:
    dump(tmp_path / "old", "train")
    for name in ("_keys.npy", "_vals.npy"):
        (tmp_path / f"new{name}").hardlink_to(tmp_path / f"old{name}")
    shutil.copy(tmp_path / "old.json", tmp_path / "new.json")
    before = [part.tobytes() for part in arrays(tmp_path / "old")]
    dump(tmp_path / "new", "valid", "--append")
    assert [part.tobytes() for part in arrays(tmp_path / "old")] == before
    assert len(arrays(tmp_path / "new")[1]) > len(arrays(tmp_path / "old")[1])


def test_rows_say_where_they_come_from(command: Command, store: Path, data_dir: Path, tmp_path: Path) -> None:
    train = num_tokens(data_dir, "train") - FIRST
    tokens = {split: np.fromfile(data_dir / f"{split}.bin", "<u2") for split in ("train", "valid")}
    found = command(
        "fairseq-knnlm", "rows", store, 0, 100, train - 1, f"{train}:{train + 2}", "--json", tmp_path / "rows.json"
    )
    assert found.code == 0, found.err
    records = json.loads((tmp_path / "rows.json").read_text())["found"]
    wanted = [("train", 0), ("train", 100), ("train", train - 1), ("valid", 0), ("valid", 1)]
    symbols = [line.split()[0] for line in (data_dir / "dict.txt").read_text().splitlines()]
    names = ["<s>", "<pad>", "</s>", "<unk>", *symbols]
    for record, (source, row) in zip(records, wanted, strict=True):
        at = FIRST + row
        assert (record["source"], record["position"]) == (source, at)
        assert record["value"] == names[tokens[source][at]] == names[arrays(store)[1][record["row"]]]
        line = int((tokens[source][:at] == 2).sum())
        assert record["line"] == line
        begin = int(np.flatnonzero(tokens[source] == 2)[line - 1]) + 1 if line else 0
        assert record["token_of_line"] == at - begin
        assert record["before"].split() == [names[token] for token in tokens[source][max(at - 12, 0) : at]]
    listed = command("fairseq-knnlm", "rows", store, "--documents")
    assert f"{data_dir / 'train'}: " in listed.out and "empty lines between them" in listed.out


@pytest.mark.parametrize(
    "words, expect",
    [
        (["rows", "{store}"], "give numbers such as"),
        (["rows", "{store}", "5:5"], "must be greater than the first"),
        (["rows", "{store}", "x"], "a number or a range FIRST:STOP"),
        (["rows", "{store}", "9999999"], "row 9999999 must be one of the"),
        (["rows", "{store}", "5", "--documents"], "give numbers such as"),
        (["rows", "{store}", "0:9", "--data", "/none"], "give --data the directory"),
        (["rows", "{store}", "0", "--document-start", "("], "must be a regular expression"),
        (["rows", "{store}x", "0"], "does not exist"),
        (["forget", "{store}", "--rows", "3:1"], "must be greater than the first"),
        (["forget", "{store}", "--rows", "1:2", "--source", "valid"], "exclude each other"),
        (["forget", "{store}", "--source", "vaild"], "is no source of"),
        (["forget", "{store}", "--document", "nothing"], "is none of the"),
        (["forget", "{store}", "--document", "train#99999"], "is none of the"),
        (["forget", "{store}", "--rows", "1:2", "--compact"], "are two commands"),
        (["forget", "{store}", "--indexfile", "x"], "--indexfile is for --compact"),
        (["forget", "{store}", "--compact", "--indexfile", "x"], "nothing"),
        (["forget", "{store}", "--dry-run"], "give --document, --rows or --source"),
        (["forget", "{store}", "--rows", "1:2", "--following", "3"], "give --document"),
    ],
)
def test_what_is_mistyped_is_one_line(command: Command, store: Path, words: list[str], expect: str) -> None:
    files = {path: path.read_bytes() for path in store.parent.iterdir()}
    outcome = command("fairseq-knnlm", *(word.format(store=store) for word in words))
    if "--compact" in words and "x" in words:
        assert "not of these rows" in outcome.error
    else:
        assert expect in outcome.error
    assert {path: path.read_bytes() for path in store.parent.iterdir()} == files


def evaluate(eval_lm: Command, prefix: Path, index: Path, *more: object) -> np.ndarray:
    words = ["--knnlm", "--dstore-filename", prefix, "--indexfile", index, "--k", 8, "--probe", 4, "--lmbda", 0.5]
    done = eval_lm(*words, "--output-word-probs", *more)
    assert done.code == 0, done.err
    return token_log_probs(done.out)


def test_what_is_forgotten_has_no_say(
    dump: Callable[..., Outcome], store: Path, command: Command, eval_lm: Command, tmp_path: Path
) -> None:
    """Forgetting the source that was appended gives the probabilities of the datastore before, and the same after."""
    index, flat = tmp_path / "knn.index", tmp_path / "flat.index"
    dump(tmp_path / "alone", "train")
    for prefix, path, spec in (
        (store, index, "IVF8,Flat"),
        (store, flat, "Flat"),
        (tmp_path / "alone", tmp_path / "alone.index", "Flat"),
    ):
        assert (
            command("build_dstore.py", "--dstore_mmap", prefix, "--faiss_index", path, "--index-spec", spec).code == 0
        )
    retrieval = tmp_path / "before"
    evaluate(eval_lm, store, flat, "--save-retrieval", retrieval)
    wanted = evaluate(eval_lm, tmp_path / "alone", tmp_path / "alone.index")
    told = command("fairseq-knnlm", "forget", store, "--source", "valid")
    assert told.code == 0 and "source " in told.out
    np.testing.assert_allclose(evaluate(eval_lm, store, flat), wanted, atol=2e-5)
    by_list = evaluate(eval_lm, store, index)
    checked = command("fairseq-knnlm", "check", "--dstore-filename", store, "--indexfile", index)
    assert checked.code == 0 and "in the files until --compact" in checked.out, checked.out
    swept = command("fairseq-knnlm", "sweep", retrieval, "--no-figures")
    assert swept.code == 0 and any("of its earlier state" in line for line in swept.warnings)
    fitted = command("fairseq-knnlm", "fit-lmbda", retrieval, "--out", tmp_path / "lmbda.json")
    assert "was saved with datastore" in fitted.error
    after = tmp_path / "after"
    evaluate(eval_lm, store, flat, "--save-retrieval", after)
    assert (
        "save both with the same"
        in command("fairseq-knnlm", "sweep", retrieval, "--apply", after, "--no-figures", "--overwrite").error
    )
    compacted = command("fairseq-knnlm", "forget", store, "--compact", "--indexfile", f"{index},{flat}")
    assert compacted.code == 0, compacted.err
    assert np.array_equal(arrays(store)[1], arrays(tmp_path / "alone")[1])
    np.testing.assert_allclose(evaluate(eval_lm, store, flat), wanted, atol=2e-5)
    np.testing.assert_allclose(evaluate(eval_lm, store, index), by_list, atol=2e-5)
    dump(store, "valid", "--append")  # and once more


def test_a_document_is_forgotten_and_the_report_still_knows_the_rows(
    store: Path, command: Command, eval_lm: Command, tmp_path: Path, data_dir: Path
) -> None:
    listed = command("fairseq-knnlm", "rows", store, "--documents").out
    match = re.search(r"^  (valid#\d+)  (\d+):(\d+)  ", listed, flags=re.MULTILINE)
    assert match is not None, listed
    name, start, stop = match[1], int(match[2]), int(match[3])
    # A manifest that says of another cut leads to other rows, and their values tell.
    record = json.loads(Path(f"{store}.json").read_text())
    other = json.loads(json.dumps(record).replace(f'"context_window": {WINDOW}', '"context_window": 0'))
    Path(f"{store}.json").write_text(json.dumps(other))
    assert "holds the value" in command("fairseq-knnlm", "forget", store, "--document", name).error
    Path(f"{store}.json").write_text(json.dumps(record))
    done = command("fairseq-knnlm", "forget", store, "--document", name, "--following", 2)
    assert done.code == 0 and f"{stop - start + 2} rows, {start}:{stop + 2}" in done.out, done.out
    assert "FORGOTTEN" in command("fairseq-knnlm", "rows", store, start).out
    assert command("fairseq-knnlm", "forget", store, "--rows", "7:9").code == 0
    values = arrays(store)[1]
    assert command("fairseq-knnlm", "forget", store, "--compact").code == 0
    assert np.array_equal(arrays(store)[1], np.delete(values, [7, 8, *range(start, stop + 2)]))
    checked = command("fairseq-knnlm", "check", "--dstore-filename", store)
    assert checked.code == 0 and "datastore segment 1: all " in checked.out, checked.out
    assert f"{name}  no rows" in command("fairseq-knnlm", "rows", store, "--documents").out
    index = tmp_path / "flat.index"
    assert command("build_dstore.py", "--dstore_mmap", store, "--faiss_index", index, "--index-spec", "Flat").code == 0
    evaluate(eval_lm, store, index, "--save-retrieval", tmp_path / "saved")
    report = command("fairseq-knnlm", "report", tmp_path / "saved", "--log-format", "none")
    assert report.code == 0, report.err  # every neighbour's value is the token that its row is mapped to
    Path(f"{store}.json").write_text(Path(f"{store}.json").read_text().replace('"spans"', '"span"'))
    assert "'segments[0]' has the unknown field 'span'" in command("fairseq-knnlm", "rows", store, 0).error


def test_one_process_at_a_time_appends_forgets_or_compacts(
    eval_lm: Command, command: Command, store: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    append = ("--gen-subset", "test", "--context-window", WINDOW, "--save-knnlm-dstore", "--append")
    with locked(store):
        outcomes = [
            eval_lm(*append, "--dstore-mmap", store),
            command("fairseq-knnlm", "forget", store, "--rows", "3:9"),
            command("fairseq-knnlm", "forget", store, "--compact"),
        ]
    for outcome in outcomes:
        assert outcome.code == 2 and "is being written by another process" in outcome.error
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
