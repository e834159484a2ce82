"""The owner of outputs: what may be replaced, by whom, and when."""

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fairseq.errors import ConfigError, FairseqError
from fairseq.storage import marks, stores
from fairseq.storage.files import atomic_write, locked, write_json
from fairseq.storage.marks import FINDINGS, LOG, PAGE, Kind
from fairseq.storage.outputs import (
    claim,
    claim_all,
    claim_datastore,
    claim_directory,
    claim_index,
    claim_record,
    one_run,
    reads,
    same_command,
)

OURS = '{"kind": "findings"}'


def refusal(path: Path | str, kind: Kind = FINDINGS, *, overwrite: bool = True) -> str:
    """Returns why an output is refused."""
    with pytest.raises(ConfigError) as caught:
        claim("--json", path, kind, overwrite=overwrite)
    return str(caught.value)


def test_a_file_of_ours_is_replaced_when_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    assert claim("--json", path, FINDINGS, overwrite=False) == path
    path.write_text(OURS)
    assert "--overwrite to replace it" in refusal(path, overwrite=False)
    claim("--json", path, FINDINGS, overwrite=True)


@pytest.mark.pitfall(29)
def test_another_file_is_not_replaced_even_then(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"text", b"{}", b'{"kind": "rows"}', b"[]", b"\xff\xfe", b'{"a":' * 9999)):
        path = tmp_path / f"{number}.json"
        path.write_bytes(content)
        assert "is not findings of fairseq-knnlm check that this program wrote" in refusal(path)
        assert path.read_bytes() == content


def test_nothing_is_written_through_a_link_or_over_what_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "real.json"
    real.write_text(OURS)
    (tmp_path / "link.json").symlink_to(real)
    (tmp_path / "nowhere.json").symlink_to(tmp_path / "gone")
    (tmp_path / "loop.json").symlink_to("loop.json")
    for name in ("link", "nowhere", "loop"):
        assert "is a symbolic link" in refusal(tmp_path / f"{name}.json")
        with pytest.raises(FairseqError, match="symbolic link"), atomic_write(tmp_path / f"{name}.json"):
            pass
    with socket.socket(socket.AF_UNIX) as one:
        monkeypatch.chdir(tmp_path)  # the path of a socket must be short
        one.bind("s.json")
    assert "is a socket" in refusal(tmp_path / "s.json")
    assert "is a directory" in refusal(tmp_path)
    assert "is no directory" in refusal(real / "below.json")
    real.chmod(0o444)
    assert "is read-only" in refusal(real)
    (tmp_path / "there").mkdir()
    (tmp_path / "way").symlink_to("there")
    write_json(claim("--json", tmp_path / "way" / "f.json", FINDINGS), {})
    assert (tmp_path / "there" / "f.json").read_text() == "{}\n", "links among the directories above are followed"


def test_a_directory_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to("gone")
    for name, words in (("file", "is a file"), ("nowhere", "leads nowhere"), ("file/below", "is no directory")):
        with pytest.raises(ConfigError, match=words):
            claim_directory("--out", tmp_path / name)
    claim_directory("--out", tmp_path)
    claim_directory("--out", tmp_path / "new" / "deep")


def test_a_device_is_written_to_and_stays(tmp_path: Path) -> None:
    """As the superuser, a rename would put a file in the place of /dev/null."""
    before = Path("/dev/null").stat()
    for path in ("/dev/null", str(tmp_path / "own")):
        if path != "/dev/null":
            try:
                os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            except PermissionError:
                continue
        with locked(path), atomic_write(claim("--json", path, FINDINGS)) as file:
            file.write(b"{}")
        assert stat.S_ISCHR(os.lstat(path).st_mode)
    assert Path("/dev/null").stat() == before
    assert {path.name for path in tmp_path.iterdir()} <= {"own"}
    assert "is no file" in refusal("/dev/null", marks.SAFETENSORS)


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="pipe"):  # nobody reads it
        claim("--json", pipe, FINDINGS)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    while True:
        try:
            claim("--json", pipe, FINDINGS)
        except OSError:
            continue  # the reader is not there yet
        break
    write_json(pipe, {"a": 1})
    reader.join()
    assert json.loads(found[0]) == {"a": 1} and stat.S_ISFIFO(pipe.lstat().st_mode)


