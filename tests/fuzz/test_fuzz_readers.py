"""Readers of files that others have written, given what no sound program writes.

A reader returns something that holds up when it is used, or raises a FairseqError; nothing else, whatever the bytes.
Each property tries ``CASES`` inputs, and ``SOAK_CASES`` under the mark ``soak`` (a checkpoint's fewer: it is written,
checked and made into a model each time). Half of them are sound files with a few bytes changed, cut off or put in,
which come further than noise does.
"""

import json
import shutil
import struct
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairseq.checkpoints.format import load_checkpoint
from fairseq.data.blocks import block_bounds
from fairseq.data.config import BREAK_MODES, LanguageModelingConfig
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from fairseq.errors import FairseqError
from fairseq.knn.datastore.manifest import DatastoreManifest, IndexManifest, read_manifest
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.retrieval.retrieval import Retrieval
from fairseq.knn.sweep.bootstrap import gain_of
from fairseq.knn.sweep.grid import Grid
from fairseq.knn.sweep.sweep import log_probs_of, sweep
from fairseq.tasks.language_modeling import LanguageModelingTask
from tests.builders.cases import Artefacts
from tests.builders.refusals import refusal
from tests.builders.small_retrieval import small_retrieval

CASES, SOAK_CASES = 100, 5000
CHECKPOINT_CASES, SLOW_CHECKPOINT_CASES = 30, 1500

SOUND_IDX = b"MMIDIDX\0\0" + struct.pack("<QBQ3i3q", 1, 8, 3, 2, 0, 4, 0, 4, 4)
SOUND_BIN = np.array([5, 2, 4, 6, 7, 2], "<u2").tobytes()
SOUND_DICT = "the 3\n. 2\ncafé 2\nthe 1 #fairseq:overwrite\n".encode()

