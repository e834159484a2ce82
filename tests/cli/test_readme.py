"""The README's blocks, top to bottom in one empty directory, as a user pastes them; only the text is shorter."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from tests.builders.markdown import ROOT, blocks_of, run_shell

README = ROOT / "README.md"
WHOLE, SHORT = '[*library.glob("*.py"), *library.glob("*/*.py")]', 'library.glob("[a-d]*.py")'


@pytest.mark.slow
def test_every_block_runs_after_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example, *others = blocks_of(README)
    assert WHOLE in example.code
    printed = run_shell(example.code.replace(WHOLE, SHORT))
    results = json.loads(Path("retrieval/valid/results.json").read_text(encoding="utf-8"))["sections"]
    swept, best = results["sweep"], results["sweep"]["best"]
    assert all(swept[text]["result"]["gain_ppl"] > 0 for text in ("chosen_on", "applied_to")), "it ends in a gain"
    chosen = re.search(r"Chosen on valid: --lmbda (\S+)", printed)
    assert chosen is not None and float(chosen[1]) == best["lmbda"] > 0
    page = Path("retrieval/valid/report.html").read_text(encoding="utf-8")
    assert f'"lmbda":{best["lmbda"]}' in page, "the page begins at the chosen λ"
    names: dict[str, object] = {}
    for block in others:
        if block.language == "bash":
            run_shell(block.code)
            continue
        with contextlib.redirect_stdout(io.StringIO()) as told:
            exec(compile(block.code, str(README), "exec"), names)
        assert "Return a list of" in told.getvalue()
    assert json.loads(Path("lmbda.json").read_text(encoding="utf-8"))["knn_temp"] > 0
    assert json.loads(Path("dstore.json").read_text(encoding="utf-8"))["rows"] > 0


def test_what_is_typed_at_first_is_there() -> None:
    """The lines that no test can run: a clone, installs, and the targets of make."""
    text = README.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z-]+)", text))
    assert {"demo", "test"} <= targets and targets <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = set(re.findall(r"\[([\w-]+)\](?!\()", text.split("## Install")[1].split("##")[0]))
    assert extras and extras <= set(re.findall(r"^([\w-]+) = \[", project, re.MULTILINE))
    commands = set(re.findall(r"^ *(fairseq-[a-z-]+) ", text, re.MULTILINE))
    assert commands and commands <= set(re.findall(r'^(fairseq-[a-z-]+) = "', project, re.MULTILINE))


def test_links_lead_to_what_is_there() -> None:
    """In every page: files, and headings in them, as GitHub names them."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")]
    missing = []
    for page in pages:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" in link:
                continue
            name, _, heading = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            if not target.exists() or (heading and heading not in headings(target)):
                missing.append(f"{page.relative_to(ROOT)}: {link}")
    assert not missing


def headings(page: Path) -> set[str]:
    lines = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}
