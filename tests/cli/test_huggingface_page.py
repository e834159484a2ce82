"""``docs/huggingface.md``, top to bottom in one directory, as a user pastes it, with a tiny model and a few texts."""

import contextlib
import io
from pathlib import Path

import pytest

from tests.builders.markdown import ROOT, blocks_of, run_shell
from tests.builders.tiny_llama import TEXT, write_tiny_llama

PAGE = ROOT / "docs" / "huggingface.md"


@pytest.mark.slow
def test_every_block_runs_after_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny_llama(tmp_path / "model")
    for split, count in (("train", 4), ("valid", 1), ("test", 1)):
        directory = tmp_path / "texts" / split
        directory.mkdir(parents=True)
        for number in range(count):
            (directory / f"{number}.txt").write_text(f"{split} {number}.\n{TEXT}", encoding="utf-8")
    names: dict[str, object] = {}
    for block in blocks_of(PAGE):
        if block.language == "bash":
            run_shell(block.code)
            continue
        with contextlib.redirect_stdout(io.StringIO()) as told:
            exec(compile(block.code, str(PAGE), "exec"), names)
        assert told.getvalue()
    page = (tmp_path / "retrieval" / "test" / "report.html").read_text(encoding="utf-8")
    assert "nearest neighbours" in page
