"""Where a model's files are found: directories, archives sound and broken, and names."""

import gzip
import io
import multiprocessing
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import torch

import fairseq.hub.archives as archives
import fairseq.hub.files as pretrained
from fairseq.errors import CheckpointError, ConfigError, DataError, FairseqError, MismatchError
from fairseq.hub import from_pretrained
from fairseq.hub.archives import unpacked
from fairseq.models.transformer_lm import TransformerLanguageModel
from knnlm import KNN
from tests.builders.cases import Artefacts, snapshot

pytestmark = pytest.mark.usefixtures("own_cache")

TEXT = "w1 w2 w3"


def make_archive(path: Path, members: dict[str, Path | bytes | tarfile.TarInfo], mode: str = "w:bz2") -> Path:
    """Writes an archive of files, texts, and whatever a TarInfo says."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
            elif isinstance(content, Path):
                tar.add(content, name)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def sound(good: Artefacts, top: str = "adaptive_lm.v2/") -> dict[str, Any]:
    return {f"{top}dict.txt": good.data / "dict.txt", f"{top}model.pt": good.checkpoint}


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(("name", "mode", "top"), [("a.tar.bz2", "w:bz2", "lm.v2/"), ("a.tar.gz", "w:gz", "")])
def test_an_archive_is_the_model_in_it(
    artefacts: Artefacts, tmp_path: Path, own_cache: Path, lm: Any, name: str, mode: str, top: str
) -> None:
    archive = make_archive(tmp_path / name, sound(artefacts, top), mode)
    loaded = TransformerLanguageModel.from_pretrained(archive)
    assert loaded.score(TEXT).total == lm.score(TEXT).total
    before = snapshot(own_cache)
    assert from_pretrained(str(archive)).score(TEXT).total == lm.score(TEXT).total
    assert snapshot(own_cache) == before, "unpacked once"
    assert not list(own_cache.rglob("*.partial"))


def test_a_directory_is_searched_for_its_only_model(artefacts: Artefacts, tmp_path: Path, lm: Any) -> None:
    shutil.copy(artefacts.checkpoint, tmp_path / "other.pt")
    shutil.copy(artefacts.data / "dict.txt", tmp_path / "dict.txt")
    assert from_pretrained(tmp_path).score(TEXT).total == lm.score(TEXT).total
    (tmp_path / "data").mkdir()
    shutil.move(tmp_path / "dict.txt", tmp_path / "data" / "dict.txt")
    assert from_pretrained(tmp_path, data_name_or_path="./data").score(TEXT).total == lm.score(TEXT).total
    with pytest.raises(DataError, match=r"data has no dict.txt; did you mean ./data, in the model's directory\?"):
        from_pretrained(tmp_path, data_name_or_path="data")


def test_an_ensemble_averages_probabilities(artefacts: Artefacts, lm: Any) -> None:
    name = artefacts.checkpoint.name
    both = from_pretrained(artefacts.checkpoint.parent, f"{name}:{name}", artefacts.data)
    assert both.score(TEXT).total == pytest.approx(lm.score(TEXT).total, abs=1e-6), "twice the same model is that model"
    with pytest.raises(ConfigError, match="an ensemble"):
        both.sample("w1")
    knn = KNN(artefacts.store, artefacts.index)
    with pytest.raises(ConfigError, match="a datastore belongs to one"):
        from_pretrained(artefacts.checkpoint.parent, f"{name}:{name}", artefacts.data, knn=knn)


# Archives that are not to be believed


def truncated(path: Path, members: dict[str, Any], mode: str = "w:bz2") -> Path:
    data = make_archive(path, members, mode).read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    return path


def with_wrong_checksum(path: Path, members: dict[str, Any]) -> Path:
    """Every member can be read; only the sum at the end of the compression says that one has changed."""
    make_archive(path.with_suffix(".tar"), members, "w")
    data = bytearray(gzip.compress(path.with_suffix(".tar").read_bytes()))
    data[-8] ^= 1
    path.write_bytes(data)
    return path


BAD_MEMBERS = {
    "above": ({"../x": b"x"}, "lies outside"),
    "above in the middle": ({"a/../../x": b"x"}, "lies outside"),
    "absolute": ({"/x": b"x"}, "lies outside"),
    "link out": ({"x": special("x", tarfile.SYMTYPE, "/etc/passwd")}, "is a link; pack what"),
    "link in": ({"a": b"a", "x": special("x", tarfile.SYMTYPE, "a")}, "is a link; pack what"),
    "hard link": ({"a": b"a", "x": special("x", tarfile.LNKTYPE, "a")}, "is a link; pack what"),
    "device": ({"x": special("x", tarfile.CHRTYPE)}, "neither a plain file nor a directory"),
    "pipe": ({"x": special("x", tarfile.FIFOTYPE)}, "neither a plain file nor a directory"),
}


@pytest.mark.parametrize("case", BAD_MEMBERS)
def test_members_that_no_model_needs_are_refused(
    artefacts: Artefacts, tmp_path: Path, own_cache: Path, case: str
) -> None:
    members, expect = BAD_MEMBERS[case]
    archive = make_archive(tmp_path / "a.tar.bz2", {**sound(artefacts), **members})
    refused(partial(from_pretrained, archive), CheckpointError, expect, tmp_path, own_cache)
    assert not (tmp_path.parent / "x").exists()


@pytest.mark.parametrize("break_it", [truncated, with_wrong_checksum])
def test_torn_archives_are_refused(artefacts: Artefacts, tmp_path: Path, own_cache: Path, break_it: Any) -> None:
    archive = break_it(tmp_path / "a.tar.gz", sound(artefacts))
    refused(partial(from_pretrained, archive), CheckpointError, "is not a whole archive", tmp_path, own_cache)


@pytest.mark.parametrize("content", [b"", b"no archive at all", bytes(10_000), os.urandom(10_000)])
def test_other_files_are_refused(tmp_path: Path, own_cache: Path, content: bytes) -> None:
    (tmp_path / "a.tar.bz2").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        from_pretrained(tmp_path / "a.tar.bz2")
    assert "\n" not in str(caught.value)


def header(name: str, kind: bytes, size: int) -> bytes:
    info = special(name, kind)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


# What a header claims is 3 GiB; a reader that believes it would ask for as much.
CLAIMS = {
    "a long name": tarfile.GNUTYPE_LONGNAME,
    "a long link": tarfile.GNUTYPE_LONGLINK,
    "attributes": tarfile.XHDTYPE,
    "attributes of all": tarfile.XGLTYPE,
}


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_header_that_claims_gigabytes_is_not_read(
    tmp_path: Path, own_cache: Path, claim: str, pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    read = gzip.GzipFile.read
    monkeypatch.setattr(gzip.GzipFile, "read", lambda self, size=-1: asked.append(size) or read(self, size))
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(pack(header("x", CLAIMS[claim], 3 << 30) + bytes(1 << 20)))
    expect = "its headers are larger than 64.00 MiB"
    refused(partial(from_pretrained, archive), CheckpointError, expect, tmp_path, own_cache)
    assert max(asked, default=0) <= 1 << 20


def test_headers_together_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of 20 files with long names, 512 + 512 + 512 bytes each, and the two empty ones at the end."""
    archive = make_archive(tmp_path / "a.tar", {f"{'x' * 120}{i}": b"" for i in range(20)}, "w")
    monkeypatch.setattr(archives, "MOST_HEADER_BYTES", 20_000)
    with pytest.raises(CheckpointError, match="its headers are larger than"):
        unpacked(archive, tmp_path / "cache")
    monkeypatch.setattr(archives, "MOST_HEADER_BYTES", 60_000)
    assert len(list(unpacked(archive, tmp_path / "cache").iterdir())) == 20


