"""Checkpoints in shards: a directory that several processes write together, and that any number of them read.

    NAME.dcp/
        shard-….safetensors   of each process, the shares that it keeps of
                                  model.NAME              each weight, once where names share it
                                  optimizer.N.MOMENT      what the optimizer keeps of parameter N
                                  criterion.NAME          what the criterion keeps
        checkpoint.json       everything else, and the size and SHA-256 of each file: it is written last

torch.distributed.checkpoint (DCP) writes and reads the tensors, by its storage for safetensors: its own format has a
pickle, ``.metadata``, and to load a pickle is to run what is in it. What a file of one format holds, the other holds as
well: ``read`` returns what torch.load does of a checkpoint in one file.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fairseq.config.flags import Namespace
from fairseq.errors import CheckpointError, FairseqError
from fairseq.runtime.distributed import ProcessGroup
from fairseq.storage.directories import put_in_place, remove_directory
from fairseq.storage.file_kinds import SHARDED_RECORD
from fairseq.storage.files import file_sha256, fsync_directory, temporary_name
from fairseq.storage.records import Count, Record, as_json, read_record, write_record

ASK = "use another checkpoint"


class ShardFile(Record, frozen=True):
    """A file of tensors."""

    num_bytes: Count
    sha256: str


class ShardedRecord(Record, frozen=True):
    """What ``checkpoint.json`` says.

    Attributes:
        args: every setting.
        weights: every name in the model's state dict, in order, and the name under which its tensor is stored.
        param_groups: the optimizer's; None where its state is not saved.
        numbers: what the optimizer keeps of a parameter that is no tensor.
        files: the files of tensors.
    """

    args: dict[str, Any]
    optimizer_history: list[dict[str, Any]]
    extra_state: dict[str, Any]
    weights: dict[str, str]
    param_groups: list[dict[str, Any]] | None
    numbers: dict[str, dict[str, Any]]
    files: dict[str, ShardFile]
    kind: Literal["sharded checkpoint"] = "sharded checkpoint"
    version: Literal[1] = 1


def write(path: Path, raw: Mapping[str, Any], stored: Mapping[str, str], group: ProcessGroup) -> None:
    """Writes a checkpoint together with the other processes; a killed one leaves the checkpoint before.

    Args:
        path: of the directory.
        raw: what it holds (record.py), of the model and the optimizer this process's shares.
        stored: {name: the first name of its tensor}, of each name in the model's state dict.
        group: the processes.

    Raises:
        FairseqError: some process could not write, or does not see what the others write.
    """
    temporary = temporary_name(path)

    def make() -> None:
        if group.rank == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_directory(temporary)
            temporary.mkdir()

    together(group, path, make)
    together(group, path, lambda: _require_seen(temporary))
    record, tensors = _split(raw, stored)
    together(group, path, lambda: _save(temporary, tensors, group))
    names = sorted(file.name for file in temporary.glob("*.safetensors"))
    own = {name: _described(temporary / name) for name in names[group.rank :: group.world_size]}
    files = {name: file for part in group.gather(own) for name, file in part.items()}

    def finish() -> None:
        if group.rank == 0:
            write_record(temporary / SHARDED_RECORD, record.replace(files=dict(sorted(files.items()))))
            fsync_directory(temporary)
            put_in_place(temporary, path)

    together(group, path, finish)


def together(group: ProcessGroup, path: Path, step: Callable[[], object]) -> None:
    """Makes a step of a write in every process, and raises FairseqError in all where it fails in one."""
    problem = ""
    try:
        step()
    except (FairseqError, OSError, RuntimeError) as err:
        problem = str(err) if isinstance(err, FairseqError) else f"{path} was not written: {err}"
        if group.world_size == 1:
            raise FairseqError(problem) from err
    found = next(filter(None, group.gather(problem)), "")
    if found:
        raise FairseqError(found)


def _require_seen(temporary: Path) -> None:
    if not temporary.is_dir():
        raise FairseqError(
            f"process {os.environ.get('RANK', '0')} does not see {temporary}, which process 0 has made; give a"
            " --save-dir on a disk that all machines share"
        )


def _save(directory: Path, tensors: dict[str, Tensor], group: ProcessGroup) -> None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    writer = HuggingFaceStorageWriter(str(directory), save_distributed=True)
    try:
        with _without_advice():
            save(tensors, storage_writer=writer, no_dist=group.world_size == 1)
    except CheckpointException as err:
        rank, (cause, _) = next(iter(err.failures.items()))
        raise RuntimeError(f"process {rank}: {str(cause).splitlines()[0]}") from err


def _described(file: Path) -> ShardFile:
    return ShardFile(num_bytes=file.stat().st_size, sha256=file_sha256(file))


def _split(raw: Mapping[str, Any], stored: Mapping[str, str]) -> tuple[ShardedRecord, dict[str, Tensor]]:
    """Returns a checkpoint's record, without its files, and its tensors by name."""
    tensors = {f"model.{name}": raw["model"][name] for name in stored.values()}
    tensors |= {f"criterion.{name}": tensor for name, tensor in raw.get("criterion", {}).items()}
    optimizer, numbers = raw["last_optimizer_state"], {}
    for number, moments in (optimizer or {"state": {}})["state"].items():
        found = {name: value for name, value in moments.items() if isinstance(value, Tensor)}
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in found.items()}
        if others := {name: value for name, value in moments.items() if name not in found}:
            numbers[str(number)] = others
    record = ShardedRecord(
        args=vars(raw["args"]),
        optimizer_history=raw["optimizer_history"],
        extra_state=raw["extra_state"],
        weights=dict(stored),
        param_groups=None if optimizer is None else as_json(optimizer["param_groups"]),
        numbers=numbers,
        files={},
    )
    return record, tensors


