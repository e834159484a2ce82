"""The results of an array's jobs as one: what one process would have found, to the bit.

eval_valid.shard-0-of-4.json … eval_valid.shard-3-of-4.json  →  eval_valid.json
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fairseq.config.flags import resolve
from fairseq.errors import ConfigError, DatastoreError
from fairseq.evaluate.config import times_path
from fairseq.evaluate.result import EvaluationResult, PartialResult, total
from fairseq.knn.config import KNNConfig
from fairseq.knn.join.jobs import Job, check_jobs, run_of_result
from fairseq.knn.neighbours.tally import Tally
from fairseq.knn.weight.apply import skipped_line
from fairseq.storage.files import is_stream, write_json
from fairseq.storage.marks import RESULTS, TIMES, json_at
from fairseq.storage.outputs import claim, reads, same_command
from fairseq.storage.records import parse

logger = logging.getLogger(__name__)

_SHARD = r"eval_.+\.shard-\d+-of-\d+\.json"


@dataclass(frozen=True)
class ShardResult:
    """The result of one job.

    Attributes:
        job: which one, and of which run.
        found: its sums.
        record: all that it says, as ``--results-path`` has it.
        speed: what took how long; empty where that is not known.
    """

    job: Job
    found: PartialResult
    record: Mapping[str, Any]
    speed: Mapping[str, float]

    @classmethod
    def of(
        cls, record: Mapping[str, Any], where: str, command: Sequence[str], speed: Mapping[str, float]
    ) -> "ShardResult":
        """Returns the result that a record holds.

        Raises:
            ConfigError: it is that of a whole split.
            DatastoreError: it is not sound.
        """
        if "shard" not in record:
            raise ConfigError(
                f"{where} is the result of a whole split, and there is nothing to join; give those of"
                " fairseq-eval-lm --num-shards"
            )
        shard = json.dumps(record["shard"])
        found = parse(shard, PartialResult, f"{where}: shard", DatastoreError, "run its job again")
        return cls(Job(found.number, found.count, where, command, run_of_result(record)), found, record, speed)


@dataclass(frozen=True)
class JoinedResult:
    """The result of all jobs.

    Attributes:
        found: the sums.
        record: as one process's ``--results-path`` has it.
        lines: what one process prints.
        speed: seconds of all jobs together, where they are known.
    """

    found: PartialResult
    record: dict[str, Any]
    lines: list[str]
    speed: dict[str, float]


def joined(shards: Sequence[ShardResult]) -> JoinedResult:
    """Returns the result of all jobs; warns of what it hides.

    Raises:
        ConfigError: one is missing or there twice.
        MismatchError: one is of another run.
        DatastoreError: what a job has counted is not sound.
    """
    check_jobs([shard.job for shard in shards])
    shards = sorted(shards, key=lambda shard: shard.job.number)
    record = dict(shards[0].record)
    seconds = [shard.speed["seconds"] for shard in shards if "seconds" in shard.speed]
    elapsed_s = sum(seconds) if len(seconds) == len(shards) else None
    result = EvaluationResult(total(shard.found for shard in shards), record["tokens_left_out"], elapsed_s)
    for line in result.warnings:
        logger.warning("%s", line)
    lines = [result.summary]
    if record["dtype"] != "float32":
        lines.append(f"Computed in {record['dtype']}")
    if result.lm is not None:
        lines.append(result.lm_line)
    found, more = _neighbours(record, result.found)
    if result.lm is not None and result.is_worse_than_lm:
        knn, is_fitted = resolve(KNNConfig, record["settings"]), record["settings"].get("lmbda_model") is not None
        logger.warning("%s; %s", result.worse_line, knn.what_to_choose(is_fitted=is_fitted))
    settings = {**record["settings"], "num_shards": 1, "shard_id": 0, "results_path": None}
    del record["shard"]
    record |= {**result.record(), **found, "settings": settings}
    return JoinedResult(result.found, record, [*lines, *more], result.speed())


def _neighbours(record: Mapping[str, Any], found: PartialResult) -> tuple[dict[str, Any], list[str]]:
    """Returns what the result says of neighbours, and the lines for people."""
    if not found.memories:
        return {}, []
    try:
        k, tally = int(record["neighbours"]["k"]), Tally.of(found.memories)
    except (msgspec.ValidationError, KeyError, TypeError) as err:
        raise DatastoreError(f"what the jobs have counted of neighbours is not sound ({err}); run them again") from err
    said: dict[str, Any] = {"neighbours": tally.record(k)}
    lines = [tally.line(k)]
    if isinstance(skipped := found.memories.get("skipped"), int):
        said |= {"searches": tally.searches, "searches_skipped": skipped}
        lines.append(skipped_line(skipped, tally.searches + skipped))
    return said, lines


def join_results(paths: Sequence[Path], results_path: str | None, *, overwrite: bool) -> str:
    """Joins the results of jobs, writes the whole one where that is asked for, and returns what to print.

    Args:
        paths: their files.
        results_path: file or directory, if any.
        overwrite: replace what another command has written there.
    """
    shards = [_read(path) for path in paths]
    reads(*paths)
    command = ["fairseq-knnlm", "join", *map(str, paths)]
    target = None
    if results_path is not None:
        command += ["--results-path", results_path]
        target = Path(results_path)
        if target.suffix != ".json" and not is_stream(target):
            target /= f"eval_{shards[0].record['settings']['gen_subset']}.json"
        repeated = same_command(command, json_at(target).get("command"))
        claim("--results-path", target, RESULTS, overwrite=overwrite or repeated)
        if not is_stream(target):
            claim("--results-path", times_path(target), TIMES)  # they go with the results
    whole = joined(shards)
    if target is not None:
        settings = {**whole.record["settings"], "results_path": results_path}
        write_json(target, {**whole.record, "settings": settings, "command": command})
        if whole.speed and not is_stream(target):
            write_json(times_path(target), {"kind": "times", **whole.speed})
    return "\n".join(whole.lines)


def results_in(directory: Path) -> list[Path]:
    """Returns the results of jobs in a directory."""
    return sorted(path for path in directory.glob("eval_*.json") if re.fullmatch(_SHARD, path.name))


def _read(path: Path) -> ShardResult:
    """Returns the result in a file.

    Raises:
        ConfigError: it is none of a job.
        DatastoreError: it is not sound.
    """
    record = json_at(path)
    if not RESULTS.is_ours(path) or not isinstance(record.get("settings"), dict):
        raise ConfigError(f"{path} is not the result of a job; give those of fairseq-eval-lm --num-shards")
    times = json_at(times_path(path))
    speed = {name: times[name] for name in ("seconds",) if isinstance(times.get(name), (int, float))}
    command = record.get("command")
    return ShardResult.of(record, str(path), command if isinstance(command, list) else [], speed)
