"""How processes of a launch leave word of their end."""

from pathlib import Path

import pytest

from fairseq.runtime import endings
from fairseq.runtime.endings import DIRECTORY, Ending, LostProcessError, is_launched, leave_ending, read_endings


def test_endings_come_back_in_the_order_of_the_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    expected = {}
    for rank in (10, 2, 0):
        monkeypatch.setenv("RANK", str(rank))
        expected[rank] = Ending(2, f"fairseq-train: error: ü {rank}", "after update 3")
        assert leave_ending(expected[rank])
    assert is_launched()
    assert list(read_endings(str(tmp_path)).items()) == sorted(expected.items())


def test_without_a_launcher_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DIRECTORY, raising=False)
    assert not is_launched()
    assert not leave_ending(Ending(2, "line"))
    monkeypatch.setenv(DIRECTORY, str(tmp_path / "gone with the launcher"))
    assert not leave_ending(Ending(2, "line"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("ranks", "done", "expected"),
    [
        ([1], "after update 3", "rank 1 of 4 has ended after update 3; begin again"),
        ([1, 3], "", "ranks 1, 3 of 4 have ended; begin again"),
    ],
)
def test_lost_processes_are_named(ranks: list[int], done: str, expected: str) -> None:
    error = LostProcessError(ranks, 4, done, "begin again")
    assert (str(error), error.done, error.exit_code) == (expected, done, endings.LOST)
