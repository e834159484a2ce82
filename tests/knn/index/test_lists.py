"""How many inverted lists suit how many rows: the numbers in the messages, by arithmetic."""

import re

import pytest

from fairseq.errors import ConfigError
from fairseq.knn.index.lists import check_lists, fitting


def test_too_many_lists_for_k_are_said_with_a_number_that_fits(caplog: pytest.LogCaptureFixture) -> None:
    """432,157 rows in 4,096 lists, 8 visited: 844 rows for 1,024 places."""
    check_lists(None, 4096, 262144, 432157, 8)
    (line,) = caplog.messages
    assert line.startswith("4096 inverted lists are many for 432157 rows: the 8 that a search visits hold about 844, ")
    lists, probe = map(int, re.findall(r"--ncentroids (\d+) or fewer would do, or search with --probe (\d+)", line)[0])
    assert 8 * 432157 / lists >= 2048 > 8 * 432157 / (lists + 1)
    assert probe * 432157 / 4096 >= 2048 > (probe - 1) * 432157 / 4096


def test_few_rows_to_train_on_are_said_in_the_same_line(caplog: pytest.LogCaptureFixture) -> None:
    """39 rows a list: 10,000 are enough for 256 lists, and 8 of 39 hold 2,051."""
    check_lists("IVF512,Flat", 512, 10000, 10000, 8)
    (line,) = caplog.messages
    assert "10000 rows are few to train them on; the 8 that a search visits hold about 156" in line
    assert line.endswith("39 lists or fewer would do") and 8 * 10000 / 39 >= 2048 > 8 * 10000 / 40
    caplog.clear()
    check_lists(None, 512, 10000, 10000, 64)  # 1,250 rows are visited
    assert caplog.messages[0].endswith("few to train them on; --ncentroids 256 or fewer would do")
    assert 256 * 39 <= 10000 < 257 * 39


@pytest.mark.parametrize(
    "numbers",
    [
        (4096, 1_000_000, 103_225_485, 8),  # the published index
        (2336, 340968, 340968, 8),
        (64, 5000, 5000, 64),  # all lists are visited
        (16, 1500, 1500, 8),  # lists that fit would all be visited
        (0, 10, 10, 8),  # an index without lists
    ],
)
def test_lists_that_suit_are_not_spoken_of(
    numbers: tuple[int, int, int, int], caplog: pytest.LogCaptureFixture
) -> None:
    check_lists("IVF", *numbers)
    assert not caplog.messages


def test_more_lists_than_rows_to_train_on_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="--ncentroids 300 lists need 300 rows to train on, but there are 299; use 7 "
    ):
        check_lists(None, 300, 299, 299, 8)
    with pytest.raises(ConfigError, match="--ncentroids 4 lists need 256 rows to train on, but there are 255"):
        check_lists(None, 4, 255, 255, 8)
    check_lists("IVF4,Flat", 4, 255, 255, 8)


def test_where_lists_are_full_enough_on_average_twice_as_many_are_visited() -> None:
    assert fitting(100, 10, 5000.0, 1000) == (50, 20)
    assert fitting(4, 3, 10.0, 1000) == (1, 4)
