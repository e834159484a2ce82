"""Every output of every command, and everything that may be in its place.

``OUTPUTS`` has the output flags, each with a command that writes there and the files that it would write. ``THINGS``
are what may be there already: one of each kind of file that the commands write, files of others, and what is no file.
"""

import hashlib
import os
import shlex
import shutil
import socket
import stat
import struct
import zlib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import faiss
import msgspec
import numpy as np

from fairseq.knn.plan.rates import Rate, Rates
from fairseq.storage.records import write_record
from fairseq_cli.shared.run import run
from tests.builders.cases import Artefacts
from tests.builders.tiny_llama import write_tokenizer
from tests.builders.tiny_lm import BATCHING, MODEL, OPTIMIZATION, main_of

EVAL = "data-bin --path run/checkpoint_last.pt --cpu --log-format none"
KNN = "--knnlm --dstore-filename dstore --indexfile knn.index --k 8 --lmbda 0.25 --context-window 8"
DUMP = f"{EVAL} --gen-subset test --context-window 8 --save-knnlm-dstore"
SHORT = shlex.join(["data-bin", "--save-dir", "trained", *MODEL, *BATCHING, *OPTIMIZATION, "--max-update", "1"])


@dataclass(frozen=True)
class Output:
    """An output flag.

    Attributes:
        prog: the command.
        words: its arguments; OUT stands for the path.
        path: that the flag is given.
        files: what is written there, with the names of the things that the command may replace when it is told to.
        flags: that tell it to.
    """

    prog: str
    words: str
    path: str
    files: dict[str, tuple[str, ...]]
    flags: str = "--overwrite"

    def call(self, path: str | None = None, *, overwrite: bool = False) -> tuple[int, str]:
        """Runs the command in this process; returns its exit code, and what it said on stderr."""
        words = [word.replace("OUT", path or self.path) for word in shlex.split(self.words)]
        words += shlex.split(self.flags) if overwrite else []
        return call(self.prog, words)


def call(prog: str, words: list[str]) -> tuple[int, str]:
    """Runs a command in this process; returns its exit code, and what it said on stderr."""
    said = StringIO()
    with redirect_stdout(StringIO()), redirect_stderr(said):
        code = run(prog, main_of(prog), words)
    return code, said.getvalue()


def _sweep_files(directory: str, name: str) -> dict[str, tuple[str, ...]]:
    files = {
        "sweep.json": ("sweep.json", "cache sweep.json"),
        "table.md": ("table.md",),
        "sweep.csv": ("sweep.csv", "cache sweep.csv"),
        f"{name}.svg": ("figure.svg",),
        f"{name}.png": ("figure.png",),
    }
    return {f"{directory}/{file}": own for file, own in files.items()} | {directory: ()}


def _log(prog: str, words: str) -> Output:
    return Output(prog, f"{words} --log-file OUT", "out/log", {"out/log": ("log", "empty")}, flags="")