def test_the_own_streams_are_written_to_in_their_order(tmp_path: Path) -> None:
    """Also where stdout is a file, which must not be written from its beginning again."""
    script = (
        "import sys; from fairseq.storage.files import write_json\n"
        "sys.stdout.write('before\\n'); write_json('/dev/stdout', 1); write_json('/dev/fd/1', 2); print('after')"
    )
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", script], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "before\n1\n2\nafter\n"


def test_two_outputs_on_one_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "f.json").write_text(OURS)
    (tmp_path / "g.json").hardlink_to(tmp_path / "f.json")
    pairs = [("a/x", "a/x"), ("a/x", "b/x"), ("a/x", "a/../a/x"), ("f.json", "g.json"), ("a/x", "a/.x.knnlm.tmp")]
    for one, other in pairs:
        with one_run(), pytest.raises(ConfigError, match="both name"):
            claim("--log-file", tmp_path / one, Kind("any", lambda _: True))
            claim("--json", tmp_path / other, FINDINGS)
    with one_run():
        claim("--json", tmp_path / "a" / "x", FINDINGS)
        claim("--json", tmp_path / "a" / "x", FINDINGS)  # asked again further below


def test_a_file_that_is_read_is_not_written(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"2020-01-01 00:00:00 | INFO | fairseq | log of fairseq-knnlm: a log of ours, as a text\n")
    (tmp_path / "same").hardlink_to(text)
    for source in (text, tmp_path / "same", tmp_path / "." / "text"):
        with one_run(), pytest.raises(ConfigError, match=r"--log-file: .* is read by the same command"):
            claim("--log-file", text, LOG)
            reads(source)
        with one_run(), pytest.raises(ConfigError, match=r"--log-file: .* is read by the same command"):
            reads(source)
            claim("--log-file", text, LOG)


def test_locks_of_others_stay(tmp_path: Path) -> None:
    for name in ("Cargo", "uv", "poetry"):
        (tmp_path / f"{name}.lock").write_text("[[package]]")
        with locked(tmp_path / name) as was_killed:
            assert not was_killed
        assert (tmp_path / f"{name}.lock").read_text() == "[[package]]"
    own = tmp_path / ".f.knnlm.lock"
    own.write_text("somebody's")
    with pytest.raises(FairseqError, match="is no lock of this program"), locked(tmp_path / "f"):
        pass
    assert own.read_text() == "somebody's"
    own.unlink()
    own.symlink_to(tmp_path / "Cargo.lock")
    with pytest.raises(FairseqError, match="is no lock of this program"), locked(tmp_path / "f"):
        pass
    assert own.is_symlink()


def test_one_lock_for_every_spelling(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "e").symlink_to("d")
    with locked(tmp_path / "d" / "x"):
        for other in ("e/x", "d/../d/x"):
            with pytest.raises(FairseqError, match="another process"), locked(tmp_path / other):
                pass


def test_temporary_names_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / ".f.tmp").write_text("somebody's")
    (tmp_path / ".g.knnlm.tmp").symlink_to(".f.tmp")
    write_json(tmp_path / "f", {})
    with pytest.raises(FairseqError, match="in the way"):
        write_json(tmp_path / "g", {})
    assert (tmp_path / ".f.tmp").read_text() == "somebody's" and (tmp_path / ".g.knnlm.tmp").is_symlink()
    os.link(tmp_path / ".f.tmp", tmp_path / ".h.knnlm.tmp")
    write_json(tmp_path / "h", {})
    assert (tmp_path / ".f.tmp").read_text() == "somebody's", "another name of the same file"


@pytest.mark.parametrize(
    ("there", "name"),
    [
        ({"d_keys.npy": "", "d_vals.npy": ""}, "d.json"),
        ({"d_keys.npy": ""}, "d_vals.npy"),
        ({"d_vals.npy": ""}, "d.append.json"),
        ({"d.json": '{"kind": "datastore"}'}, "d.compact_keys.npy"),
        ({"d.json": '{"kind": "datastore"}'}, "d.forgotten.12.json"),
        ({"i.json": '{"kind": "index"}'}, "i.partial"),
        ({"i": "IxF2\x04\x00\x00\x00"}, "i.json"),
        ({"i": "IxF2\x04\x00\x00\x00"}, "i.trained.json"),
        ({"manifest.json": '{"kind": "retrieval"}'}, "results.json"),
        ({"manifest.json": '{"kind": "retrieval"}'}, "more.npy"),
        ({"dict.txt": "a 1\n"}, "preprocess.json"),
        ({"preprocess.json": '{"splits": {}}'}, "train.idx"),
        ({"checkpoint_best.pt": "PK"}, "checkpoint_best.json"),
    ],
)
def test_a_name_of_a_store_is_not_taken(tmp_path: Path, there: dict[str, str], name: str) -> None:
    for file, content in there.items():
        (tmp_path / file).write_text(content)
    assert "would be taken for one" in refusal(tmp_path / name)
    assert "would be taken for one" in refusal(tmp_path / name, PAGE)


