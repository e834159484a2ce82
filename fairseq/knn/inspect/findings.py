"""What a check found, one line each: ``ok|FAILED|warning|skipped  what: finding``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fairseq.errors import FairseqError

OK, FAILED, WARNING, SKIPPED = "ok", "FAILED", "warning", "skipped"


@dataclass(frozen=True)
class Finding:
    """One finding: its status, what was checked, and what was found."""

    status: str
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.status:<7}  {self.what}: {self.text}"


class Findings:
    """The findings so far.

    Args:
        show: takes each finding as it is made.
    """

    def __init__(self, show: Callable[[Finding], None]) -> None:
        self.all: list[Finding] = []
        self._show = show

    def add(self, status: str, what: str, text: str) -> None:
        """Adds a finding; what it says is kept to one line."""
        finding = Finding(status, what, " ".join(text.split()))
        self.all.append(finding)
        self._show(finding)

    def labelled(self, label: str) -> "Findings":
        """Returns findings of their own that are added here too, under names that begin with a label."""
        return Findings(lambda finding: self.add(finding.status, label + finding.what, finding.text))

    def judge(self, what: str, problem: str | None, fine: str) -> bool:
        """Adds a failure where there is a problem, else that all is well; returns whether it is."""
        self.add(OK if problem is None else FAILED, what, fine if problem is None else problem)
        return problem is None

    @contextmanager
    def failing(self, what: str) -> Iterator[None]:
        """Turns an error of the block into a failure."""
        try:
            yield
        except OSError as err:
            self.add(FAILED, what, f"{err.filename}: {err.strerror}" if err.filename else str(err))
        except FairseqError as err:
            self.add(FAILED, what, str(err))

    def failed(self, what: str) -> bool:
        """Returns whether a check has failed."""
        return any(finding.what == what and finding.status == FAILED for finding in self.all)

    @property
    def num_failed(self) -> int:
        """How many checks failed."""
        return sum(finding.status == FAILED for finding in self.all)