_INDEX_FILES = {
    "out/new.index": ("index",),
    "out/new.index.json": ("index manifest",),
    "out/new.index.trained": ("index",),
    "out/new.index.partial": ("index",),
    "out/new.index.partial.json": ("index manifest",),
}
_SHARD_FILES: dict[str, tuple[str, ...]] = {
    "out/new.index.shards.json": (),
    "out/new.index.ivfdata": ("index",),
    "out/new.index.shard-0-of-2": ("index",),
    "out/new.index.shard-0-of-2.json": ("index manifest",),
    "out/new.index.shard-0-of-2_keys.npy": (),
    "out/new.index.shard-1-of-2.partial": ("index",),
}
_STORE_FILES: dict[str, tuple[str, ...]] = {
    "out/new.json": ("store manifest",),
    "out/new_keys.npy": (),
    "out/new_vals.npy": (),
    "out/new.append.json": ("store manifest",),
    "out/new.compact.json": ("store manifest",),
    "out/new.range-1-of-3.json": ("range record",),
    "out/new.forgotten.0123456789abcdef.json": ("forgotten",),
}
_RANGE_FILES: dict[str, tuple[str, ...]] = {
    "out/new.json": ("store manifest",),
    "out/new_keys.npy": (),
    "out/new.range-1-of-3.json": ("range record",),
}
OUTPUTS = {
    "preprocess --destdir": Output(
        "fairseq-preprocess",
        "--only-source --trainpref train.txt --destdir OUT",
        "out/data",
        {
            "out/data": (),
            "out/data/preprocess.json": ("data record",),
            "out/data/dict.txt": (),
            "out/data/train.idx": (),
            "out/data/train.bin": (),
        },
    ),
    "preprocess --tokenizer --destdir": Output(
        "fairseq-preprocess",
        "--only-source --tokenizer tokenizer --trainpref train.txt --destdir OUT",
        "out/tokens",
        {
            "out/tokens": (),
            "out/tokens/preprocess.json": ("data record",),
            "out/tokens/dict.txt": (),
            "out/tokens/train.idx": (),
            "out/tokens/train.bin": (),
            "out/tokens/train.text": (),
            "out/tokens/train.offsets": (),
            "out/tokens/train.documents.json": (),
        },
    ),
    "train --tensorboard-logdir": Output(
        "fairseq-train",
        f"{SHORT} --no-save --tensorboard-logdir OUT",
        "out/tb",
        {"out/tb": (), "out/tb/train": ()},
        "",
    ),
    "train --save-dir": Output("fairseq-train", f"{SHORT} --save-dir OUT", "out/run", {"out/run": ()}, flags=""),
    "eval --results-path FILE": Output(
        "fairseq-eval-lm",
        f"{EVAL} --results-path OUT",
        "out/r.json",
        {"out/r.json": ("results",), "out/r.time.json": ("times",)},
    ),
    "eval --results-path DIR": Output(
        "fairseq-eval-lm", f"{EVAL} --results-path OUT", "out/r", {"out/r/eval_test.json": ("results",), "out/r": ()}
    ),
    "eval --save-retrieval": Output(
        "fairseq-eval-lm",
        f"{EVAL} {KNN} --save-retrieval OUT",
        "out/new",
        {
            "out/new": (),
            "out/new/manifest.json": ("retrieval manifest",),
            "out/new/ids.npy": (),
            "out/new/lm_entropy.npy": (),
            "out/new/results.json": ("retrieval results",),
            "out/new/results.time.json": ("retrieval results",),
        },
    ),
    "eval --dstore-mmap": Output(
        "fairseq-eval-lm",
        f"{DUMP} --dstore-mmap OUT",
        "out/new",
        _STORE_FILES,
    ),
    "eval --dstore-mmap, a range": Output(
        "fairseq-eval-lm",
        f"{DUMP} --num-shards 3 --shard-id 1 --dstore-mmap OUT",
        "out/new",
        _RANGE_FILES,
    ),
    "join --dstore-mmap": Output(
        "fairseq-knnlm", "join made/ranges --dstore-mmap OUT", "out/new", {**_RANGE_FILES, "out/new_vals.npy": ()}
    ),
    "join --results-path": Output(
        "fairseq-knnlm",
        "join shards --results-path OUT",
        "out/j.json",
        {"out/j.json": ("results",), "out/j.time.json": ("times",)},
    ),
    "build --faiss-index": Output(
        "build_dstore.py",
        "--dstore_mmap dstore --faiss_index OUT --index-spec Flat --log-format none",
        "out/new.index",
        _INDEX_FILES,
    ),
    "build --num-shards": Output(
        "build_dstore.py",
        "--dstore_mmap dstore --faiss_index OUT --index-spec IVF4,Flat --num-shards 2 --with-rows --log-format none",
        "out/new.index",
        {"out/new.index": ("index",), "out/new.index.trained": ("index",), **_SHARD_FILES},
    ),
    "check --json": Output("fairseq-knnlm", "check data-bin --json OUT", "out/c.json", {"out/c.json": ("findings",)}),
    "rows --json": Output("fairseq-knnlm", "rows dstore 3 --json OUT", "out/w.json", {"out/w.json": ("rows",)}),
    "recall --json": Output(
        "fairseq-knnlm",
        "recall --dstore-filename dstore --indexfile knn.index --k 8 --sample 20 --json OUT",
        "out/m.json",
        {"out/m.json": ("recall",)},
    ),
    "recall --keep-in": Output(
        "fairseq-knnlm",
        "recall --dstore-filename dstore --index-spec Flat --k 8 --sample 20 --keep-in OUT",
        "out/kept",
        {"out/kept": (), "out/kept/Flat.index": ("index",), "out/kept/Flat.index.json": ("index manifest",)},
        flags="",
    ),
    "export-distribution --destination": Output(
        "fairseq-knnlm",
        "export-distribution --dstore-filename dstore --indexfile knn.index --k 8 --destination OUT",
        "out/d.arrow",
        {"out/d.arrow": ("distribution",)},
    ),
    "plan --save-rates": Output(
        "fairseq-knnlm",
        "plan --tokens 1000 --dim 16 --code-size 4 --rates rates.json --save-rates OUT",
        "out/n.json",
        {"out/n.json": ("rates",)},
    ),
    "adopt --dstore-mmap": Output(
        "fairseq-knnlm", "adopt foreign --dimension 4 --dstore-size 20 --dstore-mmap OUT", "out/new", _STORE_FILES
    ),
    "convert .safetensors": Output(
        "fairseq-knnlm",
        "convert run/checkpoint_last.pt OUT",
        "out/m.safetensors",
        {"out/m.safetensors": ("safetensors",)},
    ),
    "convert .pt": Output(
        "fairseq-knnlm",
        "convert model.safetensors OUT",
        "out/m.pt",
        {"out/m.pt": ("checkpoint",), "out/m.json": ("checkpoint summary",)},
    ),
    "average --output": Output(
        "average_checkpoints",
        "--inputs run/checkpoint_last.pt --output OUT",
        "out/m.pt",
        {"out/m.pt": ("checkpoint",), "out/m.json": ("checkpoint summary",)},
    ),
    "report --out": Output(
        "fairseq-knnlm", "report retrieval/valid --max-tokens 10 --out OUT", "out/p.html", {"out/p.html": ("page",)}
    ),
    "sweep --out": Output(
        "fairseq-knnlm",
        "sweep retrieval/valid --k 2,8 --resamples 100 --out OUT",
        "out/s",
        _sweep_files("out/s", "perplexity_by_k"),
    ),
    "sweep-cache --out": Output(
        "fairseq-knnlm",
        "sweep-cache retrieval/valid --lmbda 0,0.5 --cache-lmbda 0,0.5 --resamples 100 --out OUT",
        "out/s",
        _sweep_files("out/s", "perplexity_by_cache_weight"),
    ),
    "fit-lmbda --out": Output(
        "fairseq-knnlm", "fit-lmbda retrieval/valid --folds 2 --out OUT", "out/l.json", {"out/l.json": ("lmbda",)}
    ),
    "preprocess --log-file": _log(
        "fairseq-preprocess", "--only-source --dict-only --trainpref train.txt --destdir out/d"
    ),
    "train --log-file": _log("fairseq-train", f"{SHORT} --no-save"),
    "eval --log-file": _log("fairseq-eval-lm", EVAL),
    "generate --log-file": _log("fairseq-generate", f"{EVAL} --max-len-b 1 --beam 1 --num-shards 20"),
    "interactive --log-file": _log("fairseq-interactive", f"{EVAL} --max-len-b 1 --beam 1 --input line.txt"),
    "validate --log-file": _log("fairseq-validate", EVAL),
    "score-lm --log-file": _log("fairseq-score-lm", f"{EVAL} --input line.txt"),
    "build --log-file": _log("build_dstore.py", "--dstore_mmap dstore --faiss_index out/i --index-spec Flat"),
    "check --log-file": _log("fairseq-knnlm", "check data-bin"),
    "info --log-file": _log("fairseq-knnlm", "info data-bin/dict.txt"),
    "sweep --log-file": _log("fairseq-knnlm", "sweep retrieval/valid --k 8 --resamples 100 --no-figures --out out/s"),
    "forget --log-file": _log("fairseq-knnlm", "forget dstore"),
}


