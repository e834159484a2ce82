"""A loaded language model: scores of texts, texts behind prompts, and the neighbours of tokens.

Texts are words between white space, as the model was trained on them, or raw text where the model has a ``pipeline``.
Scores are those of ``fairseq-eval-lm`` on the same text. N tokens, K neighbours, D key width.
"""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from fairseq.config.flags import coerce, flag_fields, resolve
from fairseq.config.keywords import in_keywords
from fairseq.data.dictionary import Dictionary
from fairseq.errors import ConfigError, refuse_unknown
from fairseq.evaluate.mixture import Mixture, NextTokenMixture, average_probabilities
from fairseq.evaluate.sequence_scorer import SequenceScorer
from fairseq.evaluate.texts import TextScorer
from fairseq.generate.config import GenerationConfig
from fairseq.generate.generator import Generator
from fairseq.generate.hypotheses import Hypothesis
from fairseq.hub.fairseq_names import FairseqNames, ends_lines, without_idle
from fairseq.hub.protocol import RowMemory
from fairseq.hub.records import Neighbourhood, Output, Score, Weighted, rows_that_are_there
from fairseq.hub.texts import OTHER_WORDS, Ids, Texts, rows_of_ids
from fairseq.runtime.progress import Progress
from fairseq.text.pipeline import TextPipeline

# Fewer tokens are scored before a line of progress could be read.
SHOWN_TOKENS = 20_000
# Padded tokens that are scored together.
BATCH_TOKENS = 4096
# Prompts that are continued together; their draws and texts do not depend on it.
PROMPTS_AT_ONCE = 16


def _listed(text: object) -> list[Any]:
    """Returns one text, or several, as a list; what is no text is refused when it is encoded."""
    return list(text) if isinstance(text, (list, tuple)) else [text]


