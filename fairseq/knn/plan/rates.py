"""The rates that a plan divides by: measured on this machine, or read from a file.

    fairseq-knnlm plan … --save-rates node.json        on a machine of the cluster
    fairseq-knnlm plan … --rates node.json             anywhere

Rates of the index hold for one key width and one code; a plan of others refuses them.
"""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from fairseq.errors import ConfigError
from fairseq.knn.plan.work import Work
from fairseq.storage.marks import json_kind
from fairseq.storage.records import Positive, Record, read_record

Rate = Annotated[float, Meta(gt=0)]
RATES = json_kind("rates of fairseq-knnlm plan", "rates")


class Rates(Record, frozen=True, kw_only=True):
    """What a machine does in a second, as measured.

    Attributes:
        machine: its name, for people.
        dimension: key width that the rates of the index hold for.
        code_bytes: code that they hold for.
        disk_write: bytes written in order, and flushed.
        disk_read: bytes read in order, not from the page cache.
        disk_seek: pieces of one key read from random places, not from the page cache.
        train_operations: operations of training lists, in the unit of ``Work.train_operations``.
        train_codes_s: seconds of training the product codes, whose work has one size.
        add_operations: operations of finding rows' lists, in the unit of ``Work.add_operations``.
        add_rows: rows that are encoded and put into their lists.
        coarse_operations: operations of finding a query's lists.
        visited_rows: codes that FAISS's search goes over.
        visited_rows_by_list: codes and keys that a search list by list goes over, for many queries at once.
        read_rows: exact distances to single keys in memory.
        voted_rows: neighbours whose votes are counted.
        base_bytes: memory of the process before it has any data.
        memory: bytes that the machine has.
        disk: bytes that were free on the disk.
        model_bytes: memory of the process that turns text into rows, where a model was measured.
        model_tokens: tokens of the text that the model turns into rows, if that is known.
    """

    machine: str
    dimension: Positive
    code_bytes: Positive
    disk_write: Rate
    disk_read: Rate
    disk_seek: Rate
    train_operations: Rate
    train_codes_s: Rate
    add_operations: Rate
    add_rows: Rate
    coarse_operations: Rate
    visited_rows: Rate
    visited_rows_by_list: Rate
    read_rows: Rate
    voted_rows: Rate
    base_bytes: Rate
    memory: Rate
    disk: Rate
    model_bytes: Rate | UnsetType = UNSET
    model_tokens: Rate | UnsetType = UNSET
    kind: Literal["rates"] = "rates"
    version: Literal[1] = 1


def read_rates(path: str | Path, work: Work) -> Rates:
    """Returns the rates in a file.

    Raises:
        ConfigError: there are none, or they hold for another width or code.
    """
    try:
        rates = read_record(Path(path), Rates, ConfigError, "measure them again with --save-rates")
    except FileNotFoundError as err:
        raise ConfigError(f"--rates: {path} is not there; write it with --save-rates, or leave the flag out") from err
    for what, flag, own, asked in (
        ("keys of width {}", "--dim", rates.dimension, work.dimension),
        ("codes of {} bytes", "--code-size", rates.code_bytes, work.code_bytes),
    ):
        if own != asked:
            raise ConfigError(
                f"--rates: {path} was measured for {what.format(own)}, but {flag} is {asked}; measure again with"
                " --save-rates"
            )
    return rates