numbers = st.one_of(
    st.integers(-3, 70), st.integers(-(2**65), 2**65), st.floats(), st.sampled_from([0, 2**31, 2**53, 2**63, 10**400])
)
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def damaged(draw: st.DrawFn, sound: bytes) -> bytes:
    """Draws sound bytes with a few of them changed, cut off or put in."""
    data = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        kind = draw(st.sampled_from(["change", "cut", "insert", "number"]))
        if kind == "cut":
            del data[at : at + draw(st.integers(1, 8))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        elif kind == "number":
            data[at : at + 8] = struct.pack("<q", draw(st.sampled_from([-1, 0, 1, 2**31, 2**40, 2**63 - 1])))
        elif data:
            data[at] = draw(st.integers(0, 255))
    return bytes(data)


def broken(sound: bytes) -> st.SearchStrategy[bytes]:
    return st.one_of(damaged(sound), st.binary(max_size=80))


def altered(record: dict[str, Any], odd: st.SearchStrategy[Any] = plain) -> st.SearchStrategy[dict[str, Any]]:
    """Returns sound records of which some values are odd, and some are missing."""
    values = st.one_of(st.sampled_from([0, 1, -1]), odd)
    changes = st.dictionaries(st.sampled_from(sorted(record)), values, min_size=1, max_size=4)
    gone = st.sets(st.sampled_from(sorted(record)), max_size=1)
    return st.builds(lambda new, out: {k: v for k, v in {**record, **new}.items() if k not in out}, changes, gone)


def holds_up(read: Callable[[], object]) -> None:
    """Asserts that a reader returns or refuses; any other exception is the test's failure."""
    try:
        read()
    except FairseqError as err:
        assert str(err)


# .idx and .bin


def read_dataset(directory: Path, index: bytes, tokens: bytes) -> None:
    (directory / "x.idx").write_bytes(index)
    (directory / "x.bin").write_bytes(tokens)
    data = MMapIndexedDataset(directory / "x")
    assert sum(len(data[i]) for i in range(len(data))) == len(data.tokens)
    data.check_ids(40, "dict.txt")
    for mode in BREAK_MODES:
        starts, ends = block_bounds(data.sizes, mode, 3)
        assert (starts < ends).all() and int((ends - starts).sum()) <= len(data.tokens)


# dict.txt


def read_dictionary(directory: Path, content: bytes) -> None:
    (directory / "dict.txt").write_bytes(content)
    dictionary = Dictionary.load(directory / "dict.txt")
    again = directory / "again.txt"
    dictionary.save(again)
    loaded = Dictionary.load(again)
    assert (loaded.symbols, loaded.counts) == (dictionary.symbols, dictionary.counts)


# Manifests of datastores and indexes

ROWS, WIDTH = 6, 4
SOUND_STORE: dict[str, Any] = dict(
    rows=ROWS,
    dimension=WIDTH,
    key_dtype="float32",
    value_dtype="int64",
    key_type="last_ffn_input",
    vocabulary_size=40,
    dictionary_sha256="d" * 64,
    weights_sha256=None,
    settings={"data": "x"},
    state="complete",
    rows_written=ROWS,
    keys_sha256=["k" * 64],
    values_sha256=["v" * 64],
    kind="datastore",
    version=1,
)
SOUND_INDEX: dict[str, Any] = dict(
    spec="Flat",
    metric="l2",
    dimension=WIDTH,
    rows=ROWS,
    nlist=0,
    nprobe=0,
    store_id="s" * 64,
    seed=1,
    sample=ROWS,
    faiss_version="1",
    num_bytes=10,
    sha256="i" * 64,
    kind="index",
    version=1,
)


def manifest_bytes(record: dict[str, Any]) -> st.SearchStrategy[bytes]:
    return st.one_of(altered(record).map(lambda r: json.dumps(r).encode()), broken(json.dumps(record).encode()))


def read_datastore(directory: Path, content: bytes) -> None:
    (directory / "d.json").write_bytes(content)
    try:
        record = json.loads(content)
        sizes = record["rows"] * record["dimension"] * 4, record["rows"] * 8
        sizes = tuple(size if isinstance(size, int) and 0 <= size < 2000 else ROWS for size in sizes)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        sizes = ROWS * WIDTH * 4, ROWS * 8
    for name, size in zip(("d_keys.npy", "d_vals.npy"), sizes, strict=True):  # of the size that the manifest says
        (directory / name).write_bytes(bytes(size))
    store = Datastore.open(directory / "d")
    assert store.keys_ND is not None and store.keys_ND.shape == (store.rows, store.dimension)
    assert store.values_N.shape == (store.rows,) and store.store_id


def read_index_manifest(directory: Path, content: bytes) -> None:
    (directory / "i.json").write_bytes(content)
    manifest = read_manifest(directory / "i.json", IndexManifest)
    assert manifest is not None and manifest.rows >= 0 and manifest.metric in ("l2", "ip")
    assert read_manifest(directory / "none.json", DatastoreManifest) is None


# A saved retrieval: its manifest, and one of its columns

TOKENS, K = 6, 4
COLUMNS = ("blocks", "distances", "hits", "ids", "lm_log_prob", "positions", "targets")


def sound_retrieval(directory: Path) -> dict[str, bytes]:
    """Returns the bytes of every file of a small retrieval, which is made anew."""
    shutil.rmtree(directory / "r", ignore_errors=True)
    small_retrieval(directory / "r", TOKENS + 1, K)
    return {file.name: file.read_bytes() for file in (directory / "r").iterdir()}


with tempfile.TemporaryDirectory() as _directory:
    SOUND_RETRIEVAL = sound_retrieval(Path(_directory))


def read_retrieval(directory: Path, manifest: bytes, broken_column: tuple[str, bytes]) -> None:
    sound_retrieval(directory)
    (directory / "r" / "manifest.json").write_bytes(manifest)
    name, content = broken_column
    (directory / "r" / f"{name}.npy").write_bytes(content)
    retrieval = Retrieval.open(directory / "r")
    assert len(retrieval) == len(retrieval.position_N) and retrieval.hits_NK().shape == retrieval.ids_NK.shape
    with np.errstate(all="ignore"):
        swept = sweep(retrieval, Grid((0.0, 0.5), (1, retrieval.k), (1.0,)))
        assert swept.loss_TJSLM.shape == (1, 2, 1, 2, 1)
        gain_of(retrieval.lm_log_p_N, log_probs_of(retrieval, [swept.best()])[0], retrieval.block_N, 100, 1)


def columns() -> st.SearchStrategy[tuple[str, bytes]]:
    return st.sampled_from(COLUMNS).flatmap(
        lambda name: broken(SOUND_RETRIEVAL[f"{name}.npy"]).map(lambda content: (name, content))
    )


SOUND_MANIFEST = SOUND_RETRIEVAL["manifest.json"]
SOUND_COLUMN = ("ids", SOUND_RETRIEVAL["ids.npy"])


READERS: dict[str, tuple[Callable[..., None], tuple[st.SearchStrategy[Any], ...]]] = {
    "idx": (read_dataset, (broken(SOUND_IDX), st.just(SOUND_BIN))),
    "bin": (read_dataset, (st.just(SOUND_IDX), broken(SOUND_BIN))),
    "dict": (read_dictionary, (broken(SOUND_DICT),)),
    "datastore": (read_datastore, (manifest_bytes(SOUND_STORE),)),
    "index-manifest": (read_index_manifest, (manifest_bytes(SOUND_INDEX),)),
    "retrieval-manifest": (read_retrieval, (manifest_bytes(json.loads(SOUND_MANIFEST)), st.just(SOUND_COLUMN))),
    "retrieval": (read_retrieval, (st.just(SOUND_MANIFEST), columns())),
}


def fuzz(name: str, directory: Path, cases: int) -> int:
    """Gives a reader so many inputs; returns how many it was given."""
    read, strategies = READERS[name]
    tried = 0

    @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.tuples(*strategies))
    def one(contents: tuple[Any, ...]) -> None:
        nonlocal tried
        tried += 1
        holds_up(lambda: read(directory, *contents))

    one()
    return tried


