"""The commands by name, and which of them have a flag: a hint for who types it to another one."""

from collections.abc import Iterator

from fairseq.config.flags import flag_fields, flag_name
from fairseq.config.registry import load

# What returns the configs of a command's flags, by path: only an error of the user's imports the other commands.
COMMANDS = {
    "fairseq-preprocess": "fairseq_cli.preprocess:flag_groups",
    "fairseq-train": "fairseq_cli.train:flag_groups",
    "fairseq-validate": "fairseq_cli.validate:flag_groups",
    "fairseq-eval-lm": "fairseq_cli.eval_lm:flag_groups",
    "fairseq-score-lm": "fairseq_cli.score_lm:flag_groups",
    "fairseq-generate": "fairseq_cli.generate:flag_groups",
    "fairseq-interactive": "fairseq_cli.interactive:flag_groups",
    "fairseq-build-dstore": "build_dstore:flag_groups",
}
SUBCOMMANDS = "fairseq_cli.knnlm:flag_groups_by_name"
MOST_NAMED = 3


def elsewhere(flag: str) -> str:
    """Returns ``"; fairseq-generate has it"`` for a flag of other commands, empty if none has it."""
    names = [name for name, groups in _groups() if flag in _spellings(groups)]
    if not names:
        return ""
    named = names[:MOST_NAMED]
    listed = f"{', '.join(named[:-1])} and {named[-1]} have" if len(named) > 1 else f"{named[0]} has"
    return f"; {listed} it"


def _groups() -> Iterator[tuple[str, tuple[type, ...]]]:
    for name, path in COMMANDS.items():
        yield name, load(path)()
    yield from load(SUBCOMMANDS)().items()


def _spellings(groups: tuple[type, ...]) -> set[str]:
    """Returns every spelling of the flags that have an effect."""
    fields = [item for cls in groups for item in flag_fields(cls).items()]
    typed = [(name, field.metadata) for name, field in fields if not field.metadata["positional"]]
    return {word for name, meta in typed if not meta["no_effect"] for word in (flag_name(name), *meta["aliases"])}


def command_for(word: str) -> str:
    """Returns the command that a word such as ``eval`` or ``score`` means, empty if none does."""
    return next((name for name in COMMANDS if f"{name}-".startswith(f"fairseq-{word.lower()}-")), "")
