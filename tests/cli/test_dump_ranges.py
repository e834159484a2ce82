"""A datastore that the jobs of an array, or the processes of torchrun, write in ranges: the bytes of one process."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairseq.knn.datastore.range_record import range_path, read_range
from fairseq.knn.dump import row_groups
from fairseq.knn.dump.join import join_datastore
from tests.builders.kill_child import Stage, kill_and_compare, measure
from tests.builders.tiny_lm import Command, Outcome

CUTS = {
    "window": "--context-window 6",
    "sentences": "--sample-break-mode eos",
    "sentences of other lengths": "--sample-break-mode complete --max-tokens 60",
    "float16, not all rows": "--context-window 6 --dstore-fp16 --dstore-size 333",
}
WINDOW = CUTS["window"]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes groups and chunks so small that a text has many of them."""
    monkeypatch.setattr(row_groups, "GROUP_ROWS", 60)
    for module in ("fairseq.knn.datastore.format", "fairseq.knn.dump.join"):
        monkeypatch.setattr(f"{module}.CHUNK_ROWS", 64)


@pytest.fixture
def dump(eval_lm: Command) -> Callable[..., Outcome]:
    """Returns ``dump(prefix, *flags)``, which writes the training split's datastore, or a range of it."""

    def call(prefix: Path, *words: object) -> Outcome:
        return eval_lm("--gen-subset", "train", "--save-knnlm-dstore", "--dstore-mmap", prefix, *words)

    return call


def files(prefix: Path) -> dict[str, bytes]:
    """Returns the files of a directory."""
    return {path.name: path.read_bytes() for path in prefix.parent.iterdir()}


@pytest.mark.parametrize("cut", CUTS)
def test_ranges_have_the_bytes_of_one_process(dump: Callable[..., Outcome], tmp_path: Path, cut: str) -> None:
    words = shlex.split(CUTS[cut])
    assert dump(tmp_path / "one" / "d", *words).code == 0
    for count in (2, 3) if cut == "window" else (3,):
        prefix = tmp_path / str(count) / "d"
        for number in reversed(range(count)):
            done = dump(prefix, *words, "--num-shards", count, "--shard-id", number)
            assert done.code == 0, done.err
            record = read_range(range_path(prefix, number, count))
            assert f"wrote {len(record.rows)} rows, range {number} of {count}, to {prefix}" in done.log
            assert len(record.rows) > 50
        join_datastore([str(prefix)], None, overwrite=False)
        assert files(prefix) == files(tmp_path / "one" / "d")
    again = dump(prefix, *words, "--num-shards", 3, "--shard-id", 1)
    assert again.code == 0 and f"{prefix} is there already, of this data and model; nothing to do" in again.log


def test_a_lost_range_is_written_again_alone(dump: Callable[..., Outcome], tmp_path: Path) -> None:
    """On a disk of its own."""
    words = shlex.split(CUTS["sentences"])
    assert dump(tmp_path / "one" / "d", *words).code == 0
    for number in (0, 2):
        assert dump(tmp_path / "disk" / "d", *words, "--num-shards", 3, "--shard-id", number).code == 0
    done = dump(tmp_path / "other" / "d", *words, "--num-shards", 3, "--shard-id", 1)
    told = "1 of 3 ranges are written here; when all are, fairseq-knnlm join makes a datastore of them"
    assert f"{tmp_path / 'other' / 'd'}: {told}" in done.log
    sources = [str(tmp_path / name / "d") for name in ("disk", "other")]
    join_datastore(sources, str(tmp_path / "all" / "d"), overwrite=False)
    assert files(tmp_path / "all" / "d") == files(tmp_path / "one" / "d")


