"""Tokens a second of generating, with what the model has read kept and with every text read anew for each token.

    python benchmarks/generate.py ../shared/golden/knnlm
    python benchmarks/generate.py ../shared/golden/knnlm --dstore DSTORE --index INDEX

continues the first 32 tokens of blocks of the golden valid split by 64 tokens, without an end before. A token is one
that a text gained, of every text that the beam followed. Both ways must give the same tokens. With a datastore a third
column has neighbours as well (k = 1,024, probe 32, λ = 0.25). The best of --runs runs; they take turns. --clock cpu
counts the seconds of this process on all processors, which other work on the machine leaves nearly alone.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairseq.checkpoints.format import load_checkpoint
from fairseq.config.common import DeviceConfig
from fairseq.data.config import LanguageModelingConfig
from fairseq.generate.config import GenerationConfig
from fairseq.generate.generator import Generator
from fairseq.runtime.precision import Precision
from fairseq.tasks.language_modeling import LanguageModelingTask

PROMPT, TEXT, BLOCK = 32, 64, 256
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Row:
    """One setting: how many prompts at once, and how they are continued."""

    name: str
    num_prompts: int
    config: GenerationConfig


class Anew:
    """A model that keeps nothing of what it has read."""

    def __init__(self, model: Any) -> None:
        self.log_prob, self.max_positions, self._model = model.log_prob, model.max_positions, model

    def __call__(self, *inputs: Any) -> Any:
        """Returns what the model makes of rows."""
        return self._model(*inputs)


def rows() -> list[Row]:
    """Returns the settings that are measured."""
    lengths: dict[str, Any] = {"max_len_b": TEXT, "min_len": TEXT}
    return [
        Row("greedy, 1 prompt", 1, GenerationConfig(beam=1, **lengths)),
        Row("greedy, 8 prompts", 8, GenerationConfig(beam=1, **lengths)),
        Row("beam 5, 2 prompts", 2, GenerationConfig(beam=5, **lengths)),
        Row("nucleus 0.9, 8 prompts", 8, GenerationConfig(beam=1, sampling=True, sampling_topp=0.9, **lengths)),
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Time generating with and without the cache.")
    parser.add_argument("golden", type=Path)
    parser.add_argument("--dstore", type=Path)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    args = parser.parse_args()
    clock = CLOCKS[args.clock]
    if not (args.golden / "data-bin").is_dir():
        raise SystemExit(f"{args.golden} has no data-bin; give the directory of the golden files (docs/performance.md)")
    task = LanguageModelingTask(LanguageModelingConfig(data=str(args.golden / "data-bin"), tokens_per_sample=BLOCK))
    model = task.load_model(load_checkpoint(str(args.golden / "checkpoint_best.pt")), {}).eval()
    tokens = task.load_split("valid").tokens
    precision = Precision(DeviceConfig(cpu=True), torch.device("cpu"))
    memories = []
    if args.dstore is not None:
        from knnlm import KNN_Dstore

        memories = [(KNN_Dstore.open(args.dstore, args.index, k=1024, probe=32), 0.25)]
    print("| | kept, tokens/s | read anew, tokens/s | ratio | kept, with neighbours, tokens/s |")
    print("|---|---:|---:|---:|---:|")
    for row in rows():
        prompts = [tokens[i * BLOCK : i * BLOCK + PROMPT].astype(np.int64) for i in range(row.num_prompts)]
        ways: dict[str, Generator] = {
            name: Generator(reader, precision, row.config, mixed)
            for name, reader, mixed in (("kept", model, []), ("anew", Anew(model), []), ("mixed", model, memories))
            if name != "mixed" or memories
        }
        best = dict.fromkeys(ways, np.inf)
        found = {}
        for _ in range(args.runs):
            for name, generator in ways.items():
                start = clock()
                texts = generator.generate(prompts)
                best[name] = min(best[name], clock() - start)
                found[name] = [text.tokens_T.tolist() for of_prompt in texts for text in of_prompt]
        assert found["kept"] == found["anew"], "the cache must not change a text"
        rate = {name: row.num_prompts * row.config.beam * TEXT / seconds for name, seconds in best.items()}
        with_neighbours = f"{rate['mixed']:,.0f}" if "mixed" in rate else ""
        print(
            f"| {row.name} | {rate['kept']:,.0f} | {rate['anew']:,.0f} | {rate['kept'] / rate['anew']:.1f} |"
            f" {with_neighbours} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
