"""Prompts to texts, until a string that ends them: ``generate_until`` of the harness, by the mixture.

R rows, V words.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairseq.errors import CheckpointError, ConfigError, refuse_unknown, shown
from fairseq.evaluate.mixture import NextTokenMixture
from fairseq.generate.next_token import NextTokens
from fairseq.generate.search import kept
from fairseq.harness.texts import Texts
from fairseq.runtime.precision import Precision

CPU_PROMPTS, GPU_PROMPTS = 16, 64
_SIZES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first that is there counts
_KNOWN = ("until", "do_sample", "temperature", "top_k", "top_p", "num_beams", *_SIZES)


@dataclass(frozen=True)
class Continuation:
    """How a text goes on.

    Attributes:
        until: strings before which it ends.
        most_tokens: of it.
        temperature: of random draws; 0 takes the most probable token each time.
        top_k: draws are among so many of the most probable words; −1 among all.
        top_p: draws are among the fewest words of this probability; −1 among all.
    """

    until: tuple[str, ...] = ()
    most_tokens: int = 256
    temperature: float = 0.0
    top_k: int = -1
    top_p: float = -1.0

    @staticmethod
    def of(given: Mapping[str, Any], most_tokens: int) -> "Continuation":
        """Returns what a task's ``generation_kwargs`` say.

        Raises:
            ConfigError: a setting that is not known, or out of range.
        """
        refuse_unknown(given, _KNOWN, "generation_kwargs")
        if given.get("num_beams", 1) != 1:
            raise ConfigError(f"num_beams must be 1 here, but is {given['num_beams']}; leave it out of gen_kwargs")
        until = given.get("until") or []
        until = [until] if isinstance(until, str) else until
        if not all(isinstance(word, str) for word in until):
            raise ConfigError(f"until must be a string, or several, but is {shown(until)}")
        sizes = [given[name] for name in _SIZES if given.get(name) is not None]
        most = int(sizes[0]) if sizes else most_tokens
        temperature = float(given.get("temperature") or 0.0)
        sampling = given.get("do_sample")
        if sampling and "temperature" not in given:
            temperature = 1.0
        if sampling is False:
            temperature = 0.0
        top_k, top_p = int(given.get("top_k") or -1), float(given.get("top_p") or -1.0)
        if most < 1 or temperature < 0 or top_k < -1 or not (top_p == -1 or 0 < top_p <= 1):
            raise ConfigError(
                "max_gen_toks must be at least 1, temperature at least 0, top_k at least 1 and top_p from 0 to 1, but"
                f" generation_kwargs are {shown(dict(given), 200)}"
            )
        return Continuation(tuple(word for word in until if word), most, temperature, top_k, top_p)


class Continuer:
    """Continues prompts by a model's mixture with neighbours.

    Args:
        model: in evaluation mode, on the device of ``precision``.
        precision: device and number format.
        texts: makes texts of ids.
        mixture: the neighbours, and their weight.
        end_ids: ids of the model's that end a text.
        longest_row: most tokens that the model reads at once.
        opening: ids of the model's that stand before each prompt.
        batch_size: prompts that are continued at once.
    """

    def __init__(
        self,
        model: Any,
        precision: Precision,
        texts: Texts,
        mixture: NextTokenMixture,
        *,
        end_ids: Collection[int],
        longest_row: int,
        opening: Sequence[int] = (),
        batch_size: int | None = None,
    ) -> None:
        self._model, self._precision, self._texts, self._mixture = model, precision, texts, mixture
        self._end_ids, self._longest, self._opening = frozenset(end_ids), longest_row, list(opening)
        self._batch_size = batch_size or (CPU_PROMPTS if precision.device.type == "cpu" else GPU_PROMPTS)
        self._end_text = texts.decode([texts.eot_id], skip_special=False)

    @torch.inference_mode()
    def continued(
        self,
        prompts: Sequence[Sequence[int]],
        how: Continuation,
        seeds: Sequence[Sequence[int]],
        advance: Callable[[int], object] = lambda count: None,
    ) -> list[str]:
        """Returns what follows each prompt, cut before the first of ``until`` and before the text's end.

        Args:
            prompts: ids that the harness sees; one that leaves no room loses its beginning.
            how: how it goes on.
            seeds: of the random draws of each prompt.
            advance: is told how many prompts were done.

        Raises:
            ConfigError: the model's row leaves no room for a prompt.
            CheckpointError: the model's probabilities are no numbers.
        """
        room = self._longest - how.most_tokens
        if room < 1:
            raise ConfigError(
                f"max_gen_toks must be below {self._longest}, which is what the model reads at once, but is"
                f" {how.most_tokens}; lower it (--gen_kwargs max_gen_toks={self._longest // 2})"
            )
        order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
        found: dict[int, str] = {}
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            texts = self._batch([list(prompts[i])[-room:] for i in batch], how, [seeds[i] for i in batch])
            found.update(zip(batch, texts, strict=True))
            advance(len(batch))
        return [found[number] for number in range(len(prompts))]

    def _batch(self, prompts: list[list[int]], how: Continuation, seeds: Sequence[Sequence[int]]) -> list[str]:
        shift = self._texts.shift
        rows = [
            np.array([*self._opening, *(idx + shift for idx in prompt or [self._texts.prefix_id])], np.int64)
            for prompt in prompts
        ]
        slots = max(map(len, rows)) + how.most_tokens - 1
        following = NextTokens(self._model, self._precision, rows, len(rows), slots, self._mixture)
        random = [np.random.default_rng(list(seed)) for seed in seeds]
        tokens = [list[int]() for _ in rows]
        live = list(range(len(rows)))
        while live:
            chosen = _chosen(following.log_prob(), how, [random[number] for number in live])
            for number, token in zip(live, chosen, strict=True):
                tokens[number].append(token)
            parents = [row for row, number in enumerate(live) if not self._is_done(tokens[number], how)]
            if parents:
                following.read(parents, [tokens[live[row]][-1] for row in parents])
            live = [live[row] for row in parents]
        return [self._cut(ids, how) for ids in tokens]

    def _is_done(self, ids: list[int], how: Continuation) -> bool:
        if len(ids) >= how.most_tokens or ids[-1] in self._end_ids:
            return True
        if not how.until:
            return False
        tail = ids[-max(len(word.encode()) for word in how.until) - 4 :]  # a token has a byte at least
        text = self._text(tail)
        return any(word in text for word in how.until)

    def _cut(self, ids: list[int], how: Continuation) -> str:
        text = self._text(ids[:-1] if ids and ids[-1] in self._end_ids else ids)
        for word in (*how.until, self._end_text):
            text = text.split(word)[0] if word else text
        return text

    def _text(self, ids: Sequence[int]) -> str:
        return self._texts.decode([idx - self._texts.shift for idx in ids if idx >= self._texts.shift])


def _chosen(log_p_RV: Tensor, how: Continuation, random: Sequence[np.random.Generator]) -> list[int]:
    """Returns the next token of each row."""
    if bool(log_p_RV.amax(1).isnan().any()):
        raise CheckpointError("the model's probabilities are not numbers; it has diverged, take another one")
    if how.temperature == 0:
        return [int(token) for token in log_p_RV.argmax(1).tolist()]
    worth_RV = kept(log_p_RV.double() / how.temperature, how.top_k, -1)
    worth_RV = kept(worth_RV, -1, how.top_p)
    below_RV = torch.exp(worth_RV - worth_RV.amax(1, keepdim=True)).cumsum(1)
    tokens = []
    for below_V, stream in zip(below_RV, random, strict=True):
        total = float(below_V[-1])
        last = int(torch.searchsorted(below_V, total))
        tokens.append(min(int(torch.searchsorted(below_V, stream.random() * total, right=True)), last))
    return tokens
