"""A search over P shards waits for the slowest: what stragglers cost, and what blocks in flight win back, simulated.

    python benchmarks/stragglers.py [--shards 1,4,16,64,256,1024] [--in-flight 1,2,4,8] [--blocks 500] [--runs 50]
                                    [--seed 1] [--sigma 0.3] [--slow-share 0.01] [--slow-factor 3]

The model. A block of queries is asked of all P shards at once, and is answered when the last of them has answered. A
shard works through its blocks in order, one at a time; at most F blocks are in flight, so that block i is sent when
block i − F is answered. The time of a block at a shard is lognormal of mean 1 and shape sigma, drawn anew each time; it
is slow-factor times as long at a machine that is slow, for the whole run, as each one is with a chance of slow-share.
Nothing is lost, asked again or sent over a network that takes time.

    lost        share of the throughput of shards of mean time 1 that never wait
    50 %, 99 %  latency: from sending a block to its answer, in mean times of a block

Each is given for machines that are all alike, and with slow ones among them. Machines are drawn anew for each run;
figures are means over the runs.
"""

import argparse
from dataclasses import dataclass, replace

import numpy as np
from table import aligned

from fairseq.arrays import Float64s

QUANTILES = (0.5, 0.99)
HEAD = ("shards", "in flight", "lost", "50 %", "99 %", "lost, slow ones", "50 %", "99 %")


@dataclass(frozen=True)
class Times:
    """What a block takes at a shard: lognormal, of mean 1, and longer at slow machines.

    Attributes:
        sigma: shape of the lognormal; 0 for the same time always.
        slow_share: chance that a machine is slow.
        slow_factor: how much longer it takes.
    """

    sigma: float = 0.3
    slow_share: float = 0.01
    slow_factor: float = 3.0

    def draw(self, blocks: int, shards: int, rng: np.random.Generator) -> Float64s:
        """Returns the times of blocks at shards, ``[blocks, shards]``."""
        drawn = rng.lognormal(-(self.sigma**2) / 2, self.sigma, (blocks, shards))
        is_slow = rng.random(shards) < self.slow_share
        times: Float64s = drawn * np.where(is_slow, self.slow_factor, 1.0)
        return times


def answered(times_BP: Float64s, in_flight: int) -> tuple[Float64s, Float64s]:
    """Returns when each block is sent and when all shards have answered it.

    Args:
        times_BP: of B blocks at P shards.
        in_flight: blocks that are asked at once, at most.
    """
    sent_B, done_B = np.zeros(len(times_BP)), np.zeros(len(times_BP))
    free_P = np.zeros(times_BP.shape[1])
    for block, times_P in enumerate(times_BP):
        if block >= in_flight:
            sent_B[block] = done_B[block - in_flight]
        free_P = np.maximum(free_P, sent_B[block]) + times_P
        # The answers are taken in order.
        done_B[block] = max(free_P.max(), done_B[block - 1] if block else 0.0)
    return sent_B, done_B


def simulate(
    times: Times, shards: int, in_flight: int, blocks: int, runs: int, seed: int
) -> tuple[float, tuple[float, ...]]:
    """Returns the share of the throughput that is lost, and the latency's quantiles, means over some runs."""
    lost, latencies = [], []
    for run in range(runs):
        rng = np.random.default_rng([seed, shards, run])
        sent_B, done_B = answered(times.draw(blocks, shards, rng), in_flight)
        lost.append(1 - blocks / done_B[-1])
        latencies.append(np.quantile(done_B - sent_B, QUANTILES))
    return float(np.mean(lost)), tuple(np.mean(latencies, axis=0).tolist())


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def main() -> None:
    """Simulates and prints."""
    parser = argparse.ArgumentParser(description="Simulate a search that waits for the slowest of many shards.")
    parser.add_argument("--shards", type=_numbers, default="1,4,16,64,256,1024", metavar="P,P")
    parser.add_argument("--in-flight", type=_numbers, default="1,2,4,8", metavar="F,F", help="blocks asked at once")
    parser.add_argument("--blocks", type=int, default=500, help="of a run")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sigma", type=float, default=Times.sigma)
    parser.add_argument("--slow-share", type=float, default=Times.slow_share)
    parser.add_argument("--slow-factor", type=float, default=Times.slow_factor)
    args = parser.parse_args()
    times = Times(args.sigma, args.slow_share, args.slow_factor)
    print(
        f"lognormal times of mean 1, sigma {times.sigma}; {times.slow_share:.1%} of machines take"
        f" {times.slow_factor} times as long; {args.blocks} blocks, {args.runs} runs, seed {args.seed}"
    )
    lines: list[tuple[str, ...]] = [HEAD]
    for shards in args.shards:
        for in_flight in args.in_flight:
            words = [f"{shards}", f"{in_flight}"]
            for kind in (replace(times, slow_share=0.0), times):
                lost, latency = simulate(kind, shards, in_flight, args.blocks, args.runs, args.seed)
                words += [f"{lost:.1%}", *(f"{value:.1f}" for value in latency)]
            lines.append(tuple(words))
    print(aligned(lines))


if __name__ == "__main__":
    main()