def make_inputs(good: Artefacts, root: Path) -> None:
    """Fills a directory with what the commands read, and makes it the working directory."""
    shutil.copytree(good.root, root)
    os.chdir(root)
    Path("line.txt").write_text("w1 w2\n", encoding="utf-8")
    Path("train.txt").write_text("a b c a b\nb c a\n" * 5, encoding="utf-8")
    write_tokenizer(Path("tokenizer"))
    for number in (0, 1):
        words = f"{EVAL} --max-tokens 64 --num-shards 2 --shard-id {number} --results-path shards"
        assert call("fairseq-eval-lm", shlex.split(words))[0] == 0
    measured = dict.fromkeys((field.name for field in msgspec.structs.fields(Rates) if field.type == Rate), 1.0)
    write_record(Path("rates.json"), Rates(machine="a node", dimension=16, code_bytes=4, **measured))
    rng = np.random.default_rng(0)
    (rng.random((20, 4), np.float32) + 1).tofile("foreign_keys.npy")
    rng.integers(4, 40, 20).tofile("foreign_vals.npy")


def make_everything(good: Artefacts, root: Path) -> None:
    """Fills a directory with one of everything as well."""
    make_inputs(good, root)
    made = Path("made")
    made.mkdir()
    commands = [
        ("fairseq-preprocess", "--only-source --trainpref train.txt --destdir made/data"),
        ("fairseq-eval-lm", f"{EVAL} --results-path made/r.json --max-tokens 64 --log-file made/log"),
        ("fairseq-knnlm", "check data-bin --fast --json made/findings.json"),
        ("fairseq-knnlm", "rows dstore 5 --json made/rows.json"),
        (
            "fairseq-knnlm",
            "recall --dstore-filename dstore --indexfile knn.index --k 4 --sample 9 --json made/recall.json",
        ),
        (
            "fairseq-knnlm",
            "export-distribution --dstore-filename dstore --indexfile knn.index --k 8 --destination made/d.arrow",
        ),
        ("fairseq-knnlm", "convert run/checkpoint_last.pt model.safetensors"),
        ("fairseq-knnlm", "convert model.safetensors made/model.pt"),
        ("fairseq-knnlm", "report retrieval/valid --max-tokens 5 --out made/page.html"),
        ("fairseq-knnlm", "sweep retrieval/valid --k 2,4 --resamples 100 --out made/sweep"),
        ("fairseq-knnlm", "sweep-cache retrieval/valid --lmbda 0 --cache-lmbda 0,0.1 --resamples 100 --out made/cache"),
        ("fairseq-knnlm", "adopt foreign --dimension 4 --dstore-size 20 --dstore-mmap made/dstore"),
        ("fairseq-knnlm", "forget made/dstore --rows 3"),
        *(
            ("fairseq-eval-lm", f"{DUMP} --num-shards 3 --shard-id {number} --dstore-mmap made/ranges")
            for number in range(3)
        ),
    ]
    Path("made/lmbda.json").write_text('{"kind": "lmbda-model", "version": 1}', encoding="utf-8")
    for prog, words in commands:
        code, said = call(prog, shlex.split(words))
        assert code == 0, (prog, words, said)


