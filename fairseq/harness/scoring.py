"""Contexts and continuations to probabilities, of the model and of its mixture with neighbours, in one pass.

    requests ─ rows, the longest first ─ model ─┬─ ln p of targets, and which words are the most probable
                                                └─ queries, of many rows at once ─ neighbours ─ the mixture's

A continuation is greedy where each of its tokens is the most probable word of all. Of the mixture that is mostly known
without every word's probability: (1 − λ) of the model's largest one is a bound. Elsewhere all words are looked at.

R rows, T time, U places in rows whose next token is scored, P pairs of a place and a target, C width, V words.
"""

import copy
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairseq.arrays import Array, Bools, Float64s, Int64s
from fairseq.data.dictionary import EOS
from fairseq.errors import ConfigError
from fairseq.evaluate.mixture import NextTokenMixture, interpolate
from fairseq.harness.head import Head
from fairseq.runtime.precision import Precision

logger = logging.getLogger(__name__)

# Padded tokens of a batch where nobody says how many rows it has.
CPU_TOKENS, GPU_TOKENS = 2048, 32_768
# Places for which neighbours are looked for at once.
PLACES_AT_ONCE = 8192
# Rounding, in nats: what is nearer than this to a bound is looked at.
MARGIN = 1e-4


@dataclass(frozen=True)
class Request:
    """What is to be scored, in ids of the model.

    Attributes:
        context: at least one id.
        continuation: whose probability behind the context is asked for.
    """

    context: Sequence[int]
    continuation: Sequence[int]


@dataclass(frozen=True)
class Answer:
    """ln p of a continuation, and whether each of its tokens is the most probable one."""

    log_p: float
    is_greedy: bool


@dataclass
class _Row:
    """What the model reads, and the continuations that end one token behind it, by the numbers of their requests."""

    ids: tuple[int, ...]
    targets: list[tuple[int, Sequence[int]]]

    @property
    def most(self) -> int:
        return max(len(target) for _, target in self.targets)


@dataclass(frozen=True)
class _Places:
    """U places of some rows, and the P targets behind them, as the model sees them."""

    features_UC: Tensor
    query_UD: Tensor
    place_P: Int64s
    target_P: Int64s
    request_P: Int64s
    log_p_P: Float64s
    largest_P: Float64s
    is_best_P: Bools

    @staticmethod
    def joined(parts: "Sequence[_Places]") -> "_Places":
        """Returns the places of all parts."""
        sizes = [len(part.features_UC) for part in parts]
        starts = list(itertools.accumulate(sizes, initial=0))
        places = [part.place_P + start for part, start in zip(parts, starts, strict=False)]

        def together(name: str) -> Any:
            return np.concatenate([getattr(part, name) for part in parts])

        return _Places(
            torch.cat([part.features_UC for part in parts]),
            torch.cat([part.query_UD for part in parts]),
            np.concatenate(places),
            *(together(name) for name in ("target_P", "request_P", "log_p_P", "largest_P", "is_best_P")),
        )


