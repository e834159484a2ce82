"""``fairseq-preprocess``: count the words of a text, make the dictionary, binarise train, valid and test."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from fairseq.config.command_line import parse
from fairseq.config.common import CommonConfig, DeviceConfig
from fairseq.config.flags import flag_name
from fairseq.data.config import PreprocessConfig
from fairseq_cli.shared.run import run

logger = logging.getLogger("fairseq_cli.preprocess")

DESCRIPTION = """Make a dictionary of the words of a text (dict.txt), and binarise train, valid and test with it
(NAME.bin, NAME.idx), for the other commands. Words are what whitespace separates; every line ends in </s>. With
--tokenizer DIR, whole documents become the tokens of a Hugging Face model, and their source text is kept beside them
(NAME.text, NAME.offsets, NAME.documents.json)."""
EXAMPLES = (
    """# words that occur once or twice become <unk>
fairseq-preprocess --only-source --trainpref train.txt --validpref valid.txt --testpref test.txt \\
    --destdir data-bin --thresholdsrc 3""",
    """# another text with the dictionary of a model
fairseq-preprocess --only-source --srcdict data-bin/dict.txt --testpref other.txt --destdir data-other""",
    """# your own code, a document a file, as the tokens of a Hugging Face model
fairseq-preprocess --only-source --tokenizer SmolLM2-135M --trainpref src --validpref tests \\
    --document-glob '*.py' --destdir data-code --workers 4""",
)


@dataclass(frozen=True)
class UnusedDeviceConfig(DeviceConfig):
    """Device and precision, accepted without effect."""


def flag_groups() -> tuple[type, ...]:
    """Returns every config dataclass that the command's flags come from."""
    return (PreprocessConfig, CommonConfig, UnusedDeviceConfig)


def main(argv: Sequence[str]) -> None:
    """Parses the flags, makes the dictionary and binarises each text."""
    flags = parse("fairseq-preprocess", DESCRIPTION, flag_groups(), argv, EXAMPLES)
    config = flags.build(PreprocessConfig)
    flags.build(CommonConfig)
    flags.warn_unused("fairseq-preprocess reads and writes files only")
    for name in ("thresholdsrc", "nwordssrc", "padding_factor"):
        if config.srcdict is not None and name in flags.typed:
            logger.warning("%s has no effect: --srcdict is taken as it is", flag_name(name))
    if config.tokenizer_directory is not None and "padding_factor" in flags.typed:
        logger.warning("--padding-factor has no effect: the words are those of the model's head")
    if config.tokenizer_directory is None and "jsonl_field" in flags.typed:
        logger.warning("--jsonl-field has no effect without --tokenizer DIR")

    from fairseq.data.preprocess import preprocess

    if preprocess(config):
        logger.info("Wrote preprocessed data to %s", config.destdir)


def cli_main() -> None:
    """Entry point of the console script."""
    sys.exit(run("fairseq-preprocess", main))


if __name__ == "__main__":
    cli_main()
