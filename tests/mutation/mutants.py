"""Breaks one place at a time of a room and says which of these mutants the room's tests let live.

    .venv/bin/python tests/mutation/mutants.py fairseq/knn/search --sample 60

The mutants are cosmic-ray's, and those of ``operators.py``. Everything happens in a copy of the tree; a process that
has torch loaded forks for each mutant. A seed draws the same places again; a larger sample begins with the smaller.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}

from operators import changed, mutants_of  # noqa: E402
from reached import Reached, import_what_was_imported, run_measured  # noqa: E402

LIBRARIES = ("numpy", "torch", "torch.nn.functional", "faiss", "msgspec", "filelock", "tqdm")
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "demo", "adapt", "build")
# Quick tests that hold a room beside those that mirror it.
BESIDE = {
    "fairseq/checkpoints": "tests/bad_input/test_bad_checkpoint.py",
    "fairseq/criterions": "tests/evaluate/test_sequence_scorer.py",
    "fairseq/data": "tests/cli/test_preprocess.py tests/cli/test_flags.py tests/bad_input/test_bad_text_and_dict.py"
    " tests/bad_input/test_bad_idx.py",
    "fairseq/modules": "tests/models tests/generate",
    "fairseq/models": "tests/modules tests/plugins",
    "fairseq/optim": "tests/train tests/cli/test_train.py",
    "fairseq/train": "tests/checkpoints tests/cli/test_flags.py tests/cli/test_flag_bounds.py tests/cli/test_train.py"
    " tests/cli/test_resume.py",
    "fairseq/evaluate": "tests/cli/test_cache_flags.py tests/cli/test_score_lm.py",
    "fairseq/generate": "tests/cli/test_flags.py tests/cli/test_flag_bounds.py tests/cli/test_generate.py",
    "fairseq/knn/datastore": "tests/bad_input/test_bad_datastore.py tests/cli/test_rows_command.py",
    "fairseq/knn/index": "tests/bad_input/test_bad_index.py tests/cli/test_rows_command.py"
    " tests/knn/maintain/test_forget.py tests/cli/test_flag_bounds.py",
    "fairseq/knn/maintain": "tests/cli/test_knnlm_adopt.py tests/cli/test_rows_command.py",
    "fairseq/knn/neighbours": "tests/knn/search",
    "fairseq/knn/retrieval": "tests/cli/test_save_retrieval.py tests/bad_input/test_bad_retrieval.py",
    "fairseq/knn/search": "tests/knn/neighbours",
    "fairseq/knn/sweep": "tests/cli/test_flag_bounds.py tests/cli/test_sweep_command.py",
    "fairseq/knn/weight": "tests/cli/test_fit_lmbda.py",
}


class Mutant(NamedTuple):
    """A file, the line that differs, and the text before and after."""

    path: Path
    line: int
    before: str
    after: str


def tests_of(room: Path) -> list[str]:
    """Returns the tests of a room or of one of its files; the nearest first, as the first failure ends a run."""
    folder = room.parent if room.suffix else room
    mirror = Path("tests", *folder.parts[1:])
    own = mirror / f"test_{room.name}"
    found = [str(own)] if room.suffix and own.exists() else []
    found += [str(mirror)] if mirror.exists() else []
    return found + BESIDE.get(str(folder), "").split()


def draw(rooms: list[Path], lines: set[str], sample: int, seed: int) -> list[Mutant]:
    """Returns ``sample`` mutants, each of another place."""
    places = defaultdict(list)
    for path in sorted(p for room in rooms for p in ([room] if room.suffix else room.rglob("*.py"))):
        source = path.read_text(encoding="utf-8")
        for (start, end), mutate in mutants_of(source):
            if not lines or f"{path}:{start[0]}" in lines:
                places[path, start, end].append((path, start[0], source, mutate))
    rng = random.Random(seed)
    order = sorted(places)
    rng.shuffle(order)
    print(f"{len(order)} places, {sum(map(len, places.values()))} mutants", flush=True)
    chosen = [places[place] if lines else [rng.choice(places[place])] for place in order[:sample]]
    return [Mutant(path, line, source, mutate()) for some in chosen for path, line, source, mutate in some]


def run_tests(copy: Path, tests: list[str], limit: float, log: Path, measured: list[Path] | None = None) -> str:
    """Returns ``survived``, ``killed`` or ``timed out``: what the tests say in a process of their own."""
    child = os.fork()
    if child == 0:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(out, descriptor)
        os.chdir(copy)
        os.environ["PYTHONPATH"] = str(copy)
        import pytest

        options = ["-x", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # plugins are loaded already
        options += [f"--basetemp={copy.parent / 'tmp'}", *tests]
        code = 70  # of a process that ends otherwise: it must not go on as this program
        try:
            code = run_measured(options, measured, copy.parent / "reached") if measured else pytest.main(options)
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    end = time.monotonic() + limit
    outcome = "timed out"
    while outcome == "timed out" and time.monotonic() < end:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            outcome = "over"
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)  # with what a test had started
    _, status = os.waitpid(child, 0)
    return outcome if outcome == "timed out" else "killed" if status else "survived"


def main() -> None:
    """Prints the survivors as ``file:line: before → after``, then the score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="+", type=Path, help="folders or files, such as fairseq/knn/search")
    parser.add_argument("--sample", type=int, default=60, help="places to break (default 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tests", nargs="+", help="tests to run in place of the rooms' own")
    parser.add_argument("--lines", nargs="+", default=[], metavar="FILE:LINE", help="every mutant of these lines only")
    args = parser.parse_args()
    for library in LIBRARIES:
        __import__(library)
    tests = args.tests or list(dict.fromkeys(test for room in args.rooms for test in tests_of(room)))
    mutants = draw(args.rooms, set(args.lines), args.sample, args.seed)
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        copy, log = Path(name, "copy"), Path(name, "log")
        shutil.copytree(Path.cwd(), copy, ignore=NOT_COPIED, symlinks=True)
        if (shared := Path.cwd().parent / "shared").exists():
            (copy.parent / "shared").symlink_to(shared)
        start = time.monotonic()
        sys.dont_write_bytecode = False  # the files that stay as they are need not be compiled for every mutant
        files = sorted({copy / mutant.path for mutant in mutants})
        sound = run_tests(copy, tests, 3600, log, files) == "survived"
        sys.dont_write_bytecode = True
        if sound:
            import_what_was_imported(copy.parent / "reached")
            sound = run_tests(copy, tests[:1], 3600, log) == "survived"
        if not sound:
            sys.exit(f"the tests fail without a mutant:\n{log.read_text(encoding='utf-8')}")
        limit = 30 + 5 * (time.monotonic() - start)
        print(f"tests: {' '.join(tests)}, {(limit - 30) / 5:.0f} s", flush=True)
        reached, tally = Reached(copy.parent / "reached", tests), defaultdict[str, int](int)
        for mutant in mutants:
            target = copy / mutant.path
            was = target.stat()
            target.write_text(mutant.after, encoding="utf-8")
            outcome = run_tests(copy, reached.tests(target, mutant.line), limit, log)
            tally[outcome] += 1
            target.write_text(mutant.before, encoding="utf-8")
            os.utime(target, ns=(was.st_atime_ns, was.st_mtime_ns))  # by which Python finds what it has compiled
            if outcome != "killed":
                print(f"{outcome}: {mutant.path}:{changed(mutant.before, mutant.after)}", flush=True)
        seconds = (time.monotonic() - start) / max(len(mutants), 1)
        share = 1 - tally["survived"] / max(len(mutants), 1)
        counts = ", ".join(f"{tally[name]} {name}" for name in ("killed", "timed out", "survived"))
        print(f"{share:.1%} of {len(mutants)} mutants noticed: {counts}; seed {args.seed}, {seconds:.1f} s a mutant")


if __name__ == "__main__":
    main()