class LanguageModelHub(Weighted, FairseqNames):
    """A model that was loaded by ``from_pretrained``, as an ``nn.Module``.

        lm.score("words between spaces").perplexity
        lm.sample("words between", sampling=True, sampling_topk=10)
        lm(lm.encode("words between")).logits.argmax(-1)

    Attributes:
        models: one, or those of an ensemble, in evaluation mode.
        dictionary: words and ids.
        generation_settings: of ``generate`` and ``sample``, where a call says nothing else.
        longest_row: tokens that the model sees at once; longer texts are scored block by block.
        knn: the neighbours that are mixed in, None where there are none.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        dictionary: Dictionary,
        longest_row: int,
        *,
        device: str | torch.device | None = None,
        name: str = "",
        add_bos: bool = False,
        memory: RowMemory | None = None,
        lmbda: float = 0.0,
        pipeline: TextPipeline | None = None,
        texts: Texts | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(models, dictionary, device, pipeline, texts)
        if dtype != torch.float32:
            self.to(dtype)
        self.longest_row, self.knn = longest_row, memory
        self._name, self._add_bos, self._lmbda = name, add_bos, lmbda
        self.generation_settings: dict[str, Any] = {}

    def __call__(self, tokens: Ids | Sequence[Sequence[int]]) -> Output:
        """Returns what the model says comes next behind each token of rows of ids.

        ``logits[b, t]`` are ln p of every word behind ``tokens[b, : t + 1]``, those of the mixture where there are
        neighbours. Ids are taken as they are: a text begins behind ``</s>`` (2), and ``encode`` ends with one.

        Args:
            tokens: int64 ``[T]`` or ``[B, T]``, or lists of ids; rows are filled on the right, with anything.

        Raises:
            ConfigError: no ids (a text is for ``score``), or more in a row than the model has positions.
        """
        return super().__call__(tokens)  # type: ignore[no-any-return]

    def forward(self, tokens: Ids | Sequence[Sequence[int]]) -> Output:
        """See ``__call__``; nothing is kept for gradients."""
        ids = rows_of_ids(self.dictionary, tokens).to(self.device)
        longest = min([m.longest_row for m in self.models if m.longest_row is not None], default=ids.shape[-1])
        if ids.shape[-1] > longest:
            raise ConfigError(
                f"a row must have at most {longest} tokens, the model's positions, but has {ids.shape[-1]}; lm.score"
                " takes texts of any length"
            )
        log_ps, vectors = [], []
        with torch.no_grad(), self._precision.autocast():
            for model in self.models:
                out = model(ids.reshape(-1, ids.shape[-1]), 0)
                log_ps.append(model.log_prob(out.features_BSC.flatten(0, 1)))
                vectors.append(out.ffn_input_BSC.flatten(0, 1).float())
            log_p_NV = NextTokenMixture(self._memories()).mixed(average_probabilities(log_ps), vectors[0])
        shape = (*ids.shape, -1)
        extra = {"context_vectors": vectors[0].view(shape)} if len(vectors) == 1 else {}
        return Output(log_p_NV.float().view(shape), extra)

    @overload
    def score(self, text: str, context_window: int | None = None, *, eos: bool = True, **more: Any) -> Score: ...
    @overload
    def score(
        self, text: list[str], context_window: int | None = None, *, eos: bool = True, **more: Any
    ) -> list[Score]: ...
    def score(
        self, text: str | list[str], context_window: int | None = None, *, eos: bool = True, **more: Any
    ) -> Score | list[Score]:
        """Returns the probability of each token of a text; of several texts, a list. The first token follows ``</s>``.

        Args:
            text: of any length.
            context_window: tokens before each block of a text that is longer than ``longest_row``; half of that if
                left out. With more, each token sees more of the past, and it takes longer.
            eos: the text ends after its last word, whose ``</s>`` is scored as well, as by ``fairseq-eval-lm``. False
                leaves that one out, as fairseq's hub does.
            more: fairseq's ``replace_newlines_with_eos``: each line ends in ``</s>``, unless it is False, which makes
                one line of a text; ``shorten_method`` and the like are taken, and change nothing.

        Raises:
            ConfigError: not a text, no such window, or no such setting.
        """
        lines = ends_lines(more)
        texts = [self._texts.encode(each, lines=lines) for each in _listed(text)]
        window, total = self._window(context_window), sum(map(len, texts))
        mixture = Mixture(self._memories())
        with Progress("score", total, "tokens", shown=total >= SHOWN_TOKENS) as progress:
            scored = self._scorer(mixture).score(texts, window, progress.advance)
        scores = [Score.of(each, self._texts.word_of, self.lmbda, eos=self._texts.ends_lines) for each in scored]
        if not eos:
            scores = [each.without_eos() for each in scores]
        return scores[0] if isinstance(text, str) else scores

    @overload
    def sample(self, prompts: str, beam: int | None = None, *, seed: int = 1, **settings: Any) -> str: ...
    @overload
    def sample(self, prompts: list[str], beam: int | None = None, *, seed: int = 1, **settings: Any) -> list[str]: ...
    def sample(
        self, prompts: str | list[str], beam: int | None = None, *, seed: int = 1, **settings: Any
    ) -> str | list[str]:
        """Returns a prompt with its continuation; of several prompts, a list.

        Args:
            prompts: what the texts begin with; one that ends with a new line is continued on the next line.
            beam: texts that are kept at each token; 1, if left out, takes the most probable token each time.
            seed: of random draws: the same one draws the same texts.
            settings: ``sampling``, ``sampling_topk``, ``sampling_topp``, ``temperature``, ``max_len_b`` and the other
                fields of ``GenerationConfig``; fairseq's ``verbose``, ``skip_invalid_size_inputs`` and the like are
                taken, and change nothing.

        Raises:
            ConfigError: no such setting, one out of range, or a prompt that leaves no room.
        """
        for text in _listed(prompts):
            self._texts.encode(text)  # refuses what is no text
        found = self.generate(_listed(prompts), beam, seed=seed, **settings)
        texts = [self._texts.continued(best[0].prompt_T, best[0].tokens_T) for best in found]
        return texts[0] if isinstance(prompts, str) else texts

    @overload
    def generate(
        self, prompts: str | Sequence[int], beam: int | None = None, *, seed: int = 1, **settings: Any
    ) -> list[Hypothesis]: ...
    @overload
    def generate(
        self,
        prompts: list[str] | list[Tensor] | list[list[int]],
        beam: int | None = None,
        *,
        seed: int = 1,
        **settings: Any,
    ) -> list[list[Hypothesis]]: ...
    @overload
    def generate(self, prompts: Ids, beam: int | None = None, *, seed: int = 1, **settings: Any) -> list[Any]: ...
    def generate(self, prompts: Any, beam: int | None = None, *, seed: int = 1, **settings: Any) -> list[Any]:
        """Returns the ``nbest`` texts after a prompt, the best first, token by token; of several prompts, a list.

        Args:
            prompts: a text, or its ids (int64 ``[T]``, or a list); several as a list of either, or as rows ``[B, T]``.
                The ``</s>`` that ``encode`` ends with, and ``<pad>`` at either end, are left off.
            beam: as in ``sample``.
            seed: as in ``sample``.
            settings: as in ``sample``.

        Raises:
            ConfigError: as ``sample``.
        """
        if len(self.models) > 1:
            raise ConfigError("text is generated by one model, but this is an ensemble; load one checkpoint")
        settings = without_idle(settings)
        refuse_unknown(settings, [*flag_fields(GenerationConfig), "seed"], "generating text", OTHER_WORDS)
        texts, is_one = self._texts.prompts(prompts)
        seed = coerce(seed, int, "seed")
        with in_keywords(GenerationConfig):
            given = {**settings} if beam is None else {"beam": beam, **settings}
            config = resolve(GenerationConfig, {"beam": 1}, self.generation_settings, given)
            memories = self._memories()
            model, bos, ends = self.models[0], self._add_bos, self._texts.ends
            generator = Generator(model, self._precision, config, memories, seed=seed, add_bos=bos, ends=ends)
            found: list[list[Hypothesis]] = []
            for numbers in generator.batches(texts, None, PROMPTS_AT_ONCE):
                found += generator.generate([texts[number] for number in numbers], numbers)
        return found[0] if is_one else found

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
        if self.knn is None:
            raise ConfigError("there are no neighbours; load the model with knn=KNN(datastore, index)")
        if coerce(words, int, "words") < 0:
            raise ConfigError(f"words must be at least 0, but is {words}")
        found: list[Neighbourhood] = []
        for queries_ND, target_N in self._contexts(text, context_window):
            distances_NK, ids_NK = self.knn.search(queries_ND, k)
            for target, *near in zip(target_N.tolist(), distances_NK.cpu(), ids_NK.cpu(), strict=True):
                rows = rows_that_are_there(self.knn, self._texts.word_of, near[0], near[1], words)
                found.append(Neighbourhood(self._texts.word_of(target), rows))
        return found

    def context_vectors(self, text: str, context_window: int | None = None) -> tuple[Tensor, Tensor]:
        """Returns the vector of each token's context, float32 ``[N, D]``, and the tokens, int64 ``[N]``.

        The vectors are what a datastore's keys are made of, and what it is asked with. Arguments and errors are those
        of ``score``.
        """
        vectors, tokens = zip(*self._contexts(text, context_window), strict=True)
        return torch.cat(vectors), torch.cat(tokens)

    def __repr__(self) -> str:
        name = f"{self._name}, " if self._name else ""
        format_ = "" if self.dtype == torch.float32 else f", {str(self.dtype).removeprefix('torch.')}"
        neighbours = f", {self.knn} with λ = {self.lmbda}" if self.knn is not None else ""
        size = f"{len(self.dictionary):,} words, rows of {self.longest_row:,}"
        return f"LanguageModelHub({name}{size}, {self.device}{format_}{neighbours})"

    def _memories(self) -> list[tuple[RowMemory, float]]:
        return [(self.knn, self.lmbda)] if self.knn is not None else []

    def _scorer(self, mixture: Mixture | None = None) -> TextScorer:
        scorer = SequenceScorer(self.models, self._precision, mixture)
        return TextScorer(scorer, self.longest_row, BATCH_TOKENS, add_bos=self._add_bos)

    def _contexts(self, text: str, context_window: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        return self._scorer().context_vectors(self._texts.encode(text), self._window(context_window))

    def _window(self, context_window: int | None) -> int:
        window = self.longest_row // 2 if context_window is None else coerce(context_window, int, "context_window")
        if not 0 <= window < self.longest_row:
            raise ConfigError(
                f"context_window must be from 0 to {self.longest_row - 1}, for the model sees {self.longest_row} tokens"
                f" at once, but is {window}"
            )
        return window
