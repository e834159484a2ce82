"""Where a model's files are: a directory, an archive, or the name of a model that fairseq published.

    directory or archive   model.pt   dict.txt      (one directory around them is looked into)
    --save-dir             checkpoint_best.pt       (or checkpoint_last.pt), which names its own data directory

Names are fairseq's. Their archives are downloaded once, into the cache of ``torch.hub`` (``TORCH_HOME`` moves it).
"""

import errno
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import torch

from fairseq.checkpoints.format import Checkpoint
from fairseq.config.path_lists import split_paths
from fairseq.errors import CheckpointError, ConfigError, DataError, did_you_mean
from fairseq.hub.archives import unpacked
from fairseq.storage.file_kinds import MODEL, is_model_directory

_ROOT = "https://dl.fbaipublicfiles.com/fairseq/models/lm"
_WMT19, _WMT20 = ("en", "de", "ru"), ("en", "ta", "iu.news", "iu.nh")
PUBLISHED = {
    "transformer_lm.wiki103.adaptive": f"{_ROOT}/adaptive_lm_wiki103.v2.tar.bz2",
    "transformer_lm.gbw.adaptive_huge": f"{_ROOT}/adaptive_lm_gbw_huge.tar.bz2",
    **{f"transformer_lm.wmt19.{name}": f"{_ROOT}/wmt19.{name}.tar.bz2" for name in _WMT19},
    **{f"transformer_lm.wmt20.{name}": f"{_ROOT}/wmt20.{name}.tar.gz" for name in _WMT20},
}
# How some of them read raw text; the others read words between white space.
PUBLISHED_TEXT = {
    **{f"transformer_lm.wmt19.{name}": {"tokenizer": "moses", "bpe": "fastbpe"} for name in _WMT19},
    **{f"transformer_lm.wmt20.{name}": {"tokenizer": "space", "bpe": "sentencepiece"} for name in _WMT20},
}
DEFAULT_FILES = ("model.pt", "checkpoint_best.pt", "checkpoint_last.pt")
_CHECKPOINTS = (".pt", ".pth")
_OF_A_DIRECTORY = (".safetensors", ".json", ".bin")
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


def find_checkpoints(name_or_path: str | Path, checkpoint_file: str | None) -> tuple[Path, list[Path]]:
    """Returns the directory of a model and its checkpoints, of which several are an ensemble.

    An archive is unpacked, a name is downloaded.

    Args:
        name_or_path: a directory, a checkpoint, an archive, or a name of ``PUBLISHED``.
        checkpoint_file: in there; ``a.pt:b.pt`` is an ensemble. If None, the first of ``DEFAULT_FILES`` that is there,
            or the only ``.pt``.

    Raises:
        CheckpointError: there is no such checkpoint, or no such archive.
        ConfigError: no such name.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file() and path.suffix in _CHECKPOINTS:
        if checkpoint_file is not None:
            raise ConfigError(
                f"{path} is a checkpoint, and checkpoint_file names {checkpoint_file}; give the directory, or one of"
                " them"
            )
        return path.parent, [path]
    root = _root(name_or_path)
    if checkpoint_file is None:
        return root, [_default_checkpoint(root)]
    names = [name for name in split_paths(checkpoint_file) if name]
    if not names:
        raise ConfigError(f"checkpoint_file must name a file in {root}, but is empty; it has {_listed(root)}")
    return root, [_checkpoint(root, name) for name in names]


def find_data(root: Path, data: str | Path | None, checkpoint: Checkpoint) -> Path:
    """Returns the directory of a model's ``dict.txt``.

    Args:
        root: directory of the model.
        data: as the caller gave it; one that begins with ``.`` is relative to the model's directory. If None, the
            model's directory, or that which the checkpoint was trained with, if it tells that the dictionary is its.
        checkpoint: the model's.

    Raises:
        DataError: there is no dictionary.
    """
    if data is not None:
        return _data_dir(root, str(data))
    recorded = checkpoint.fields.get("data")
    looked_in = [root]
    if isinstance(recorded, str) and checkpoint.extra_state.get("dictionary_sha256"):  # compared when it is opened
        first = split_paths(recorded)[0]
        looked_in += [Path(first), root.parent / first]
    for directory in looked_in:
        if (directory / "dict.txt").is_file():
            return directory
    places = " or ".join(str(directory) for directory in dict.fromkeys(looked_in))
    raise DataError(
        f"no dict.txt in {places}; give data_name_or_path= the directory of the dictionary that the model was trained"
        " with, such as data-bin"
    )


def published_text(name_or_path: str | Path) -> Mapping[str, str]:
    """Returns ``tokenizer`` and ``bpe`` of a published model; nothing for a path, or for a model that reads words."""
    is_path = Path(name_or_path).expanduser().exists()
    return {} if is_path else PUBLISHED_TEXT.get(str(name_or_path), {})


def cache_dir() -> Path:
    """Returns the directory for what is downloaded and unpacked."""
    return Path(torch.hub.get_dir()) / "fairseq-knnlm"


def _root(name_or_path: str | Path) -> Path:
    path, name = Path(name_or_path).expanduser(), str(name_or_path)
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix in _OF_A_DIRECTORY and is_model_directory(path.parent):
            raise CheckpointError(f"{path} is a file of {MODEL}; give its directory: {path.parent}")
        return _inner(unpacked(path, cache_dir()))
    if name in PUBLISHED:
        return _inner(_unpacked_download(name, PUBLISHED[name]))
    beside = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = did_you_mean(str(path), beside)
    if "/" in name:
        advice = hint or "; give the directory of a checkpoint or of a Hugging Face model, or an archive (.tar.bz2)"
        raise CheckpointError(f"{name} does not exist{advice}")
    raise ConfigError(
        f"{name} is neither a directory (of checkpoints, or of a Hugging Face model) nor a checkpoint, an archive, a"
        f" name on the Hugging Face hub (org/model) or a known model{hint or did_you_mean(name, PUBLISHED)} (known:"
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


def _default_checkpoint(root: Path) -> Path:
    models = _models(root)
    for name in DEFAULT_FILES:
        if root / name in models:
            return root / name
    if len(models) == 1:
        return models[0]
    if not models and (root / "dict.txt").is_file():
        raise CheckpointError(
            f"{root} has a dictionary, but no checkpoint; give the directory of the checkpoints first, and this one as"
            " data_name_or_path="
        )
    raise CheckpointError(
        f"{root} has none of {', '.join(DEFAULT_FILES)} (there: {_listed(root)}); give checkpoint_file= a model's"
    )


def _checkpoint(root: Path, name: str) -> Path:
    path = root / name
    if path.is_file():
        return path
    if (path / "dict.txt").is_file() or (Path(name) / "dict.txt").is_file():
        raise CheckpointError(
            f"{name} is a data directory, but checkpoint_file is a model's; give it as data_name_or_path="
        )
    hint = did_you_mean(name, [model.name for model in _models(root)])
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
