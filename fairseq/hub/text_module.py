"""A module that reads and writes raw text: its steps one by one, under the names of fairseq's hub.

encode   text → tokenize → apply_bpe → binarize      each line on its own
decode   ids → string → remove_bpe → detokenize
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fairseq.data.dictionary import Dictionary
from fairseq.hub.module import EvaluationModule
from fairseq.hub.texts import Ids, Texts, check_text
from fairseq.text.pipeline import TextPipeline


class TextModule(EvaluationModule):
    """Models with a dictionary, and with a tokenizer and subwords where there are any.

    Attributes:
        dictionary: words and ids.
        pipeline: tokenizer and subwords; without them, texts are words between white space.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        dictionary: Dictionary,
        device: str | torch.device | None = None,
        pipeline: TextPipeline | None = None,
        texts: Texts | None = None,
    ) -> None:
        super().__init__(models, device)
        dictionary.freeze()
        self.dictionary, self._texts = dictionary, texts or Texts(dictionary, pipeline or TextPipeline())
        self.pipeline = self._texts.pipeline

    def encode(self, text: str) -> Tensor:
        """Returns the ids of a text's words, int64 ``[N]``, ``</s>`` after each line; unknown words are ``<unk>``.

        Of a Hugging Face model, the ids of its tokens, four more than there, without any ``</s>``.
        """
        return torch.from_numpy(self._texts.encode(text))

    def decode(self, tokens: Ids) -> str:
        """Returns the text of ids, a new line for each ``</s>`` but the last."""
        return self._texts.decode(tokens)

    def tokenize(self, text: str) -> str:
        """Returns the words of a line of text, a space between them; without a tokenizer, the line."""
        check_text(text)
        return self.pipeline.tokenize(text)

    def detokenize(self, text: str) -> str:
        """Returns words as text."""
        check_text(text)
        return self.pipeline.detokenize(text)

    def apply_bpe(self, text: str) -> str:
        """Returns the subwords of a line of words, a space between them; without ``bpe=``, the line."""
        check_text(text)
        return self.pipeline.apply_bpe(text)

    def remove_bpe(self, text: str) -> str:
        """Returns the words of a line of subwords."""
        check_text(text)
        return self.pipeline.remove_bpe(text)

    def binarize(self, text: str) -> Tensor:
        """Returns the ids of a line as the dictionary has its words, int64 ``[N]``, ``</s>`` last."""
        return torch.from_numpy(self._texts.binarize(text))

    def string(self, tokens: Ids) -> str:
        """Returns the dictionary's words of ids, without ``<s>`` and ``</s>``; of rows of ids, a line each."""
        return self._texts.string(tokens)