# What the commands have written, by name.
OURS = {
    "results": "made/r.json",
    "times": "made/r.time.json",
    "log": "made/log",
    "findings": "made/findings.json",
    "rows": "made/rows.json",
    "recall": "made/recall.json",
    "distribution": "made/d.arrow",
    "rates": "rates.json",
    "safetensors": "model.safetensors",
    "checkpoint": "made/model.pt",
    "checkpoint summary": "made/model.json",
    "page": "made/page.html",
    "sweep.json": "made/sweep/sweep.json",
    "table.md": "made/sweep/table.md",
    "sweep.csv": "made/sweep/sweep.csv",
    "figure.svg": "made/sweep/perplexity_by_k.svg",
    "figure.png": "made/sweep/perplexity_by_k.png",
    "cache sweep.json": "made/cache/sweep.json",
    "cache sweep.csv": "made/cache/sweep.csv",
    "lmbda": "made/lmbda.json",
    "store manifest": "dstore.json",
    "range record": "made/ranges.range-1-of-3.json",
    "store keys": "dstore_keys.npy",
    "store values": "dstore_vals.npy",
    "index": "knn.index",
    "index manifest": "knn.index.json",
    "retrieval manifest": "retrieval/valid/manifest.json",
    "retrieval column": "retrieval/valid/ids.npy",
    "retrieval results": "retrieval/valid/results.json",
    "data record": "made/data/preprocess.json",
    "dictionary": "data-bin/dict.txt",
    "binarised index": "data-bin/train.idx",
    "binarised text": "data-bin/train.bin",
}


