"""A loaded language model: scores of texts, texts behind prompts, and the neighbours of tokens.

Texts are words between white space, as the model was trained on them: neither tokenised nor split into subwords here.
Scores are those of ``fairseq-eval-lm`` on the same text. N tokens, K neighbours, D key width.
"""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from fairseq.arrays import Int64s
from fairseq.config.common import DeviceConfig
from fairseq.config.flags import coerce, flag_fields, resolve
from fairseq.data.dictionary import Dictionary
from fairseq.errors import ConfigError, refuse_unknown
from fairseq.evaluate.mixture import Mixture
from fairseq.evaluate.sequence_scorer import SequenceScorer
from fairseq.evaluate.texts import TextScorer
from fairseq.generate.config import GenerationConfig
from fairseq.generate.generator import Generator
from fairseq.generate.hypotheses import Hypothesis
from fairseq.hub.protocol import RowMemory
from fairseq.hub.records import Neighbour, Neighbourhood, Score, checked_weight
from fairseq.hub.texts import decode, encode
from fairseq.runtime.precision import Precision
from fairseq.runtime.progress import Progress

# Fewer tokens are scored before a line of progress could be read.
SHOWN_TOKENS = 20_000
# Padded tokens that are scored together.
BATCH_TOKENS = 4096
# Prompts that are continued together; their draws and texts do not depend on it.
PROMPTS_AT_ONCE = 16


