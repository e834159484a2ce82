"""Prints the flags of fairseq 0.12's commands as JSON; its Python runs this file, ours does not.

{command: {"--flag --alias": [what it takes, default, …]}}: it takes "" (nothing), "VALUE" or "[VALUE]", and parts that
share a flag may each have a default. The flags of a language model are among them: those of the task, of
transformer_lm, and of every optimizer, schedule, criterion, tokenizer and subword scheme that a parser can be told of.

    python tests/builders/peer_flags_child.py > tests/cli/peer_flags.json
"""

import argparse
import contextlib
import io
import json
import sys
from collections.abc import Iterator

from fairseq.registry import REGISTRIES

from fairseq import options

PARSERS = {
    "fairseq-preprocess": (options.get_preprocessing_parser, []),
    "fairseq-train": (options.get_training_parser, ["data", "--arch", "transformer_lm"]),
    "fairseq-eval-lm": (options.get_eval_lm_parser, ["data"]),
    "fairseq-generate": (options.get_generation_parser, ["data"]),
    "fairseq-interactive": (options.get_interactive_generation_parser, ["data"]),
    "fairseq-validate": (options.get_validation_parser, ["data"]),
}
OF_LANGUAGE_MODELS = {
    "optimizer": "adadelta adafactor adagrad adam adamax composite cpu_adam lamb nag sgd",
    "lr_scheduler": "cosine fixed inverse_sqrt manual pass_through polynomial_decay reduce_lr_on_plateau step tri_stage"
    " triangular",
    "criterion": "adaptive_loss composite_loss cross_entropy label_smoothed_cross_entropy",
    "tokenizer": "moses nltk space",
    "bpe": "byte_bpe bytes characters fastbpe gpt2 hf_byte_bpe sentencepiece subword_nmt",
}
TAKES = {0: "", None: "VALUE", "?": "[VALUE]"}


def choices() -> Iterator[list[str]]:
    """Yields the words that bring in each part's flags."""
    yield []
    for kind, names in OF_LANGUAGE_MODELS.items():
        for name in sorted(set(names.split()) & set(REGISTRIES[kind]["registry"])):
            yield [f"--{kind.replace('_', '-')}", name]


def actions(make: object, words: list[str]) -> Iterator[argparse.Action]:
    for chosen in choices():
        parser = make()
        with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
            known = {word for action in parser._actions for word in action.option_strings}
            if not chosen or chosen[0] in known:
                task = ["--task", "language_modeling"] if "--task" in known else []
                options.parse_args_and_arch(parser, [*words, *task, *chosen], parse_known=True)
        yield from parser._actions


def plain(value: object) -> object:
    """Returns a default as JSON has it."""
    value = getattr(value, "value", value)  # of an Enum
    if value == argparse.SUPPRESS:
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def flags(make: object, words: list[str]) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {}
    for action in actions(make, words):
        if action.option_strings and "--help" not in action.option_strings:
            row = found.setdefault(" ".join(sorted(action.option_strings)), [TAKES[action.nargs]])
            row += [plain(action.default)] if plain(action.default) not in row[1:] else []
    return dict(sorted(found.items()))


def as_lines(found: dict[str, dict[str, list[object]]]) -> str:
    """Returns JSON with a line for each flag."""
    commands = []
    for command, rows in found.items():
        lines = [f"  {json.dumps(names)}: {json.dumps(row)}" for names, row in rows.items()]
        commands.append(f' "{command}": {{\n' + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(commands) + "\n}\n"


if __name__ == "__main__":
    sys.stdout.write(as_lines({command: flags(*how) for command, how in PARSERS.items()}))
