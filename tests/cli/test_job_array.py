"""``--num-shards`` and ``fairseq-knnlm join``: what jobs have written, joined, is what one process writes."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairseq.evaluate import cells
from fairseq.knn.join import retrieval as join_retrieval
from tests.builders.cases import Artefacts
from tests.builders.tiny_lm import Command, Outcome

TIMES = "results.time.json"


@pytest.fixture(autouse=True)
def small_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of few targets, as the texts here are short."""
    monkeypatch.setattr(cells, "LEAST_TARGETS", 16)


@pytest.fixture
def evaluate(command: Command, artefacts: Artefacts) -> Command:
    """Returns ``evaluate(*flags)``: the model of the artefacts on valid, in small batches."""

    def call(*words: object) -> Outcome:
        fixed = ["--path", artefacts.checkpoint, "--gen-subset", "valid", "--cpu", "--log-format", "none"]
        return command("fairseq-eval-lm", artefacts.data, *fixed, "--max-tokens", 24, *words)

    return call


@pytest.fixture
def neighbours(artefacts: Artefacts) -> list[object]:
    """Returns the flags of neighbours."""
    return ["--knnlm", "--dstore-filename", artefacts.store, "--indexfile", artefacts.index, "--k", 8, "--lmbda", 0.25]


@pytest.fixture
def array(evaluate: Command) -> Callable[..., list[Outcome]]:
    """Returns ``array(count, *flags)``, which runs every job, the last one first."""

    def call(count: int, *words: object) -> list[Outcome]:
        return [evaluate(*words, "--num-shards", count, "--shard-id", number) for number in reversed(range(count))]

    return call


def joined(command: Command, *words: object) -> Outcome:
    return command("fairseq-knnlm", "join", *words, "--log-format", "none")


def result_of(path: Path) -> dict[str, Any]:
    """Returns a result without what names the command that wrote it."""
    record: dict[str, Any] = json.loads(path.read_text())
    record["settings"]["results_path"] = None
    return {name: value for name, value in record.items() if name != "command"}


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != TIMES}


# Results


@pytest.mark.parametrize(
    ("words", "with_neighbours"),
    [
        ("", False),
        ("--context-window 8 --knn-temp auto", True),
        ("--context-window 8 --lmbda 1", True),
        ("--sample-break-mode eos --knn-temp 3 --exclude-own-row --gen-subset train --max-tokens 200", True),
        ("--post-process --softmax-batch 5", False),
    ],
)
def test_results_of_jobs_are_the_result_of_one_process(
    evaluate: Command,
    array: Callable[..., list[Outcome]],
    command: Command,
    neighbours: list[object],
    tmp_path: Path,
    words: str,
    with_neighbours: bool,
) -> None:
    flags = [*(neighbours if with_neighbours else []), *words.split()]
    whole = evaluate(*flags, "--results-path", tmp_path / "whole.json")
    assert whole.code == 0, whole.err
    parts = array(3, *flags, "--results-path", tmp_path / "parts")
    assert all(part.code == 0 for part in parts), [part.err for part in parts]
    targets = [json.loads(path.read_text())["targets"] for path in (tmp_path / "parts").glob("*-of-?.json")]
    assert len(targets) == 3 and min(targets) > 0
    done = joined(command, tmp_path / "parts", "--results-path", tmp_path / "joined.json")
    assert done.code == 0, done.err
    assert result_of(tmp_path / "joined.json") == result_of(tmp_path / "whole.json")
    assert done.out.splitlines()[1:] == whole.out.splitlines()[1:]
    worse = [[line for line in run.warnings if line.startswith("the mixture is worse")] for run in (whole, done)]
    assert worse[0] == worse[1]
    assert worse[0] or "--lmbda" not in words
    assert done.out.split(" in ")[0] == whole.out.split(" in ")[0]
    again = joined(command, tmp_path / "parts", "--results-path", tmp_path / "joined.json")
    assert (again.code, again.out) == (0, done.out)


