"""From strings to token ids and back: the words of each line, then ``</s>``."""

from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fairseq.arrays import Array, Int64s
from fairseq.data.dictionary import BOS, EOS, PAD, Dictionary
from fairseq.data.encoding import MARK, warn_of_mark
from fairseq.errors import ConfigError, shown
from fairseq.evaluate.texts import split_lines
from fairseq.text.pipeline import TextPipeline

Ids: TypeAlias = Tensor | Array | Sequence[int]

# What the users of Hugging Face's generate call our settings.
OTHER_WORDS = {
    **dict.fromkeys(("max_new_tokens", "max_length", "max_len"), "max_len_b"),
    **dict.fromkeys(("min_new_tokens", "min_length"), "min_len"),
    **dict.fromkeys(("num_beams", "beam_size"), "beam"),
    "num_return_sequences": "nbest",
    "do_sample": "sampling",
    "top_k": "sampling_topk",
    "top_p": "sampling_topp",
    "length_penalty": "lenpen",
}


class Texts:
    """Texts of a model: strings become ids, and come back.

    Args:
        dictionary: words and ids.
        pipeline: how a line becomes words, and words a line.

    Attributes:
        ends: ids that end a text that is generated; None: ``</s>``.
        ends_lines: whether ``</s>`` stands behind each line, and a text.
    """

    ends: Collection[int] | None = None
    ends_lines = True

    def __init__(self, dictionary: Dictionary, pipeline: TextPipeline) -> None:
        self._dictionary, self.pipeline = dictionary, pipeline

    def encode(self, text: str, *, lines: bool = True) -> Int64s:
        """Returns the ids of a text's words, ``</s>`` after each line; a text without words is one ``</s>``.

        Without ``lines``, the text is one line.
        """
        check_text(text)
        warn_of_mark(text, "a text")
        found = split_lines(text.removeprefix(MARK))
        words = map(self.pipeline.encode, found if lines else [" ".join(found)])
        return np.concatenate([self._dictionary.ids_of(line) for line in words])

    def decode(self, ids: Ids) -> str:
        r"""Returns the text of ``ids``, a line for each ``</s>``, without ``<s>``; what ``encode`` gave comes back.

        The last line has no ``\n`` behind it unless it is empty, for ``encode`` takes that one for the end of a line.
        """
        tokens = [idx for idx in self._checked(ids, most_axes=1).tolist() if idx != BOS]
        if tokens and tokens[-1] == EOS:
            del tokens[-1]
        lines: list[list[str]] = [[]]
        for idx in tokens:
            if idx == EOS:
                lines.append([])
            else:
                lines[-1].append(self._dictionary[idx])
        text = "\n".join(self.pipeline.decode(" ".join(line)) for line in lines)
        return f"{text}\n" if text.endswith("\n") else text

    def word_of(self, idx: int) -> str:
        """Returns an id as people read it."""
        return self._dictionary[idx]

    def continued(self, prompt_T: Int64s, tokens_T: Int64s) -> str:
        """Returns a prompt with its continuation as one text."""
        return self.decode([*prompt_T, *tokens_T])

    def binarize(self, text: str) -> Int64s:
        """Returns the ids of a line as the dictionary has its words."""
        check_text(text)
        return self._dictionary.ids_of(text)

    def string(self, ids: Ids) -> str:
        """Returns the dictionary's words of ids, without ``<s>`` and ``</s>``; of rows of ids, a line each."""
        return self._dictionary.string(self._checked(ids, most_axes=2))

    def _checked(self, ids: Any, most_axes: int) -> Int64s:
        """Returns ids as an array; raises ConfigError for what is not whole numbers, or no word's."""
        try:
            ids_T = ids.cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
        except (TypeError, ValueError):  # rows of several lengths
            ids_T = np.asarray("")
        if not 1 <= ids_T.ndim <= most_axes or (ids_T.size and not np.issubdtype(ids_T.dtype, np.integer)):
            raise ConfigError(f"ids must be whole numbers in a row, but are {shown(ids)}; lm.encode(text) gives some")
        _check_ids(self._dictionary, ids_T)
        return ids_T.astype(np.int64)

    def prompts(self, prompts: Any) -> tuple[list[Int64s], bool]:
        """Returns the ids of each prompt, and whether one was given, rather than several.

        A text's ended line stays ended, its last word is to be followed by another. Of ids, one ``</s>`` at the end is
        left off, as in fairseq, since ``encode`` puts it there, and ``<pad>`` at either end.

        Raises:
            ConfigError: neither texts nor ids.
        """
        if isinstance(prompts, str) or is_ids(prompts):
            return [self._prompt(prompts)], True
        is_several = isinstance(prompts, (list, tuple)) or getattr(prompts, "ndim", 0) == 2
        return [self._prompt(prompt) for prompt in (prompts if is_several else [prompts])], False

    def _prompt(self, prompt: Any) -> Int64s:
        if isinstance(prompt, str) or not is_ids(prompt):
            ids = self.encode(prompt)
            return ids if prompt.endswith(("\n", "\r")) else ids[:-1]
        ids = rows_of_ids(self._dictionary, prompt).cpu().numpy()
        words = np.flatnonzero(ids != PAD)
        ids = ids[words[0] : words[-1] + 1] if len(words) else ids[:0]
        return ids[:-1] if len(ids) and ids[-1] == EOS else ids


