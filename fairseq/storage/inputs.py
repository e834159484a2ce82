"""Checks that the files that a command names exist.

Commands call them before they import torch, so that a typing error is answered at once.
"""

import shlex
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

from fairseq.config.path_lists import colon_hint, split_paths
from fairseq.errors import CheckpointError, ConfigError, DataError, did_you_mean, shown
from fairseq.storage.file_kinds import (
    GGUF,
    MODEL,
    SHARDED_RECORD,
    SHARDED_SUFFIX,
    TEXTS,
    checkpoints_in,
    directory_kind,
    is_hub_name,
    is_instead,
    is_model_directory,
    is_sharded_checkpoint,
    kind_at,
    models_in,
    texts_in,
)
from fairseq.storage.marks import json_at
from fairseq.storage.outputs import reads

_FLAGS = "--path (or --restore-file)"


def require_checkpoint(path: str | Path, typed: str = "", flag: str = _FLAGS) -> None:
    """Raises CheckpointError unless there is such a file, of no other kind, or a checkpoint in shards.

    Args:
        path: of the file.
        typed: the list that names it, where a directory of a Hugging Face model would do as well.
        flag: that names it, for messages.
    """
    path = Path(path)
    if is_sharded_checkpoint(path):
        return
    ask = f"give {flag} the file of a checkpoint"
    if path.is_dir() and path.suffix == SHARDED_SUFFIX:
        raise CheckpointError(
            f"{path} is not a whole checkpoint in shards: it has no sound {SHARDED_RECORD}; use another"
        )
    if path.is_dir():
        best = f": {checkpoints_in(path)[0]}" if checkpoints_in(path) else ""
        if directory_kind(path) == MODEL:
            raise CheckpointError(f"{path} is {MODEL}, which only commands that read a text take; {ask}")
        raise CheckpointError(f"checkpoint {path} is {directory_kind(path)}; {ask}{best}{colon_hint(typed)}")
    if not path.is_file():
        models = [] if not typed else models_in(path.parent)
        ask += ", or --path the directory of a Hugging Face model" if typed else ""
        there = [str(other) for other in (*checkpoints_in(path.parent), *models)]
        hint = f"; did you mean {path}.pt?" if f"{path}.pt" in there else did_you_mean(str(path), there)
        if path.suffix == SHARDED_SUFFIX and not hint and there:
            hint = f"; there is {there[0]}"
        raise CheckpointError(f"checkpoint {path} does not exist{hint or f'; {ask}'}{colon_hint(typed)}")
    if other := is_instead(path, "a checkpoint"):
        ask += f": {path.with_suffix('.pt')}" if path.suffix != ".pt" and path.with_suffix(".pt").is_file() else ""
        convert = f"; {ask}"
        if kind_at(path) == GGUF:
            convert = f"; fairseq-knnlm convert {path} NEW_DIR makes a directory of it, which --path takes"
        elif path.suffix in (".safetensors", ".json") and is_model_directory(path.parent):
            convert = f"; give --path the directory of the model: {path.parent}"
        elif path.suffix == ".safetensors":
            convert = "; fairseq-knnlm convert makes a checkpoint of it"
        raise CheckpointError(f"{path}{other}{convert}")


def require_inputs(checkpoints: str, data: str, split: str | None = None) -> None:
    """Raises CheckpointError or DataError unless all checkpoints ``A:B``, the data directory and the split exist.

    With a split the directory must have a dictionary as well; without, a dictionary's file will do.
    """
    for path in filter(None, split_paths(checkpoints)):
        if is_hub_name(path):
            continue
        if not is_model_directory(path):
            require_checkpoint(path, checkpoints)
        reads(path)
    if split is None and len(data.split()) > 1 and not any(Path(path).exists() for path in split_paths(data)):
        raise DataError(
            f"data directory {data} does not exist; if this is the text, give it on the standard input (echo"
            f" {shlex.quote(data)} | …), and here the directory of the dictionary, such as data-bin"
        )
    directories = data_directories(data)
    if split is None:
        return
    _refuse_file(data, split)
    require_dictionary(directories[0])
    require_split(data, directories[0] / split)


def require_dictionary(directory: Path) -> None:
    """Raises DataError unless a data directory has a dictionary; says what it is instead."""
    if (directory / "dict.txt").exists():
        return
    texts = texts_in(directory)
    if texts and directory_kind(directory) == TEXTS:
        raise DataError(f"{directory} has texts that are not binarised ({_some(texts)}); {_binarise(*texts)}")
    other = is_instead(directory, "one of binarised data")
    raise DataError(
        f"{directory}{other}: it has no dict.txt; give the directory that fairseq-preprocess wrote"
        if other and directory_kind(directory) != "a directory"
        else f"dictionary {directory / 'dict.txt'} does not exist; give the directory that fairseq-preprocess wrote"
    )


