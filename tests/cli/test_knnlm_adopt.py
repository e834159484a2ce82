"""``fairseq-knnlm adopt``: datastores of other tools, written here by NumPy as those tools wrote them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from fairseq_cli.shared.run import run
from tests.builders.tiny_lm import Command, Outcome, main_of, write_split

WIDTH, BLOCK, WINDOW = 8, 20, 12  # tokens_per_sample is 32: the first block has no full context
VOCABULARY = 40004
TOKENS = np.random.default_rng(0).integers(4, VOCABULARY, 500)  # half of the ids or so are above int16
VALUES = TOKENS[BLOCK:]  # rows = total − ceil(12 / 20) · 20
KEYS = np.random.default_rng(1).standard_normal((len(VALUES), WIDTH))
ORIGIN = f"--context-window {WINDOW} --tokens-per-sample {BLOCK + WINDOW}"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns binarised text with ids beyond int16."""
    directory = tmp_path_factory.mktemp("text")
    (directory / "dict.txt").write_text("".join(f"w{i} 1\n" for i in range(VOCABULARY - 4)))
    write_split(directory / "train", [TOKENS.tolist()])
    return directory


def write_store(prefix: Path, values: np.ndarray, *, keys: str = "f2", zeros: int = 0, dtype: str = "i8") -> Path:
    """Writes raw files: little-endian, no header, with unfilled rows at the end."""
    stored = np.concatenate([KEYS[: len(values)], np.zeros((zeros, WIDTH))]).astype(f"<{keys}")
    Path(f"{prefix}_keys.npy").write_bytes(stored.tobytes())
    padded = np.concatenate([values, np.zeros(zeros, np.int64)]).astype(f"<{dtype}")
    Path(f"{prefix}_vals.npy").write_bytes(padded.tobytes())
    return prefix


def adopt(command: Command, source: Path, target: Path, words: str = "", *more: object) -> Outcome:
    before = {path: (path.read_bytes(), path.stat().st_ino) for path in source.parent.glob(f"{source.name}*.npy")}
    outcome = command(
        "fairseq-knnlm", "adopt", source, "--dstore-mmap", target, "--log-format", "none", *words.split(), *more
    )
    assert {path: (path.read_bytes(), path.stat().st_ino) for path in before} == before, "the old files were changed"
    return outcome


def adopted(prefix: Path) -> tuple[dict[str, object], np.ndarray, np.ndarray]:
    """Returns manifest, keys and values of a datastore that must be complete."""
    record = json.loads(Path(f"{prefix}.json").read_text())
    assert record["state"] == "complete" and record["rows_written"] == record["rows"]
    keys = np.fromfile(f"{prefix}_keys.npy", record["key_dtype"]).reshape(record["rows"], record["dimension"])
    values = np.fromfile(f"{prefix}_vals.npy", record["value_dtype"])
    assert len(values) == record["rows"] and record["keys_sha256"] and record["values_sha256"]
    return record, keys, values


@pytest.mark.parametrize(
    "name, keys, dtype",
    [
        (f"wiki_size{len(VALUES)}_embed{WIDTH}_fp16", "f2", "i8"),
        (f"store_gpt2_{len(VALUES)}_{WIDTH}", "f2", "i4"),
        (f"dstore_size{len(VALUES)}_embed{WIDTH}", "f4", "i8"),
    ],
)
@pytest.mark.parametrize("given", ["prefix", "keys", "short"])
def test_the_layouts_of_other_tools_are_known_by_name(
    command: Command, tmp_path: Path, name: str, keys: str, dtype: str, given: str
) -> None:
    prefix = write_store(tmp_path / name, VALUES, keys=keys, dtype=dtype)
    short = tmp_path / re.split(r"_size|_\d", name)[0]
    source = {"prefix": prefix, "keys": Path(f"{prefix}_keys.npy"), "short": short}[given]
    outcome = adopt(command, source, tmp_path / "new" / "dstore")
    assert outcome.code == 0, outcome.err
    record, found_keys, values = adopted(tmp_path / "new" / "dstore")
    assert np.array_equal(found_keys, KEYS.astype(f"<{keys}")) and np.array_equal(values, VALUES)
    assert record["weights_sha256"] is None and record["dictionary_sha256"] is None
    for part in ("keys", "vals"):
        assert Path(f"{prefix}_{part}.npy").samefile(f"{tmp_path}/new/dstore_{part}.npy")
    check = command("fairseq-knnlm", "check", "--dstore-filename", tmp_path / "new" / "dstore")
    assert check.code == 0 and "FAILED" not in check.out


