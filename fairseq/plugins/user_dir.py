"""``--user-dir``: a directory or a .py file that registers further models, tasks, optimizers, … when it is imported."""

import importlib
import sys
import traceback
from pathlib import Path

from fairseq.errors import ConfigError, FairseqError
from fairseq.plugins.foreign_names import instead_of, name_that_is_missing, names_may_be_absent

_imported: list[Path] = []


def import_user_dir(user_dir: str) -> None:
    """Imports a package directory or a module file by its own name.

    Raises:
        ConfigError: there is no such package, it cannot be imported, it wants something of fairseq's that is not here,
            or another module already has that name.
    """
    path = Path(user_dir).absolute()
    if not (path.is_dir() and (path / "__init__.py").is_file()) and not (path.suffix == ".py" and path.is_file()):
        raise ConfigError(f"--user-dir must be a directory with an __init__.py, or a .py file, but is {user_dir}")
    name = path.stem
    if not name.isidentifier() or (path.is_dir() and path.suffix):
        raise ConfigError(f"--user-dir {user_dir}: '{path.name}' cannot be the name of a module; rename the directory")
    loaded = sys.modules.get(name)
    if loaded is not None:
        origin = Path(loaded.__file__ or "").resolve()
        if origin in ((path / "__init__.py").resolve(), path.resolve()):
            return
        raise ConfigError(f"--user-dir {user_dir}: the module name '{name}' is taken by {origin}; rename the directory")
    _imported.append(path)
    sys.path.insert(0, str(path.parent))
    try:
        with names_may_be_absent():
            importlib.import_module(name)
    except (SyntaxError, ImportError, AttributeError) as err:  # whatever else its code raises is shown as it is
        if missing := name_that_is_missing(err):
            raise ConfigError(
                f"--user-dir {user_dir}: {missing}{place_of(err)} is not here; {instead_of(missing)}"
            ) from err
        if isinstance(err, AttributeError):
            raise
        where, package = f"{type(err).__name__}: {err}", absent_package(err)
        advice = f"pip install {package}, if it is a package" if package else "--traceback shows where"
        raise ConfigError(f"--user-dir {user_dir} cannot be imported ({where}){place_of(err)}; {advice}") from err
    except FairseqError as err:
        raise ConfigError(f"--user-dir {user_dir}: {err}{place_of(err)}") from err
    finally:
        sys.path.remove(str(path.parent))


def absent_package(err: BaseException) -> str:
    """Returns the top name of a module that is not installed, empty for another error."""
    return (err.name or "").partition(".")[0] if isinstance(err, ModuleNotFoundError) else ""


def place_of(err: BaseException) -> str:
    """Returns the last line of a plugin that an error came through: `` (my_plugin/lm.py, line 12)``; empty if none."""
    for frame in reversed(traceback.extract_tb(err.__traceback__)):
        file = Path(frame.filename)
        for root in _imported:
            if file == root or root in file.parents:
                return f" ({file.relative_to(root.parent)}, line {frame.lineno})"
    return ""
