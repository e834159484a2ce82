"""``fairseq-interactive``: continues lines of text as they come."""

import sys
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from fairseq.config.command_line import parse
from fairseq.data.config import IN_FORCE_WITHOUT_CHECKPOINT
from fairseq.generate.config import LinePromptsConfig
from fairseq.runtime.log import logger
from fairseq.storage.inputs import open_input
from fairseq_cli.shared.generation_run import OUTPUT, GenerationRun, generation_groups, open_run
from fairseq_cli.shared.run import run

if TYPE_CHECKING:
    from fairseq.arrays import Int64s
    from fairseq.evaluate.texts import Line

DESCRIPTION = """Continue each line of the standard input, or of --input: with the most probable texts, or with random
ones (--sampling). Words are what whitespace separates, or what --tokenizer and --bpe make of raw text; a Hugging
Face model (--path DIR) reads text by its own tokenizer, and needs no data. --knnlm mixes in
the nearest neighbours from a datastore."""
EXAMPLES = (
    """echo "the king of" | fairseq-interactive data-bin --path checkpoints/checkpoint_best.pt --beam 1""",
    """# raw text, of a model of subwords
echo "The king's" | fairseq-interactive data-bin --path checkpoints/checkpoint_best.pt \\
    --tokenizer moses --bpe fastbpe --bpe-codes bpecodes""",
    """# a Hugging Face model, by its own tokenizer
echo "The king's" | fairseq-interactive --path SmolLM2-135M --beam 1 --max-len-b 40""",
    """# random texts, with neighbours, and the 3 rows with the largest votes for each token
fairseq-interactive data-bin --path checkpoints/checkpoint_best.pt --input prompts.txt \\
    --sampling --sampling-topp 0.9 --beam 1 --knnlm --dstore-filename checkpoints/dstore \\
    --indexfile checkpoints/knn.index --lmbda 0.25 --knn-temp auto --show-neighbours 3""",
)
MOST_WORDS_NAMED = 5


def flag_groups() -> tuple[type, ...]:
    """Returns every config dataclass that the command's flags come from."""
    return generation_groups(LinePromptsConfig)


def main(argv: Sequence[str]) -> None:
    """Generates."""
    flags = parse(
        "fairseq-interactive", DESCRIPTION, flag_groups(), argv, EXAMPLES, OUTPUT, remarks=IN_FORCE_WITHOUT_CHECKPOINT
    )
    config = flags.build(LinePromptsConfig)
    with open_input(config.input) as file:
        opened = open_run(flags)

        from fairseq.evaluate.texts import read_lines

        if config.input == "-" and sys.stdin.isatty():
            logger.info("type the beginning of a text and press return; Ctrl-D ends")
        lines, done = read_lines(config.input, file), 0
        while some := list(islice(lines, max(config.buffer_size, 1))):
            prompts = [prompt_of(line, opened) for line in some]
            for batch, found in opened.texts(prompts, range(done, done + len(some))):
                for i, texts in zip(batch, found, strict=True):
                    opened.print_texts(done + i, prompts[i], texts)
            done += len(some)


def prompt_of(line: "Line", opened: GenerationRun) -> "Int64s":
    """Returns a line's ids; warns of words that the model does not know, and of what it has no room to read."""
    if opened.model_text is not None:
        return _cut(line, opened.model_text.ids_of(line.text), "tokens", opened)
    text = opened.pipeline.encode(line.text)
    prompt_T = opened.dictionary.ids_of(text)[:-1]
    unknown = list(dict.fromkeys(word for word in text.split() if word not in opened.dictionary))
    if unknown:
        named = ", ".join(unknown[:MOST_WORDS_NAMED]) + (", …" if len(unknown) > MOST_WORDS_NAMED else "")
        logger.warning("line %d: not in the dictionary, and read as <unk>: %s", line.number, named)
    return _cut(line, prompt_T, "words", opened)


def _cut(line: "Line", prompt_T: "Int64s", what: str, opened: GenerationRun) -> "Int64s":
    """Returns the end of a prompt that is longer than the model reads; else all of it."""
    most = opened.generator.longest_prompt
    if len(prompt_T) > most:
        half = max(most // 2, 1)  # leaves as much room for the text
        logger.warning(
            "line %d has %d %s, but the model reads %d at most: only the last %d are read",
            line.number,
            len(prompt_T),
            what,
            most,
            half,
        )
        prompt_T = prompt_T[-half:]
    return prompt_T


def cli_main() -> None:
    """Entry point of the console script."""
    sys.exit(run("fairseq-interactive", main))


if __name__ == "__main__":
    cli_main()
