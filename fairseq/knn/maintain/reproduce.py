"""How figures of another tool's evaluation are had here: its settings, as flags of ours.

What knn-transformers and knnlm-limits have where nothing is typed: k 1,024, λ 0.25, T 1, 32 lists, the index's own
squared L2 distance, windows of 1,024 tokens that move on by 512.
"""

import shlex
from pathlib import Path

from fairseq.errors import FairseqError
from fairseq.knn.index.faiss_index import metric_name, read_index
from fairseq.knn.maintain.config import OriginConfig
from fairseq.knn.maintain.windows_origin import WindowsOrigin
from fairseq.storage.inputs import data_directories

SETTINGS = "--k 1024 --lmbda 0.25 --knn-temp 1 --probe 32 --knn-sim-func do_not_recomp_l2"


def reproduction(old: Path, target: Path, rows: int, origin: WindowsOrigin, config: OriginConfig) -> list[str]:
    """Returns lines that say how the figures of the tool that wrote a datastore are had.

    Args:
        old: prefix of its files.
        target: of ours.
        rows: of ours.
        origin: the text.
        config: that named the text.
    """
    index = old.with_name(f"{old.name.replace('dstore', 'index', 1)}.indexed")
    found, why_not = _usable(index, rows)
    block, stride = origin.windows.block or origin.block, origin.windows.stride or origin.stride
    indexfile = str(index) if found else f"{target}.index"
    words = [
        *("fairseq-eval-lm", str(config.data), "--path", config.path or "MODEL", "--gen-subset", _split(config)),
        *("--knnlm", "--dstore-filename", str(target), "--indexfile", indexfile),
    ]
    blocks = _blocks(block, stride)
    lines = ["what it was evaluated with where nothing else was typed, as flags of ours:"]
    if origin.begun:
        lines.append("  (not quite: here the beginning token stands in front of each row, there of each document)")
    if not found:
        build = ["fairseq-build-dstore", "--dstore_mmap", str(target), "--faiss_index", indexfile]
        lines += [f"  {why_not}; build one:", f"    {shlex.join(build)} --index-spec auto"]
    lines += [f"  {shlex.join(words)} \\", f"    {SETTINGS} \\", f"    {blocks} --batch-size 8"]
    return lines


def _split(config: OriginConfig) -> str:
    """Returns the split to evaluate: valid, test, or the datastore's own where there is no other."""
    assert config.data is not None
    directory = data_directories(config.data)[0]
    return next((name for name in ("valid", "test") if (directory / f"{name}.idx").is_file()), config.gen_subset)


def _blocks(block: int, stride: int) -> str:
    """Returns the flags of run_clm's windows; the first tokens of a text alone have another context."""
    if stride == block:
        return f"--sample-break-mode isolated --tokens-per-sample {block}"
    return f"--sample-break-mode none --tokens-per-sample {block - 1} --context-window {block - 1 - stride}"


def _usable(index: Path, rows: int) -> tuple[bool, str]:
    """Returns whether an index is of these rows, and if not, why."""
    if not index.is_file():
        return False, f"there is no {index}"
    try:
        opened = read_index(index, mapped=True)
    except FairseqError as err:
        return False, str(err)
    if opened.ntotal != rows:
        return False, f"{index} has {opened.ntotal} keys, but there are {rows} rows"
    if metric_name(opened) != "l2":
        return False, f"{index} is of inner products"
    return True, ""