def test_a_name_of_knn_transformers_needs_the_tokenizers_data(command: Command, tmp_path: Path) -> None:
    """Its values are the model's own ids: taken as they are, every word would be another one."""
    prefix = write_store(tmp_path / f"dstore_gpt2_{len(VALUES)}_{WIDTH}", VALUES, keys="f2", dtype="i4")
    assert "a model's own ids, not those here; give --data" in adopt(command, prefix, tmp_path / "new").error
    assert not (tmp_path / "new.json").exists()


def test_what_is_fine_in_place_gets_a_manifest_only(command: Command, tmp_path: Path) -> None:
    prefix = write_store(tmp_path / "dstore", VALUES, keys="f4")
    outcome = command("fairseq-knnlm", "adopt", prefix, "--dimension", WIDTH)
    assert outcome.code == 0, outcome.err
    assert {path.name for path in tmp_path.iterdir()} == {"dstore.json", "dstore_keys.npy", "dstore_vals.npy"}
    assert np.array_equal(adopted(prefix)[2], VALUES)
    assert "already" in command("fairseq-knnlm", "adopt", prefix, "--dimension", WIDTH).error


def test_sizes_that_fit_several_layouts_are_refused(command: Command, tmp_path: Path) -> None:
    prefix = write_store(tmp_path / "dstore", VALUES, keys="f2")
    error = adopt(command, prefix, tmp_path / "new").error
    assert "fits several layouts" in error and "8-wide float16" in error
    assert adopt(command, prefix, tmp_path / "new", "--dimension 8 --dstore-fp16").code == 0


def test_a_name_that_lies_is_refused(command: Command, tmp_path: Path) -> None:
    prefix = write_store(tmp_path / f"x_size{len(VALUES) + 1}_embed{WIDTH}_fp16", VALUES)
    assert "fits no layout with rows 481" in adopt(command, prefix, tmp_path / "new").error


def test_rows_that_were_never_filled_are_cut_off(command: Command, tmp_path: Path) -> None:
    prefix = write_store(tmp_path / f"x_size{len(VALUES) + 7}_embed{WIDTH}_fp16", VALUES, zeros=7)
    assert adopt(command, prefix, tmp_path / "new").code == 0
    record, keys, values = adopted(tmp_path / "new")
    assert np.array_equal(keys, KEYS.astype("<f2")) and np.array_equal(values, VALUES)
    assert values.dtype == np.int64 and "7 rows of zeros" in record["settings"]["mended"]  # type: ignore[index]
    assert "need" in command("fairseq-knnlm", "adopt", prefix).error  # never in place


def test_a_store_of_zeros_is_refused(command: Command, tmp_path: Path) -> None:
    prefix = write_store(tmp_path / f"x_size9_embed{WIDTH}_fp16", VALUES[:0], zeros=9)
    assert "zeros only" in adopt(command, prefix, tmp_path / "new").error