def test_a_range_that_was_stopped_goes_on(
    dump: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairseq.knn.dump.range_writer import RangeWriter

    assert dump(tmp_path / "one" / "d", *shlex.split(WINDOW)).code == 0
    prefix, append = tmp_path / "ranges" / "d", RangeWriter.append
    words = [*shlex.split(f"{WINDOW} --max-tokens 24 --save-interval-s 0 --num-shards 2"), "--shard-id"]
    assert dump(prefix, *words, 0).code == 0

    def full(writer: RangeWriter, keys: Any, values: Any) -> None:
        if writer.rows_done - writer.rows.start > 40:
            raise OSError(28, "No space left on device", f"{prefix}_keys.npy")
        append(writer, keys, values)

    monkeypatch.setattr(RangeWriter, "append", full)
    assert dump(prefix, *words, 1).code == 2
    monkeypatch.setattr(RangeWriter, "append", append)
    record = read_range(range_path(prefix, 1, 2))
    assert 40 < record.rows_written < 100
    done = dump(prefix, *words, 1)
    told = f"range 1 of 2 of {prefix} has {record.rows_written} of {len(record.rows)} rows; going on from there"
    assert done.code == 0 and told in done.log
    join_datastore([str(prefix)], None, overwrite=False)
    assert files(prefix) == files(tmp_path / "one" / "d")


def test_one_process_finishes_what_an_array_began(dump: Callable[..., Outcome], tmp_path: Path) -> None:
    words = shlex.split(WINDOW)
    assert dump(tmp_path / "one" / "d", *words).code == 0
    prefix = tmp_path / "ranges" / "d"
    assert dump(prefix, *words, "--num-shards", 3, "--shard-id", 1).code == 0
    done = dump(prefix, *words)
    assert done.code == 0, done.err
    assert files(prefix) == files(tmp_path / "one" / "d")


def test_more_ranges_than_blocks(dump: Callable[..., Outcome], tmp_path: Path) -> None:
    words = [*shlex.split(WINDOW), "--dstore-size", 25]
    assert dump(tmp_path / "one" / "d", *words).code == 0
    prefix = tmp_path / "ranges" / "d"
    for number in range(6):
        assert dump(prefix, *words, "--num-shards", 6, "--shard-id", number).code == 0
    assert 0 in {len(read_range(range_path(prefix, number, 6)).rows) for number in range(6)}
    join_datastore([str(prefix)], None, overwrite=False)
    assert files(prefix) == files(tmp_path / "one" / "d")


def test_what_is_refused(dump: Callable[..., Outcome], command: Command, tmp_path: Path, data_dir: Path) -> None:
    prefix, words = tmp_path / "ranges" / "d", [*shlex.split(WINDOW), "--num-shards", 2]
    assert dump(prefix, *words, "--shard-id", 0).code == 0
    before = files(prefix)
    missing = f"{prefix} is unfinished: range 1 of 2 is missing; run its command again (--num-shards 2 --shard-id 1"
    refused = {
        "--append adds rows behind the others, by one process; leave --num-shards out": dump(
            prefix, *words, "--append"
        ),
        "is an unfinished datastore of another run": dump(prefix, *words, "--dstore-fp16"),
        "is written in 2 ranges, but this run has 3; give --num-shards 2": dump(prefix, *words[:-1], 3),
        f"--dstore-mmap: {prefix}.range-1-of-2 must not end in .range-1-of-2": dump(Path(f"{prefix}.range-1-of-2")),
        missing: command("build_dstore.py", "--dstore_mmap", prefix, "--faiss_index", tmp_path / "i"),
        f"{missing} ": command("fairseq-knnlm", "forget", prefix, "--rows", "3"),
        f"{missing}  ": command("fairseq-knnlm", "forget", prefix, "--compact"),
        "--json: ": command("fairseq-knnlm", "check", data_dir, "--json", f"{prefix}.range-1-of-2.json"),
    }
    for message, done in refused.items():
        assert done.code == 2 and message.strip() in done.err, (message, done.err)
        assert done.err.count("error: ") == 1
    assert files(prefix) == before
    checked = command("fairseq-knnlm", "check", "--dstore-filename", prefix)
    assert checked.code == 2 and f"FAILED   datastore sizes: {missing}" in checked.out
    adopted = command("fairseq-knnlm", "adopt", prefix, "--dstore-mmap", tmp_path / "adopted")
    assert adopted.code == 2 and "error: " in adopted.err and files(prefix) == before


def test_processes_append_nothing(
    dump: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A group of two, as torchrun makes one; the refusal comes before they talk."""
    alone = {"lost": list, "is_first_to_end": lambda: True, "close": lambda: None}
    two = SimpleNamespace(rank=0, local_rank=0, world_size=2, **alone)
    monkeypatch.setattr("fairseq.runtime.distributed.join_processes", lambda *args: two)
    done = dump(tmp_path / "d", "--append")
    assert done.code == 2 and "--append adds rows behind the others, by one process; start it without torch" in done.err


def test_info_tells_how_far_ranges_are(dump: Callable[..., Outcome], command: Command, tmp_path: Path) -> None:
    prefix, words = tmp_path / "ranges" / "d", [*shlex.split(WINDOW), "--num-shards", 3]
    assert dump(prefix, *words, "--shard-id", 2).code == 0
    record = read_range(range_path(prefix, 2, 3))
    told = command("fairseq-knnlm", "info", prefix, prefix.parent, range_path(prefix, 2, 3)).out
    line = f"  range 2 of 3: rows {record.first_row}:{record.stop_row}, complete"
    assert told.count(line) == 2
    assert f"unfinished datastore, {len(record.rows)} of " in told
    assert f"d: datastore, unfinished: in ranges, {len(record.rows)} of " in told
    assert "to finish: range 0 of 3 is missing, range 1 of 3 is missing; run the command of each again" in told


def torchrun(num: int, *words: object) -> subprocess.Popen[str]:
    """Starts processes of fairseq-eval-lm."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num)]
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "fairseq_cli.eval_lm", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def words_of(data_dir: Path, checkpoint: Path) -> Callable[..., list[object]]:
    """Returns ``words_of(prefix, *flags)``, the arguments of such a run."""

    def call(prefix: Path, *words: object) -> list[object]:
        fixed = shlex.split("--gen-subset train --save-knnlm-dstore --cpu --log-format none --context-window 6")
        return [data_dir, "--path", checkpoint, *fixed, "--dstore-mmap", prefix, *words]

    return call


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_processes_have_the_bytes_of_one(
    dump: Callable[..., Outcome], words_of: Callable[..., list[object]], tmp_path: Path, count: int
) -> None:
    assert dump(tmp_path / "one" / "d", *shlex.split(WINDOW)).code == 0
    prefix = tmp_path / "ranges" / "d"
    run = torchrun(count, *words_of(prefix))
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    assert said.count(" of width ") == 1  # the first process alone tells of the whole
    for rows in ("d_keys.npy", "d_vals.npy"):  # chunks are of another size in those processes
        assert files(prefix)[rows] == files(tmp_path / "one" / "d")[rows]
    assert set(files(prefix)) == {"d.json", "d_keys.npy", "d_vals.npy"}


@pytest.mark.slow
def test_killed_processes_go_on_with_another_number_of_them(
    dump: Callable[..., Outcome], words_of: Callable[..., list[object]], tmp_path: Path
) -> None:
    assert dump(tmp_path / "one" / "d", *shlex.split(WINDOW), "--max-tokens", 10).code == 0
    prefix = tmp_path / "ranges" / "d"
    words = words_of(prefix, "--max-tokens", 10, "--save-interval-s", 0)
    run = torchrun(3, *words)
    while run.poll() is None and not written(prefix, 3):
        time.sleep(0.002)
    assert run.poll() is None, run.communicate()[0]
    children = [pid for path in Path(f"/proc/{run.pid}/task").glob("*/children") for pid in path.read_text().split()]
    ranks = [pid for pid in children if b"fairseq_cli.eval_lm" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(ranks[0]), signal.SIGKILL)
    said, _ = run.communicate(timeout=300)
    assert run.returncode != 0 and written(prefix, 3), said
    run = torchrun(2, *words)
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    for rows in ("d_keys.npy", "d_vals.npy"):
        assert files(prefix)[rows] == files(tmp_path / "one" / "d")[rows]
    assert set(files(prefix)) == {"d.json", "d_keys.npy", "d_vals.npy"}


def written(prefix: Path, count: int) -> int:
    """Returns how many rows are written in ranges, by their records."""
    paths = [range_path(prefix, number, count) for number in range(count)]
    return sum(read_range(path).rows_written for path in paths if path.exists())


@pytest.mark.slow
def test_kills_at_any_moment(
    command: Command,
    data_dir: Path,
    trained_dir: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """kill -9 while a range is written, the others being there: it goes on, to the same bytes."""
    import shutil

    inputs = tmp_path / "inputs"
    inputs.mkdir()
    shutil.copytree(data_dir, inputs / "data-bin")
    shutil.copytree(trained_dir, inputs / "checkpoints")
    flags = "--path checkpoints/checkpoint_last.pt --cpu --max-tokens 64 --log-format none --gen-subset train"
    words = shlex.split(f"data-bin {flags} --save-knnlm-dstore --dstore-mmap out --context-window 4 --num-shards 2")
    first = measure("range 0", "fairseq-eval-lm", [*words, "--shard-id", "0"], inputs, tmp_path / "first").expected
    second = [*words, "--shard-id", "1", "--save-interval-s", "0"]
    stage: Stage = measure("range 1", "fairseq-eval-lm", second, first, tmp_path / "expected")
    tally = kill_and_compare(stage, tmp_path / "killed", 10, seed=1)
    record_property("kills", f"a range: {tally.kills} kills, {tally.compared} runs compared to the byte")
    assert tally.kills >= 10
