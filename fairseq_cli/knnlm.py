"""``fairseq-knnlm``: look after a kNN-LM: check, describe, adopt, measure, convert, sweep and fit its files."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fairseq import __version__
from fairseq.checkpoints.config import ConvertConfig
from fairseq.config.command_line import parse
from fairseq.config.common import CommonConfig, DeviceConfig
from fairseq.config.flags import Flags, flag_name
from fairseq.errors import ConfigError, did_you_mean
from fairseq.knn.datastore.config import TextsConfig
from fairseq.knn.inspect.config import CheckConfig, InfoConfig, QueriesConfig, RecallConfig, RowsConfig
from fairseq.knn.maintain.config import AdoptConfig, ForgetConfig, OriginConfig
from fairseq.knn.report.config import ReportConfig
from fairseq.knn.sweep.config import CacheSweepConfig, SweepConfig
from fairseq.knn.weight.config import FitLmbdaConfig
from fairseq.runtime.log import logger
from fairseq_cli.run import run

if TYPE_CHECKING:
    from fairseq.knn.retrieval.results import Kept

PROG = "fairseq-knnlm"


@dataclass(frozen=True)
class Subcommand:
    """A subcommand: what it does, the configs that its flags come from, and the function that takes its flags.

    The function returns what a retrieval's results are to keep, if there is anything.
    """

    summary: str
    configs: tuple[type, ...]
    main: Callable[[Flags], "Kept | None"]


def check(flags: Flags) -> None:
    """Checks data, checkpoint, datastore and index, each alone and together."""
    config = flags.build(CheckConfig)
    flags.build(CommonConfig)
    flags.warn_unused()

    from fairseq.knn.inspect.check import check_all

    check_all(config, lambda finding: print(finding, flush=True))  # noqa: T201


def info(flags: Flags) -> None:
    """Prints what files are; goes on after one that is unknown, and fails in the end."""
    config = flags.build(InfoConfig)
    flags.build(CommonConfig)
    flags.warn_unused()

    from fairseq.knn.inspect.info import describe_all

    describe_all(config.files, lambda line: print(line, flush=True))  # noqa: T201


def adopt(flags: Flags) -> None:
    """Makes the datastore of another tool one of ours."""
    config, origin = flags.build(AdoptConfig), flags.build(OriginConfig)
    device = flags.build(DeviceConfig)
    flags.build(CommonConfig)
    flags.warn_unused()

    from fairseq.knn.maintain.adopt import adopt_datastore

    print(adopt_datastore(config, origin, device))  # noqa: T201


def convert(flags: Flags) -> None:
    """Converts weights to safetensors, or back."""
    config = flags.build(ConvertConfig)
    flags.build(CommonConfig)
    flags.warn_unused()

    from fairseq.checkpoints.safetensors import convert as convert_weights

    print(convert_weights(config))  # noqa: T201


def report(flags: Flags) -> None:
    """Writes the page of a saved retrieval."""
    config = flags.build(ReportConfig)
    flags.build(CommonConfig)
    flags.warn_unused()

    from fairseq.knn.report.build import write_report

    print(write_report(config))  # noqa: T201


def sweep(flags: Flags) -> "Kept":
    """Finds the best λ, k and temperature of a saved retrieval."""
    config, common = flags.build(SweepConfig), flags.build(CommonConfig)
    flags.warn_unused()

    from fairseq.knn.sweep.command import run_sweep

    return run_sweep(config, common.seed, lambda text: print(text, flush=True))  # noqa: T201


def recall(flags: Flags) -> None:
    """Measures indexes of a datastore, and prints a table."""
    config, text, device = flags.build(RecallConfig), flags.build(QueriesConfig), flags.build(DeviceConfig)
    common = flags.build(CommonConfig)
    flags.warn_unused()

    from fairseq.knn.datastore.store import Datastore
    from fairseq.knn.inspect.queries import text_queries
    from fairseq.knn.inspect.recall import lines, measure, own_rows, write_table

    store = Datastore.open(
        config.dstore_filename, rows=config.dstore_size, dimension=config.dimension, key_fp16=config.dstore_fp16
    )
    if text.path is None:
        queries = own_rows(store, config.sample)
        for name in ("gen_subset", "context_window", "sample_break_mode", "model_overrides", "lmbda", "knn_temp"):
            if name in flags.typed:
                logger.warning("%s has no effect: without DATA and --path there is no loss", flag_name(name))
    else:
        queries = text_queries(text, config, store, device)

    rows = list(measure(store, queries, config, common.seed))
    print("\n".join([f"{len(queries.vectors_ND)} queries: {queries.source}; k {config.k}", *lines(rows)]))  # noqa: T201
    if config.json is not None:
        write_table(config.json, rows, queries, [config, text])


def sweep_cache(flags: Flags) -> "Kept":
    """Finds the best weights of neighbours and cache in a saved retrieval."""
    config, common = flags.build(CacheSweepConfig), flags.build(CommonConfig)
    flags.warn_unused()

    from fairseq.knn.sweep.command import run_sweep

    return run_sweep(config, common.seed, lambda text: print(text, flush=True))  # noqa: T201


def fit_lmbda(flags: Flags) -> "Kept":
    """Fits a weight of each token's own to a saved retrieval."""
    config, common = flags.build(FitLmbdaConfig), flags.build(CommonConfig)
    flags.warn_unused()

    from fairseq.knn.weight.report import run_fit

    return run_fit(config, common.seed, lambda text: print(text, flush=True))  # noqa: T201


