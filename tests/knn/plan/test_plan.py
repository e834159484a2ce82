"""``fairseq-knnlm plan``: what it prints, which rates it takes, and what it refuses."""

import json
from pathlib import Path

import pytest

from fairseq.knn.plan.plan import shown, shown_time
from fairseq.storage.records import as_json
from fairseq_cli.knnlm import main
from fairseq_cli.shared.run import run
from tests.knn.plan.test_stages import RATES


@pytest.fixture
def rates(tmp_path: Path) -> Path:
    path = tmp_path / "node.json"
    path.write_text(json.dumps(as_json(RATES.replace(**dict.fromkeys(("disk_read", "visited_rows"), 1e9)))))
    return path


def plan(words: str) -> int:
    return run("fairseq-knnlm", main, ["plan", *words.split()])


def test_a_plan_has_a_line_a_stage(rates: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = "--tokens 3e9 --dim 1024 --dstore-fp16 --code-size 64"
    assert plan(f"{sizes} --memory-gib 64 --disk-gib 1000 --rates {rates}") == 0
    said = capsys.readouterr().out
    assert [line.split("  ")[0] for line in said.splitlines()[4:9]] == [
        "stage",
        "write datastore",
        "train index",
        "add rows",
        "search",
    ]
    assert "keys 5.59 TiB, values 22.35 GiB, index 201.18 GiB" in said
    assert "machines: 7 of 64.00 GiB memory and 1,000.00 GiB disk (memory: codes of the index)" in said
    assert "network: " in said


def test_what_does_not_fit_is_noted(rates: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--tokens 3000000000 --dim 1024 --ncentroids 4000000 --probe 1 --machines 1"
    assert plan(f"{words} --memory-gib 64 --disk-gib 1000 --rates {rates}") == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    for text in ("1 machines do not hold it", "want 156,000,000 rows to train on", "fewer than k", "--map-index"):
        assert any(text in note for note in notes), (text, notes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--tokens 10", "--dim is required"),
        ("--dim 64", "--tokens is required"),
        ("--tokens 10 --dim 100", "--code-size 64 must divide --dim 100"),
        ("--tokens 10 --dim 64 --probe 5000", "--probe 5000 must be at most --ncentroids 4096"),
        ("data-bin --tokens 10 --dim 64", "are for a model to be measured; give --path"),
        ("--tokens 10 --dim 1024 --rates RATES --work /", "--rates has been measured; leave one out"),
        ("--tokens 10 --dim 64 --path m.pt", "give its directory of binarised data"),
        ("--tokens 10 --dim 64 --rates gone.json", "gone.json is not there; write it with --save-rates"),
        ("--tokens 10 --dim 128 --rates RATES", "was measured for keys of width 1024, but --dim is 128"),
        ("--tokens 10 --dim 1024 --code-size 32 --rates RATES", "codes of 64 bytes, but --code-size is 32"),
    ],
)
def test_mistakes_are_a_line(words: str, message: str, rates: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(words.replace("RATES", str(rates))) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count(": error: ") == 1


def test_damaged_rates_are_refused(rates: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates.write_text(rates.read_text().replace('"disk_seek": 1.0', '"disk_seek": -1.0'))
    assert plan(f"--tokens 10 --dim 1024 --rates {rates}") == 2
    assert "disk_seek" in capsys.readouterr().err


@pytest.mark.slow
def test_rates_are_measured_saved_and_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "here.json"
    words, work = "--tokens 1000000 --dim 64 --code-size 8 --ncentroids 256", f"--work {tmp_path}"
    assert plan(f"{words} {work} --save-rates {saved}") == 0
    measured = capsys.readouterr().out
    assert plan(f"{words} --rates {saved}") == 0
    assert capsys.readouterr().out == measured
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.json"]
    assert plan(f"{words} {work} --save-rates {saved}") == 2  # it is there
    assert plan(f"{words} --rates {saved} --save-rates {saved} --overwrite") == 0


def test_sizes_and_times_are_readable() -> None:
    assert [shown(count) for count in (2**20, 2**30, 1.5 * 2**40, 2000 * 2**50)] == [
        "1.0 MiB",
        "1.00 GiB",
        "1.50 TiB",
        "2,000.00 PiB",
    ]
    assert [shown_time(seconds) for seconds in (12.34, 3723, 273_906, 1e12)] == [
        "12.3 s",
        "1:02:03",
        "3 days, 4:05:06",
        "11,574,074 days",
    ]
