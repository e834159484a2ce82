"""One version, told alike by the package, its metadata and the commands."""

import re
from importlib import metadata
from pathlib import Path

import pytest

import fairseq

ROOT = Path(__file__).resolve().parents[1]


def test_the_package_and_pyproject_agree() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
    assert found is not None
    assert found[1] == fairseq.__version__


@pytest.mark.pitfall(23)
def test_the_installed_metadata_agrees() -> None:
    try:
        installed = metadata.version("fairseq-knnlm")
    except metadata.PackageNotFoundError:
        pytest.skip("fairseq-knnlm is not installed, only importable")
    assert installed == fairseq.__version__