@pytest.mark.pitfall(29)
@pytest.mark.parametrize("name", ["d.compact", "d.append", "d.forgotten.1"])
def test_no_datastore_has_the_name_of_a_file_beside_another(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="files beside the datastore"):
        claim_datastore("--dstore-mmap", tmp_path / name, overwrite=True)


@pytest.mark.pitfall(29)
@pytest.mark.parametrize("name", ["i.trained", "i.partial", "i.compact"])
def test_no_index_has_the_name_of_a_file_beside_another(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="files beside the index"):
        claim_index("--faiss-index", tmp_path / name, overwrite=True)


@pytest.mark.pitfall(29)
def test_a_datastore_is_not_taken_for_the_progress_of_anothers_append(tmp_path: Path) -> None:
    (tmp_path / "d.append.json").write_text('{"kind": "datastore"}')
    claim_datastore("--dstore-mmap", tmp_path / "d", overwrite=True)
    (tmp_path / "d.append_keys.npy").write_bytes(b"")
    with pytest.raises(ConfigError, match="is not the progress of an append"):
        claim_datastore("--dstore-mmap", tmp_path / "d", overwrite=True)


def test_a_page_of_before_it_named_its_generator_is_ours(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    policy = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'"  # as 0.1.0 wrote it
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<title>kNN-LM on test</title>\n'
    path.write_text(f"<!doctype html>\n{head}<style>\n:root {{\n  --gain: light-dark(#2a70b5, #4a92da);\n")
    assert claim("--out", path, PAGE) == path
    path.write_text("<!doctype html>\n<title>kNN-LM on test</title>\n")
    assert "is not a page of fairseq-knnlm report" in refusal(path, PAGE)


def test_the_same_settings_replace_their_own_record(tmp_path: Path) -> None:
    path, settings = tmp_path / "f.json", {"k": (1, 2), "data": "d"}
    write_json(path, {"kind": "findings", "settings": settings})
    claim_record("--json", path, FINDINGS, settings, overwrite=False)
    with pytest.raises(ConfigError, match="--overwrite"):
        claim_record("--json", path, FINDINGS, {**settings, "k": (1, 3)}, overwrite=False)


def test_the_same_command_but_for_its_log() -> None:
    words = ["prog", "data", "--k", "8", "--lmbda=0.5"]
    assert same_command(words, [*words, "--log-file", "x", "--no-progress-bar", "--overwrite"])
    assert same_command([*words, "--log_format=json", "--traceback"], words)
    assert not same_command(words, [*words, "--seed", "2"])
    assert not same_command(words, None)


def test_names_of_stores_are_those_of_the_rooms() -> None:
    from fairseq.evaluate.cache import CACHE_COLUMN
    from fairseq.knn.retrieval.format import columns_of
    from fairseq.knn.retrieval.retrieval import KNOWN_COLUMNS

    columns = (*columns_of(1, 1), *KNOWN_COLUMNS)
    assert {CACHE_COLUMN, *(column.name for column in columns)} == set(stores.COLUMNS)


def test_a_file_beside_the_manifest_that_it_does_not_describe(tmp_path: Path) -> None:
    manifest = {"kind": "datastore", "state": "complete", "rows": 2, "dimension": 3, "key_dtype": "float16"}
    (tmp_path / "d.json").write_text(json.dumps({**manifest, "value_dtype": "int64"}))
    (tmp_path / "d_keys.npy").write_bytes(bytes(12))
    (tmp_path / "d_vals.npy").write_bytes(bytes(16))
    claim_all("--dstore-mmap", stores.datastore_names(tmp_path / "d"))
    for wrong in (bytes(8), b"\x93NUMPY" + bytes(20)):
        (tmp_path / "d_vals.npy").write_bytes(wrong)
        with pytest.raises(ConfigError, match=r"d_vals\.npy is there, and is not the values of a datastore"):
            claim_all("--dstore-mmap", stores.datastore_names(tmp_path / "d"))