def test_int16_values_that_overflowed_are_restored_from_the_text(command: Command, text: Path, tmp_path: Path) -> None:
    prefix = write_store(tmp_path / "dstore", VALUES, dtype="i2", zeros=3)
    assert (np.fromfile(f"{prefix}_vals.npy", "<i2") < 0).any()
    sizes = f"--dimension {WIDTH} --dstore-size {len(VALUES) + 3} --dstore-fp16"
    assert "do not fit int16; give --data" in adopt(command, prefix, tmp_path / "new", sizes).error
    outcome = adopt(command, prefix, tmp_path / "new", f"{sizes} {ORIGIN}", "--data", text)
    assert outcome.code == 0, outcome.err
    record, _, values = adopted(tmp_path / "new")
    assert np.array_equal(values, VALUES) and values.dtype == np.int64
    assert record["vocabulary_size"] == VOCABULARY and record["dictionary_sha256"]
    assert f"{(VALUES > 32767).sum()} int16 values restored" in outcome.out
    check = command("fairseq-knnlm", "check", text, "--dstore-filename", tmp_path / "new")
    assert check.code == 0, check.out


@pytest.mark.parametrize("dtype", ["i2", "i8"])
def test_values_that_are_not_the_text_are_refused(command: Command, text: Path, tmp_path: Path, dtype: str) -> None:
    wrong = VALUES.copy()
    wrong[[100, 200]] += 1
    prefix = write_store(tmp_path / f"d_{len(VALUES)}_{WIDTH}", wrong, dtype=dtype)
    error = adopt(command, prefix, tmp_path / "new", ORIGIN, "--data", text).error
    assert "2 of 480 values are not the tokens of the text" in error and "the first is row 100" in error
    other = adopt(command, prefix, tmp_path / "new", "", "--data", text).error  # without the context window
    assert "are not the tokens of the text" in other
    assert not list(tmp_path.glob("new*"))


def test_a_context_window_alone_does_not_say_which_rows_there_are(command: Command, text: Path, tmp_path: Path) -> None:
    prefix = write_store(tmp_path / f"d_{len(VALUES)}_{WIDTH}", VALUES)
    error = adopt(command, prefix, tmp_path / "new", f"--context-window {WINDOW}", "--data", text).error
    assert "give --tokens-per-sample or --path" in error


def test_negative_values_of_any_width_are_refused(command: Command, tmp_path: Path) -> None:
    prefix = write_store(tmp_path / f"d_{len(VALUES)}_{WIDTH}", np.where(VALUES > 30000, -1, VALUES))
    assert "no id is negative" in adopt(command, prefix, tmp_path / "new").error


def test_what_is_in_the_way_stays(command: Command, tmp_path: Path) -> None:
    prefix = write_store(tmp_path / f"d_{len(VALUES)}_{WIDTH}", VALUES)
    (tmp_path / "new_keys.npy").write_bytes(b"precious")
    for more in ("", "--overwrite", "--overwrite --copy"):
        assert (
            "not the keys of a datastore that this program wrote"
            in adopt(command, prefix, tmp_path / "new", more).error
        )
        assert (tmp_path / "new_keys.npy").read_bytes() == b"precious"
    (tmp_path / "new_keys.npy").unlink()
    assert adopt(command, prefix, tmp_path / "new").code == 0
    assert "--overwrite replaces it" in adopt(command, prefix, tmp_path / "new").error
    assert adopt(command, prefix, tmp_path / "new", "--overwrite --copy").code == 0
    assert not Path(f"{prefix}_keys.npy").samefile(tmp_path / "new_keys.npy")
    assert np.array_equal(adopted(tmp_path / "new")[2], VALUES)


def test_the_repaired_store_goes_on_after_a_kill_between_files(command: Command, tmp_path: Path) -> None:
    prefix = write_store(tmp_path / f"d_{len(VALUES)}_{WIDTH}", VALUES)
    (tmp_path / "new_keys.npy").hardlink_to(f"{prefix}_keys.npy")  # what a stopped run leaves
    assert adopt(command, prefix, tmp_path / "new").code == 0


