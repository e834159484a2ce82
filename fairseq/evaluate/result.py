"""The result of an evaluation: what each process has found of its share of a split, added up, and as it is reported.

Sums of log-probabilities are exact until they are read (fairseq/runtime/exact_sum.py), so that any number of processes
has the loss of one, to the bit.
"""

import functools
import importlib.metadata
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from msgspec import UNSET, UnsetType

import fairseq
from fairseq.criterions.perplexity import Perplexity
from fairseq.evaluate.mixture import Counts
from fairseq.evaluate.text_size import TextSize
from fairseq.runtime.exact_sum import ExactSum
from fairseq.runtime.shares import Share
from fairseq.storage.records import Count, Positive, Record

LAST_DIGIT = 5e-5  # half of the last digit of a printed loss


class PartialResult(Record, frozen=True, kw_only=True):
    """The result of a share, or of several.

    Attributes:
        number, count: which share, and of how many; of a sum of several, those of the first.
        targets: that were scored.
        joined: those that ``--post-process`` counts with another one, as one word.
        log_p: parts of Σ ln p.
        lm_log_p: the same of the model alone, where there are memories.
        zero, not_a_number: how often a token had such a probability, by its symbol.
        words, bytes: of the source text, where it is known.
        memories: what they have counted.
    """

    number: Count
    count: Positive
    targets: Count
    joined: Count
    log_p: list[float]
    lm_log_p: list[float] | UnsetType = UNSET
    zero: dict[str, Count]
    not_a_number: dict[str, Count]
    words: Count | UnsetType = UNSET
    bytes: Count | UnsetType = UNSET
    memories: dict[str, Count | list[float]]

    @classmethod
    def of(
        cls,
        share: Share,
        mixture: Perplexity,
        lm: Perplexity | None,
        size: TextSize | None,
        symbols: Sequence[str],
        memories: Counts,
    ) -> "PartialResult":
        """Returns the result of a share.

        Args:
            share: which one.
            mixture: loss of the model with its memories, or of the model without any.
            lm: that of the model alone, where there are memories.
            size: of the source text, if known.
            symbols: the dictionary's, by id.
            memories: what they have counted.
        """
        return cls(
            number=share.number,
            count=share.count,
            targets=mixture.count,
            joined=mixture.num_joined,
            log_p=mixture.log_p.parts,
            lm_log_p=UNSET if lm is None else lm.log_p.parts,
            zero=_by_symbol(mixture.zero_ids, symbols),
            not_a_number=_by_symbol(mixture.nan_ids, symbols),
            words=UNSET if size is None else size.words,
            bytes=UNSET if size is None else size.bytes,
            memories={name: number if isinstance(number, int) else [*number] for name, number in memories.items()},
        )

    def __add__(self, other: "PartialResult") -> "PartialResult":
        return self.replace(
            targets=self.targets + other.targets,
            joined=self.joined + other.joined,
            log_p=ExactSum([*self.log_p, *other.log_p]).parts,
            lm_log_p=ExactSum([*self.lm_log_p, *(other.lm_log_p or ())]).parts if self.lm_log_p is not UNSET else UNSET,
            zero=dict(Counter(self.zero) + Counter(other.zero)),
            not_a_number=dict(Counter(self.not_a_number) + Counter(other.not_a_number)),
            words=self.words + (other.words or 0) if self.words is not UNSET else UNSET,
            bytes=self.bytes + (other.bytes or 0) if self.bytes is not UNSET else UNSET,
            memories=added(self.memories, other.memories),
        )

    @property
    def perplexity(self) -> Perplexity:
        """The loss of the mixture."""
        return Perplexity(ExactSum(self.log_p), self.targets, self.joined)

    @property
    def lm(self) -> Perplexity | None:
        """The loss of the model alone, where there are memories."""
        if self.lm_log_p is UNSET:
            return None
        return Perplexity(ExactSum(self.lm_log_p), self.targets, self.joined)

    @property
    def size(self) -> TextSize | None:
        """Words and bytes of the source text, where it is known."""
        return TextSize(self.words, self.bytes) if self.words is not UNSET and self.bytes is not UNSET else None


def total(parts: Iterable[PartialResult]) -> PartialResult:
    """Returns the sum of some results, of one at least."""
    return functools.reduce(PartialResult.__add__, parts)


def added(one: Counts, other: Counts) -> dict[str, int | list[float]]:
    """Returns the sums of what two have counted."""
    assert one.keys() == other.keys(), (one.keys(), other.keys())
    return {name: _sum_of(number, other[name]) for name, number in one.items()}


def _sum_of(one: int | Sequence[float], other: int | Sequence[float]) -> int | list[float]:
    if isinstance(one, int):
        assert isinstance(other, int), other
        return one + other
    assert not isinstance(other, int), other
    return ExactSum([*one, *other]).parts