def test_a_long_chain_of_headers_is_refused(tmp_path: Path, own_cache: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes((header("x", tarfile.GNUTYPE_LONGNAME, 1) + b"y".ljust(512, b"\0")) * 3000)
    refused(partial(from_pretrained, archive), CheckpointError, "is not a whole archive", tmp_path, own_cache)


def test_a_member_of_negative_size_is_refused(tmp_path: Path, own_cache: Path) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(header("x", tarfile.REGTYPE, -512) + bytes(1024))
    refused(partial(from_pretrained, archive), CheckpointError, "a.tar", tmp_path, own_cache)


def test_a_file_that_grows_a_thousandfold_is_as_large_as_it_says(tmp_path: Path, own_cache: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.gz", {"zeros": bytes(20 << 20)}, "w:gz")
    assert archive.stat().st_size < 100_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "MOST_BYTES", 10 << 20)
        refused(partial(unpacked, archive, own_cache), ConfigError, "holds more than", tmp_path, own_cache)


def test_xz_is_not_read(tmp_path: Path, own_cache: Path, artefacts: Artefacts) -> None:
    archive = make_archive(tmp_path / "a.tar.xz", sound(artefacts), "w:xz")
    refused(partial(from_pretrained, archive), CheckpointError, "(.tar.bz2, .tar.gz)", tmp_path, own_cache)


def test_an_archive_has_bounds(artefacts: Artefacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_archive(tmp_path / "a.tar.bz2", {"a": bytes(5000), "b": bytes(5000)})
    monkeypatch.setattr(archives, "MOST_BYTES", 9999)
    with pytest.raises(ConfigError, match="holds more than"):
        unpacked(archive, tmp_path / "cache")
    monkeypatch.setattr(archives, "MOST_BYTES", 10_000)
    monkeypatch.setattr(archives, "MOST_FILES", 1)
    with pytest.raises(CheckpointError, match="is one too many"):
        unpacked(archive, tmp_path / "cache")
    monkeypatch.setattr(archives, "MOST_FILES", 2)
    assert {path.name for path in unpacked(archive, tmp_path / "cache").iterdir()} == {"a", "b"}


def refused(call: Callable[[], object], kind: type[FairseqError], expect: str, root: Path, cache: Path) -> None:
    """Holds a call to the rule: one line, and no file that was not there before but a lock."""
    before = snapshot(root)
    with pytest.raises(kind) as caught:
        call()
    assert expect in str(caught.value)
    assert "\n" not in str(caught.value)
    left = {name for name in set(snapshot(root)) - set(before) if not name.endswith(".lock")}
    assert all((root / name).is_dir() for name in left), left
    assert not list(cache.rglob("*.partial"))


# Two processes, and one that was killed


def test_what_a_killed_run_left_is_done_again(artefacts: Artefacts, tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.bz2", sound(artefacts))
    target = unpacked(archive, tmp_path / "one")
    left = (tmp_path / "two" / target.name).with_suffix(".partial")
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    again = unpacked(archive, tmp_path / "two")
    assert snapshot(again) == snapshot(target)
    assert not left.exists()


def test_several_processes_unpack_once(artefacts: Artefacts, tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "a.tar.bz2", sound(artefacts))
    with multiprocessing.get_context("fork").Pool(3) as pool:
        found = set(pool.starmap(unpacked, [(archive, tmp_path / "cache")] * 6))
    assert len(found) == 1
    assert snapshot(found.pop()).keys() >= {"adaptive_lm.v2/model.pt", "adaptive_lm.v2/dict.txt"}


# What a user gets wrong


@pytest.mark.parametrize(
    ("name", "expect"),
    [
        ("transformer_lm.wiki103.adaptiv", "did you mean transformer_lm.wiki103.adaptive?"),
        ("transformer_lm.gbw.adaptiv_huge", "did you mean transformer_lm.gbw.adaptive_huge?"),
        ("wiki", "(known: transformer_lm.wiki103.adaptive, transformer_lm.gbw.adaptive_huge, "),
        ("no/such/place", "no/such/place does not exist"),
    ],
)
def test_unknown_names(name: str, expect: str) -> None:
    with pytest.raises(FairseqError) as caught:
        from_pretrained(name)
    assert expect in str(caught.value)


def test_what_is_missing_or_too_much_is_named(artefacts: Artefacts, tmp_path: Path) -> None:
    shutil.copy(artefacts.checkpoint, tmp_path / "b.pt")
    two = {"a.pt": artefacts.checkpoint, "b.pt": tmp_path / "b.pt", "dict.txt": artefacts.data / "dict.txt"}
    archive = make_archive(tmp_path / "two.tar.bz2", two)
    with pytest.raises(
        CheckpointError, match=r"has none of model\.pt, .* \(there: a\.pt, b\.pt\); give checkpoint_file="
    ):
        from_pretrained(archive)
    with pytest.raises(CheckpointError, match=r"has no c\.pt \(there: a\.pt, b\.pt\)"):
        from_pretrained(archive, "c.pt")
    assert len(from_pretrained(archive, "b.pt").score(TEXT)) == 4
    bare = make_archive(tmp_path / "bare.tar.bz2", {"model.pt": artefacts.checkpoint})
    with pytest.raises(DataError, match=r"has no dict\.txt \(a path that begins with '\.'"):
        from_pretrained(bare, data_name_or_path=".")
    assert len(from_pretrained(bare, data_name_or_path=artefacts.data).score(TEXT)) == 4
    with pytest.raises(ConfigError, match="checkpoint_file must name a file"):
        from_pretrained(artefacts.checkpoint.parent, "", artefacts.data)


@pytest.mark.parametrize(
    ("more", "expect"),
    [
        ({"tokenizer": "mose"}, "tokenizer must be one of moses, space, but is 'mose'; did you mean moses?"),
        ({"bpe": "fastbpe"}, "bpe='fastbpe' needs bpe_codes, the path of a file"),
        ({"max_target_position": 32}, "did you mean max_target_positions?"),
        ({"kmn": None}, "did you mean knn?"),
        ({"knn": "dstore"}, "knn must be knnlm.KNN(datastore, index) or an open KNN_Dstore, but is str"),
        ({"device": "gpu"}, "device must be cpu, or cuda"),
        ({"tokens_per_sample": "x"}, "must be a whole number"),
    ],
)
def test_arguments_that_mean_nothing(artefacts: Artefacts, more: dict[str, Any], expect: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_pretrained(artefacts.checkpoint.parent, artefacts.checkpoint.name, artefacts.data, **more)
    assert expect in str(caught.value)


def test_settings_are_those_given(artefacts: Artefacts) -> None:
    where = artefacts.checkpoint.parent, artefacts.checkpoint.name, artefacts.data
    assert from_pretrained(*where, tokens_per_sample=8).longest_row == 8
    assert from_pretrained(*where, tokens_per_sample=64).longest_row == 16, "the model's positions"
    assert from_pretrained(*where, tokens_per_sample=64, max_target_positions=32).longest_row == 32


def test_another_models_neighbours_are_refused(artefacts: Artefacts, tmp_path: Path) -> None:
    lines = (artefacts.data / "dict.txt").read_text().splitlines()
    (tmp_path / "dict.txt").write_text("\n".join([*lines[:-1], "other 1"]) + "\n")
    with pytest.raises(MismatchError, match="another dictionary"):
        from_pretrained(artefacts.checkpoint.parent, artefacts.checkpoint.name, tmp_path)
    with pytest.raises(ConfigError, match=r"'prob' is not a setting of KNN; did you mean probe\?"):
        KNN(artefacts.store, artefacts.index, prob=3)
    with pytest.raises(ConfigError, match=r"^k must be at least 1"):
        KNN(artefacts.store, artefacts.index, k=0)
    with pytest.raises(ConfigError, match=r"^lmbda must be at most 1"):
        KNN(artefacts.store, artefacts.index, lmbda=1.5)


# Downloads, from this machine only


@contextmanager
def served(directory: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


NAME = "transformer_lm.wiki103.adaptive"


def test_a_name_is_downloaded_once(
    artefacts: Artefacts, tmp_path: Path, lm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "www").mkdir()
    make_archive(tmp_path / "www" / "adaptive_lm_wiki103.v2.tar.bz2", sound(artefacts))
    with served(tmp_path / "www") as address:
        monkeypatch.setitem(pretrained.PUBLISHED, NAME, f"{address}/adaptive_lm_wiki103.v2.tar.bz2")
        assert TransformerLanguageModel.from_pretrained(NAME).score(TEXT).total == lm.score(TEXT).total
    assert from_pretrained(NAME).score(TEXT).total == lm.score(TEXT).total, "the server is gone"
    by_torch = torch.hub.load(str(Path(__file__).resolve().parents[2]), NAME, source="local")
    assert by_torch.score(TEXT).total == lm.score(TEXT).total


def test_a_download_that_fails_says_so_and_one_that_broke_off_is_fetched_again(
    artefacts: Artefacts, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "www").mkdir()
    with served(tmp_path / "www") as address:
        monkeypatch.setitem(pretrained.PUBLISHED, NAME, f"{address}/lm.tar.bz2")
        with pytest.raises(CheckpointError, match=r"could not be downloaded from .*404.*put it at .*lm\.tar\.bz2"):
            from_pretrained(NAME)
        truncated(tmp_path / "www" / "lm.tar.bz2", sound(artefacts))
        with pytest.raises(CheckpointError, match="is not a whole archive"):
            from_pretrained(NAME)
        make_archive(tmp_path / "www" / "lm.tar.bz2", sound(artefacts))
        assert len(from_pretrained(NAME).score(TEXT)) == 4
    monkeypatch.setitem(pretrained.PUBLISHED, NAME, f"{address}/gone.tar.bz2")
    with pytest.raises(CheckpointError, match="where there is no network") as caught:
        from_pretrained(NAME)
    assert "\n" not in str(caught.value)


def test_the_published_names_are_fairseqs() -> None:
    """As fairseq 0.12's ``TransformerLanguageModel.hub_models()`` has them."""
    root = "https://dl.fbaipublicfiles.com/fairseq/models/lm/"
    moses, space = {"tokenizer": "moses", "bpe": "fastbpe"}, {"tokenizer": "space", "bpe": "sentencepiece"}
    assert {
        "transformer_lm.wiki103.adaptive": f"{root}adaptive_lm_wiki103.v2.tar.bz2",
        "transformer_lm.gbw.adaptive_huge": f"{root}adaptive_lm_gbw_huge.tar.bz2",
        "transformer_lm.wmt19.en": f"{root}wmt19.en.tar.bz2",
        "transformer_lm.wmt19.de": f"{root}wmt19.de.tar.bz2",
        "transformer_lm.wmt19.ru": f"{root}wmt19.ru.tar.bz2",
        "transformer_lm.wmt20.en": f"{root}wmt20.en.tar.gz",
        "transformer_lm.wmt20.ta": f"{root}wmt20.ta.tar.gz",
        "transformer_lm.wmt20.iu.news": f"{root}wmt20.iu.news.tar.gz",
        "transformer_lm.wmt20.iu.nh": f"{root}wmt20.iu.nh.tar.gz",
    } == pretrained.PUBLISHED
    for name in pretrained.PUBLISHED:
        expected = moses if ".wmt19." in name else space if ".wmt20." in name else {}
        assert pretrained.published_text(name) == expected
