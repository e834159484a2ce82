"""Texts that are being generated, and finished ones with their scores. T tokens."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fairseq.arrays import Float64s, Int64s
from fairseq.generate.config import GenerationConfig


@dataclass(frozen=True)
class Hypothesis:
    """A text that was generated after a prompt.

    Attributes:
        prompt_T: int64 ids.
        tokens_T: int64 ids that were generated, without the prompt; ``</s>`` is the last unless room ran out.
        log_p_T: float64, ln p of each generated token, of the model with all that is mixed into it.
        score: what texts of one prompt are compared by; see ``GenerationConfig.score``.
    """

    prompt_T: Int64s
    tokens_T: Int64s
    log_p_T: Float64s
    score: float

    def __getitem__(self, name: str) -> Tensor:
        """Returns what fairseq's hypotheses call by this name: of the generated tokens, without the prompt."""
        values = {"tokens": self.tokens_T, "positional_scores": self.log_p_T, "score": self.score}
        if name not in values:
            raise KeyError(f"{name!r} is not part of a text; {', '.join(values)} are")
        return torch.as_tensor(values[name])


@dataclass(frozen=True)
class Partial:
    """A text that may go on.

    Attributes:
        prompt: number of its prompt in the batch.
        stream: number of its random draws among those of its prompt.
        tokens: generated so far.
        log_p: ln p of each.
        total: their sum, less penalties.
        parent: the row of the last step that it continues.
    """

    prompt: int
    stream: int = 0
    tokens: tuple[int, ...] = ()
    log_p: tuple[float, ...] = ()
    total: float = 0.0
    parent: int = 0

    def followed_by(self, token: int, log_p: float, worth: float, parent: int, stream: int | None = None) -> "Partial":
        """Returns the text with one more token, of which ``worth`` is added to the total."""
        return Partial(
            self.prompt,
            self.stream if stream is None else stream,
            (*self.tokens, token),
            (*self.log_p, log_p),
            self.total + worth,
            parent,
        )

    def finished(self, prompt_T: Int64s, config: GenerationConfig) -> Hypothesis:
        """Returns the text as a result."""
        score = config.score(self.total, len(self.tokens))
        return Hypothesis(prompt_T, np.array(self.tokens, np.int64), np.array(self.log_p, np.float64), score)
