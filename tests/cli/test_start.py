"""What is installed: commands that exist, types that are found, and another fairseq that is noticed."""

import ast
import importlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fairseq_knnlm
from fairseq_knnlm import other_fairseqs

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def scripts() -> dict[str, str]:
    """Returns the console commands of pyproject.toml."""
    section = PYPROJECT.partition("[project.scripts]")[2].partition("\n[")[0]
    return dict(re.findall(r'^([a-z-]+) = "([\w.:]+)"', section, re.MULTILINE))


def test_every_console_command_is_there() -> None:
    assert len(scripts()) == 10
    for target in scripts().values():
        module, name = target.split(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_the_commands_that_start_late_print_their_version() -> None:
    """Each in a process, as a console script calls it."""
    late = {
        prog: name for prog, target in scripts().items() if (name := target.removeprefix("fairseq_knnlm:")) != target
    }
    assert sorted(late) == ["fairseq-build-dstore", "fairseq-knnlm", "fairseq-lm-eval", "fairseq-score-lm"]
    for prog, name in late.items():
        code = f"import sys; sys.argv[1:] = ['--version']; from fairseq_knnlm import {name}; sys.exit({name}())"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"{prog} ")


@pytest.mark.parametrize("module", ["knnlm", "build_dstore"])
def test_stubs_of_single_modules_name_all_that_is_public(module: str) -> None:
    """PEP 561 has no py.typed for a module beside packages; what a type checker reads is MODULE-stubs."""
    stub = ast.parse((ROOT / f"{module}-stubs" / "__init__.pyi").read_text(encoding="utf-8"))
    names = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    names |= {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
    real = importlib.import_module(module)
    assert set(getattr(real, "__all__", ["main", "cli_main"])) == names - {None}
    assert f'"{module}-stubs"' in PYPROJECT
    for node in stub.body:
        if isinstance(node, ast.ImportFrom) and node.module != "collections.abc":
            home = importlib.import_module(str(node.module))
            assert all(getattr(real, alias.name) is getattr(home, alias.name) for alias in node.names)


def test_the_description_has_no_link_that_only_the_repository_has(tmp_path: Path) -> None:
    shutil.copy(ROOT / "setup.py", tmp_path)
    (tmp_path / "README.md").write_text(
        "A [doc](docs/a.md#b), ![image](docs/i.png), [![badge](b.png)](docs/c.md), [web](https://x.y), [here](#there)\n"
        "| ![Perplexity [nats] over λ](docs/p.png) | `k[1](2)` |\n"
    )
    described = runpy.run_path(str(tmp_path / "setup.py"))["long_description"]()
    assert described == (
        "A doc, image, badge, [web](https://x.y), [here](#there)\n| Perplexity [nats] over λ | `k[1](2)` |\n"
    )


# Another fairseq


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the directory that our files are taken to be installed in."""
    home = tmp_path / "site-packages"
    install(home, "fairseq_knnlm", "fairseq/__init__.py")
    monkeypatch.setattr(fairseq_knnlm, "_HOME", home)
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(home)])
    return home


def install(place: Path, name: str, *files: str) -> Path:
    metadata = place / f"{name}-0.12.2.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "RECORD").write_text("".join(f"{file},sha256=x,1\n" for file in ("../../../bin/x", *files)))
    return metadata


def test_another_fairseq_in_our_place_is_named(site: Path) -> None:
    assert other_fairseqs() == []
    install(site, "fairseq2", "fairseq2/__init__.py")
    install(site, "fairseq_signals", "signals/fairseq/__init__.py")
    (site / "fairseq_torn-1.dist-info").mkdir()
    assert other_fairseqs() == []
    install(site, "fairseq", "fairseq/__init__.py")
    install(site, "fairseq_fixed", "fairseq/data.py", "fairseq/__init__.py")
    assert sorted(other_fairseqs()) == ["fairseq", "fairseq-fixed"]


def test_one_elsewhere_counts_where_python_finds_it_first(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "user" / "site-packages"
    install(elsewhere, "fairseq", "fairseq/__init__.py")
    monkeypatch.setattr(sys, "path", [str(site), str(elsewhere)])
    assert other_fairseqs() == []
    monkeypatch.setattr(sys, "path", [str(elsewhere), str(site)])
    assert other_fairseqs() == ["fairseq"]
    monkeypatch.setattr(sys, "path", [str(elsewhere)])  # an editable install: we lie outside
    assert other_fairseqs() == ["fairseq"]


@pytest.mark.parametrize("ours", ["site-packages", "clone"])
def test_what_lies_under_another_fairseq_or_behind_it_says_so_in_one_line(tmp_path: Path, ours: str) -> None:
    """Where ours is a clone, pip install --editable, none of our packages is found."""
    home = tmp_path / "site-packages"
    (tmp_path / ours).mkdir()
    for package in ("fairseq", "fairseq_cli"):
        (home / package).mkdir(parents=True)
        (home / package / "__init__.py").write_text("")
    for name in ("knnlm.py", "fairseq_knnlm.py"):
        shutil.copy(ROOT / name, tmp_path / ours / name)
    install(home, "fairseq", "fairseq/__init__.py")
    programs = {
        "knnlm": ("import knnlm", 1, "ImportError: "),
        "command": ("from fairseq_knnlm import score_lm; score_lm()", 2, "fairseq-score-lm: error: "),
    }
    for code, expected, beginning in programs.values():
        done = subprocess.run(
            [sys.executable, "-S", "-c", code],
            cwd=tmp_path,
            env={"PYTHONPATH": f"{home}{os.pathsep}{tmp_path / ours}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == expected, done.stderr
        last = done.stderr.splitlines()[-1]
        assert last.startswith(f"{beginning}fairseq and fairseq-knnlm are installed together, but both own the package")
        assert "pip uninstall -y fairseq fairseq-knnlm && pip install fairseq-knnlm" in last


def test_a_command_over_another_fairseq_warns(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    from fairseq_cli.shared.run import run

    install(site, "fairseq", "fairseq/__init__.py")
    assert run("prog", lambda argv: None, []) == 0
    assert [r.message for r in caplog.records if "installed together" in r.message and r.levelname == "WARNING"]
