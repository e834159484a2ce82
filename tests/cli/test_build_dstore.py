"""``python build_dstore.py``."""

import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from build_dstore import main
from fairseq.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def prefix(tmp_path):
    rng = np.random.default_rng(0)
    rng.standard_normal((600, 16), dtype=np.float32).tofile(tmp_path / "dstore_keys.npy")
    rng.integers(0, 1000, 600).tofile(tmp_path / "dstore_vals.npy")
    return tmp_path / "dstore"


def test_the_published_spelling(prefix, tmp_path, capsys):
    main(
        f"--dstore_mmap {prefix} --dstore_size 600 --faiss_index {tmp_path}/knn.index --dimension 16 --ncentroids 4"
        " --code_size 8 --num_keys_to_add_at_a_time 500 --starting_point 0 --log-format none".split()
    )
    index = faiss.read_index(str(tmp_path / "knn.index"))
    assert isinstance(index, faiss.IndexIVFPQ) and (index.ntotal, index.nlist) == (600, 4)
    out = capsys.readouterr().out
    assert f"Index {tmp_path}/knn.index: 600 keys" in out and "bytes per key" in out


def test_a_bad_flag_is_one_line_and_exit_code_2(prefix, tmp_path):
    command = [sys.executable, "build_dstore.py", "--dstore-mmap", str(prefix), "--faiss-index", f"{tmp_path}/i"]
    done = subprocess.run([*command, "--dimension", "24"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("build_dstore.py: error: ") and done.stderr.count("\n") == 1


def test_help_imports_neither_torch_nor_faiss():
    code = (
        "import sys, runpy; sys.argv = ['build_dstore.py', '--help']\n"
        "try: runpy.run_path('build_dstore.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'faiss', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for flag in ("--num-keys-to-add-at-a-time", "--index-spec", "[default: 4096]", "--starting-point"):
        assert flag in done.stdout


def test_required_flags():
    with pytest.raises(ConfigError, match="--dstore-mmap is required"):
        main(["--faiss-index", "i"])


@pytest.mark.slow
def test_jobs_of_an_array_at_the_same_time(prefix: Path, tmp_path: Path) -> None:
    """One of them trains, and the others wait for it; what is merged is one build."""
    command = [sys.executable, "build_dstore.py", "--dstore-mmap", str(prefix), "--dimension", "16"]
    command += ["--index-spec", "IVF4,SQ8", "--faiss-index"]
    jobs = [
        subprocess.Popen(
            [*command, f"{tmp_path}/i", "--num-shards", "3", "--shard-id", number],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in "012"
    ]
    said = [job.communicate(timeout=100) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0, 0], said
    assert sum("training IVF4,SQ8" in err for _, err in said) == 1
    assert all(f"shard {number} of 3: " in out for number, (out, _) in enumerate(said))
    for path, more in (("i", ["--num-shards", "3", "--merge", "memory"]), ("one", [])):
        subprocess.run([*command, f"{tmp_path}/{path}", *more], cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "i").read_bytes() == (tmp_path / "one").read_bytes()
    assert not list(tmp_path.glob("i.shard*")) and not list(tmp_path.glob(".*"))
