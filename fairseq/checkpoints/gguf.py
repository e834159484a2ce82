"""From a model in one GGUF file to the directory that ``--path`` names.

    DIR/config.json  model.safetensors (float32)  tokenizer.json  tokenizer_config.json

Quantised weights become the numbers that they stand for. The directory is made under a temporary name and renamed when
it is whole.
"""

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from fairseq.checkpoints.config import ConvertConfig
from fairseq.errors import CheckpointError, ConfigError
from fairseq.models.huggingface.loading import load_model, quiet
from fairseq.runtime.progress import at_work
from fairseq.storage.files import fsync_directory, locked, temporary_name
from fairseq.storage.outputs import claim_directory, reads

GGUF = ".gguf"
_MAGIC = b"GGUF"


def convert_gguf(config: ConvertConfig) -> str:
    """Makes a model's directory of a GGUF file, and returns what was done, as a line.

    Raises:
        CheckpointError: the file cannot be read, or holds a model that cannot be used.
        ConfigError: the directory is there already, or a package is not installed.
    """
    source, target = Path(config.source), Path(config.target)
    _require_source(source)
    if target.is_dir() and any(target.iterdir()):
        raise ConfigError(f"TARGET: {target} exists and is not empty; give another directory, or remove it first")
    claim_directory("TARGET", target)
    reads(source)
    missing = [name for name in ("gguf", "accelerate", "transformers") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"converting GGUF needs {' and '.join(missing)}, not installed here; pip install 'fairseq-knnlm[gguf]'"
        )
    with locked(target), quiet(), _directory(target) as temporary, at_work(f"convert {source.name}"):
        tensors = _write(source, temporary)
        load_model(temporary)  # what cannot be used is not kept
    size = sum(path.stat().st_size for path in target.iterdir())
    return f"{target}: {tensors} tensors in float32 and the tokenizer, {size} bytes"


def _require_source(source: Path) -> None:
    if not source.is_file():
        raise CheckpointError(f"{source} does not exist; give the path of a {GGUF} file")
    with source.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise CheckpointError(f"{source} is not a GGUF file by its first bytes; give one, or download it again")


def _write(source: Path, directory: Path) -> int:
    """Writes a model and its tokenizer, and returns the number of tensors."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    try:
        with redirect_stderr(io.StringIO()):  # bars that no setting stops
            tokenizer = AutoTokenizer.from_pretrained(str(source.parent), **where)
            model = AutoModelForCausalLM.from_pretrained(str(source.parent), dtype=torch.float32, **where)
    except Exception as err:  # transformers and gguf raise many kinds
        reason = " ".join(str(err).split())[:300]
        raise CheckpointError(
            f"{source} cannot be read ({type(err).__name__}: {reason}); give a model of a family that transformers"
            " reads from GGUF, or download the file again"
        ) from err
    # The weights are plain numbers now; what says otherwise would be believed when the directory is read.
    model.hf_quantizer = None
    for holder, name in ((model, "hf_quantizer"), (model.config, "quantization_config")):
        if name in vars(holder):
            delattr(holder, name)
    tokenizer.save_pretrained(directory)
    model.save_pretrained(directory)
    mode = (directory / "config.json").stat().st_mode
    for path in directory.glob("*.safetensors"):  # which are written for their owner alone
        path.chmod(mode)
    return len(model.state_dict())


@contextmanager
def _directory(target: Path) -> Iterator[Path]:
    """Yields a new directory that takes ``target``'s place when the block ends well, and is removed otherwise."""
    temporary = temporary_name(target)
    _remove(temporary)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        fsync_directory(temporary)
        temporary.replace(target)  # also of an empty directory
    finally:
        _remove(temporary)
    fsync_directory(target.absolute().parent)


def _remove(temporary: Path) -> None:
    """Removes what a killed run has left; raises ConfigError for what no run leaves there."""
    if temporary.is_symlink() or (temporary.exists() and not temporary.is_dir()):
        raise ConfigError(f"{temporary} is in the way: it is no directory of this program; move it away")
    shutil.rmtree(temporary, ignore_errors=True)