@pytest.mark.slow
def test_a_fitted_weight_is_applied_by_jobs_as_by_one_process(
    evaluate: Command,
    array: Callable[..., list[Outcome]],
    command: Command,
    neighbours: list[object],
    artefacts: Artefacts,
    tmp_path: Path,
) -> None:
    shutil.copytree(artefacts.retrieval / "valid", tmp_path / "valid")
    fit = ["fit-lmbda", tmp_path / "valid", "--folds", 2, "--out", tmp_path / "l.json", "--log-format", "none"]
    assert command("fairseq-knnlm", *fit).code == 0
    flags = [*neighbours[:-2], "--context-window", 8, "--lmbda-model", tmp_path / "l.json", "--skip-retrieval", 0.3]
    assert evaluate(*flags, "--results-path", tmp_path / "whole.json").code == 0
    array(3, *flags, "--results-path", tmp_path)
    files = sorted(tmp_path.glob("eval_*.json"))
    assert len(files) == 6, "results and their times"
    done = joined(command, *files, "--results-path", tmp_path / "joined.json")
    assert done.code == 0, done.err
    assert result_of(tmp_path / "joined.json") == result_of(tmp_path / "whole.json")
    assert "searches (" in done.out.splitlines()[-1]


@pytest.mark.parametrize("with_neighbours", [False, True])
def test_a_job_without_work_is_complete_and_says_so(
    array: Callable[..., list[Outcome]],
    command: Command,
    neighbours: list[object],
    tmp_path: Path,
    with_neighbours: bool,
) -> None:
    flags = [*(neighbours if with_neighbours else []), "--max-tokens", 100]
    jobs = array(5, *flags, "--results-path", tmp_path)
    idle = [job for job in jobs if re.search(r"^Shard \d of 5: 0 of ", job.out, re.MULTILINE)]
    assert all(job.code == 0 for job in jobs) and 0 < len(idle) < 5
    assert f"only {5 - len(idle)} of 5 processes or jobs ha" in idle[0].warnings[0]
    assert all(len(job.out.splitlines()) == 2 and job.out.startswith("Evaluated 0 tokens in") for job in idle)
    for path in tmp_path.glob("*-of-5.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)  # JSON knows no NaN
    whole = joined(command, tmp_path)
    assert whole.code == 0
    assert "nan" not in whole.out


def test_what_is_missing_is_named_with_a_command_that_mends_it(
    array: Callable[..., list[Outcome]], evaluate: Command, command: Command, tmp_path: Path
) -> None:
    array(3, "--results-path", tmp_path)
    (tmp_path / "eval_valid.shard-0-of-3.json").rename(tmp_path / "first.json")
    (tmp_path / "eval_valid.shard-1-of-3.json").unlink()
    assert joined(command, tmp_path).error.startswith("jobs 0, 1 of 3 are missing; give what each has written")
    (tmp_path / "first.json").rename(tmp_path / "eval_valid.shard-0-of-3.json")
    error = joined(command, tmp_path).error
    assert error.startswith("job 1 of 3 is missing; give what each has written, or run it again: fairseq-eval-lm ")
    words = shlex.split(error.partition("fairseq-eval-lm ")[2])
    assert command("fairseq-eval-lm", *words).code == 0
    assert joined(command, tmp_path).code == 0
    doubled = tmp_path / "again.json"
    shutil.copy(tmp_path / "eval_valid.shard-1-of-3.json", doubled)
    assert f"job 1 of 3 is there twice: {tmp_path / 'eval_valid.shard-1-of-3.json'} and {doubled}" in (
        joined(command, tmp_path, doubled).error
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--num-shards 2 --context-window 4", "--context-window is 4, not 0"),
        ("--num-shards 2 --gen-subset test", "inputs.data_sha256 is '"),
        ("--num-shards 4", "is of an array of 4 jobs, but "),
        ("--num-shards 2 --max-tokens 48", "--max-tokens is 48, not 24"),
    ],
)
def test_a_job_of_another_run_is_refused(
    evaluate: Command, command: Command, tmp_path: Path, words: str, message: str
) -> None:
    assert evaluate("--num-shards", 2, "--shard-id", 1, "--results-path", tmp_path / "a.json").code == 0
    assert evaluate(*words.split(), "--results-path", tmp_path / "b.json").code == 0
    error = joined(command, tmp_path / "a.json", tmp_path / "b.json").error
    assert message in error and str(tmp_path / "b.json") in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.pop("shard"), "is the result of a whole split, and there is nothing to join"),
        (lambda record: record["shard"].pop("log_p"), "lacks the field 'log_p'; run its job again"),
        (lambda record: record["shard"].update(targets="many"), "must be a whole number, but is 'many'"),
        (lambda record: record.update(kind="findings"), "is not the result of a job, but the JSON record of"),
        (lambda record: record["shard"].update(memories={"searches": 1}), "is not sound"),
    ],
)
def test_a_damaged_result_is_refused(
    evaluate: Command,
    command: Command,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], Any],
    message: str,
) -> None:
    path = tmp_path / "a.json"
    assert evaluate("--num-shards", 2, "--shard-id", 0, "--results-path", path).code == 0
    record = json.loads(path.read_text())
    record["shard"]["count"] = 1
    change(record)
    path.write_text(json.dumps(record))
    assert message in joined(command, path).error