def _by_symbol(ids: Mapping[int, int], symbols: Sequence[str]) -> dict[str, int]:
    return {symbols[token]: number for token, number in ids.items()}


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluation found, as it is reported.

    Attributes:
        found: the sums, of all shares or of one; of a cache's sweep those of the best setting.
        num_left_out: tokens of blocks that are longer than the model's positions, of the whole split.
        elapsed_s: seconds; None where they are not known.
        sweep: every row of a cache's sweep.
    """

    found: PartialResult
    num_left_out: int
    elapsed_s: float | None
    sweep: list[dict[str, Any]] | None = None

    @property
    def perplexity(self) -> Perplexity:
        """The loss of the mixture."""
        return self.found.perplexity

    @property
    def lm(self) -> Perplexity | None:
        """The loss of the model alone, where there are memories."""
        return self.found.lm

    @property
    def size(self) -> TextSize | None:
        """That of the source text, where it is known."""
        return self.found.size

    @property
    def tokens_per_s(self) -> float:
        """Targets in a second, where the time is known."""
        return self.found.targets / max(self.elapsed_s or 0.0, 1e-9)

    @property
    def summary(self) -> str:
        """The two lines that people search for, and one by word and byte where the source text is known.

        Of a share without any target it is one line.
        """
        p, size = self.perplexity, self.size
        time = "" if self.elapsed_s is None else f" in {self.elapsed_s:.1f}s ({self.tokens_per_s:.2f} tokens/s)"
        if not p.count:
            return f"Evaluated 0 tokens{time}"
        by_size = f"\nOf {size.words} words, {size.bytes} bytes: {size.line(p)}" if size is not None else ""
        return f"Evaluated {p.count} tokens{time}\nLoss (base 2): {p.loss:.4f}, Perplexity: {p.ppl:.2f}{by_size}"

    @property
    def lm_line(self) -> str:
        """The model alone, in words that no search for the two lines of ``summary`` finds."""
        assert self.lm is not None
        by_size = f"; {self.size.line(self.lm)}" if self.size is not None else ""
        return f"The model alone: {self.lm.loss:.4f} bits a token, perplexity {self.lm.ppl:.2f}{by_size}"

    @property
    def is_worse_than_lm(self) -> bool:
        """Whether the mixture has a larger loss than the model alone, by more than the last digit that is printed."""
        return self.lm is not None and self.perplexity.loss - self.lm.loss > LAST_DIGIT

    @property
    def worse_line(self) -> str:
        """That it has, for people."""
        assert self.lm is not None
        ppl, lm_ppl = self.perplexity.ppl, self.lm.ppl
        return f"the mixture is worse than the model alone: perplexity {ppl:.2f} instead of {lm_ppl:.2f}"

    @property
    def warnings(self) -> list[str]:
        """Which targets have no probability that can be taken the logarithm of, a line for each kind."""
        lines = []
        for what, tokens in (("probability 0", self.found.zero), ("no number", self.found.not_a_number)):
            if tokens:
                shown = ", ".join(f"{symbol} ({number})" for symbol, number in list(tokens.items())[:5])
                lines.append(f"{sum(tokens.values())} targets have {what} as their probability: {shown}")
        return lines

    def record(self) -> dict[str, Any]:
        """Returns what was found as plain values for JSON, the same for every repetition; loss in bits, in full.

        A loss over no target is null.
        """
        p, size = self.perplexity, self.size
        by_size = {"words": size.words, "bytes": size.bytes, **size.record(p)} if size is not None else {}
        return {
            **_losses(p),
            "log_p_sum_nats": p.log_p_sum,
            "targets": p.count,
            "targets_joined_to_the_next": p.num_joined,
            "tokens_left_out": self.num_left_out,
            "targets_of_probability_0": self.found.zero,
            "targets_not_a_number": self.found.not_a_number,
            **by_size,
            **({"lm": self._lm_record(self.lm)} if self.lm is not None else {}),
            **({"sweep": self.sweep} if self.sweep is not None else {}),
        }

    def _lm_record(self, lm: Perplexity) -> dict[str, Any]:
        by_size = self.size.record(lm) if self.size is not None else {}
        return {**_losses(lm), **by_size}

    def speed(self) -> dict[str, float]:
        """Returns how long it took, which no repetition gives again."""
        if self.elapsed_s is None:
            return {}
        return {"seconds": round(self.elapsed_s, 3), "tokens_per_s": round(self.tokens_per_s, 2)}


def _losses(perplexity: Perplexity) -> dict[str, float | None]:
    """Returns loss and perplexity, null where nothing was scored."""
    is_known = perplexity.count > perplexity.num_joined
    return {"loss_base2": perplexity.loss if is_known else None, "ppl": perplexity.ppl if is_known else None}


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on."""
    return {
        "fairseq-knnlm": fairseq.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "faiss": _installed("faiss-cpu") or _installed("faiss-gpu") or "another build",
        "numpy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
    }


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
