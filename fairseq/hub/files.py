"""Where a model's files are: a directory, an archive, or the name of a model that fairseq published.

    directory or archive   model.pt   dict.txt      (one directory around them is looked into)

Names are fairseq's. Their archives are downloaded once, into the cache of ``torch.hub`` (``TORCH_HOME`` moves it).
"""

import errno
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import torch

from fairseq.config.path_lists import split_paths
from fairseq.errors import CheckpointError, ConfigError, DataError, did_you_mean
from fairseq.hub.archives import unpacked

_ROOT = "https://dl.fbaipublicfiles.com/fairseq/models/lm"
PUBLISHED = {
    "transformer_lm.wiki103.adaptive": f"{_ROOT}/adaptive_lm_wiki103.v2.tar.bz2",
    "transformer_lm.gbw.adaptive_huge": f"{_ROOT}/adaptive_lm_gbw_huge.tar.bz2",
}
DEFAULT_FILE = "model.pt"
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


def find_model(name_or_path: str | Path, checkpoint_file: str, data: str | Path) -> tuple[list[Path], Path]:
    """Returns the checkpoints of a model (several are an ensemble), and the directory of its ``dict.txt``.

    An archive is unpacked, a name is downloaded.

    Args:
        name_or_path: a directory, an archive, or a name of ``PUBLISHED``.
        checkpoint_file: in there; ``a.pt:b.pt`` is an ensemble. Where there is no ``model.pt`` but one other ``.pt``,
            the default means that one.
        data: directory with ``dict.txt``; one that begins with ``.`` is relative to the model's.

    Raises:
        CheckpointError: there is no such checkpoint, or no such archive.
        ConfigError: no such name.
        DataError: there is no dictionary.
    """
    root = _root(name_or_path)
    names = [name for name in split_paths(checkpoint_file) if name]
    checkpoints = [_checkpoint(root, name, is_default=checkpoint_file == DEFAULT_FILE) for name in names]
    if not checkpoints:
        raise ConfigError(f"checkpoint_file must name a file in {root}, but is empty; it has {_listed(root)}")
    return checkpoints, _data_dir(root, str(data))


def cache_dir() -> Path:
    """Returns the directory for what is downloaded and unpacked."""
    return Path(torch.hub.get_dir()) / "fairseq-knnlm"


def _root(name_or_path: str | Path) -> Path:
    path, name = Path(name_or_path).expanduser(), str(name_or_path)
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix in (".pt", ".pth"):
            raise ConfigError(
                f"{path} is a checkpoint, but a directory, an archive or a name is expected first; give"
                f" ({str(path.parent)!r}, {path.name!r})"
            )
        return _inner(unpacked(path, cache_dir()))
    if name in PUBLISHED:
        return _inner(_unpacked_download(name, PUBLISHED[name]))
    if "/" in name:
        raise CheckpointError(f"{name} does not exist; give the directory of a checkpoint, or an archive (.tar.bz2)")
    raise ConfigError(
        f"{name} is neither a directory nor an archive nor a known model{did_you_mean(name, PUBLISHED)} (known:"
        f" {', '.join(PUBLISHED)})"
    )


def _unpacked_download(name: str, url: str) -> Path:
    archive = cache_dir() / "downloads" / Path(urlsplit(url).path).name
    if not archive.is_file():
        archive.parent.mkdir(parents=True, exist_ok=True)
        try:  # under another name first, so that a download is whole or not there
            torch.hub.download_url_to_file(url, str(archive))
        except (OSError, HTTPException, ValueError) as err:
            if isinstance(err, OSError) and err.errno in _OF_THE_DISK:
                raise  # says itself what is wrong
            raise CheckpointError(
                f"{name} could not be downloaded from {url} ({str(err)[:120]}); where there is no network, get the"
                f" archive elsewhere and put it at {archive}, or give its path"
            ) from err
    try:
        return unpacked(archive, cache_dir())
    except CheckpointError:
        archive.unlink(missing_ok=True)  # a connection that broke off leaves a short file: fetched again next time
        raise


def _inner(root: Path) -> Path:
    """Returns the only directory in ``root`` where that is all there is."""
    entries = list(root.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else root


def _checkpoint(root: Path, name: str, *, is_default: bool) -> Path:
    path = root / name
    if path.is_file():
        return path
    models = _models(root)
    if is_default and len(models) == 1:
        return models[0]
    hint = did_you_mean(name, [model.name for model in models])
    raise CheckpointError(f"{root} has no {name}{hint} (there: {_listed(root)}); give checkpoint_file a model's")


def _models(root: Path) -> list[Path]:
    return sorted(root.glob("*.pt"))


def _listed(root: Path) -> str:
    names = [path.name for path in _models(root)]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "no .pt file"


def _data_dir(root: Path, data: str) -> Path:
    directory = root / data if data.startswith(".") else Path(data).expanduser()
    if not (directory / "dict.txt").is_file():
        if data[:1] == ".":
            relative = " (a path that begins with '.' is relative to the model's directory)"
        else:
            in_root = (root / data / "dict.txt").is_file()
            relative = f"; did you mean ./{data}, in the model's directory?" if in_root else ""
        raise DataError(
            f"{directory} has no dict.txt{relative}; give data_name_or_path the directory of the dictionary that the"
            " model was trained with, such as data-bin"
        )
    return directory
