"""Many caches and weights in one pass: each sum is that of its own mixture, and the best comes first."""

import numpy as np
import pytest

from fairseq.evaluate.cache import CACHE_COLUMN
from fairseq.evaluate.cache_sweep import CacheSweep
from fairseq.evaluate.config import CacheConfig
from fairseq.evaluate.sequence_scorer import ScoredBatch

SIZES, THETAS, WEIGHTS = (4, 9), (0.5, 1.25, 2.0), (0.0, 0.25, 1.0)
JOINED = 3


@pytest.fixture
def swept() -> tuple[CacheSweep, dict[tuple[float, ...], float]]:
    """Returns a sweep of two batches, and the bits per word that each setting must come to."""
    random = np.random.default_rng(2)
    p_lm_N, p_SN = random.uniform(0.01, 1, 11), random.uniform(0.01, 1, (6, 11))
    sweep = CacheSweep(CacheConfig(SIZES, WEIGHTS, THETAS))
    for rows, joined in ((slice(0, 7), JOINED), (slice(7, 11), 0)):
        log_p_N = np.log(p_lm_N[rows])
        count = len(log_p_N)
        batch = ScoredBatch(
            block_idx_N=np.zeros(count, np.int64),
            target_N=np.arange(count),
            log_p_N=log_p_N,
            model_log_p_N=log_p_N,
            memory_log_p_NM=np.empty((count, 1)),
            columns={CACHE_COLUMN: np.log(p_SN[:, rows].T)},
        )
        sweep.add(batch, joined)
    pairs = [(size, theta) for size in SIZES for theta in THETAS]
    bits = {
        (*pair, weight): float(-np.log2((1 - weight) * p_lm_N + weight * p_N).sum() / (11 - JOINED))
        for pair, p_N in zip(pairs, p_SN, strict=True)
        for weight in WEIGHTS
    }
    return sweep, bits


def test_every_setting_is_the_sum_of_its_own_mixture(swept: tuple[CacheSweep, dict[tuple[float, ...], float]]) -> None:
    sweep, bits = swept
    rows = sweep.rows()
    found = {(row["cache_size"], row["cache_theta"], row["cache_lmbda"]): row["loss_base2"] for row in rows}
    assert found == pytest.approx(bits)
    assert [row["loss_base2"] for row in rows] == pytest.approx(sorted(bits.values()))
    assert [row["ppl"] for row in rows] == pytest.approx([2**loss for loss in sorted(bits.values())])
    assert sweep.best().loss == pytest.approx(min(bits.values()))


def test_the_table_has_a_line_for_each_the_best_first(swept: tuple[CacheSweep, dict[tuple[float, ...], float]]) -> None:
    sweep, bits = swept
    head, *lines = sweep.table().splitlines()
    assert head.split()[:3] == ["--cache-size", "--cache-theta", "--cache-lmbda"] and len(lines) == len(bits)
    best = min(bits, key=lambda setting: bits[setting])
    assert lines[0].split() == [*(f"{value:g}" for value in best), f"{bits[best]:.4f}", f"{2 ** bits[best]:.2f}"]