def precision_on(device: str | torch.device | None) -> Precision:
    """Returns float32 on a device, the CPU if none is named; raises ConfigError for one that is not there."""
    try:
        place = torch.device("cpu" if device is None else device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as err:
        raise ConfigError(f"device must be cpu, or cuda where there is a GPU, but is {device}") from err
    return Precision(DeviceConfig(), place)


def _listed(text: object) -> list[Any]:
    """Returns one text, or several, as a list; what is no text is refused when it is encoded."""
    return list(text) if isinstance(text, (list, tuple)) else [text]


class LanguageModelHub:
    """A model that was loaded by ``from_pretrained``.

    Attributes:
        models: one, or those of an ensemble, in evaluation mode.
        dictionary: words and ids.
        longest_row: tokens that the model sees at once; longer texts are scored block by block.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        dictionary: Dictionary,
        precision: Precision,
        longest_row: int,
        *,
        add_bos: bool = False,
        memory: RowMemory | None = None,
        lmbda: float = 0.0,
    ) -> None:
        self.models: list[Any] = [model.to(precision.device).eval() for model in models]
        self.dictionary, self.longest_row, self._lmbda = dictionary, longest_row, lmbda
        self._precision, self._add_bos, self._memory = precision, add_bos, memory

    def encode(self, text: str) -> Tensor:
        """Returns the ids of a text's words, int64 ``[N]``, ``</s>`` after each line; unknown words are ``<unk>``."""
        return torch.from_numpy(encode(self.dictionary, text))

    def decode(self, tokens: Tensor | Sequence[int]) -> str:
        """Returns the words of ids, a new line for each ``</s>`` but the last."""
        return decode(self.dictionary, tokens.tolist() if isinstance(tokens, Tensor) else tokens)

    @overload
    def score(self, text: str, context_window: int | None = None, *, eos: bool = True) -> Score: ...
    @overload
    def score(self, text: list[str], context_window: int | None = None, *, eos: bool = True) -> list[Score]: ...
    def score(
        self, text: str | list[str], context_window: int | None = None, *, eos: bool = True
    ) -> Score | list[Score]:
        """Returns the probability of each token of a text; of several texts, a list. The first token follows ``</s>``.

        Args:
            text: of any length.
            context_window: tokens before each block of a text that is longer than ``longest_row``; half of that if
                left out. With more, each token sees more of the past, and it takes longer.
            eos: the text ends after its last word, whose ``</s>`` is scored as well, as by ``fairseq-eval-lm``. False
                leaves that one out, as fairseq's hub does.

        Raises:
            ConfigError: not a text, or no such window.
        """
        texts = [encode(self.dictionary, each) for each in _listed(text)]
        window, total = self._window(context_window), sum(map(len, texts))
        mixture = Mixture([(self._memory, self.lmbda)] if self._memory is not None else [])
        with Progress("score", total, "tokens", shown=total >= SHOWN_TOKENS) as progress:
            scored = self._scorer(mixture).score(texts, window, progress.advance)
        scores = [Score.of(each, self.dictionary, self.lmbda) for each in scored]
        if not eos:
            scores = [each.without_eos() for each in scores]
        return scores[0] if isinstance(text, str) else scores

    @overload
    def sample(self, prompts: str, *, seed: int = 1, **settings: Any) -> str: ...
    @overload
    def sample(self, prompts: list[str], *, seed: int = 1, **settings: Any) -> list[str]: ...
    def sample(self, prompts: str | list[str], *, seed: int = 1, **settings: Any) -> str | list[str]:
        """Returns a prompt with the text that the model continues it by; of several prompts, a list.

        Args:
            prompts: what the texts begin with; one that ends with a new line is continued on the next line.
            seed: of random draws: the same one draws the same texts.
            settings: ``beam`` (1 if left out: the most probable token each time), ``sampling``, ``sampling_topk``,
                ``sampling_topp``, ``temperature``, ``max_len_b`` and the other fields of ``GenerationConfig``.

        Raises:
            ConfigError: no such setting, one out of range, or a prompt that leaves no room.
        """
        found = self.generate(_listed(prompts), seed=seed, **settings)
        texts = [self.decode([*best[0].prompt_T, *best[0].tokens_T]) for best in found]
        return texts[0] if isinstance(prompts, str) else texts

    def generate(self, prompts: list[str], *, seed: int = 1, **settings: Any) -> list[list[Hypothesis]]:
        """Returns the texts behind each prompt, ``nbest`` of them, the best first, token by token; see ``sample``."""
        if len(self.models) > 1:
            raise ConfigError("text is generated by one model, but this is an ensemble; load one checkpoint")
        refuse_unknown(settings, [*flag_fields(GenerationConfig), "seed"], "generating text")
        config = resolve(GenerationConfig, {"beam": 1, **settings})  # 1 as in fairseq's hub
        memories = [(self._memory, self.lmbda)] if self._memory is not None else []
        seed = coerce(seed, int, "seed")
        generator = Generator(self.models[0], self._precision, config, memories, seed=seed, add_bos=self._add_bos)
        texts = [self._prompt(text) for text in _listed(prompts)]
        found: list[list[Hypothesis]] = []
        for numbers in generator.batches(texts, None, PROMPTS_AT_ONCE):
            found += generator.generate([texts[number] for number in numbers], numbers)
        return found

    def neighbours(
        self, text: str, k: int = 8, context_window: int | None = None, *, words: int = 8
    ) -> list[Neighbourhood]:
        """Returns for each token of a text the k rows whose contexts are nearest to the one before it.

        Args:
            text: of any length.
            k: rows for each token, at most.
            context_window: as in ``score``.
            words: how many are given before and after a row's own, where the datastore's text is known.

        Raises:
            ConfigError: the model was loaded without neighbours, or a number is out of range.
        """
        if self._memory is None:
            raise ConfigError("there are no neighbours; load the model with knn=KNN(datastore, index)")
        if coerce(words, int, "words") < 0:
            raise ConfigError(f"words must be at least 0, but is {words}")
        found: list[Neighbourhood] = []
        for queries_ND, target_N in self._contexts(text, context_window):
            distances_NK, ids_NK = self._memory.search(queries_ND, k)
            for target, *near in zip(target_N.tolist(), distances_NK.cpu(), ids_NK.cpu(), strict=True):
                rows = self._shown(self._memory, near[0], near[1], words)
                found.append(Neighbourhood(self.dictionary[target], tuple(rows)))
        return found

    def context_vectors(self, text: str, context_window: int | None = None) -> tuple[Tensor, Tensor]:
        """Returns the vector of each token's context, float32 ``[N, D]``, and the tokens, int64 ``[N]``.

        The vectors are what a datastore's keys are made of, and what it is asked with. Arguments and errors are those
        of ``score``.
        """
        vectors, tokens = zip(*self._contexts(text, context_window), strict=True)
        return torch.cat(vectors), torch.cat(tokens)

    @property
    def lmbda(self) -> float:
        """Weight λ of the neighbours, from 0 to 1; may be set."""
        return self._lmbda

    @lmbda.setter
    def lmbda(self, weight: float) -> None:
        self._lmbda = checked_weight(weight)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._precision.device

    def to(self, device: str | torch.device) -> "LanguageModelHub":
        """Moves the model, and returns this object; raises ConfigError for a device that is not there."""
        self._precision = precision_on(device)
        self.models = [model.to(self.device) for model in self.models]
        return self

    def cuda(self) -> "LanguageModelHub":
        """Moves the model to the GPU, and returns this object."""
        return self.to("cuda")

    def cpu(self) -> "LanguageModelHub":
        """Moves the model to the CPU, and returns this object."""
        return self.to("cpu")

    def eval(self) -> "LanguageModelHub":
        """Returns this object, which is in evaluation mode from the beginning."""
        return self

    def __repr__(self) -> str:
        neighbours = f", neighbours with λ = {self.lmbda}" if self._memory is not None else ""
        return f"LanguageModelHub({len(self.dictionary)} words, rows of {self.longest_row}, {self.device}{neighbours})"

    def _scorer(self, mixture: Mixture | None = None) -> TextScorer:
        scorer = SequenceScorer(self.models, self._precision, mixture)
        return TextScorer(scorer, self.longest_row, BATCH_TOKENS, add_bos=self._add_bos)

    def _contexts(self, text: str, context_window: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        return self._scorer().context_vectors(encode(self.dictionary, text), self._window(context_window))

    def _window(self, context_window: int | None) -> int:
        window = self.longest_row // 2 if context_window is None else coerce(context_window, int, "context_window")
        if not 0 <= window < self.longest_row:
            raise ConfigError(
                f"context_window must be from 0 to {self.longest_row - 1}, for the model sees {self.longest_row} tokens"
                f" at once, but is {window}"
            )
        return window

    def _shown(self, memory: RowMemory, distances_K: Tensor, ids_K: Tensor, words: int) -> list[Neighbour]:
        """Returns the rows that are there, with what stands around them."""
        there_K = ids_K >= 0
        rows, distances = ids_K[there_K], distances_K[there_K].tolist()
        shown = []
        for row, distance, value in zip(rows.tolist(), distances, memory.values(rows).tolist(), strict=True):
            passage = memory.passage(row, words, words)
            before, after = (None, None) if passage is None else (self._line(ids) for ids in passage)
            shown.append(Neighbour(row, distance, self.dictionary[value], before, after))
        return shown

    def _prompt(self, text: str) -> Int64s:
        """Returns a prompt's ids: an ended line stays ended, the last word is to be followed by another."""
        ids = encode(self.dictionary, text)
        return ids if text.endswith(("\n", "\r")) else ids[:-1]

    def _line(self, ids: Sequence[int]) -> str:
        return " ".join(self.dictionary[idx] for idx in ids)
