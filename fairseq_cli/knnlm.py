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
from fairseq.knn.export.config import ExportConfig
from fairseq.knn.inspect.config import CheckConfig, InfoConfig, QueriesConfig, RecallConfig, RowsConfig
from fairseq.knn.join.config import JoinConfig
from fairseq.knn.maintain.config import AdoptConfig, ForgetConfig, OriginConfig
from fairseq.knn.plan.config import PlanConfig
from fairseq.knn.report.config import ReportConfig
from fairseq.knn.sweep.config import CacheSweepConfig, SweepConfig
from fairseq.knn.weight.config import FitLmbdaConfig
from fairseq_cli.shared.commands import command_for
from fairseq_cli.shared.run import run

PROG = "fairseq-knnlm"
DESCRIPTION = "Check, describe, measure, change and evaluate the files of a kNN-LM."


@dataclass(frozen=True)
class Subcommand:
    """A subcommand: what it does, what its flags are, and which function does it.

    Attributes:
        summary: a sentence for ``--help``.
        function: ``"module:function"``, imported when the subcommand runs. It returns text to print, a section of a
            retrieval's results to keep, or nothing.
        configs: what it is called with: config dataclasses, whose fields are the flags, besides those of every command.
        more: what it is called with after them: ``seed``; ``show``, which prints a line at once.
        examples: command lines for ``--help``.
    """

    summary: str
    function: str
    configs: tuple[type, ...]
    more: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


