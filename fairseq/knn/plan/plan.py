"""``fairseq-knnlm plan``: rates are measured or read, and the stages printed."""

import logging
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from fairseq.config.common import DeviceConfig
from fairseq.errors import ConfigError
from fairseq.knn.distributed.two_phases import first_asked
from fairseq.knn.index.lists import POINTS_PER_CENTROID
from fairseq.knn.plan.config import PlanConfig
from fairseq.knn.plan.measure import measure_rates, peak_bytes
from fairseq.knn.plan.model_rate import measure_model
from fairseq.knn.plan.rates import RATES, Rates, read_rates
from fairseq.knn.plan.stages import Machine, Stage, machines_needed, stages
from fairseq.knn.plan.work import Work
from fairseq.runtime.resources import GIB
from fairseq.storage.outputs import claim, claim_directory
from fairseq.storage.records import write_record

logger = logging.getLogger(__name__)


def run_plan(config: PlanConfig, device: DeviceConfig) -> str:
    """Returns the plan as text.

    Raises:
        ConfigError: rates of another width, or a model of another width.
    """
    if config.save_rates is not None:
        claim("--save-rates", config.save_rates, RATES, overwrite=config.overwrite)
    claim_directory("--work", config.work)
    base_bytes = peak_bytes()
    dimension, model = config.dim, {} if config.tokens_per_s is None else {"model_tokens": config.tokens_per_s}
    if config.path is not None:
        width, model_tokens = measure_model(config, device)
        model = {"model_tokens": model_tokens, "model_bytes": peak_bytes()}
        if dimension not in (None, width):
            raise ConfigError(f"--dim {dimension} is not the width of this model's keys, {width}; leave --dim out")
        dimension = width
    assert dimension is not None and config.tokens is not None
    if dimension % config.code_size:
        raise ConfigError(f"--code-size {config.code_size} must divide the key width {dimension}; give another")
    work = Work(
        rows=int(config.tokens),
        dimension=dimension,
        key_bytes=2 if config.dstore_fp16 else 4,
        lists=config.ncentroids,
        code_bytes=config.code_size,
        sample=config.train_sample,
        k=config.k,
        probe=config.probe,
    )
    if config.rates is not None:
        rates = read_rates(config.rates, work)
    else:
        rates = measure_rates(work, Path(config.work), base_bytes)
    rates = rates.replace(**model)
    if config.save_rates is not None:
        write_record(Path(config.save_rates), rates)
    machine = Machine(
        memory=config.memory_gib * GIB if config.memory_gib is not None else rates.memory,
        disk=config.disk_gib * GIB if config.disk_gib is not None else rates.disk,
        network=config.network_gbit * 1e9 / 8,
    )
    return "\n".join(lines(config, work, rates, machine))


def lines(config: PlanConfig, work: Work, rates: Rates, machine: Machine) -> list[str]:
    """Returns the lines of a plan."""
    needed, why = machines_needed(work, machine, mapped=config.map_index)
    machines = config.machines or needed
    made = stages(work, rates, machine, machines, config.queries, mapped=config.map_index)
    number = "float16" if work.key_bytes == 2 else "float32"
    told = [
        f"{work.rows:,} rows of width {work.dimension:,} in {number}, {work.lists:,} lists, codes of {work.code_bytes}"
        f" bytes; {config.queries:,} queries, k {work.k:,}, {work.probe} lists visited",
        f"keys {shown(work.keys)}, values {shown(work.values)}, index {shown(work.index)}",
        f"rates of {rates.machine}",
        "",
        *table(made),
        "",
        f"machines: {machines} of {shown(machine.memory)} memory and {shown(machine.disk)} disk"
        + (f"; {needed} would hold it ({why})" if machines != needed else f" ({why})"),
    ]
    if machines > 1:
        told.append(
            f"network: {work.wire_bytes(machines):,.0f} bytes a query with {machines} shards; each answers"
            f" {4 * first_asked(work.k, machines):,} bytes, then 32"
        )
    return told + warnings(work, made, machine, machines, needed, mapped=config.map_index)


def warnings(
    work: Work, made: Sequence[Stage], machine: Machine, machines: int, needed: int, *, mapped: bool
) -> list[str]:
    """Returns what breaks first, a line each."""
    found = []
    if machines < needed:
        found.append(f"{machines} machines do not hold it: {needed} would; give --machines {needed}")
    wanted = POINTS_PER_CENTROID * work.lists
    if work.trained_on < wanted:
        more = "raise --train-sample, or " if work.sample < work.rows else ""
        found.append(
            f"{work.lists:,} lists want {wanted:,} rows to train on, but there are {work.trained_on:,};"
            f" {more}lower --ncentroids"
        )
    if work.rows_visited < work.k:
        more = "raise --probe" if work.probe < work.lists and work.rows > work.k else "lower --k"
        found.append(f"the lists that a search visits hold about {work.rows_visited:,.0f} rows, fewer than k; {more}")
    if made[-1].bound == "choosing lists" and machines > 1:
        found.append("a search spends most of its time choosing lists, which more machines do not shorten")
    for stage in made:
        if stage.memory > machine.memory:
            more = " (--map-index leaves it on the disk)" if not mapped and stage.name == "search" else ""
            found.append(f"{stage.name}: {shown(stage.memory)} of memory are more than a machine has{more}")
    return [f"note: {line}" for line in found]


def table(made: Sequence[Stage]) -> list[str]:
    """Returns the table of the stages, aligned."""
    rows = [("stage", "machines", "disk each", "memory each", "time", "most of it")]
    for stage in made:
        time = "unknown" if stage.seconds is None else shown_time(stage.seconds)
        disk = shown(stage.disk) if stage.disk else "–"
        rows.append((stage.name, f"{stage.machines:,}", disk, shown(stage.memory), time, stage.bound))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def shown(count: float) -> str:
    """Returns bytes as people read them."""
    for unit, name in ((2**50, "PiB"), (2**40, "TiB"), (2**30, "GiB")):
        if count >= unit:
            return f"{count / unit:,.2f} {name}"
    return f"{count / 2**20:.1f} MiB"


def shown_time(seconds: float) -> str:
    """Returns seconds as people read them: ``12.3 s``, ``1:02:03``, ``3 days, 4:05:06``, ``120 days``."""
    days, rest = divmod(seconds, 86400)
    if days >= 100:
        return f"{days:,.0f} days"
    return f"{seconds:.1f} s" if seconds < 100 else str(timedelta(days=days, seconds=round(rest)))
