"""Results of shares: their sum is the result of the whole, to the bit."""

import json
import math

import numpy as np
import pytest

from fairseq.criterions.perplexity import Perplexity
from fairseq.errors import DatastoreError
from fairseq.evaluate.result import EvaluationResult, PartialResult, added, total
from fairseq.evaluate.text_size import TextSize
from fairseq.runtime.shares import Share
from fairseq.storage.records import as_json, parse

SYMBOLS = [f"w{number}" for number in range(20)]


def batches(seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(17):
        log_p_N, target_N = -rng.gamma(3.0, 2.0, 31), rng.integers(0, 20, 31)
        log_p_N[rng.random(31) < 0.02] = -math.inf
        found.append((log_p_N, target_N))
    return found


def share_of(parts: list[tuple[np.ndarray, np.ndarray]], share: Share) -> PartialResult:
    mixture, lm = Perplexity(), Perplexity()
    for log_p_N, target_N in parts:
        mixture.add(log_p_N, target_N, num_joined=2)
        lm.add(np.maximum(log_p_N, -50.0) * 1.1, target_N, num_joined=2)
    counts = {"searches": 31 * len(parts), "nearest": [0.1] * len(parts)}
    return PartialResult.of(share, mixture, lm, TextSize(3 * len(parts), 100 * len(parts)), SYMBOLS, counts)


@pytest.mark.parametrize("cuts", [[5, 11], [0, 3], [9, 9]])
@pytest.mark.parametrize("through_json", [False, True])
def test_shares_add_up_to_the_whole(cuts: list[int], through_json: bool) -> None:
    parts = batches(1)
    whole = share_of(parts, Share())
    pieces = [parts[: cuts[0]], parts[cuts[0] : cuts[1]], parts[cuts[1] :]]
    found = [share_of(piece, Share(number, 3)) for number, piece in enumerate(pieces)]
    if through_json:
        texts = [json.dumps(as_json(part)) for part in found]
        found = [parse(text, PartialResult, "a file", DatastoreError, "again") for text in texts]
    joined = total(found)
    assert EvaluationResult(joined, 0, 1.0).record() == EvaluationResult(whole, 0, 1.0).record()
    assert joined.perplexity.log_p_sum == -math.inf and joined.zero == whole.zero and sum(whole.zero.values()) > 0
    assert joined.lm is not None and whole.lm is not None and joined.lm.log_p_sum == whole.lm.log_p_sum
    assert joined.lm.log_p_sum == math.fsum(float((np.maximum(p, -50.0) * 1.1).sum()) for p, _ in parts)
    assert joined.memories["searches"] == 31 * 17
    assert math.fsum(joined.memories["nearest"]) == math.fsum([0.1] * 17)  # type: ignore[arg-type]


def test_a_model_alone_has_no_second_loss_and_a_plain_text_no_size() -> None:
    alone = PartialResult.of(Share(), Perplexity(), None, None, SYMBOLS, {})
    assert (alone.lm, alone.size, (alone + alone).lm) == (None, None, None)
    assert added({}, {}) == {}


def test_what_has_no_probability_is_named() -> None:
    perplexity = Perplexity()
    perplexity.add(np.array([-math.inf, math.nan, -1.0, -math.inf]), np.array([3, 4, 5, 3]))
    result = EvaluationResult(PartialResult.of(Share(), perplexity, None, None, SYMBOLS, {}), 0, None)
    assert result.warnings == [
        "2 targets have probability 0 as their probability: w3 (2)",
        "1 targets have no number as their probability: w4 (1)",
    ]
    assert result.summary.startswith("Evaluated 4 tokens\nLoss") and result.speed() == {}
