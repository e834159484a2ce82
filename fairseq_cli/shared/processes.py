"""The processes of a run: what the flags say against what ``torchrun`` has started, and how each of them ends."""

import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from fairseq.config.flags import flag
from fairseq.errors import ConfigError


@dataclass(frozen=True)
class ProcessesConfig:
    """Processes, which torchrun starts."""

    distributed_world_size: int | None = flag(
        None, "processes of the whole run: 1, or as many as torchrun has started", minimum=1
    )
    distributed_num_procs: int | None = flag(None, "processes on this machine, likewise", minimum=1)
    device_id: int | None = flag(
        None, "number of this process on its machine: 0, or what torchrun has set", aliases=("--local-rank",), minimum=0
    )

    def check(self, argv: Sequence[str], environment: Mapping[str, str] = os.environ) -> None:
        """Raises ConfigError where torchrun has started another number of processes, with the command to type.

        Args:
            argv: what was typed behind ``fairseq-train``.
            environment: where torchrun says how many there are, and which one this is.
        """
        counts = (
            ("--distributed-world-size", self.distributed_world_size, "WORLD_SIZE"),
            ("--distributed-num-procs", self.distributed_num_procs, "LOCAL_WORLD_SIZE"),
        )
        for name, asked, variable in counts:
            started = int(environment.get(variable) or "1")
            if asked is None or asked == started:
                continue
            if "WORLD_SIZE" in environment:
                raise ConfigError(
                    f"{name} {asked} is not the number of processes that torchrun has started, {started}; leave it out"
                )
            raise ConfigError(f"{name} {asked} needs torchrun, which starts processes: {torchrun(asked, argv)}")
        local_rank = int(environment.get("LOCAL_RANK") or "0")
        if self.device_id not in (None, local_rank):
            if "LOCAL_RANK" in environment:
                raise ConfigError(
                    f"--device-id {self.device_id} is not LOCAL_RANK, which is {local_rank}; leave it out"
                )
            raise ConfigError(
                f"--device-id {self.device_id} does not choose a GPU here: leave it out, and set"
                f" CUDA_VISIBLE_DEVICES={self.device_id}"
            )


def rank(environment: Mapping[str, str] = os.environ) -> int:
    """Returns the number of this process among those that torchrun has started; 0 without torchrun."""
    return int(environment.get("RANK") or "0") if world_size(environment) > 1 else 0


def world_size(environment: Mapping[str, str] = os.environ) -> int:
    """Returns how many processes torchrun has started; 1 without torchrun."""
    return int(environment.get("WORLD_SIZE") or "1")


def torchrun(processes: int, argv: Sequence[str]) -> str:
    """Returns the command that trains with several processes on one machine."""
    return f"torchrun --nproc-per-node {processes} -m fairseq_cli.train {shlex.join(argv)}"


def leave(code: int) -> NoReturn:
    """Ends this process with an exit code; one of several leaves without Python's tear-down.

    There, after all its work, a process has been seen to abort while others were still busy ("terminate called without
    an active exception"), which torchrun takes for a failure of the run.
    """
    if world_size() < 2:
        sys.exit(code)
    logging.shutdown()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
