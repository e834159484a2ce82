"""The flags of fairseq-score-lm, in a module without torch."""

import dataclasses
from dataclasses import dataclass

from fairseq.config import flag


@dataclass(frozen=True)
class ScoreConfig:
    """What is scored."""

    data: str = flag(
        dataclasses.MISSING, "directory of binarised data, for its dict.txt; or the dictionary itself", positional=True
    )
    path: str | None = flag(None, "checkpoint; A:B averages the probabilities of several")
    input: tuple[str, ...] = flag(("-",), "files of text, comma-separated; - is the standard input")
    json: bool = flag(False, "print a JSON object for each line instead")
    buffer_size: int = flag(1000, "lines that are read before they are scored; 1 answers each at once", minimum=1)
    max_tokens: int = flag(36000, "padded tokens in a batch", minimum=1)
    softmax_batch: int | None = flag(None, "most rows that the output layer takes at once", minimum=1)
    model_overrides: str = flag("{}", "a Python literal dict of settings that replace the checkpoint's")
    task: str = flag("language_modeling", "task")