def test_a_copy_goes_on_after_a_kill_before_its_manifest(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = write_store(tmp_path / f"d_{len(VALUES)}_{WIDTH}", VALUES)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fairseq.knn.maintain.adopt._manifest", stop)
        assert adopt(command, prefix, tmp_path / "new", "--copy").code == 130
    assert (tmp_path / "new_keys.npy").exists()
    assert adopt(command, prefix, tmp_path / "new", "--copy").code == 0
    assert np.array_equal(adopted(tmp_path / "new")[2], VALUES)


def test_across_file_systems_links_are_symbolic(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link", str(target))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    prefix = write_store(tmp_path / f"d_{len(VALUES)}_{WIDTH}", VALUES)
    assert adopt(command, prefix, tmp_path / "new").code == 0
    assert (tmp_path / "new_keys.npy").is_symlink() and np.array_equal(adopted(tmp_path / "new")[2], VALUES)


@pytest.mark.parametrize("key_dtype", ["f4", "f2"])
def test_an_adopted_store_gives_the_same_result(
    command: Command, data_dir: Path, checkpoint: Path, tmp_path: Path, key_dtype: str
) -> None:
    """The model's own datastore, without its manifest, adopted with text and model, evaluates to the same number."""
    prefix = tmp_path / "dstore"
    fp16 = ["--dstore-fp16"] if key_dtype == "f2" else []
    main = main_of("fairseq-eval-lm")
    base = [str(data_dir), "--path", str(checkpoint), "--cpu", "--log-format", "none"]
    dump = ["--gen-subset", "train", "--context-window", "6", "--save-knnlm-dstore", "--dstore-mmap", str(prefix)]
    assert run("fairseq-eval-lm", main, [*base, *dump, *fp16]) == 0
    written = json.loads((tmp_path / "dstore.json").read_text())
    (tmp_path / "dstore.json").unlink()
    origin = ("--data", data_dir, "--path", checkpoint, "--cpu")
    flags = f"--dimension 16 --dstore-size {written['rows']} --context-window 6"
    outcome = adopt(command, prefix, tmp_path / "new", flags, *origin)
    assert outcome.code == 0, outcome.err
    record = adopted(tmp_path / "new")[0]
    for name in ("weights_sha256", "dictionary_sha256", "vocabulary_size", "keys_sha256", "values_sha256"):
        assert record[name] == written[name], name
    for name in ("data_sha256", "tokens_per_sample", "context_window"):
        assert record["settings"][name] == written["settings"][name], name  # type: ignore[index]
    losses = []
    for store, known in ((prefix, ["--dstore-fp16"] * len(fp16)), (tmp_path / "new", [])):
        results = tmp_path / "results.json"
        (tmp_path / "i").unlink(missing_ok=True)
        build = ["--dstore-mmap", store, "--faiss-index", tmp_path / "i", "--index-spec", "Flat", "--dimension", 16]
        assert command("build_dstore.py", *build, *known, "--overwrite").code == 0
        knn = ["--knnlm", "--dstore-filename", store, "--indexfile", tmp_path / "i", "--lmbda", "0.3", "--k", 32]
        evaluated = command("fairseq-eval-lm", *base, *knn, *known, "--overwrite", "--results-path", results)
        assert evaluated.code == 0, evaluated.err
        losses.append(json.loads(results.read_text())["loss_base2"])
    assert losses[0] == losses[1]

    before = (tmp_path / "dstore_keys.npy").read_bytes()
    words = [word if word != str(prefix) else str(tmp_path / "new") for word in dump]
    assert run("fairseq-eval-lm", main, [*base, *words, "--overwrite"]) == 0
    assert (tmp_path / "dstore_keys.npy").read_bytes() == before, "replacing the adopted store emptied the old one"

    keys = np.fromfile(tmp_path / "dstore_keys.npy", f"<{key_dtype}")
    (keys * 1.5).astype(keys.dtype).tofile(tmp_path / "other_keys.npy")
    (tmp_path / "other_vals.npy").write_bytes((tmp_path / "dstore_vals.npy").read_bytes())
    refused = adopt(command, tmp_path / "other", tmp_path / "no", flags, *origin)
    assert "of its length away" in refused.error and not list(tmp_path.glob("no_*"))
