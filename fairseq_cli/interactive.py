"""``fairseq-interactive``: continues lines of text as they come."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from fairseq.arrays import Int64s
from fairseq.config.command_line import parse
from fairseq.errors import DataError
from fairseq.generate.config import LinePromptsConfig
from fairseq.runtime.log import logger
from fairseq.tasks import TASKS
from fairseq_cli.generation_run import GROUPS, MORE_GROUPS, GenerationRun, Settings, open_run
from fairseq_cli.run import run

if TYPE_CHECKING:
    pass

DESCRIPTION = """Continue each line of the standard input, or of --input, with a language model, as fairseq-generate
does for a split. Words are split at spaces, as they were when the model's text was binarised."""
MOST_WORDS_NAMED = 5


def main(argv: Sequence[str]) -> None:
    """Generates."""
    groups = (*GROUPS[:1], LinePromptsConfig, *GROUPS[1:], *TASKS.configs(), *MORE_GROUPS)
    flags = parse("fairseq-interactive", DESCRIPTION, groups, argv)
    settings, config = Settings(flags), flags.build(LinePromptsConfig)
    with ExitStack() as stack:
        lines = text_lines(config.input, stack)  # a file that is not there fails at once
        opened = open_run(flags, settings)
        if config.input == "-" and sys.stdin.isatty():
            logger.info("type the beginning of a text and press return; Ctrl-D ends")
        done = 0
        while buffer := list(islice(lines, max(config.buffer_size, 1))):
            prompts = [prompt_of(line, done + i, opened) for i, line in enumerate(buffer)]
            for batch in opened.batches(prompts):
                found = opened.generator.generate([prompts[i] for i in batch], [done + i for i in batch])
                for i, texts in zip(batch, found, strict=True):
                    opened.print_texts(done + i, prompts[i], texts)
            done += len(buffer)


def prompt_of(line: str, number: int, opened: GenerationRun) -> "Int64s":
    """Returns a line's ids; warns of words that the model does not know, and of what it has no room to read."""
    prompt_T = opened.dictionary.encode_line(line)[:-1]
    unknown = list(dict.fromkeys(word for word in line.split() if word not in opened.dictionary))
    if unknown:
        named = ", ".join(unknown[:MOST_WORDS_NAMED]) + (", …" if len(unknown) > MOST_WORDS_NAMED else "")
        logger.warning("line %d: not in the dictionary, and read as <unk>: %s", number + 1, named)
    most = opened.generator.longest_prompt
    if len(prompt_T) > most:
        half = max(most // 2, 1)  # leaves as much room for the text
        logger.warning(
            "line %d has %d words, but the model reads %d at most: only the last %d are read",
            number + 1,
            len(prompt_T),
            most,
            half,
        )
        prompt_T = prompt_T[-half:]
    return prompt_T


def text_lines(name: str, stack: ExitStack) -> Iterator[str]:
    """Returns the lines of a file, or of the standard input for ``-``, as they come.

    Raises:
        DataError: there is no such file; while reading, a line is not UTF-8.
    """
    if name != "-" and (not Path(name).exists() or Path(name).is_dir()):
        raise DataError(f"--input must be a file with a prompt on each line, or - for the input, but {name} is none")
    file = sys.stdin.buffer if name == "-" else stack.enter_context(Path(name).open("rb"))  # noqa: SIM115

    def decoded() -> Iterator[str]:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode()
            except UnicodeDecodeError as err:
                where = "the standard input" if name == "-" else name
                raise DataError(
                    f"{where}: line {number} must be UTF-8, but holds byte 0x{line[err.start]:02x}; convert the text"
                ) from err

    return decoded()


def cli_main() -> None:
    """Entry point of the console script."""
    sys.exit(run("fairseq-interactive", main))


if __name__ == "__main__":
    cli_main()
