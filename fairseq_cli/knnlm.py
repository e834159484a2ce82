"""``fairseq-knnlm``: look after a kNN-LM: check, describe, adopt, measure, convert, sweep and fit its files."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fairseq import __version__
from fairseq.checkpoints.config import ConvertConfig
from fairseq.config.command_line import parse
from fairseq.config.common import CommonConfig, DeviceConfig
from fairseq.config.registry import load
from fairseq.errors import ConfigError, did_you_mean
from fairseq.knn.datastore.config import TextsConfig
from fairseq.knn.inspect.config import CheckConfig, InfoConfig, QueriesConfig, RecallConfig, RowsConfig
from fairseq.knn.maintain.config import AdoptConfig, ForgetConfig, OriginConfig
from fairseq.knn.report.config import ReportConfig
from fairseq.knn.sweep.config import CacheSweepConfig, SweepConfig
from fairseq.knn.weight.config import FitLmbdaConfig
from fairseq_cli.run import run

PROG = "fairseq-knnlm"


@dataclass(frozen=True)
class Subcommand:
    """A subcommand: what it does, what its flags are, and which function does it.

    Attributes:
        summary: a sentence for ``--help``.
        function: ``"module:function"``, imported when the subcommand runs. It returns text to print, a section of a
            retrieval's results to keep, or nothing.
        configs: what it is called with: config dataclasses, whose fields are the flags, besides those of every command.
        more: what it is called with after them: ``seed``; ``show``, which prints a line at once.
    """

    summary: str
    function: str
    configs: tuple[type, ...]
    more: tuple[str, ...] = ()


SUBCOMMANDS = {
    "check": Subcommand(
        "Check data, checkpoint, datastore and index: each alone, and that they belong together.",
        "fairseq.knn.inspect.check:check_all",
        (CheckConfig,),
        ("show",),
    ),
    "info": Subcommand(
        "Say what files are, and how far unfinished ones have come.",
        "fairseq.knn.inspect.info:describe_all",
        (InfoConfig,),
        ("show",),
    ),
    "adopt": Subcommand(
        "Make the datastore of another tool one of ours: checked, mended where that can be done, with a manifest.",
        "fairseq.knn.maintain.adopt:adopt_datastore",
        (AdoptConfig, OriginConfig, DeviceConfig),
    ),
    "recall": Subcommand(
        "Measure indexes of a datastore: bytes, seconds, recall, queries per second, and the loss they lead to.",
        "fairseq.knn.inspect.recall:run_recall",
        (RecallConfig, QueriesConfig, DeviceConfig),
        ("seed",),
    ),
    "convert": Subcommand(
        "Convert the weights of a checkpoint to safetensors, or back to a checkpoint.",
        "fairseq.checkpoints.safetensors:convert",
        (ConvertConfig,),
    ),
    "report": Subcommand(
        "Show a saved retrieval as one HTML page: the text by gain and harm, and every token's neighbours.",
        "fairseq.knn.report.build:write_report",
        (ReportConfig,),
    ),
    "sweep": Subcommand(
        "Find the best λ, k and temperature of a saved retrieval: every setting, exactly, in one pass.",
        "fairseq.knn.sweep.command:run_sweep",
        (SweepConfig,),
        ("seed", "show"),
    ),
    "sweep-cache": Subcommand(
        "Find the best weights of neighbours and continuous cache in a saved retrieval that has both.",
        "fairseq.knn.sweep.command:run_sweep",
        (CacheSweepConfig,),
        ("seed", "show"),
    ),
    "fit-lmbda": Subcommand(
        "Fit λ to a saved retrieval, a weight of each token's own, and which searches may be skipped.",
        "fairseq.knn.weight.report:run_fit",
        (FitLmbdaConfig,),
        ("seed", "show"),
    ),
    "rows": Subcommand(
        "Say which document, line and words rows of a datastore come from, and which rows a document has.",
        "fairseq.knn.inspect.rows:show_rows",
        (RowsConfig, TextsConfig),
        ("show",),
    ),
    "forget": Subcommand(
        "Forget a document, a source or rows of a datastore: no search finds them; --compact makes files without them.",
        "fairseq.knn.maintain.forget:forget",
        (ForgetConfig, TextsConfig),
        ("show",),
    ),
}


def main(argv: Sequence[str]) -> None:
    """Runs the subcommand that the first word names."""
    name = argv[0] if argv else ""
    if name in ("-h", "--help"):
        show(help_text())
        sys.exit(0)
    if name == "--version":
        show(f"{PROG} {__version__}")
        sys.exit(0)
    if name not in SUBCOMMANDS:
        given = f"but is {name!r}" if name else "but is missing"
        raise ConfigError(
            f"the subcommand must be one of {', '.join(SUBCOMMANDS)}, {given}{did_you_mean(name, SUBCOMMANDS)}"
            f" (see {PROG} --help)"
        )
    start, subcommand = time.monotonic(), SUBCOMMANDS[name]
    flags = parse(f"{PROG} {name}", subcommand.summary, (*subcommand.configs, CommonConfig), argv[1:])
    configs: list[Any] = [flags.build(config) for config in subcommand.configs]
    more = {"seed": flags.build(CommonConfig).seed, "show": show}
    flags.warn_unused()
    found = load(subcommand.function)(*configs, *(more[argument] for argument in subcommand.more))
    if isinstance(found, str):
        show(found)
    elif found is not None:
        from fairseq.knn.retrieval.results import keep

        keep(found, [PROG, *argv], {"seconds": round(time.monotonic() - start, 3)})


def show(text: object) -> None:
    """Prints text at once."""
    print(text, flush=True)  # noqa: T201


def help_text() -> str:
    """Returns what ``--help`` prints without a subcommand."""
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:<{width}}  {subcommand.summary}" for name, subcommand in SUBCOMMANDS.items()]
    usage = f"usage: {PROG} SUBCOMMAND [FLAGS]\n\nLook after the files of a kNN-LM.\n\nsubcommands:\n"
    return usage + "\n".join(lines) + f"\n\n{PROG} SUBCOMMAND --help lists a subcommand's flags."


def cli_main() -> None:
    """Entry point of the console script."""
    sys.exit(run(PROG, main))


if __name__ == "__main__":
    cli_main()
