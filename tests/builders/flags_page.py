"""Makes docs/flags.md of the tables in ``fairseq/config``.

python -m tests.builders.flags_page        writes it
"""

from pathlib import Path

from fairseq.config.foreign.accepted import COMMANDS, NO_EFFECT, Family
from fairseq.config.foreign.reading import parse_flags
from fairseq.config.foreign.refused import REFUSED

PAGE = Path(__file__).resolve().parents[2] / "docs" / "flags.md"
HEAD = """# Flags of fairseq that are not here

Every flag that a command of fairseq 0.12 takes is either a flag of ours, which `--help` explains, or stands in one of
these two tables. A flag with its default value, or one that is switched off, is accepted in silence.
`python -m tests.builders.flags_page` makes this page of `accepted.py` and `refused.py` in
`fairseq/config/foreign`.
"""
TABLES = (
    (
        "Accepted without effect",
        "These change no result. One warning names all that were typed.",
        NO_EFFECT,
        "why they have no effect here",
    ),
    (
        "Refused, and why",
        "These would change what is computed or written. The command ends with one line.",
        REFUSED,
        "why, and what to do",
    ),
)


def page() -> str:
    """Returns the page."""
    text = HEAD
    for title, about, table, why in TABLES:
        rows = "\n".join(_row(family) for family in table)
        text += f"\n## {title}\n\n{about}\n\n| flags | in fairseq | {why} | commands |\n|---|---|---|---|\n{rows}\n"
    return text


def _row(family: Family) -> str:
    flags = parse_flags(family, refused=False)
    spelled = " ".join(f"`{' '.join(flag.names)}`" for flag in flags)
    names = [name.removeprefix("fairseq-") for name, letter in COMMANDS.items() if letter in family.commands]
    commands = "all" if len(names) == len(COMMANDS) else ", ".join(names)
    return f"| {spelled} | {family.purpose} | {family.why} | {commands} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
