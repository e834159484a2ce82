"""Which tests come to which line of a room: of a mutant, only these can notice it."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import coverage
import pytest

ALL = ""  # the context of what runs once for all tests: imports, and fixtures of a module or a session


class Contexts:
    """A plugin of pytest that tells coverage which test runs."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self._measured, self._test = measured, ALL

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Names the test."""
        self._test = item.nodeid
        self._measured.switch_context(self._test)
        yield
        self._measured.switch_context(ALL)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[object]) -> Iterator[None]:
        """Names no test where a fixture is made for several."""
        if fixturedef.scope != "function":
            self._measured.switch_context(ALL)
        yield
        self._measured.switch_context(self._test)


def run_measured(options: list[str], files: list[Path], found: Path) -> int:
    """Runs pytest, and writes which test came to which line of the files."""
    measured = coverage.Coverage(str(found), include=[str(file) for file in files], config_file=False)
    measured.start()
    code = pytest.main(options, plugins=[Contexts(measured)])
    measured.stop()
    measured.save()
    libraries = [n for n, module in sys.modules.items() if "site-packages" in str(getattr(module, "__file__", ""))]
    found.with_suffix(".modules").write_text("\n".join(libraries), encoding="utf-8")
    return int(code)


def import_what_was_imported(found: Path) -> None:
    """Imports the libraries that the tests did, once for all processes that are forked from now on."""
    for name in found.with_suffix(".modules").read_text(encoding="utf-8").split():
        with suppress(Exception):
            importlib.import_module(name)


class Reached:
    """The tests that come to a line.

    Args:
        found: what ``run_measured`` has written.
        every: the tests that were run.
    """

    def __init__(self, found: Path, every: list[str]) -> None:
        self._data, self._every = coverage.CoverageData(str(found)), every
        self._data.read()

    def tests(self, file: Path, line: int) -> list[str]:
        """Returns the tests that come to a line, or to the one above it that has code of its own."""
        by_line = self._data.contexts_by_lineno(str(file))
        while line > 0 and line not in by_line:
            line -= 1
        names = by_line.get(line, [ALL])
        return self._every if ALL in names else sorted(set(names))
