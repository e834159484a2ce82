"""Reading and searching an index that may be anything, in a process of its own.

FAISS trusts what a file says. A damaged or malicious one can end the process, or keep it busy for ever, when it is read
or when it is searched. A child does both, and says what it found; what it does not say in time is an error.
``try_index`` is for a file that is to be read afterwards; an ``IndexInChild`` never is.

    python -c CHILD INDEX DIRECTORY [K NPROBE]

    DIRECTORY/queries      raw float32 [N, D], to be searched for with K and NPROBE; anything is searched for without
    DIRECTORY/near, ids    raw float32 and int64 [N, K], what was found
    DIRECTORY/answer.json  what there is to say, written last

The child imports little but faiss and NumPy, to be quick.

Legend: N queries · K neighbours · D key width.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fairseq.arrays import Float32s, Int64s
from fairseq.errors import DatastoreError

# Seconds for any index, and bytes a second that it must be read and searched with.
LEAST_TIME_S, LEAST_BYTES_PER_S = 60.0, 20e6
_QUERIES, _NEIGHBOURS = 16, 8
_WIDEST = 1 << 20
_ROOT = Path(__file__).resolve().parents[3]
# Modules of the directory that the user stands in, another fairseq perhaps, are not ours to import.
_CHILD = "import sys; sys.path = [name for name in sys.path if name]; from fairseq.knn.index.trial import main; main()"


def try_index(path: Path) -> None:
    """Reads and searches an index in a child.

    Raises:
        DatastoreError: it cannot be read or searched, or that ends the process, or does not end.
    """
    with TemporaryDirectory() as directory:
        _asked_of_child(path, Path(directory))


class IndexInChild:
    """An index that is read and searched by children only; it has what a search asks of a FAISS index.

    Attributes:
        type: name of its class.
        d, ntotal, metric_type, nlist: what it says; no lists are 0.
        nprobe: lists that a search visits; 0 for as many as the file says.

    Raises:
        DatastoreError: it cannot be read or searched, or that ends the process, or does not end.
    """

    def __init__(self, path: Path) -> None:
        with TemporaryDirectory() as directory:
            said = _asked_of_child(path, Path(directory))
        self.path, self.nprobe = path, 0
        self.type, self.d, self.ntotal = str(said["type"]), int(said["d"]), int(said["ntotal"])
        self.metric_type, self.nlist = int(said["metric_type"]), int(said["nlist"])

    def search(self, queries_ND: Float32s, k: int) -> tuple[Float32s, Int64s]:
        """Returns the index's own numbers and ids ``[N, K]``, nearest first; id −1 for none."""
        with TemporaryDirectory() as name:
            directory = Path(name)
            queries_ND.tofile(directory / "queries")
            _asked_of_child(self.path, directory, str(k), str(self.nprobe))
            shape = (len(queries_ND), k)
            near_NK = np.fromfile(directory / "near", np.float32).reshape(shape)
            return near_NK, np.fromfile(directory / "ids", np.int64).reshape(shape)


def _asked_of_child(path: Path, directory: Path, *more: str) -> dict[str, Any]:
    limit_s = LEAST_TIME_S + path.stat().st_size / LEAST_BYTES_PER_S
    where = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-c", _CHILD, str(path), str(directory), *more]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=limit_s, env={**os.environ, "PYTHONPATH": where}, check=False
        )
    except subprocess.TimeoutExpired:
        problem: Any = f"FAISS was still busy with it after {limit_s:.0f} s"
    else:
        try:
            said: dict[str, Any] = json.loads((directory / "answer.json").read_bytes())
            problem = said["problem"]
        except FileNotFoundError:
            problem = f"FAISS ended its process: {_ending(done)}"
    if problem is not None:
        raise DatastoreError(
            f"{path} must be a FAISS index, but cannot be read ({problem}); make it again with fairseq-build-dstore"
            " --overwrite"
        )
    return said


def _ending(done: "subprocess.CompletedProcess[bytes]") -> str:
    """Returns how a child ended: by which signal, or what it said last."""
    if done.returncode < 0:
        return f"signal {-done.returncode}"
    lines = done.stderr.decode(errors="replace").split("\n")
    return next((line.strip()[:120] for line in reversed(lines) if line.strip()), f"exit code {done.returncode}")


def _answer(path: str, directory: Path, more: list[str]) -> dict[str, Any]:
    """Returns what the child says of an index: what is wrong with it as far as that shows, None for nothing."""
    import faiss

    from fairseq.knn.index.reading import faiss_reason, read_by_faiss

    try:
        index = read_by_faiss(path)
        problem = None
        if index.d > _WIDEST:
            problem = f"it says that its keys are {index.d} wide"
        elif index.ntotal:  # else it is for the reader to say
            problem = _searched(index, directory, more)
    except (RuntimeError, MemoryError, ValueError, AssertionError) as err:
        return {"problem": faiss_reason(err)}
    inverted: Any = faiss.try_extract_index_ivf(index)
    said = {"type": type(index).__name__, "ntotal": index.ntotal, "d": index.d, "metric_type": index.metric_type}
    return {**said, "nlist": inverted.nlist if inverted is not None else 0, "problem": problem}


def _searched(index: Any, directory: Path, more: list[str]) -> str | None:
    """Searches an index, for what is asked or for anything; returns what is wrong with it."""
    import faiss

    if not index.is_trained:
        return "it says that it is not trained, but has keys"
    inverted: Any = faiss.try_extract_index_ivf(index)
    if more:
        k, nprobe = map(int, more)
        if inverted is not None and nprobe:
            inverted.nprobe = nprobe
        near_NK, ids_NK = index.search(np.fromfile(directory / "queries", np.float32).reshape(-1, index.d), k)
        near_NK.tofile(directory / "near")
        ids_NK.tofile(directory / "ids")
        return None
    if inverted is not None:
        inverted.nprobe = inverted.nlist
    queries_ND = np.random.default_rng(0).standard_normal((_QUERIES, index.d), dtype=np.float32)
    index.search(queries_ND, min(_NEIGHBOURS, int(index.ntotal)))
    return None


def main() -> None:
    """Answers for the index that the command line names."""
    target = Path(sys.argv[2])
    said_last = json.dumps(_answer(sys.argv[1], target, sys.argv[3:]))
    (target / "answer.json").write_text(said_last, encoding="utf-8")
