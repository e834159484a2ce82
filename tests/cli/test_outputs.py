"""What is in an output's place stays: every output flag with everything that may be there already.

A cell of the matrix is an output, one of the files that it writes, and a thing that is there. With and without
``--overwrite`` no file may change that is not of the kind that is to be written and of this program.
"""

import dataclasses
import importlib
import os
import shutil
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fairseq.config.flags import flag_fields
from tests.builders.cases import Artefacts
from tests.builders.outputs import OUTPUTS, THINGS, Output, make_everything, make_inputs, put, state


@pytest.fixture(scope="module")
def made(artefacts: Artefacts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Returns a directory with one of everything."""
    before = Path.cwd()
    root = tmp_path_factory.mktemp("outputs") / "all"
    make_everything(artefacts, root)
    os.chdir(before)
    yield root


@pytest.fixture
def everything(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the same, as the working directory; ``out`` is empty, and new for each test."""
    monkeypatch.chdir(made)
    shutil.rmtree("out", ignore_errors=True)
    Path("out").mkdir()
    return made


def tried(output: Output, file: str, thing: str, root: Path, *, overwrite: bool) -> list[str]:
    """Returns what is wrong when an output is written with a thing in one of its files' places."""
    shutil.rmtree("out", ignore_errors=True)
    shutil.rmtree("trained", ignore_errors=True)
    Path("out").mkdir()
    put(thing, Path(file))
    before = state(root)
    code, said = output.call(overwrite=overwrite)
    after = state(root)
    errors = [line for line in said.splitlines() if ": error: " in line]
    wrong = []
    if code not in (0, 2) or (code == 2) != (len(errors) == 1) or "Traceback" in said:
        wrong.append(f"ended with {code}: {said[-500:]}")
    asked = overwrite or "--log-file" in output.words or file.endswith(UNASKED)
    may_change = {file} if asked and thing in output.files[file] else set()
    if output.words.startswith(("sweep", "fit-lmbda")):  # their sections of what is kept of a retrieval
        may_change |= {"retrieval/valid/results.json", "retrieval/valid/results.time.json"}
    changed = [path for path, was in before.items() if after.get(path) != was and path not in may_change]
    if changed:
        wrong.append(f"changed {changed}: {said[-300:]}")
    left = [path for path in after if path.endswith((".knnlm.tmp", ".knnlm.lock"))]
    if left:
        wrong.append(f"left {left}")
    return [f"{file} is {thing}, {'with' if overwrite else 'without'} --overwrite: {one}" for one in wrong]


def try_all(output: Output, things: Callable[[str], bool], root: Path) -> tuple[int, list[str]]:
    """Returns how many cells were tried, and what was wrong."""
    count, wrong = 0, []
    for file in output.files:
        for thing in filter(things, THINGS):
            for overwrite in (False, True)[: 1 + bool(output.flags)]:
                count += 1
                wrong += tried(output, file, thing, root, overwrite=overwrite)
    return count, wrong


# Flags that take text: what writes, and what does not. A new flag goes into one of them, and into OUTPUTS if it writes.
WRITES = {
    "destdir",
    "destination",
    "dstore_mmap",
    "faiss_index",
    "json",
    "keep_in",
    "log_file",
    "out",
    "output",
    "results_path",
    "save_dir",
    "save_rates",
    "save_retrieval",
    "target",
    "tensorboard_logdir",
}
CHANGES = {"indexfile", "prefix"}  # with forget, which changes a datastore and indexes of ours
MEASURES = {"work"}  # a file there that is taken away again
READS = {
    *("apply", "data", "dictionary", "directory", "dstore_data", "dstore_filename", "files", "input", "inputs"),
    *("finetune_from_model", "lmbda_model"),
    *("bpe_codes", "bpe_merges", "bpe_vocab", "bpe_vocab_file", "gpt2_encoder_json", "gpt2_vocab_bpe"),
    *("sentencepiece_model", "sentencepiece_model_path"),
    *(
        "path",
        "rates",
        "restore_file",
        "retrieval",
        "source",
        "srcdict",
        "testpref",
        "trainpref",
        "user_dir",
        "validpref",
    ),
}
WORDS = {
    *("bpe", "cache_lmbda", "document", "document_start", "gen_subset", "index_spec", "k", "knn_keytype", "knn_temp"),
    *("document_glob", "jsonl_field", "lmbda"),
    *("best_checkpoint_metric", "bpe_separator", "source_lang", "target_lang"),
    *("model_overrides", "post_process", "rows", "task", "tokenizer", "train_subset", "valid_subset"),
    *("optimizer_overrides", "ray_address"),
}
# Names that only an unfinished build of ours has: the next one makes it again, or goes on from it. Times go with their
# results.
UNASKED = (".trained", ".partial", ".partial.json", ".time.json", ".shard-0-of-2", ".shard-0-of-2.json", ".ivfdata")


def test_every_flag_that_writes_is_in_the_matrix() -> None:
    found = set()
    root = Path(__file__).parents[2]
    for path in (root / "fairseq").rglob("config.py"):
        module = importlib.import_module(".".join(path.relative_to(root).with_suffix("").parts))
        for cls in filter(dataclasses.is_dataclass, vars(module).values()):
            kinds = typing.get_type_hints(cls)
            found |= {
                name
                for name, field in flag_fields(cls).items()  # type: ignore[arg-type]
                if str in (kinds[name], *typing.get_args(kinds[name]))
                and not (field.metadata["choices"] or field.metadata["no_effect"])
            }
    assert found == (WRITES | CHANGES | MEASURES | READS | WORDS)
    given = {word[2:].replace("-", "_") for output in OUTPUTS.values() for word in output.words.split() if "--" in word}
    assert WRITES - {"target"} <= given, "the target of convert has no flag"


FEW = ("text", "other JSON", "link to a file", "link to nothing", "hard link", "socket", "store manifest", "index")


@pytest.mark.pitfall(29)
def test_a_few_things_stay(artefacts: Artefacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for a few things, of outputs that are refused before anything is loaded."""
    monkeypatch.chdir(tmp_path)
    make_inputs(artefacts, tmp_path / "all")
    count, wrong = 0, []
    for name in ("check --json", "build --faiss-index", "info --log-file"):
        tried_here, wrong_here = try_all(OUTPUTS[name], lambda thing: thing in FEW, tmp_path / "all")
        count, wrong = count + tried_here, wrong + wrong_here
    assert count > 100 and not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.pitfall(29)
@pytest.mark.parametrize("name", OUTPUTS)
def test_nothing_is_lost(name: str, everything: Path, record_property: Callable[[str, object], None]) -> None:
    count, wrong = try_all(OUTPUTS[name], lambda thing: True, everything)
    record_property("cells", f"{name}: {count} cells, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
