"""Flags of raw text, ``--tokenizer`` and ``--bpe``, in the commands that read lines or print them."""

from fairseq.config.flags import Flags
from fairseq.text.pipeline import TextConfig, TextPipeline, open_pipeline, text_configs

OWN_TOKENIZER = (
    "--tokenizer, --bpe and --post-process are for models of words, but --path is a Hugging Face model, which reads"
    " text by its own tokenizer.json; leave them out"
)


def text_groups() -> tuple[type, ...]:
    """Returns the configs whose fields are the flags of raw text."""
    return (TextConfig, *text_configs())


def open_text(flags: Flags) -> TextPipeline:
    """Returns the tokenizer and subwords that the flags name; without any, text passes as it is."""
    config = flags.build(TextConfig)
    return open_pipeline(config.tokenizer, config.bpe, flags.build)