def _png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


FOREIGN = {
    "text": b"the only copy of a text\n",
    "latin-1": "caf\xe9\n".encode("latin-1"),
    "empty": b"",
    "other JSON": b'{"name": "package", "lockfileVersion": 3}\n',
    "JSON that is no object": b"[1, 2, 3]\n",
    "page of another": b"<!doctype html><title>thesis</title>\n",
    "picture": _png(),
    "table of another": b"lmbda,k,ppl\n0.1,2,3\n",
    "log of another": b"2020-01-01 00:00:00 | INFO | fairseq_cli.train | epoch 001\n",
    "pickle": b"\x80\x02}q\x00.",
}


def _put_link(to: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(Path(to).absolute())


def _put_link_to_directory(path: Path) -> None:
    shutil.rmtree("elsewhere", ignore_errors=True)
    Path("elsewhere").mkdir()
    path.symlink_to(Path("elsewhere").absolute())


def _put_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        before = Path.cwd()
        os.chdir(path.parent)  # a socket's path must be short
        one.bind(path.name)
        os.chdir(before)


def _put_device(path: Path) -> None:
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        path.symlink_to(os.devnull)


def _put_directory(path: Path) -> None:
    path.mkdir()
    (path / "note.txt").write_text("somebody's")


def _put_read_only(path: Path) -> None:
    path.write_text("somebody's")
    path.chmod(0o444)


def _put_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.arange(5.0))


def _put_index(path: Path) -> None:
    index = faiss.IndexFlatL2(4)
    index.add(np.ones((3, 4), np.float32))
    faiss.write_index(index, str(path))


OTHERS: dict[str, Callable[[Path], None]] = {
    "directory": _put_directory,
    "link to a file": _put_link("train.txt"),
    "link to results": _put_link("made/r.json"),
    "link to a directory": _put_link_to_directory,
    "link to nothing": _put_link("nowhere"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "hard link": lambda path: path.hardlink_to("line.txt"),
    "socket": _put_socket,
    "pipe": lambda path: os.mkfifo(path),
    "device": _put_device,
    "read-only": _put_read_only,
    "array": _put_array,
    "index of another": _put_index,
}
THINGS = (*OURS, *FOREIGN, *OTHERS)


def put(thing: str, path: Path) -> None:
    """Puts a thing in a path's place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if thing in OURS:
        shutil.copy(OURS[thing], path)
    elif thing in FOREIGN:
        path.write_bytes(FOREIGN[thing])
    else:
        OTHERS[thing](path)


def state(root: Path) -> dict[str, tuple[object, ...]]:
    """Returns what everything under a directory is: type, inode, and content."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        at = path.lstat()
        content = ""
        if stat.S_ISREG(at.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(at.st_mode):
            content = str(path.readlink())
        found[str(path.relative_to(root))] = (stat.S_IFMT(at.st_mode), at.st_ino, content)
    return found