@pytest.mark.parametrize("name", READERS)
def test_a_reader_returns_or_refuses(name: str, tmp_path: Path) -> None:
    assert fuzz(name, tmp_path, CASES) >= CASES


@pytest.mark.soak
@pytest.mark.parametrize("name", READERS)
def test_a_reader_returns_or_refuses_at_length(name: str, tmp_path: Path) -> None:
    assert fuzz(name, tmp_path, SOAK_CASES) >= SOAK_CASES


@pytest.mark.parametrize("name", READERS)
def test_the_sound_files_are_read(name: str, tmp_path: Path) -> None:
    """Else every input would be refused at the door, and nothing behind it be tried."""
    sound = {
        "idx": (SOUND_IDX, SOUND_BIN),
        "bin": (SOUND_IDX, SOUND_BIN),
        "dict": (SOUND_DICT,),
        "datastore": (json.dumps(SOUND_STORE).encode(),),
        "index-manifest": (json.dumps(SOUND_INDEX).encode(),),
        "retrieval-manifest": (SOUND_MANIFEST, SOUND_COLUMN),
        "retrieval": (SOUND_MANIFEST, SOUND_COLUMN),
    }
    assert refusal(READERS[name][0], tmp_path, *sound[name]) == ""
    assert refusal(READERS[name][0], tmp_path, b"", *sound[name][1:]) != ""


# Checkpoint metadata: settings, position, optimizer


@st.composite
def metadata(draw: st.DrawFn, record: dict[str, Any]) -> dict[str, Any]:
    """Draws a checkpoint with sound weights of which other parts are odd."""
    odd = st.one_of(plain, st.just(torch.zeros(2)), st.text("(),[]0123456789eE.-", max_size=12))
    args, extra = vars(record["args"]), record["extra_state"]
    parts = {
        "args": altered(args, odd).map(lambda values: Namespace(**values)),
        "extra_state": altered(extra, odd),
        "optimizer_history": st.one_of(plain, st.lists(st.dictionaries(st.just("num_updates"), plain))),
        "last_optimizer_state": plain,
        "cfg": st.dictionaries(st.sampled_from(["model", "task", "common"]), st.one_of(plain, st.just(args))),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(parts)), min_size=1, max_size=2))
    changed = {**record, **{name: draw(parts[name]) for name in chosen}}
    return {**changed, "args": None} if "cfg" in chosen else changed


def fuzz_checkpoint(good: Artefacts, directory: Path, cases: int) -> int:
    """Gives the checkpoint reader, and what makes a model of it, so many inputs; returns how many."""
    record = torch.load(good.checkpoint, weights_only=False)
    task = LanguageModelingTask(LanguageModelingConfig(data=str(good.data)))
    tried = 0

    def read() -> None:
        checkpoint = load_checkpoint(directory / "c.pt")
        assert checkpoint.num_updates >= 0 and checkpoint.extra_state is not None
        task.load_model(checkpoint, {})

    @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(metadata(record))
    def one(changed: dict[str, Any]) -> None:
        nonlocal tried
        tried += 1
        torch.save(changed, directory / "c.pt")
        holds_up(read)

    torch.save(record, directory / "c.pt")
    read()  # else every input would be refused at the door
    one()
    return tried


def test_checkpoint_metadata_is_read_or_refused(artefacts: Artefacts, tmp_path: Path) -> None:
    assert fuzz_checkpoint(artefacts, tmp_path, CHECKPOINT_CASES) >= CHECKPOINT_CASES


@pytest.mark.soak
def test_checkpoint_metadata_is_read_or_refused_at_length(artefacts: Artefacts, tmp_path: Path) -> None:
    assert fuzz_checkpoint(artefacts, tmp_path, SLOW_CHECKPOINT_CASES) >= SLOW_CHECKPOINT_CASES
