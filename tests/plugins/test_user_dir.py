"""``--user-dir``: what is imported, under which name, and what is refused."""

import sys
from pathlib import Path

import pytest

from fairseq.errors import ConfigError
from fairseq.plugins.user_dir import import_user_dir

pytestmark = pytest.mark.usefixtures("own_plugins")


def make_package(path: Path, text: str = "LOADED = []\nLOADED.append(1)\n") -> Path:
    path.mkdir(parents=True)
    (path / "__init__.py").write_text(text, encoding="utf-8")
    return path


def test_a_package_is_imported_by_its_own_name(tmp_path: Path) -> None:
    import_user_dir(str(make_package(tmp_path / "a_plugin_one")))
    assert sys.modules["a_plugin_one"].LOADED == [1]


def test_a_trailing_slash_and_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_package(tmp_path / "a_plugin_slash")
    monkeypatch.chdir(tmp_path)
    import_user_dir("a_plugin_slash/")
    assert "a_plugin_slash" in sys.modules


def test_a_single_file_is_imported(tmp_path: Path) -> None:
    (tmp_path / "a_plugin_file.py").write_text("VALUE = 3\n", encoding="utf-8")
    import_user_dir(str(tmp_path / "a_plugin_file.py"))
    assert sys.modules["a_plugin_file"].VALUE == 3


def test_a_package_may_import_its_own_modules(tmp_path: Path) -> None:
    path = make_package(tmp_path / "a_plugin_deep", "from a_plugin_deep.part import VALUE\n")
    (path / "part.py").write_text("VALUE = 4\n", encoding="utf-8")
    import_user_dir(str(path))
    assert sys.modules["a_plugin_deep"].VALUE == 4


def test_a_second_import_does_nothing(tmp_path: Path) -> None:
    path = make_package(tmp_path / "a_plugin_twice")
    import_user_dir(str(path))
    import_user_dir(str(path))
    assert sys.modules["a_plugin_twice"].LOADED == [1]


def test_the_search_path_stays_as_it_was(tmp_path: Path) -> None:
    before = list(sys.path)
    import_user_dir(str(make_package(tmp_path / "a_plugin_path")))
    with pytest.raises(ZeroDivisionError):
        import_user_dir(str(make_package(tmp_path / "a_plugin_broken", "1 / 0\n")))
    assert sys.path == before


@pytest.mark.parametrize("name", ["json", "fairseq"])
def test_a_name_that_is_taken_is_refused(tmp_path: Path, name: str) -> None:
    path = make_package(tmp_path / name)
    with pytest.raises(ConfigError, match=f"the module name '{name}' is taken by .*; rename the directory"):
        import_user_dir(str(path))


def test_two_directories_of_one_name(tmp_path: Path) -> None:
    import_user_dir(str(make_package(tmp_path / "x" / "a_plugin_same")))
    with pytest.raises(ConfigError, match=r"is taken by .*; rename the directory"):
        import_user_dir(str(make_package(tmp_path / "y" / "a_plugin_same")))


@pytest.mark.parametrize("kind", ["nothing", "directory without __init__.py", "another file"])
def test_what_is_no_plugin_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a_plugin_none.txt"
    if kind.startswith("directory"):
        path.mkdir()
    elif kind == "another file":
        path.write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"must be a directory with an __init__.py, or a .py file, but is "):
        import_user_dir(str(path))


def test_a_package_that_is_not_installed_comes_with_what_to_type(tmp_path: Path) -> None:
    package = make_package(tmp_path / "a_plugin_needy", "\nfrom nowhere_at_all.parts import thing\n")
    with pytest.raises(ConfigError) as caught:
        import_user_dir(str(package))
    assert str(caught.value).endswith(
        "(ModuleNotFoundError: No module named 'nowhere_at_all') (a_plugin_needy/__init__.py, line 2);"
        " pip install nowhere_at_all, if it is a package"
    )
