"""From strings to the ids of a Hugging Face model's tokenizer and back: whole texts, nothing between their lines."""

from typing import Any

from fairseq.arrays import Int64s
from fairseq.data.dictionary import EOS, PAD
from fairseq.hub.texts import Ids, Texts, check_text, is_ids, rows_of_ids
from fairseq.tasks.model_text import ModelText
from fairseq.text.pipeline import TextPipeline


class TokenizerTexts(Texts):
    """Texts of a Hugging Face model.

    Args:
        model_text: reads and writes them.
    """

    ends_lines = False

    def __init__(self, model_text: ModelText) -> None:
        super().__init__(model_text.dictionary, TextPipeline(bpe=_Symbols(model_text)))
        self._text, self.ends = model_text, model_text.ends

    def encode(self, text: str, *, lines: bool = True) -> Int64s:
        """Returns the ids of a text, new lines and all; none of an empty one. ``lines`` changes nothing."""
        check_text(text)
        return self._text.ids_of(text)

    def decode(self, ids: Ids) -> str:
        """Returns the text of ids as it was; fairseq's own four ids have none."""
        return self._text.tokenizer.decode(self._checked(ids, most_axes=1))

    def word_of(self, idx: int) -> str:
        """Returns the text of a token, its white space too."""
        return self._text.piece_of(idx)

    def continued(self, prompt_T: Int64s, tokens_T: Int64s) -> str:
        """Returns a prompt with its continuation, without the token that ends that."""
        return self._text.text_of([*prompt_T, *tokens_T])

    def binarize(self, text: str) -> Int64s:
        """Returns the ids of a line of tokens as the dictionary has them."""
        return super().binarize(text)[:-1]

    def _prompt(self, prompt: Any) -> Int64s:
        if isinstance(prompt, str) or not is_ids(prompt):
            return self.encode(prompt)
        ids = rows_of_ids(self._dictionary, prompt).cpu().numpy()
        kept: Int64s = ids[(ids != PAD) & (ids != EOS)]
        return kept


class _Symbols:
    """A line of text as the tokens' symbols, a space between them, and back."""

    def __init__(self, model_text: ModelText) -> None:
        self._text = model_text

    def encode(self, line: str) -> str:
        """Returns the symbols of a text's tokens."""
        return " ".join(self._text.dictionary[idx] for idx in self._text.ids_of(line))

    def decode(self, line: str) -> str:
        """Returns the text of symbols."""
        return self._text.tokenizer.decode(map(self._text.dictionary.index, line.split()))