def rows(flags: Flags) -> None:
    """Shows where rows of a datastore come from."""
    config, texts = flags.build(RowsConfig), flags.build(TextsConfig)
    flags.build(CommonConfig)
    flags.warn_unused()

    from fairseq.knn.inspect.rows import show_rows

    show_rows(config, texts, lambda text: print(text, flush=True))  # noqa: T201


def forget(flags: Flags) -> None:
    """Forgets rows of a datastore."""
    config, texts = flags.build(ForgetConfig), flags.build(TextsConfig)
    flags.build(CommonConfig)
    flags.warn_unused()

    from fairseq.knn.maintain.forget import forget as forget_rows

    forget_rows(config, texts, lambda text: print(text, flush=True))  # noqa: T201


SUBCOMMANDS: Mapping[str, Subcommand] = {
    "check": Subcommand(
        "Check data, checkpoint, datastore and index: each alone, and that they belong together.",
        (CheckConfig, CommonConfig),
        check,
    ),
    "info": Subcommand("Say what files are, and how far unfinished ones have come.", (InfoConfig, CommonConfig), info),
    "adopt": Subcommand(
        "Make the datastore of another tool one of ours: checked, mended where that can be done, with a manifest.",
        (AdoptConfig, OriginConfig, DeviceConfig, CommonConfig),
        adopt,
    ),
    "recall": Subcommand(
        "Measure indexes of a datastore: bytes, seconds, recall, queries per second, and the loss they lead to.",
        (RecallConfig, QueriesConfig, DeviceConfig, CommonConfig),
        recall,
    ),
    "convert": Subcommand(
        "Convert the weights of a checkpoint to safetensors, or back to a checkpoint.",
        (ConvertConfig, CommonConfig),
        convert,
    ),
    "report": Subcommand(
        "Show a saved retrieval as one HTML page: the text by gain and harm, and every token's neighbours.",
        (ReportConfig, CommonConfig),
        report,
    ),
    "sweep": Subcommand(
        "Find the best λ, k and temperature of a saved retrieval: every setting, exactly, in one pass.",
        (SweepConfig, CommonConfig),
        sweep,
    ),
    "sweep-cache": Subcommand(
        "Find the best weights of neighbours and continuous cache in a saved retrieval that has both.",
        (CacheSweepConfig, CommonConfig),
        sweep_cache,
    ),
    "fit-lmbda": Subcommand(
        "Fit λ to a saved retrieval, a weight of each token's own, and which searches may be skipped.",
        (FitLmbdaConfig, CommonConfig),
        fit_lmbda,
    ),
    "rows": Subcommand(
        "Say which document, line and words rows of a datastore come from, and which rows a document has.",
        (RowsConfig, TextsConfig, CommonConfig),
        rows,
    ),
    "forget": Subcommand(
        "Forget a document, a source or rows of a datastore: no search finds them; --compact makes files without them.",
        (ForgetConfig, TextsConfig, CommonConfig),
        forget,
    ),
}


def main(argv: Sequence[str]) -> None:
    """Hands the flags to the subcommand that the first word names."""
    name = argv[0] if argv else ""
    if name in ("-h", "--help"):
        print(help_text())  # noqa: T201
        sys.exit(0)
    if name == "--version":
        print(f"{PROG} {__version__}")  # noqa: T201
        sys.exit(0)
    if name not in SUBCOMMANDS:
        given = f"but is {name!r}" if name else "but is missing"
        raise ConfigError(
            f"the subcommand must be one of {', '.join(SUBCOMMANDS)}, {given}{did_you_mean(name, SUBCOMMANDS)}"
            f" (see {PROG} --help)"
        )
    subcommand = SUBCOMMANDS[name]
    start = time.monotonic()
    found = subcommand.main(parse(f"{PROG} {name}", subcommand.summary, subcommand.configs, argv[1:]))
    if found is not None:
        from fairseq.knn.retrieval.results import keep

        keep(found, [PROG, *argv], {"seconds": round(time.monotonic() - start, 3)})


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
