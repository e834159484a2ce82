"""Packages and files of other makers: there, or an error of one line."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fairseq.errors import ConfigError, DataError


def package(module: str, flag: str, pip_name: str = "") -> Any:
    """Returns a module of a package that only some users need.

    Args:
        module: to import.
        flag: what needs it: ``--bpe sentencepiece``.
        pip_name: of the package, where it is not the module's.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as err:
        name = pip_name or module.partition(".")[0]
        raise ConfigError(
            f"{flag} needs the package {name}, which is not installed; pip install 'fairseq-knnlm[subwords]', or pip"
            f" install {name}"
        ) from err


@contextmanager
def reading(flag: str, *paths: str | None) -> Iterator[None]:
    """Files that a package is about to read; what it cannot read becomes a DataError of one line.

    Args:
        flag: that named them: ``--bpe-codes``.
        paths: of the files.
    """
    for path in paths:
        if path is not None and not Path(path).is_file():
            what = "is a directory" if Path(path).is_dir() else "does not exist"
            raise DataError(f"{flag}: {path} {what}; give the path of a file")
        if path is not None and not Path(path).stat().st_size:
            raise DataError(f"{flag}: {path} is empty; give a file of that kind")
    try:
        yield
    except DataError:
        raise
    except Exception as err:  # each package has errors of its own, some of them plain Exceptions
        reason = (str(err).splitlines() or [type(err).__name__])[0][:160]
        names = " or ".join(path for path in paths if path is not None)
        raise DataError(f"{flag}: {names} is not what it should be ({reason}); give the file of that kind") from err