def _some(paths: list[Path]) -> str:
    return ", ".join(path.name for path in paths[:3]) + (", …" if len(paths) > 3 else "")


def _binarise(*texts: Path) -> str:
    """Returns the command that binarises texts, as far as their names tell which is which."""
    named = [(name, text) for name in ("train", "valid", "test") for text in texts if name in text.name]
    flags = {f"--{name}pref {shlex.quote(str(text))}": None for name, text in named} or {
        f"--trainpref {texts[0]}": None
    }
    return f"binarise first: fairseq-preprocess --only-source {' '.join(flags)} --destdir data-bin, then give data-bin"


def require_split(data: str, prefix: Path) -> None:
    """Raises DataError unless the split's two files are there."""
    _refuse_file(data, prefix.name)
    for suffix in (".idx", ".bin"):
        if not (path := Path(f"{prefix}{suffix}")).exists():
            raise missing_split(path)


def _refuse_file(data: str, split: str) -> None:
    """Raises DataError for a file where a data directory must be given."""
    if (file := Path(split_paths(data)[0])).is_file():
        raise DataError(
            f"{data} is a text that is not binarised; {_binarise(file)}"
            if kind_at(file) == "a text"
            else f"{data} is a file, but the split {split!r} lies in a data directory; give {file.parent}"
        )


def missing_split(path: Path) -> DataError:
    """Returns the error for a missing file of a split; it names those that exist, and says how to make it."""
    split, there = path.stem, sorted(other.stem for other in path.parent.glob(f"*{path.suffix}"))
    first = split.partition(".")[0]  # valid.txt
    if hint := f"; did you mean {first}?" if first != split and first in there else did_you_mean(split, there):
        return DataError(f"{path} does not exist{hint}")
    known = split.rstrip("0123456789")
    pref = known if known in ("train", "valid", "test") else "test"
    makes = (
        f"fairseq-preprocess --only-source --{pref}pref TEXT --destdir {path.parent}{_words(path.parent)} makes {known}"
    )
    if known not in ("train", "valid", "test"):
        makes = f"{path.parent} has {', '.join(there)}; give one of these" if there else makes
    return DataError(f"{path} does not exist; {makes}")


def _words(directory: Path) -> str:
    """Returns the flag by which another text of a data directory gets the same words or tokens."""
    tokenizer = json_at(directory / "preprocess.json").get("tokenizer")
    if isinstance(tokenizer, dict) and isinstance(tokenizer.get("directory"), str):
        return f" --tokenizer {shlex.quote(tokenizer['directory'])}"
    dictionary = directory / "dict.txt"
    return f" --srcdict {shlex.quote(str(dictionary))}" if dictionary.is_file() else ""


def data_directories(data: str) -> list[Path]:
    """Returns the directories of ``DATA1:DATA2``; a dictionary's file stands for its own.

    Raises:
        DataError: the first one is not there.
    """
    found = [path.parent if path.is_file() else path for path in map(Path, filter(None, split_paths(data)))]
    if not found or not found[0].is_dir():
        shown_data = data if data == data.strip() else repr(data)
        shown_data += " (the default)" if data == "data-bin" else ""
        split = Path(f"{split_paths(data)[0]}.idx")
        raise DataError(
            f"{data} is a split of the data directory {split.parent}; give that"
            if split.is_file()
            else f"data directory {shown_data} does not exist; give the one that fairseq-preprocess --destdir wrote"
            f"{colon_hint(data)}"
        )
    return found


def require_directory(flag: str, value: str, *, text: bool = False) -> None:
    """Raises ConfigError unless a directory is, or can be made, where a flag says.

    Args:
        flag: its name.
        value: the path.
        text: whether the path must be text in UTF-8, for a library that takes no other.
    """
    path = Path(value)
    for place in (path, *path.parents):
        if place.exists() or place.is_symlink():
            if not place.is_dir():
                raise ConfigError(f"{flag} {value} must be a directory, but {place} is none; give another")
            break
    if text and any("\udc80" <= char <= "\udcff" for char in value):
        raise ConfigError(f"{flag} must be a path in UTF-8, but is {shown(value)}; give another")


def open_input(name: str) -> AbstractContextManager[IO[bytes]]:
    """Returns the text file that ``--input`` names, or the standard input for ``-``, which stays open.

    Raises:
        DataError: there is no such file.
    """
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    path = Path(name)
    if path.is_dir() or not path.exists():
        problem = "is a directory" if path.is_dir() else "does not exist"
        raise DataError(f"--input must name text files, but {name} {problem}; give the path of one, or - to read stdin")
    reads(path)
    return path.open("rb")
