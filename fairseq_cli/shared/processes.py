"""The processes of a run: which are started here, which torchrun has started, and how each of them ends."""

import logging
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from fairseq.config.common import DeviceConfig
from fairseq.config.flags import flag
from fairseq.errors import ConfigError, shown
from fairseq.runtime.endings import is_launched


@dataclass(frozen=True)
class ProcessesConfig:
    """Processes of one run."""

    distributed_world_size: int | None = flag(
        None, "processes of the whole run: start so many on this machine; under torchrun, as many as it has", minimum=1
    )
    distributed_num_procs: int | None = flag(None, "processes on this machine, likewise", minimum=1)
    device_id: int | None = flag(
        None, "number of this process on its machine: 0, or what torchrun has set", aliases=("--local-rank",), minimum=0
    )

    def to_start(
        self, module: str, argv: Sequence[str], environment: Mapping[str, str] = os.environ, *, max_restarts: int = 0
    ) -> int:
        """Returns how many processes the command has to start; 0 where this one is a process of the run.

        Args:
            module: the command.
            argv: what was typed behind it.
            environment: where torchrun says how many there are, and which one this is.
            max_restarts: how often they are started again, where the command has ``--max-restarts``.

        Raises:
            ConfigError: torchrun has started another number of processes, or has to start them; with what to type.
        """
        self._check_device_id(environment)
        if "WORLD_SIZE" in environment:
            self._check_started(environment, max_restarts)
            return 0
        world_size, here = self.distributed_world_size, self.distributed_num_procs
        if world_size is not None and here is not None and world_size != here:
            machines, rest = divmod(world_size, here)
            if rest:
                raise ConfigError(
                    f"--distributed-world-size {world_size} is not a multiple of --distributed-num-procs {here}; leave"
                    " the latter out to start all of them on this machine"
                )
            raise ConfigError(
                f"--distributed-world-size {world_size} with --distributed-num-procs {here} is for {machines} machines;"
                f" on each of them, type: {torchrun(here, module, argv, machines)}"
            )
        processes = world_size or here or 1
        return processes if processes > 1 or max_restarts else 0

    def _check_started(self, environment: Mapping[str, str], max_restarts: int) -> None:
        counts = (
            ("--distributed-world-size", self.distributed_world_size, "WORLD_SIZE"),
            ("--distributed-num-procs", self.distributed_num_procs, "LOCAL_WORLD_SIZE"),
        )
        world_size(environment)  # which looks at the other variables as well
        for name, asked, variable in counts:
            started = int(environment.get(variable) or "1")
            if asked not in (None, started):
                raise ConfigError(
                    f"{name} {asked} is not the number of processes that torchrun has started, {started}; leave it out"
                )
        if max_restarts and not is_launched(environment):
            raise ConfigError(
                f"--max-restarts {max_restarts} has no effect under torchrun; give it to torchrun, before -m"
            )

    def _check_device_id(self, environment: Mapping[str, str]) -> None:
        local_rank = int(environment.get("LOCAL_RANK") or "0")
        if self.device_id in (None, local_rank):
            return
        if "LOCAL_RANK" in environment:
            raise ConfigError(f"--device-id {self.device_id} is not LOCAL_RANK, which is {local_rank}; leave it out")
        raise ConfigError(
            f"--device-id {self.device_id} does not choose a GPU here: leave it out, and set"
            f" CUDA_VISIBLE_DEVICES={self.device_id}"
        )


@dataclass(frozen=True)
class RestartsConfig:
    """Processes that die."""

    max_restarts: int = flag(
        0, "start all processes again after one has died, from checkpoint_last.pt, at most N times", minimum=0
    )


def start(
    module: str,
    argv: Sequence[str],
    processes: int,
    device: DeviceConfig,
    go_on: Callable[[], str],
    max_restarts: int = 0,
) -> None:
    """Runs a command in several processes on this machine, as ``launch`` does.

    Raises:
        ConfigError: there are fewer GPUs.
    """
    import torch

    from fairseq.runtime.launcher import launch
    from fairseq.runtime.precision import select_device

    if select_device(device).type == "cuda" and (number := torch.cuda.device_count()) < processes:
        raise ConfigError(f"--distributed-world-size {processes} needs as many GPUs, but there are {number}; or --cpu")
    launch(module, argv, processes, max_restarts=max_restarts, go_on=go_on)


def rank(environment: Mapping[str, str] = os.environ) -> int:
    """Returns the number of this process among those that torchrun has started; 0 without torchrun."""
    return _number(environment, "RANK")


def local_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Returns the number of this process among those of its machine; 0 without torchrun."""
    return _number(environment, "LOCAL_RANK")


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    return int(value) if is_one_of_several(environment) and value.isdecimal() else 0


def is_one_of_several(environment: Mapping[str, str] = os.environ) -> bool:
    """Returns whether the environment speaks of several processes."""
    return environment.get("WORLD_SIZE", "") not in ("", "1")


def world_size(environment: Mapping[str, str] = os.environ) -> int:
    """Returns how many processes torchrun has started; 1 without torchrun.

    Raises:
        ConfigError: something else has set WORLD_SIZE, so that the processes do not find each other.
    """
    number = environment.get("WORLD_SIZE") or "1"
    if number == "1":
        return 1
    if not number.isdecimal() or number == "0":
        raise ConfigError(f"WORLD_SIZE is {shown(number)}, which is no number of processes; unset it, or use torchrun")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not environment.get(name):
            raise ConfigError(
                f"WORLD_SIZE is {number}, but {name} is not set; start the processes with torchrun, or unset WORLD_SIZE"
            )
    return int(number)


def alone(prog: str, main: Callable[[Sequence[str]], None]) -> Callable[[Sequence[str]], None]:
    """Returns a command that raises ConfigError where torchrun has started several processes of it."""

    def call(argv: Sequence[str]) -> None:
        if is_one_of_several() and "TORCHELASTIC_RUN_ID" in os.environ:
            raise ConfigError(
                f"{prog} is one process, but torchrun has started {os.environ['WORLD_SIZE']} of them; start it without"
                " torchrun"
            )
        main(argv)

    return call


def torchrun(processes: int, module: str, argv: Sequence[str], machines: int = 1) -> str:
    """Returns the command that starts several processes on a machine; on several, they meet at the first."""
    meeting = "" if machines == 1 else f" --nnodes {machines} --rdzv-backend c10d --rdzv-endpoint FIRST_MACHINE:29400"
    return f"torchrun{meeting} --nproc-per-node {processes} -m {module} {shlex.join(argv)}"


def leave(code: int) -> NoReturn:
    """Ends this process with an exit code; one of several leaves without Python's tear-down.

    There, after all its work, a process has been seen to abort while others were still busy ("terminate called without
    an active exception"), which torchrun takes for a failure of the run.
    """
    if not is_one_of_several():
        sys.exit(code)
    logging.shutdown()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