def check_text(text: object) -> None:
    """Raises ConfigError for what is no text, or one that holds half of a character, which no file of UTF-8 does."""
    if not isinstance(text, str):
        hint = "; lm.decode(ids) makes a text of ids" if is_ids(text) else ""
        if isinstance(text, (list, tuple)) and all(isinstance(item, str) for item in text):
            hint = "; give them one by one here"
        raise ConfigError(f"a text must be a string, or several a list of strings, but is {shown(text)}{hint}")
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise ConfigError(
            f"a text must be Unicode, but holds half of a character, {text[err.start]!a} at {err.start}; read its file"
            " as UTF-8, or take text.encode(errors='replace').decode()"
        ) from err


def rows_of_ids(dictionary: Dictionary, tokens: Any) -> Tensor:
    """Returns ids as int64 ``[T]`` or ``[B, T]``.

    Raises:
        ConfigError: not whole numbers in a row, or in rows of one length, or an id that is no word.
    """
    if isinstance(tokens, str) or (isinstance(tokens, (list, tuple)) and any(isinstance(t, str) for t in tokens)):
        raise ConfigError(
            "ids of words are expected, but a text is given; lm.score(text) scores it, lm.encode(text) gives its ids"
        )
    try:
        ids = tokens if isinstance(tokens, Tensor) else torch.as_tensor(np.asarray(tokens))
    except (TypeError, ValueError) as err:
        raise ConfigError(f"ids must be whole numbers, in rows of one length, but are {shown(tokens)}") from err
    is_whole = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    if not is_whole or ids.ndim not in (1, 2) or not ids.numel():
        kind = str(ids.dtype).removeprefix("torch.")
        raise ConfigError(
            f"ids must be whole numbers, in a row or in rows of one length, but are {kind} of shape {tuple(ids.shape)};"
            " lm.encode(text) gives those of a text"
        )
    _check_ids(dictionary, ids.cpu().numpy())
    return ids.long()


def is_ids(given: Any) -> bool:
    """Whether what is given is one row of ids, rather than several, or something else."""
    if isinstance(given, (list, tuple)):
        return bool(given) and all(isinstance(item, (int, np.integer)) for item in given)
    return isinstance(given, (Tensor, np.ndarray)) and given.ndim == 1


def _check_ids(dictionary: Dictionary, ids: Int64s) -> None:
    bad = ids[(ids < 0) | (ids >= len(dictionary))]
    if len(bad):
        raise ConfigError(f"a token must be an id from 0 to {len(dictionary) - 1}, but is {bad[0]}")
