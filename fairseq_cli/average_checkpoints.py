"""``python -m fairseq_cli.average_checkpoints``: the mean of several checkpoints' weights, as a checkpoint."""

import sys
from collections.abc import Sequence

from fairseq.checkpoints.config import AverageConfig
from fairseq.config.command_line import parse
from fairseq.config.common import CommonConfig
from fairseq_cli.shared.run import run

PROG = "average_checkpoints"
DESCRIPTION = """Average the weights of several checkpoints of one run. The result is a checkpoint as well; what
it holds beside weights is the first one's."""
EXAMPLES = (
    """python -m fairseq_cli.average_checkpoints --inputs checkpoints --num-epoch-checkpoints 5 \\
    --output checkpoints/averaged.pt""",
    """python -m fairseq_cli.average_checkpoints --inputs checkpoints/checkpoint8.pt checkpoints/checkpoint9.pt \\
    --output checkpoints/averaged.pt""",
)


def flag_groups() -> tuple[type, ...]:
    """Returns every config dataclass that the command's flags come from."""
    return (AverageConfig, CommonConfig)


def main(argv: Sequence[str]) -> None:
    """Averages."""
    flags = parse(PROG, DESCRIPTION, flag_groups(), argv, EXAMPLES)
    config = flags.build(AverageConfig)
    flags.build(CommonConfig)
    flags.warn_unused()

    from fairseq.checkpoints.average import average

    sys.stdout.write(average(config) + "\n")


def cli_main() -> None:
    """Entry point of the module."""
    sys.exit(run(PROG, main))


if __name__ == "__main__":
    cli_main()