# Retrievals


@pytest.mark.parametrize(
    ("words", "places"),
    [
        ("--context-window 8 --knn-temp 3", [0, 0, 0]),
        ("--context-window 8 --knn-temp 3", [1, 0, 1]),
        ("--sample-break-mode eos", [0, 1, 2]),
    ],
)
def test_a_retrieval_of_jobs_is_that_of_one_process_byte_by_byte(
    evaluate: Command, command: Command, neighbours: list[object], tmp_path: Path, words: str, places: list[int]
) -> None:
    flags = [*neighbours, *words.split()]
    assert evaluate(*flags, "--save-retrieval", tmp_path / "whole").code == 0
    for number, place in enumerate(places):
        job = ["--num-shards", 3, "--shard-id", number, "--save-retrieval", tmp_path / str(place)]
        assert evaluate(*flags, *job).code == 0
    directories = [tmp_path / str(place) for place in sorted(set(places))]
    done = joined(command, *directories)
    assert done.code == 0, done.err
    assert files_of(tmp_path / "0") == files_of(tmp_path / "whole")
    assert done.out.splitlines()[-1] == f"{tmp_path / '0'} is whole"
    assert "is whole already" in joined(command, tmp_path / "0").out
    assert "is there already, of this model" in " ".join(evaluate(*flags, "--save-retrieval", tmp_path / "0").log)


def test_a_lost_range_is_redone_alone(
    evaluate: Command, array: Callable[..., list[Outcome]], command: Command, neighbours: list[object], tmp_path: Path
) -> None:
    flags = [*neighbours, "--context-window", 8, "--save-retrieval"]
    assert evaluate(*flags, tmp_path / "whole").code == 0
    array(3, *flags, tmp_path / "r")
    (tmp_path / "r" / "range-1-of-3.json").unlink()
    before = (tmp_path / "r" / "range-2-of-3.json").stat()
    told = command("fairseq-knnlm", "info", tmp_path / "r").out
    assert f"unfinished retrieval; 2 of 3 jobs are done; when all are: fairseq-knnlm join {tmp_path / 'r'}" in told
    error = joined(command, tmp_path / "r").error
    assert error.startswith("job 1 of 3 is missing")
    again = evaluate(*flags, tmp_path / "r", "--num-shards", 3, "--shard-id", 2)
    assert any("has the rows of job 2 of 3 already; they stay" in line for line in again.log)
    assert command("fairseq-eval-lm", *shlex.split(error.partition("fairseq-eval-lm ")[2])).code == 0
    assert (tmp_path / "r" / "range-2-of-3.json").stat().st_mtime_ns == before.st_mtime_ns
    assert joined(command, tmp_path / "r").code == 0
    assert files_of(tmp_path / "r") == files_of(tmp_path / "whole")