def read_without_tensors(path: Path) -> dict[str, Any]:
    """Returns what a checkpoint in shards holds besides tensors.

    Raises:
        CheckpointError: its record is damaged.
    """
    record = _record(path)
    return {"args": Namespace(**record.args), "extra_state": record.extra_state}


def read(path: Path, layout: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """Returns what a checkpoint in shards holds.

    Args:
        path: of the directory.
        layout: ``model.NAME`` and ``optimizer.N`` → a tensor; of what is sharded there, this process reads its share.
            What has no such tensor is read whole, into the memory of the CPU.

    Raises:
        CheckpointError: it is not whole.
    """
    record = _record(path)
    _check_files(path, record.files)
    try:
        tensors = _load(path, layout or {})
        model = {name: tensors[f"model.{stored}"] for name, stored in record.weights.items()}
        optimizer = None
        if record.param_groups is not None:
            optimizer = {"state": _moments(tensors, record.numbers), "param_groups": _with_tuples(record.param_groups)}
    except ImportError as err:
        raise CheckpointError(
            f"{path} needs the package safetensors, which is not installed; pip install 'fairseq-knnlm[safetensors]'"
        ) from err
    except Exception as err:  # safetensors and DCP let through whatever a torn file makes them raise
        reason = " ".join(str(err).split())[:200] or type(err).__name__
        raise CheckpointError(f"{path} is not a whole checkpoint in shards: {reason}; {ASK}") from err
    criterion = {name.removeprefix("criterion."): t for name, t in tensors.items() if name.startswith("criterion.")}
    return {
        "args": Namespace(**record.args),
        "model": model,
        "optimizer_history": record.optimizer_history,
        "extra_state": record.extra_state,
        "last_optimizer_state": optimizer,
        **({"criterion": criterion} if criterion else {}),
    }


def _record(path: Path) -> ShardedRecord:
    return read_record(path / SHARDED_RECORD, ShardedRecord, CheckpointError, ASK)


def _check_files(path: Path, files: Mapping[str, ShardFile]) -> None:
    """Raises CheckpointError unless all files are there as they were written.

    Of several processes that read the same checkpoint each checks some.
    """
    there = {file.name for file in path.glob("*.safetensors")}
    if there != set(files):
        name = min(there ^ set(files))
        problem = "is not one of its files" if name in there else "is missing"
        raise CheckpointError(f"{path} is not whole: {name} {problem}; {ASK}")
    rank, world_size = (int(os.environ.get(name) or default) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    for name, file in sorted(files.items())[rank::world_size]:
        if _described(path / name) != file:
            raise CheckpointError(f"{path} is damaged: {name} has not the bytes that were written; {ASK}")


def _load(path: Path, layout: Mapping[str, Tensor]) -> dict[str, Tensor]:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    from fairseq.runtime.sharding import zeros_as

    tensors = {}
    for name, found in HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata.items():
        assert isinstance(found, TensorStorageMetadata)
        stored, size = sum(chunk.sizes.numel() for chunk in found.chunks), found.size.numel()
        if stored != size:
            raise ValueError(f"{name} has {size} numbers, of which {stored} are stored")
        other = layout.get(name.rpartition(".")[0] if name.startswith("optimizer.") else name)
        tensors[name] = zeros_as(found.size, found.properties.dtype, other)
    with _without_advice():
        load(tensors, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)
    return tensors


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keeps torch from warning that there is a single process where there is one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _moments(tensors: Mapping[str, Tensor], numbers: Mapping[str, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """Returns what the optimizer keeps of each parameter, by its number."""
    state: dict[int, dict[str, Any]] = {int(number): dict(others) for number, others in numbers.items()}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, moment = name.split(".")
            state.setdefault(int(number), {})[moment] = tensor
    return {number: dict(sorted(state[number].items())) for number in sorted(state)}


def _with_tuples(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the optimizer's groups, with tuples where it has them and JSON has lists: betas, and the like."""
    return [
        {name: tuple(v) if isinstance(v, list) and name != "params" else v for name, v in group.items()}
        for group in groups
    ]


def stored_names(model: torch.nn.Module) -> dict[str, str]:
    """Returns {name: the first name of its tensor}, of each name in a model's state dict."""
    names = list(model.state_dict())  # FSDP shares the weights out again that a forward pass has gathered
    parts = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    tensors, first = dict(parts), dict[int, str]()
    return {name: first.setdefault(id(tensors[name]), name) for name in names}
