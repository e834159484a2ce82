"""Runs fairseq 0.12's ``fairseq-eval-lm`` several times in one process; its Python runs this file, ours does not.

python peer_child.py JOBS.json        {name: [argument, …]} → a last line with {name: what it logged, or its error}
"""

import json
import logging
import sys
from pathlib import Path

from fairseq_cli.eval_lm import cli_main


class Kept(logging.Handler):
    """Keeps every message."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def evaluate(words: list[str]) -> str:
    kept, sys.argv = Kept(), ["fairseq-eval-lm", *words]
    logging.getLogger().addHandler(kept)
    try:
        cli_main()
    except (Exception, SystemExit) as err:
        return f"{type(err).__name__}: {err}"
    finally:
        logging.getLogger().removeHandler(kept)
    return "\n".join(kept.messages)


if __name__ == "__main__":
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.stdout.write("\n" + json.dumps({name: evaluate(words) for name, words in jobs.items()}) + "\n")
