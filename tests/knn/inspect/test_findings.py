"""Findings: what fails, what is skipped, and how it is said."""

import hashlib
from pathlib import Path

import pytest

from fairseq.errors import DatastoreError
from fairseq.knn.inspect.findings import Finding, Findings
from fairseq.models.protocol import ModelIdentity

NAMES = ("width", "weights", "dictionary")


@pytest.fixture
def findings() -> Findings:
    return Findings(lambda finding: None)


def said(findings: Findings) -> list[tuple[str, str]]:
    return [(finding.status, finding.what) for finding in findings.all]


def test_a_part_belongs_as_far_as_both_sides_know(findings: Findings) -> None:
    model = ModelIdentity("d" * 64, "w" * 64, 40, 16)
    findings.belongs("datastore", model, ModelIdentity(key_dimension=16, weights_sha256="x" * 64), NAMES)
    findings.belongs("retrieval", ModelIdentity(), model, NAMES[2:])
    findings.belongs("retrieval", model, ModelIdentity(), NAMES)
    assert said(findings) == [
        ("ok", "datastore width"),
        ("FAILED", "datastore weights"),
        ("skipped", "retrieval dictionary"),
    ]
    assert findings.all[0].text == "16, as the model's"
    assert findings.all[1].text.startswith("written with model weights wwwwwwwwwwww, but this run has xxxxxxxxxxxx; ")
    assert findings.num_failed == 1 and findings.failed("datastore weights")


def test_what_cannot_be_opened_fails_once(findings: Findings) -> None:
    def torn() -> int:
        raise DatastoreError("d is\n torn")

    assert findings.opened("index", torn) is None
    assert findings.opened("datastore", lambda: 3) == 3
    assert findings.opened("data", lambda: open("/none/such").read()) is None  # noqa: SIM115, PTH123
    assert [str(finding) for finding in findings.all] == [
        "FAILED   index: d is torn",
        "FAILED   data: /none/such: No such file or directory",
    ]


def test_checksums_are_read_only_where_they_are_wanted() -> None:
    shown: list[Finding] = []
    read = []

    def problem() -> str | None:
        read.append(1)
        return "torn" if len(read) > 1 else None

    fast, whole = (Findings(shown.append, fast=fast).labelled("a: ") for fast in (True, False))
    fast.checksum("index", problem, "0" * 12, recorded=True)
    whole.checksum("index", problem, "0" * 12, recorded=False)
    assert not read
    whole.checksum("index", problem, "0" * 12, recorded=True)
    whole.checksum("index", problem, "0" * 12, recorded=True)
    assert [(one.status, one.what, one.text) for one in shown] == [
        ("skipped", "a: index sha256", "--fast"),
        ("skipped", "a: index sha256", "none is recorded"),
        ("ok", "a: index sha256", "0" * 12),
        ("FAILED", "a: index sha256", "torn"),
    ]


def test_damaged_files_are_named(findings: Findings, tmp_path: Path) -> None:
    recorded = {}
    for name in "abc":
        (tmp_path / name).write_text(name)
        recorded[tmp_path / name] = hashlib.sha256(name.encode()).hexdigest()
    findings.checksum_of_files("data", recorded, "make it again")
    for name in "ac":
        (tmp_path / name).write_text("d")
    findings.checksum_of_files("data", recorded, "make it again")
    findings.checksum_of_files("data", {}, "make it again")
    fine, damaged, unrecorded = findings.all
    assert fine.status == "ok" and fine.text == ", ".join(sha256[:12] for sha256 in recorded.values())
    assert damaged.status == "FAILED" and damaged.text.endswith(f": {tmp_path / 'a'}, {tmp_path / 'c'}; make it again")
    assert unrecorded.status == "skipped"