def test_a_join_that_was_stopped_goes_on(
    evaluate: Command, command: Command, neighbours: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once when the rows of another directory have been copied, once when the manifest has been written."""
    flags = [*neighbours, "--context-window", 8, "--save-retrieval"]
    assert evaluate(*flags, tmp_path / "whole").code == 0
    for number in (0, 1):
        assert evaluate(*flags, tmp_path / str(number), "--num-shards", 2, "--shard-id", number).code == 0

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("finish", "keep"):
        with monkeypatch.context() as patch:
            patch.setattr(join_retrieval, name, stop)
            assert joined(command, tmp_path / "0", tmp_path / "1").code == 130
    assert joined(command, tmp_path / "0", tmp_path / "1").code == 0
    assert files_of(tmp_path / "0") == files_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--k 4", "r is being written by a job array of --num-shards 2 of another command; give another directory"),
        ("--num-shards 3", "r is being written by a job array of --num-shards 2 of another command"),
        ("--num-shards 2 --k 4", "r is being written by a job array of --num-shards 2 of another command"),
    ],
)
def test_an_array_is_not_written_over_by_another_run(
    evaluate: Command, neighbours: list[object], tmp_path: Path, words: str, message: str
) -> None:
    flags = [*neighbours, "--context-window", 8, "--save-retrieval", tmp_path / "r"]
    assert evaluate(*flags, "--num-shards", 2).code == 0
    before = files_of(tmp_path / "r")
    assert message in evaluate(*flags, *words.split()).error
    assert files_of(tmp_path / "r") == before
    assert evaluate(*flags, *words.split(), "--overwrite").code == 0
    assert not (tmp_path / "r" / "range-0-of-2.json").exists() or "--num-shards 2" in words


def test_directories_that_cannot_be_joined_are_refused(
    evaluate: Command, command: Command, neighbours: list[object], tmp_path: Path
) -> None:
    flags = [*neighbours, "--context-window", 8, "--save-retrieval"]
    first, second, whole, other = (tmp_path / name for name in ("first", "second", "whole", "other"))
    assert evaluate(*flags, first, "--num-shards", 2).code == 0
    assert evaluate(*flags, whole).code == 0
    assert evaluate(*flags, other, "--num-shards", 2, "--shard-id", 1, "--k", 4).code == 0
    assert f"{whole} is a whole retrieval; leave it out" in joined(command, first, whole).error
    assert f"{other} is of another run than {first}: k is 4, not 8" in joined(command, first, other).error
    shutil.copytree(first, second)
    (second / "range-0-of-2.json").unlink()
    (second / "ids.npy").write_bytes(b"")
    assert "ids.npy is not whole; remove" in joined(command, first, second).error
    (second / "manifest.json").unlink()
    assert "is a directory without anything of a job array" in joined(command, second).error
    begun = json.loads((first / "manifest.json").read_text())
    del begun["ranges"]
    (first / "manifest.json").write_text(json.dumps(begun))
    assert "is not written by a job array, but unfinished" in joined(command, first).error


# What join is given


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "is required"),
        ("nowhere.json", "nowhere.json does not exist"),
        ("dict.txt.json", "dict.txt.json does not exist"),
        ("{retrieval} {data}", "is a directory without anything of a job array"),
        ("{retrieval} --results-path r.json", "--results-path goes with a job's result, but"),
        ("{retrieval} --dstore-mmap new", "--dstore-mmap goes with a datastore, but"),
        ("{retrieval} --overwrite", "--overwrite has no effect: {retrieval} is made whole where it is"),
        ("{stores}", "or the prefix of --dstore-mmap, such as {stores}/"),
        ("", "PART is required: results of the jobs"),
        ("{retrieval}", ""),
    ],
)
def test_what_join_cannot_take(command: Command, artefacts: Artefacts, words: str, message: str) -> None:
    named = {"retrieval": artefacts.retrieval / "valid", "data": artefacts.data, "stores": artefacts.store.parent}
    outcome = joined(command, *words.format(**named).split())
    if message:
        assert message.format(**named) in outcome.error
    else:
        assert outcome.out == f"{artefacts.retrieval / 'valid'} is whole already: there is nothing to join\n"


def test_a_job_does_not_replace_the_result_of_another(evaluate: Command, tmp_path: Path) -> None:
    job = ["--num-shards", 2, "--results-path", tmp_path / "a.json"]
    assert evaluate(*job).code == 0
    error = evaluate(*job, "--shard-id", 1).error
    assert error.endswith(
        "a.json has the result of another job; give a directory, in which each job has a file of its own"
    )
    assert evaluate(*job).code == 0


def test_results_and_a_retrieval_are_not_joined_at_once(
    command: Command, evaluate: Command, artefacts: Artefacts, tmp_path: Path
) -> None:
    assert evaluate("--num-shards", 2, "--results-path", tmp_path / "a.json").code == 0
    error = joined(command, tmp_path / "a.json", artefacts.retrieval / "valid").error
    assert f"{tmp_path / 'a.json'} is a job's result, but {artefacts.retrieval / 'valid'} is a retrieval" in error
