"""What the tables of broken inputs must be: many, distinct, and each sure of what the error names."""

from collections import Counter

from tests.bad_input import (
    test_bad_checkpoint,
    test_bad_datastore,
    test_bad_flags,
    test_bad_idx,
    test_bad_index,
    test_bad_retrieval,
    test_bad_text_and_dict,
    test_first_hour,
    test_permissions,
)
from tests.builders.cases import Case

LEAST_CASES = 100
TABLES: dict[str, list[Case]] = {
    module.__name__: module.CASES
    for module in (
        test_bad_checkpoint,
        test_bad_datastore,
        test_bad_flags,
        test_bad_idx,
        test_bad_index,
        test_bad_retrieval,
        test_bad_text_and_dict,
        test_first_hour,
        test_permissions,
    )
}


def test_there_are_enough_cases_and_each_has_its_own_name() -> None:
    counts = Counter(case.name for cases in TABLES.values() for case in cases)
    assert len(counts) >= LEAST_CASES
    assert [name for name, count in counts.items() if count > 1] == []


def test_each_format_has_its_share() -> None:
    assert all(len(cases) >= 10 for cases in TABLES.values())


def test_each_case_says_what_the_error_names() -> None:
    assert [case.name for cases in TABLES.values() for case in cases if len(case.expect) < 3] == []
