"""Whether the jobs of an array are all there, each once, and of one run."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairseq.config.flags import flag_name
from fairseq.errors import ConfigError, MismatchError, shown

# What may differ between the jobs of one array: which one it is, and where it tells of its work.
_OF_A_JOB = ("shard_id", "results_path", "log_file", "log_format", "log_interval", "no_progress_bar", "traceback")
_MOST_NAMED = 3


@dataclass(frozen=True)
class Job:
    """What one job has left.

    Attributes:
        number, count: which job, and of how many.
        where: the file or directory, for messages.
        command: words of its command.
        run: what must be the same in all jobs, nested.
    """

    number: int
    count: int
    where: str
    command: Sequence[str]
    run: Mapping[str, Any]


def run_of_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what of an evaluation's result must be the same in all jobs."""
    kept = {name: result.get(name) for name in ("inputs", "versions", "settings", "dtype", "device")}
    settings = {name: value for name, value in (kept["settings"] or {}).items() if name not in _OF_A_JOB}
    versions = {name: value for name, value in (kept["versions"] or {}).items() if name != "machine"}
    return {**kept, "settings": settings, "versions": versions}


def check_jobs(jobs: Sequence[Job]) -> None:
    """Raises where the jobs are not all there, each once, and of one run.

    Raises:
        ConfigError: one is missing or there twice.
        MismatchError: one is of another run.
    """
    first = jobs[0]
    by_number: dict[int, Job] = {}
    for job in jobs:
        if job.count != first.count:
            raise MismatchError(
                f"{job.where} is of an array of {job.count} jobs, but {first.where} of {first.count}; give those of one"
                " array"
            )
        if differing := differences(first.run, job.run):
            said = [re.sub(r"^settings\.(\w+)", lambda name: flag_name(name[1]), line) for line in differing]
            raise MismatchError(
                f"{job.where} is of another run than {first.where}: {'; '.join(said[:_MOST_NAMED])}; run this job"
                " again as the others"
            )
        if (twin := by_number.get(job.number)) is not None:
            raise ConfigError(f"job {job.number} of {job.count} is there twice: {twin.where} and {job.where}; give one")
        by_number[job.number] = job
    missing = [number for number in range(first.count) if number not in by_number]
    if missing:
        named = ", ".join(map(str, missing[:_MOST_NAMED])) + (", …" if len(missing) > _MOST_NAMED else "")
        what = f"job {named} of {first.count} is" if len(missing) == 1 else f"jobs {named} of {first.count} are"
        raise ConfigError(
            f"{what} missing; give what each has written, or run it again: {command_of(missing[0], first.command)}"
        )


def command_of(number: int, command: Sequence[str]) -> str:
    """Returns the command of another job of the same array."""
    words, skip = [], False
    for word in command:
        name, equals, _ = word.partition("=")
        is_number = not skip and name.replace("_", "-") == "--shard-id"
        if not is_number and not skip:
            words.append(word)
        skip = is_number and not equals
    return shlex.join([*words, "--shard-id", str(number)])


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Returns what is not the same in two nested records, in words."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        names = dict.fromkeys([*one, *other])
        inner: Iterable[list[str]] = (
            differences(one.get(key), other.get(key), f"{name}.{key}" if name else key) for key in names
        )
        return [line for lines in inner for line in lines]
    return [] if one == other else [f"{name} is {shown(other)}, not {shown(one)}"]
