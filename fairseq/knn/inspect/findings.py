"""What a check finds, one line each: ``ok|FAILED|warning|skipped  what: finding``."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fairseq.errors import FairseqError
from fairseq.knn.datastore.identity import differences, short
from fairseq.models.protocol import ModelIdentity
from fairseq.runtime.progress import Progress
from fairseq.storage.files import file_sha256

OK, FAILED, WARNING, SKIPPED = "ok", "FAILED", "warning", "skipped"

# Names of findings, and the fields of an identity that they are about.
FIELDS = {"width": "key_dimension", "weights": "weights_sha256", "dictionary": "dictionary_sha256"}

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One finding: its status, what was checked, and what was found."""

    status: str
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.status:<7}  {self.what}: {self.text}"


class Counted:
    """Rows that are not what they must be: how many, and the first of them; −1 for none."""

    count, first = 0, -1

    def note(self, bad_N: Any, start: int) -> None:
        """Counts the bad rows of a block that begins with row ``start``; ``bad_N`` is bool ``[N]``."""
        if self.count == 0 and bad_N.any():
            self.first = start + int(bad_N.argmax())
        self.count += int(np.count_nonzero(bad_N))


def reason_of(err: FairseqError | OSError) -> str:
    """Returns what an error says, with the file that it is about."""
    return f"{err.filename}: {err.strerror}" if isinstance(err, OSError) and err.filename else str(err)


class Findings:
    """The findings so far.

    Args:
        show: takes each finding as it is made.
        fast: leave out the checksums.
    """

    def __init__(self, show: Callable[[Finding], None], *, fast: bool = False) -> None:
        self.all: list[Finding] = []
        self.fast = fast
        self._show = show

    def add(self, status: str, what: str, text: str) -> None:
        """Adds a finding; its text is kept to one line."""
        finding = Finding(status, what, " ".join(text.split()))
        self.all.append(finding)
        self._show(finding)

    def labelled(self, label: str) -> "Findings":
        """Returns findings of their own that are added here too, under names that begin with a label."""
        return Findings(lambda found: self.add(found.status, label + found.what, found.text), fast=self.fast)

    def judge(self, what: str, problem: str | None, fine: str) -> None:
        """Adds a failure where there is a problem, else that all is well."""
        self.add(OK if problem is None else FAILED, what, fine if problem is None else problem)

    @contextmanager
    def failing(self, what: str) -> Iterator[None]:
        """Turns an error of the block into a failure."""
        try:
            yield
        except (FairseqError, OSError) as err:
            self.add(FAILED, what, reason_of(err))

    def opened(self, what: str, part: Callable[[], T]) -> T | None:
        """Returns a part, or None where it cannot be opened, which is a failure."""
        with self.failing(what):
            return part()
        return None

    def checksum(self, what: str, problem: Callable[[], str | None], fine: str, *, recorded: bool) -> None:
        """Judges a checksum, which reads every byte; skips it with ``--fast``, and where none is recorded."""
        if self.fast or not recorded:
            self.add(SKIPPED, f"{what} sha256", "--fast" if self.fast else "none is recorded")
        else:
            self.judge(f"{what} sha256", problem(), fine)

    def checksum_of_files(self, what: str, recorded: Mapping[Path, str], remedy: str) -> None:
        """Judges the checksums of whole files, and names those that are damaged."""

        def damage() -> str | None:
            damaged, sizes = [], [path.stat().st_size for path in recorded]
            with Progress(f"checksums of {what}", sum(sizes), "bytes") as progress:
                for (path, sha256), size in zip(recorded.items(), sizes, strict=True):
                    if file_sha256(path) != sha256:
                        damaged.append(str(path))
                    progress.advance(size)
            text = f"damaged or replaced, as the recorded checksum says: {', '.join(damaged)}; {remedy}"
            return text if damaged else None

        self.checksum(what, damage, ", ".join(map(short, recorded.values())), recorded=bool(recorded))

    def belongs(self, part: str, have: ModelIdentity, want: ModelIdentity, names: Sequence[str]) -> None:
        """Judges whether a part was written with the model and dictionary that are there; names are of ``FIELDS``."""
        differing = differences(have, want)
        for name in names:
            what, own, other = f"{part} {name}", getattr(have, FIELDS[name]), getattr(want, FIELDS[name])
            if other is not None and own is None:
                self.add(SKIPPED, what, f"not recorded with the {part}")
            elif other is not None:
                problem = differing.get(FIELDS[name])
                fine = f"{own}, as the model's" if name == "width" else short(own)
                self.judge(what, problem and f"written with {problem}", fine)

    def failed(self, what: str) -> bool:
        """Returns whether a check has failed."""
        return any(finding.what == what and finding.status == FAILED for finding in self.all)

    @property
    def num_failed(self) -> int:
        """How many checks failed."""
        return sum(finding.status == FAILED for finding in self.all)