SUBCOMMANDS = {
    "check": Subcommand(
        "Check data, checkpoint, datastore and index: each by itself, and that they belong together.",
        "fairseq.knn.inspect.check:check_all",
        (CheckConfig,),
        ("show",),
        examples=(
            """fairseq-knnlm check data-bin --path checkpoints/checkpoint_best.pt \\
    --dstore-filename checkpoints/dstore --indexfile checkpoints/knn.index""",
            """fairseq-knnlm check retrieval/valid""",
        ),
    ),
    "info": Subcommand(
        "Say what files are, what a directory holds, and how far unfinished work has come.",
        "fairseq.knn.inspect.info:describe_all",
        (InfoConfig,),
        ("show",),
        examples=(
            """fairseq-knnlm info checkpoints data-bin retrieval/valid""",
            """fairseq-knnlm info checkpoints/dstore checkpoints/knn.index""",
        ),
    ),
    "adopt": Subcommand(
        "Take over a datastore of another tool: check it, mend it where possible, write a manifest.",
        "fairseq.knn.maintain.adopt:adopt_datastore",
        (AdoptConfig, OriginConfig, DeviceConfig),
        examples=(
            """fairseq-knnlm adopt other/dstore_gpt2_103225485_1024 --dstore-mmap checkpoints/dstore""",
            """# values compared with the text, and keys with the model
fairseq-knnlm adopt other/dstore --dstore-mmap checkpoints/dstore --dimension 1024 \\
    --data data-bin --path checkpoints/checkpoint_best.pt --context-window 1536""",
        ),
    ),
    "recall": Subcommand(
        "Measure indexes of a datastore: size, time, recall, queries per second, and the loss with them.",
        "fairseq.knn.inspect.recall:run_recall",
        (RecallConfig, QueriesConfig, DeviceConfig),
        ("seed",),
        examples=(
            """fairseq-knnlm recall --dstore-filename checkpoints/dstore --indexfile checkpoints/knn.index""",
            """# which index to build, measured on queries from valid
fairseq-knnlm recall data-bin --path checkpoints/checkpoint_best.pt \\
    --dstore-filename checkpoints/dstore --index-spec 'IVF1024,SQ8;IVF1024,PQ32' --probe 8,32""",
        ),
    ),
    "join": Subcommand(
        "Put together what the jobs of an array have written: results, retrievals, datastores.",
        "fairseq.knn.join.command:join",
        (JoinConfig,),
        examples=(
            """fairseq-knnlm join results/eval_valid.shard-0-of-2.json results/eval_valid.shard-1-of-2.json""",
            """fairseq-knnlm join retrieval/valid""",
            """fairseq-knnlm join node1/dstore node2/dstore --dstore-mmap checkpoints/dstore""",
        ),
    ),
    "convert": Subcommand(
        "Convert the weights of a checkpoint to safetensors, or back; or a model as GGUF to a Hugging Face directory.",
        "fairseq.checkpoints.safetensors:convert",
        (ConvertConfig,),
        examples=(
            """fairseq-knnlm convert checkpoints/checkpoint_best.pt model.safetensors""",
            """fairseq-knnlm convert model.safetensors model.pt""",
            """fairseq-knnlm convert model.Q4_1.gguf model-dir""",
        ),
    ),
    "report": Subcommand(
        "Write an HTML page of a saved retrieval: where neighbours help and harm, and every token's neighbours.",
        "fairseq.knn.report.build:write_report",
        (ReportConfig,),
        examples=(
            """fairseq-knnlm report retrieval/valid""",
            """fairseq-knnlm report retrieval/valid --lmbda 0.3 --k 64 --out page.html""",
        ),
    ),
    "sweep": Subcommand(
        "Find the best λ, k and temperature for a saved retrieval: every setting, exactly, in one pass.",
        "fairseq.knn.sweep.command:run_sweep",
        (SweepConfig,),
        ("seed", "show"),
        examples=(
            """fairseq-knnlm sweep retrieval/valid --apply retrieval/test""",
            """fairseq-knnlm sweep retrieval/valid --lmbda 0:1:0.05 --k 1,8,64,1024 --knn-temp auto,1""",
        ),
    ),
    "sweep-cache": Subcommand(
        "Find the best weights of neighbours and continuous cache, for a saved retrieval that has both.",
        "fairseq.knn.sweep.command:run_sweep",
        (CacheSweepConfig,),
        ("seed", "show"),
        examples=("""fairseq-knnlm sweep-cache with-cache/valid --apply with-cache/test""",),
    ),
    "fit-lmbda": Subcommand(
        "Fit a weight λ for each token to a saved retrieval, and which searches may be skipped.",
        "fairseq.knn.weight.report:run_fit",
        (FitLmbdaConfig,),
        ("seed", "show"),
        examples=("""fairseq-knnlm fit-lmbda retrieval/valid --out lmbda.json --apply retrieval/test""",),
    ),
    "rows": Subcommand(
        "Show which document, line and words the rows of a datastore come from; list its documents.",
        "fairseq.knn.inspect.rows:show_rows",
        (RowsConfig, TextsConfig),
        ("show",),
        examples=(
            """fairseq-knnlm rows checkpoints/dstore 12345 100:120""",
            """fairseq-knnlm rows checkpoints/dstore --documents""",
        ),
    ),
    "export-distribution": Subcommand(
        "Write the distribution of every row's neighbours, without the row itself, for a model to learn from (Arrow).",
        "fairseq.knn.export.distribution:export_distribution",
        (ExportConfig,),
        examples=(
            """fairseq-knnlm export-distribution --dstore-filename checkpoints/dstore \\
    --indexfile checkpoints/knn.index --k 1024 --knn-temp 16 --destination knn_train.arrow""",
        ),
    ),
    "plan": Subcommand(
        "Say what a datastore of so many tokens will take: disk, memory, time and machines, by stage.",
        "fairseq.knn.plan.plan:run_plan",
        (PlanConfig, DeviceConfig),
        examples=(
            """# WikiText-103, at rates that are measured here
fairseq-knnlm plan --tokens 103225485 --dim 1024 --dstore-fp16 --ncentroids 4096 --code-size 64 --probe 32""",
            """# measured on a machine of the cluster, planned anywhere
fairseq-knnlm plan --tokens 1e9 --dim 256 --save-rates node.json
fairseq-knnlm plan --tokens 3e9 --dim 256 --rates node.json --memory-gib 256 --disk-gib 8000""",
            """# with the time that a model takes to write the datastore
fairseq-knnlm plan data-bin --path checkpoints/checkpoint_best.pt --context-window 64 --tokens 2e6""",
        ),
    ),
    "forget": Subcommand(
        "Hide a document, a text or rows of a datastore from every search; --compact removes them from the files.",
        "fairseq.knn.maintain.forget:forget",
        (ForgetConfig, TextsConfig),
        ("show",),
        examples=(
            """fairseq-knnlm forget checkpoints/dstore --document 'Homarus gammarus'""",
            """fairseq-knnlm forget checkpoints/dstore --compact --indexfile checkpoints/knn.index""",
        ),
    ),
}


def flag_groups_by_name() -> dict[str, tuple[type, ...]]:
    """Returns the config dataclasses of each subcommand's flags."""
    return {f"{PROG} {name}": (*subcommand.configs, CommonConfig) for name, subcommand in SUBCOMMANDS.items()}


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
        if command := command_for(name) if name else "":
            raise ConfigError(f"{name} is a command of its own: {command} (see {command} --help)")
        given = f"but is {name!r}" if name else "but is missing"
        raise ConfigError(
            f"the subcommand must be one of {', '.join(SUBCOMMANDS)}, {given}{did_you_mean(name, SUBCOMMANDS)}"
            f" (see {PROG} --help)"
        )
    start, subcommand = time.monotonic(), SUBCOMMANDS[name]
    groups = flag_groups_by_name()[f"{PROG} {name}"]
    flags = parse(f"{PROG} {name}", subcommand.summary, groups, argv[1:], subcommand.examples)
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
    usage = f"usage: {PROG} SUBCOMMAND [FLAGS]\n\n{DESCRIPTION}\n\nsubcommands:\n"
    return usage + "\n".join(lines) + f"\n\n{PROG} SUBCOMMAND --help shows a subcommand's flags and examples."


def cli_main() -> None:
    """Entry point of the console script."""
    sys.exit(run(PROG, main))


if __name__ == "__main__":
    cli_main()
