"""Text from a language model: continues prompts by the most probable tokens, or by random draws.

    prompts ─ opening, padded on the right ─ model ─┬─ log p of every word ─ [mixed with memories] ────────┐
                                              ▲     └─ context vectors ─────────────┘                      │
                                              └─ next tokens ─ beam search, or draws ─ forbidden words ────┘

The model reads each token once: what it needs of the earlier ones is in a cache (fairseq/modules/kv_cache.py), passed
to it and reordered as texts are chosen. A prompt's texts do not depend on which other prompts are in the batch, but for
the rounding of sums; random draws are a function of seed, prompt and text.

B prompts, R rows (texts that go on), S tokens read at once, V words, C width.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from fairseq.arrays import Int64s
from fairseq.data.dictionary import PAD, UNK
from fairseq.errors import CheckpointError, ConfigError
from fairseq.evaluate.mixture import NextTokenMemory, NextTokenMixture
from fairseq.generate.config import GenerationConfig
from fairseq.generate.frame import Frame
from fairseq.generate.hypotheses import Hypothesis, Partial
from fairseq.generate.next_token import NextTokens
from fairseq.generate.search import BeamSearch, Sampler, repeating_tokens
from fairseq.models.protocol import longer_rows
from fairseq.runtime.precision import Precision


class Generator:
    """Continues prompts.

    Args:
        model: in evaluation mode, on the device of ``precision``.
        precision: device and number format.
        config: how texts are chosen.
        memories: what is mixed in, with its weight.
        seed: of random draws.
        add_bos: ``<s>`` stands before ``</s>`` where a text begins, as in training.
        ends: ids that end a text; ``</s>`` if left out.
    """

    def __init__(
        self,
        model: Any,
        precision: Precision,
        config: GenerationConfig,
        memories: Sequence[tuple[NextTokenMemory, float]] = (),
        *,
        seed: int = 1,
        add_bos: bool = False,
        ends: Collection[int] | None = None,
    ) -> None:
        self.model, self.precision, self.config = model, precision, config
        self.mixture, self.seed = NextTokenMixture(memories), seed
        self.frame = Frame.of(model, add_bos=add_bos, ends=ends)

    @property
    def longest_prompt(self) -> int:
        """Most tokens of a prompt: the model's positions must leave room for one more."""
        return int(self.model.max_positions) - self.frame.opens(1)

    def most_tokens(self, prompt_size: int) -> int:
        """Returns how many tokens may follow a prompt, by the flags and by the model's positions.

        Raises:
            ConfigError: none may.
        """
        if prompt_size > self.longest_prompt:
            more = longer_rows(self.model)
            raise ConfigError(
                f"a prompt must have at most {self.longest_prompt} tokens, for the model has {self.model.max_positions}"
                f" positions, but has {prompt_size}; shorten it{more and f', or make room with {more}'}"
            )
        most = self.config.most_tokens(prompt_size)
        if most < 1:
            raise ConfigError(
                f"--max-len-a {self.config.max_len_a:g} and --max-len-b {self.config.max_len_b} leave no token to"
                f" follow a prompt of {prompt_size}; raise --max-len-b"
            )
        room = int(self.model.max_positions) - self.frame.opens(prompt_size) - prompt_size
        return min(most, room + 1)  # the last token is not read again

    def batches(self, prompts: Sequence[Int64s], max_tokens: int | None, max_prompts: int | None) -> list[range]:
        """Returns which prompts are continued together, in order.

        Args:
            prompts: as for ``generate``.
            max_tokens: in a batch, a prompt and its longest text counted ``--beam`` times.
            max_prompts: in a batch.

        Raises:
            ConfigError: one prompt alone is too much, or leaves no room for a token.
        """
        batches, first, longest = [], 0, 0
        for number, prompt_T in enumerate(prompts):
            size = (len(prompt_T) + self.most_tokens(len(prompt_T))) * self.config.beam
            if max_tokens is not None and size > max_tokens:
                raise ConfigError(
                    f"--max-tokens {max_tokens} must hold a prompt and its texts, --beam times, but one of"
                    f" {len(prompt_T)} tokens needs {size}; raise it, or lower --beam or --max-len-b"
                )
            longest = max(longest, size)
            count = number + 1 - first
            if (max_tokens is not None and longest * count > max_tokens) or count > (max_prompts or count):
                batches.append(range(first, number))
                first, longest = number, size
        return [*batches, range(first, len(prompts))] if prompts else []

    @torch.no_grad()
    def generate(self, prompts: Sequence[Int64s], ids: Sequence[int] | None = None) -> list[list[Hypothesis]]:
        """Returns the ``--nbest`` texts of each prompt, the best first.

        Args:
            prompts: int64 ids, without what every text opens with; they are one batch.
            ids: number of each prompt in the run, on which its random draws depend; 0, 1, … if left out.

        Raises:
            ConfigError: a prompt leaves no room for a token.
            CheckpointError: the model's probabilities are no numbers.
        """
        most_tokens = [self.most_tokens(len(prompt_T)) for prompt_T in prompts]
        if not prompts:
            return []
        rows = [self.frame.row(prompt_T) for prompt_T in prompts]
        longest = max(len(row) + most - 1 for row, most in zip(rows, most_tokens, strict=True))
        most_rows = self.config.beam * len(rows)
        next_tokens = NextTokens(self.model, self.precision, rows, most_rows, longest, self.mixture)
        search: BeamSearch | Sampler = BeamSearch(self.config.beam, len(prompts), self.frame.ends)
        if self.config.sampling:
            numbers = range(len(prompts)) if ids is None else ids
            search = Sampler(self.config, self.seed, numbers, self.frame.ends)
        live = [Partial(prompt) for prompt in range(len(prompts))]
        done: list[list[Hypothesis]] = [[] for _ in prompts]
        while live:
            log_p_RV = next_tokens.log_prob()
            if bool(log_p_RV.amax(1).isnan().any()):
                raise CheckpointError("the model's probabilities are not numbers; it has diverged, take another one")
            live, finished = search.step(live, log_p_RV, self._worth(prompts, live, log_p_RV))
            out_of_room = [text for text in live if len(text.tokens) == most_tokens[text.prompt]]
            live = [text for text in live if len(text.tokens) < most_tokens[text.prompt]]
            for text in [*finished, *out_of_room]:
                done[text.prompt].append(text.finished(prompts[text.prompt], self.config))
            if live:
                next_tokens.read([text.parent for text in live], [text.tokens[-1] for text in live])
        return [sorted(texts, key=lambda text: -text.score)[: self.config.nbest] for texts in done]

    @torch.no_grad()
    def context_vectors(self, text: Hypothesis) -> Tensor:
        """Returns the context vector before each generated token, float32 ``[T, C]``."""
        row_S = self.frame.row(text.prompt_T, text.tokens_T[:-1])
        first = len(row_S) - len(text.tokens_T)
        with self.precision.autocast():
            out = self.model(torch.from_numpy(row_S)[None].to(self.precision.device), first)
        vectors_TC: Tensor = out.ffn_input_BSC[0].float()
        return vectors_TC

    def _worth(self, prompts: Sequence[Int64s], live: Sequence[Partial], log_p_RV: Tensor) -> Tensor:
        """Returns what each next token adds to its text's total: ln p less penalties, −inf for what is forbidden."""
        worth_RV, ends = log_p_RV.clone(), list(self.frame.ends)
        worth_RV[:, PAD] = -torch.inf
        worth_RV[:, UNK] -= self.config.unkpen
        for row, text in enumerate(live):
            if len(text.tokens) < self.config.min_len:
                worth_RV[row, ends] = -torch.inf
            so_far = [*prompts[text.prompt].tolist(), *text.tokens]
            worth_RV[row, list(repeating_tokens(so_far, self.config.no_repeat_ngram_size))] = -torch.inf
        return worth_RV