class Scorer:
    """Scores continuations by a model, and by its mixture with neighbours.

    Args:
        model: in evaluation mode, on the device of ``precision``.
        precision: device and number format.
        memory: the neighbours, None without any.
        lmbda: their weight.
        longest_row: most tokens that the model reads at once.
        batch_size: rows that it reads at once; as many as a number of tokens allows if None.
        opening: ids that stand before each row, as in training.
    """

    def __init__(
        self,
        model: Any,
        precision: Precision,
        memory: Any = None,
        lmbda: float = 0.0,
        *,
        longest_row: int,
        batch_size: int | None = None,
        opening: Sequence[int] = (),
    ) -> None:
        self.memory: Any = memory if lmbda else None
        self._model, self._precision, self._lmbda = model, precision, lmbda
        self._longest, self._batch_size, self._opening = longest_row, batch_size, list(opening)
        self._mixture = NextTokenMixture([(memory, lmbda)] if self.memory is not None else [])
        self._head = Head(model, precision)
        self._most_tokens = CPU_TOKENS if precision.device.type == "cpu" else GPU_TOKENS

    def alone(self) -> "Scorer":
        """Returns what scores by the model alone."""
        other = copy.copy(self)
        other.memory = None
        return other

    @torch.inference_mode()
    def score(
        self, requests: Sequence[Request], *, greedy: bool = True, advance: Callable[[int], object] = lambda count: None
    ) -> list[tuple[Answer, Answer]]:
        """Returns the answer of the model alone and that of the mixture, for each request.

        Args:
            requests: a context that is too long loses its beginning.
            greedy: False does not ask for the most probable words; ``is_greedy`` is then False.
            advance: is told how many requests were done.

        Raises:
            ConfigError: a continuation is longer than a row.
        """
        log_p_2R, is_greedy_2R = np.zeros((2, len(requests))), np.full((2, len(requests)), greedy)
        group: list[_Places] = []
        for batch in self._batches(self._rows(requests)):
            group += self._by_model(batch, greedy=greedy)
            if sum(len(places.features_UC) for places in group) >= PLACES_AT_ONCE:
                self._add(_Places.joined(group), log_p_2R, is_greedy_2R, greedy=greedy)
                group = []
            advance(sum(len(row.targets) for row in batch))
        if group:
            self._add(_Places.joined(group), log_p_2R, is_greedy_2R, greedy=greedy)
        model, mixture = (
            [Answer(*pair) for pair in zip(log_p_R.tolist(), is_greedy_R.tolist(), strict=True)]
            for log_p_R, is_greedy_R in zip(log_p_2R, is_greedy_2R, strict=True)
        )
        return list(zip(model, mixture, strict=True))

    def _rows(self, requests: Sequence[Request]) -> list[_Row]:
        """Returns what the model reads, each row once, the longest first."""
        rows: dict[tuple[int, ...], _Row] = {}
        cut = sum(len(each.context) + len(each.continuation) > self._longest + 1 for each in requests)
        if cut:
            logger.warning(
                "%d of %d requests are longer than the %d tokens that the model reads at once, and lose the beginning"
                " of their context",
                cut,
                len(requests),
                self._longest,
            )
        for number, request in enumerate(requests):
            size = len(request.continuation)
            if not size:
                continue
            if size > self._longest:
                raise ConfigError(
                    f"a continuation must have at most {self._longest} tokens, which is what the model reads at once,"
                    f" but one has {size}; raise max_length, where the model can read more"
                )
            ids = tuple([*request.context, *request.continuation][-self._longest - 1 : -1])
            rows.setdefault(ids, _Row(ids, [])).targets.append((number, request.continuation))
        return sorted(rows.values(), key=lambda row: (-len(row.ids), row.ids))

    def _batches(self, rows: list[_Row]) -> Iterator[list[_Row]]:
        start = 0
        while start < len(rows):
            most = self._batch_size or max(self._most_tokens // len(rows[start].ids), 1)
            yield rows[start : start + most]
            start += most

    def _by_model(self, rows: list[_Row], *, greedy: bool) -> list[_Places]:
        """Returns what the model says of some rows; where a GPU has no room for them, of half of them at a time."""
        try:
            return [self._read(rows, greedy=greedy)]
        except torch.OutOfMemoryError:
            if len(rows) == 1:
                raise
        torch.cuda.empty_cache()
        half = len(rows) // 2
        self._most_tokens = max(half * len(rows[0].ids), 1)
        return [*self._by_model(rows[:half], greedy=greedy), *self._by_model(rows[half:], greedy=greedy)]

    def _read(self, rows: list[_Row], *, greedy: bool) -> _Places:
        opening = self._opening
        sizes = [len(opening) + len(row.ids) for row in rows]
        source_RT = torch.full((len(rows), max(sizes)), EOS)
        for row, line_T, size in zip(rows, source_RT, sizes, strict=True):
            line_T[:size] = torch.tensor([*opening, *row.ids])
        first = min(size - row.most for row, size in zip(rows, sizes, strict=True))
        with self._precision.autocast():
            out = self._model(source_RT.to(self._precision.device), first)
        line_U, column_U, place_P, target_P, request_P = _where(rows, sizes)
        features_UC = out.features_BSC[line_U, column_U - first]
        queries = self.memory is not None
        query_UD = (
            out.ffn_input_BSC[line_U, column_U - first].float()
            if queries
            else features_UC.new_empty((len(features_UC), 0))
        )
        scores = self._head.targets(features_UC, place_P, target_P, greedy=greedy)
        return _Places(features_UC, query_UD, place_P, target_P, request_P, *scores)

    def _add(self, places: _Places, log_p_2R: Float64s, is_greedy_2R: Bools, *, greedy: bool) -> None:
        """Adds what is known of places to the totals of their requests."""
        mixed_P, is_best_P = places.log_p_P, places.is_best_P
        if self.memory is not None:
            mixed_P, is_best_P = self._mixed(places, greedy=greedy)
        for side, (log_p_P, best_P) in enumerate(((places.log_p_P, places.is_best_P), (mixed_P, is_best_P))):
            np.add.at(log_p_2R[side], places.request_P, log_p_P)
            if greedy:
                np.logical_and.at(is_greedy_2R[side], places.request_P, best_P)

    def _mixed(self, places: _Places, *, greedy: bool) -> tuple[Float64s, Bools]:
        """Returns ln p of each target by the mixture, and whether it is the most probable word."""
        has_many_U = np.bincount(places.place_P, minlength=len(places.features_UC)) > 1
        has_many_P = has_many_U[places.place_P]
        mixed_P, is_best_P = np.zeros(len(has_many_P)), np.zeros(len(has_many_P), bool)
        one_P = ~has_many_P
        mixed_P[one_P] = self._of_targets(places, np.flatnonzero(one_P))
        asked_P = has_many_P
        if greedy:
            bound_P = places.largest_P + (math.log1p(-self._lmbda) if self._lmbda < 1 else -math.inf)
            is_best_P[one_P] = mixed_P[one_P] > math.log(0.5) + MARGIN
            is_out_P = one_P & (mixed_P < bound_P - MARGIN)
            # A request with one token that is not the most probable one is not greedy, whatever the others are.
            is_out_P |= np.isin(places.request_P, places.request_P[is_out_P])
            asked_P = has_many_P | (one_P & ~is_best_P & ~is_out_P)
        log_p_A, best_A = self._of_every_word(places, np.flatnonzero(asked_P))
        mixed_P[has_many_P] = log_p_A[has_many_P[asked_P]]
        is_best_P[asked_P] = best_A
        return mixed_P, is_best_P

    def _of_targets(self, places: _Places, pair_A: Int64s) -> Float64s:
        if not len(pair_A):
            return np.empty(0)
        query_AD = places.query_UD[torch.from_numpy(places.place_P[pair_A]).to(places.query_UD.device)]
        target_A = torch.from_numpy(places.target_P[pair_A])
        memory_A = self.memory.log_prob(query_AD, target_A)
        return interpolate(torch.from_numpy(places.log_p_P[pair_A]), memory_A.cpu(), self._lmbda).numpy()

    def _of_every_word(self, places: _Places, pair_A: Int64s) -> tuple[Float64s, Bools]:
        """Returns the same of pairs, from the mixture's probabilities of all words."""

        def mixed(features_NC: Tensor, place_N: Tensor) -> Tensor:
            return self._mixture.mixed(self._head.log_prob(features_NC), places.query_UD[place_N])

        place_A, target_A = places.place_P[pair_A], places.target_P[pair_A]
        log_p_A, _, best_A = self._head.of_every_word(places.features_UC, place_A, target_A, mixed)
        return log_p_A, best_A


def _where(rows: Sequence[_Row], sizes: Sequence[int]) -> tuple[Tensor, Tensor, Int64s, Int64s, Int64s]:
    """Returns the row and the column of each place, and the place, the target and the request of each pair."""
    line_U, column_U = list[Array](), list[Array]()
    place_P, target_P, request_P = list[Array](), list[Array](), list[Array]()
    start = 0
    for number, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        line_U.append(np.full(row.most, number))
        column_U.append(np.arange(size - row.most, size))
        start += row.most
        for request, target in row.targets:
            place_P.append(np.arange(start - len(target), start))
            target_P.append(np.array(target, np.int64))
            request_P.append(np.full(len(target), request))
    places = (torch.from_numpy(np.concatenate(found)) for found in (line_U, column_U))
    pairs = (np.concatenate(found).astype(np.int64) for found in (place_P, target_P, request_P))
    return (*places, *pairs)  # type: ignore[return-value]
