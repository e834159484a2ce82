"""From strings to token ids, and from token ids to the blocks in which a model scores them.

A text becomes ids as ``fairseq-preprocess`` makes them: words between white space, ``</s>`` at the end of each line. A
text that fits the model's longest row is one block. A longer one is cut as ``fairseq-eval-lm --sample-break-mode none
--context-window W`` cuts it, so that each token is scored once, after at least W earlier ones where there are as many.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fairseq.arrays import Int64s
from fairseq.data.batching import batch_by_size, by_length
from fairseq.data.block_dataset import Batch, BlockDataset
from fairseq.data.dictionary import BOS, EOS, Dictionary
from fairseq.errors import ConfigError, shown

BATCH_TOKENS = 4096


def encode(dictionary: Dictionary, text: str) -> Int64s:
    """Returns the ids of a text's words, ``</s>`` after each line; a text without words is one ``</s>``."""
    if not isinstance(text, str):
        raise ConfigError(f"a text must be a string, or several a list of strings, but is {shown(text)}")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if len(lines) > 1 and not lines[-1]:
        del lines[-1]
    return np.concatenate([dictionary.encode_line(line) for line in lines])


def decode(dictionary: Dictionary, ids: Iterable[int]) -> str:
    r"""Returns the words of ``ids``, a line for each ``</s>``, without ``<s>``; what ``encode`` gave comes back.

    The last line has no ``\n`` behind it unless it is empty, for ``encode`` takes that one for the end of a line.
    """
    tokens = [idx for idx in map(int, ids) if idx != BOS]
    for idx in tokens:
        if not 0 <= idx < len(dictionary):
            raise ConfigError(f"a token must be an id from 0 to {len(dictionary) - 1}, but is {idx}")
    if tokens and tokens[-1] == EOS:
        del tokens[-1]
    lines: list[list[str]] = [[]]
    for idx in tokens:
        if idx == EOS:
            lines.append([])
        else:
            lines[-1].append(dictionary[idx])
    text = "\n".join(" ".join(line) for line in lines)
    return f"{text}\n" if text.endswith("\n") else text


@dataclass(frozen=True)
class Cut:
    """Some of the texts, cut into blocks.

    Attributes:
        texts: which texts, by number: of one block each, or one text of several blocks.
        dataset: the blocks.
        order: block indices of each batch.
    """

    texts: tuple[int, ...]
    dataset: BlockDataset
    order: list[Int64s]

    @property
    def num_tokens(self) -> int:
        """Tokens that are scored."""
        return int((self.dataset.ends - self.dataset.starts).sum())

    def batches(self) -> Iterator[Batch]:
        """Yields the batches."""
        for block_idx in self.order:
            yield self.dataset.collate(block_idx)

    def text_of(self, block_idx_N: Int64s) -> Int64s:
        """Returns the number of the text that each block belongs to."""
        if len(self.texts) == 1:
            return np.full(len(block_idx_N), self.texts[0], np.int64)
        return np.array(self.texts, np.int64)[block_idx_N]


def cut(texts: Sequence[Int64s], longest: int, context_window: int, add_bos: bool) -> Iterator[Cut]:
    """Yields the texts in blocks: those that fit a row together, then each longer one.

    Args:
        texts: ids of each text, one at least in each.
        longest: tokens in the longest row, context included.
        context_window: W, smaller than that.
        add_bos: whether the model's blocks begin with ``<s>``.
    """
    short = [number for number, ids in enumerate(texts) if len(ids) <= longest]
    if short:
        tokens, sizes = np.concatenate([texts[n] for n in short]), np.array([len(texts[n]) for n in short])
        dataset = BlockDataset(tokens, sizes, "eos", longest, 0, add_bos)
        yield Cut(tuple(short), dataset, _batched(by_length(dataset.lengths), dataset))
    for number, ids in enumerate(texts):
        if len(ids) > longest:
            dataset = BlockDataset(ids, np.array([len(ids)]), "none", longest - context_window, context_window, add_bos)
            yield Cut((number,), dataset, _batched(np.arange(len(dataset)), dataset))


def _batched(order: Int64s, dataset: BlockDataset) -> list[Int64s]:
    lengths = dataset.lengths + dataset.context_lengths()
    return batch_by_size(order, lengths, max(BATCH_TOKENS, int(lengths.max())))
