"""What large dictionaries and texts of many sentences cost before any work starts, and how much of a batch is padding.

    python benchmarks/sentences.py [--data data-bin/train] [--tokens 100000000]

1. Seconds of ``Dictionary.load`` and of its hash, with 270,000 and 800,000 words.
2. Seconds to open a synthetic text of so many tokens, a sentence a line, with 270,000 ids, and to cut and batch it.
3. The share of padding in batches of 2,048 positions, of that text's sentences or of --data's.

Seconds are of the processor, the least of three runs for 1: other programs on the machine change them little.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from fairseq.data.batching import batch_by_size, by_length
from fairseq.data.block_dataset import BlockDataset
from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import IndexedDatasetWriter, MMapIndexedDataset
from fairseq.evaluate.config import EvalConfig
from fairseq.knn.dump.row_groups import row_groups

POSITIONS, WORDS = 2048, 270_000


def seconds(work: Callable[[], object], runs: int = 1) -> float:
    """Returns the least processor time of some runs."""
    times = []
    for _ in range(runs):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def dictionaries(directory: Path) -> None:
    """Prints what loading dictionaries takes."""
    for size in (WORDS, 800_000):
        path = directory / f"dict{size}.txt"
        path.write_text("".join(f"wörd{i:x} {3 * size // (i + 1)}\n" for i in range(size - 4)), encoding="utf-8")
        load = seconds(lambda path=path: Dictionary.load(path), 3)
        dictionary = Dictionary.load(path)
        print(f"dictionary of {size:,} words: load {load:.2f} s, hash {seconds(dictionary.sha256):.2f} s")


def write_text(prefix: Path, num_tokens: int) -> None:
    """Writes sentences of 26 tokens on average, lengths spread as those of prose."""
    random = np.random.default_rng(1)
    sizes = np.clip(random.gamma(4, 6.5, num_tokens // 26), 1, 200).astype(np.int32)
    with IndexedDatasetWriter(prefix, WORDS) as writer:
        for part in np.array_split(sizes, 64):
            writer.write(random.integers(4, WORDS, int(part.sum()), np.int32), part)


def opening(prefix: Path) -> None:
    """Prints what it takes until a text of sentences is in batches."""
    data = MMapIndexedDataset(prefix)
    blocks = BlockDataset(data.tokens, data.sizes, "eos", 256)
    order = by_length(blocks.lengths, 1)
    for what, work in {
        "open": lambda: MMapIndexedDataset(prefix),
        "check ids": lambda: data.check_ids(WORDS, "dict.txt"),
        "cut": lambda: BlockDataset(data.tokens, data.sizes, "eos", 256),
        "sort": lambda: by_length(blocks.lengths, 1),
        "batch": lambda: batch_by_size(order, blocks.lengths, POSITIONS, None, 8),
    }.items():
        print(f"{len(data):,} sentences, {len(data.tokens):,} tokens: {what} {seconds(work):.2f} s")


def padding(prefix: Path) -> None:
    """Prints the share of padding in every order in which sentences are computed."""
    data = MMapIndexedDataset(prefix)
    blocks = BlockDataset(data.tokens, data.sizes, "eos", 256)
    lengths, stream = blocks.lengths, np.arange(len(blocks))
    config = EvalConfig(path="model.pt", max_tokens=POSITIONS)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    orders = {
        "stream order": batch_by_size(stream, lengths, POSITIONS),
        "evaluation": batch_by_size(by_length(lengths), lengths, POSITIONS),
        "training": batch_by_size(by_length(lengths, 1), lengths, POSITIONS, None, 8),
        "datastore": [idx for group in row_groups(blocks, stream, starts, config, 0) for idx, _ in group.batches],
    }
    for name, batches in orders.items():
        positions = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
        print(f"{prefix.name}, {name}: {100 * (1 - lengths.sum() / positions):.1f} % padding, {len(batches)} batches")


def main(argv: Sequence[str] | None = None) -> None:
    """Prints all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="prefix of a binarised split, a sentence a line")
    parser.add_argument("--tokens", type=int, default=100_000_000, help="of the synthetic text (default: %(default)s)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        dictionaries(Path(name))
        write_text(Path(name) / "synthetic", args.tokens)
        opening(Path(name) / "synthetic")
        padding(args.data or Path(name) / "synthetic")


if __name__ == "__main__":
    main()
