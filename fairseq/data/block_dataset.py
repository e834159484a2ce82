"""Source and target of each block, and the context window before it.

The target is the block; the source is the same range shifted right by one in the stream. With a context window of W,
up to W *source* tokens of the blocks before go in front, and their targets are padding, so that each token is scored
once and sees a long past (B = 4, W = 6; ``·`` padding):

    stream           4 10  8  3 | 5  2  2  4 | 11 …
    source, block 1  2  4 10  8   3  5  2  2            2 = </s>, which opens the stream
    target, block 1  ·  ·  ·  ·   5  2  2  4

Both are functions of the block's index alone: no state, so that any order, any shard and any batching give the same
rows. The word ``<pad>`` of a text has padding's id; it is a target like any other, and ``scored_BT`` tells which those
are. An over-long block pushes tokens off the front of its context, so that the row stays within B + W where it can.

The first input of a block that begins a sentence is ``</s>``, with which the sentence before ends. Whole documents (of
tokenized data) have none: in the mode ``none`` only the first is opened by it, others by the token before.

In the mode ``document`` no context goes beyond the document, and a short last block has more of it than W: all that a
row of B + W has room for. These are the rolling windows of lm-evaluation-harness (B = 4, W = 0, ten tokens):

    source   </s> 0 1 2 | 3 4 5 6 | 5 6 7 8
    target      0 1 2 3 | 4 5 6 7 | · · 8 9

A document of under B + W tokens is seen whole. So its tokens' contexts are full, as far as the text has one.
"""

import copy
import hashlib
from dataclasses import dataclass

import numpy as np

from fairseq.arrays import Bools, Int64s, Integers
from fairseq.data.batching import batch_by_size
from fairseq.data.blocks import block_bounds, check_window
from fairseq.data.dictionary import BOS, EOS, PAD
from fairseq.errors import ConfigError, DataError


@dataclass(frozen=True)
class Batch:
    """Rows of equal width, padded on the right. B rows, T the longest.

    Attributes:
        block_idx_B: int64, which block each row is.
        source_BT: int64 input ids.
        target_BT: int64; padding wherever nothing is scored.
        context_B: int64, how many tokens at the front of each row are context.
        scored_BT: bool, where a target stands.
    """

    block_idx_B: Int64s
    source_BT: Int64s
    target_BT: Int64s
    context_B: Int64s
    scored_BT: Bools

    @property
    def input_BT(self) -> Int64s:  # noqa: N802 - an array by its shape
        """What a model reads: padding is ``</s>``, which nothing sees, so that ``<pad>`` is the word of the text."""
        after_BT = np.arange(self.source_BT.shape[1]) >= self._width_B[:, None]
        return np.where(after_BT, EOS, self.source_BT)

    @property
    def _width_B(self) -> Int64s:  # noqa: N802 - an array by its shape
        """Tokens of each row, which ends with a target."""
        width_B: Int64s = self.scored_BT.shape[1] - np.argmax(self.scored_BT[:, ::-1], axis=1)
        return width_B

    def split(self, num_positions: int) -> "list[Batch]":
        """Returns the same rows in smaller batches, each as wide as its longest row.

        A batch has at most ``num_positions`` positions, or as many as the longest row if that has more.
        """
        width_B, batches = self._width_B, []
        for rows in batch_by_size(np.arange(len(width_B)), width_B, max(num_positions, int(width_B.max()))):
            cut = rows, slice(int(width_B[rows].max()))
            arrays = self.source_BT[cut], self.target_BT[cut], self.context_B[rows], self.scored_BT[cut]
            batches.append(Batch(self.block_idx_B[rows], *arrays))
        return batches


class BlockDataset:
    """The blocks of one split.

    Args:
        tokens: the whole stream, one-dimensional.
        sizes: tokens in each sentence; their sum is ``len(tokens)``.
        mode: ``--sample-break-mode``.
        block_size: B.
        context_window: W.
        add_bos: put ``<s>`` in front of every block (``--add-bos-token``).
        whole_documents: sentences are documents of a model's tokens, without ``</s>`` between them.

    Attributes:
        starts, ends: int64, the range of the stream that each block is.
        lengths: int64, tokens of each block without its context, an added ``<s>`` included.
        by_document: whether contexts end where the document begins, and the last block's is as long as a row allows.

    Raises:
        ConfigError: the mode is not known, has no context window, or is not for whole documents.
        DataError: the text has no blocks.
    """

    def __init__(
        self,
        tokens: Integers,
        sizes: Integers,
        mode: str,
        block_size: int,
        context_window: int = 0,
        add_bos: bool = False,
        whole_documents: bool = False,
    ) -> None:
        self.tokens = tokens
        self.block_size = block_size
        self.context_window = context_window
        self.add_bos = add_bos
        self.by_document = mode == "document"
        check_window(mode, context_window)
        if mode == "complete_doc" and whole_documents:
            raise ConfigError(
                "--sample-break-mode complete_doc finds documents in lines, but those of tokenized data are known, and"
                " are its lines; give document"
            )
        starts, ends = block_bounds(sizes, mode, block_size)
        sentence_starts = np.cumsum(sizes, dtype=np.int64) - sizes
        at = np.searchsorted(sentence_starts, starts, side="right") - 1
        begins_sentence = (sentence_starts[at] == starts) & (mode != "isolated")
        if mode == "none" and whole_documents:  # else a token's context would depend on where blocks happen to begin
            begins_sentence &= starts == 0
        self._set_blocks(starts, ends, begins_sentence)
        if self.by_document:
            self._count_from(at)
        if not len(self.starts):
            raise DataError(f"the text has no blocks: {len(tokens)} tokens in {len(sizes)} sentences")

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def sizes(self) -> Int64s:
        """The tokens of each block that ``--max-tokens`` counts, int64: without an added ``<s>``.

        Without the context too, which is alike in all rows; by document it is not, and counts.
        """
        sizes: Int64s = self.ends - self.starts
        return sizes + self.context_lengths() if self.by_document else sizes

    def sha256(self) -> str:
        """Returns the hash of the stream, in the dtype of its file."""
        return hashlib.sha256(np.ascontiguousarray(self.tokens).data).hexdigest()

    def without_longer_than(self, limit: int) -> tuple["BlockDataset", int]:
        """Returns the data set without blocks of more than ``limit`` tokens, and the number of tokens left out.

        A block that is left out is not context of another block either.
        """
        kept = self.lengths <= limit
        if kept.all():
            return self, 0
        if not kept.any():
            raise DataError(f"every block is longer than the model's {limit} positions")
        small = copy.copy(self)
        small._set_blocks(self.starts[kept], self.ends[kept], self._begins_sentence[kept])
        if self.by_document:
            small._count_from(self._document_B[kept])
        return small, int((self.ends - self.starts)[~kept].sum())

    def source(self, idx: int) -> Int64s:
        """Returns the input ids of block ``idx``, without context."""
        start, end = self.starts[idx], self.ends[idx]
        first = EOS if self._begins_sentence[idx] else int(self.tokens[start - 1])
        lead = [BOS, first] if self.add_bos else [first]
        return np.concatenate([np.array(lead, np.int64), self.tokens[start : end - 1].astype(np.int64)])

    def target(self, idx: int) -> Int64s:
        """Returns the target ids of block ``idx``; the ``<s>`` of ``add_bos`` is not itself predicted."""
        tokens = self.tokens[self.starts[idx] : self.ends[idx]].astype(np.int64)
        return np.concatenate([np.array([PAD], np.int64), tokens]) if self.add_bos else tokens

    def context(self, idx: int, length: int) -> Int64s:
        """Returns the last ``length`` source tokens of the blocks before ``idx``."""
        pieces: list[Int64s] = []
        while length > 0:
            idx -= 1
            piece = self.source(idx)[-length:]
            pieces.append(piece)
            length -= len(piece)
        return np.concatenate(pieces[::-1]) if pieces else np.empty(0, np.int64)

    def collate(self, block_idx: Integers) -> Batch:
        """Returns the given blocks, with their contexts, as one padded batch."""
        contexts = self.context_lengths(block_idx)
        width = int((contexts + self.lengths[block_idx]).max())
        source = np.full((len(block_idx), width), PAD, np.int64)
        target = np.full((len(block_idx), width), PAD, np.int64)
        scored = np.zeros((len(block_idx), width), bool)
        for row, (idx, before) in enumerate(zip(block_idx.tolist(), contexts.tolist(), strict=True)):
            end = before + int(self.lengths[idx])
            source[row, :before] = self.context(idx, before)
            source[row, before:end] = self.source(idx)
            target[row, before:end] = self.target(idx)
            scored[row, before + self.add_bos : end] = True
        return Batch(np.asarray(block_idx, np.int64), source, target, contexts, scored)

    def context_lengths(self, block_idx: Integers | None = None) -> Int64s:
        """Returns the number of context tokens before each of the given blocks (default: all blocks)."""
        if block_idx is None:
            block_idx = np.arange(len(self))
        tokens = self.ends[block_idx] - self.starts[block_idx]  # an added <s> takes no context away
        room = np.maximum(self.block_size + self.context_window - tokens, 0)
        if not self.by_document:
            room = np.minimum(self.context_window, room)
        lengths: Int64s = np.minimum(room, self._tokens_before[block_idx])
        return lengths

    def has_full_context(self) -> Bools:
        """Returns of each block whether its context window is full; by document, each is as full as it can be."""
        if self.by_document:
            return np.ones(len(self), bool)
        return np.equal(self.context_lengths(), self.context_window)

    def _set_blocks(self, starts: Int64s, ends: Int64s, begins_sentence: Bools) -> None:
        self.starts, self.ends, self._begins_sentence = starts, ends, begins_sentence
        self.lengths: Int64s = ends - starts + int(self.add_bos)  # kept: a text may have 10^7 sentences
        self._tokens_before: Int64s = np.cumsum(self.lengths) - self.lengths

    def _count_from(self, document_B: Int64s) -> None:
        """Counts the tokens before each block from the beginning of its document."""
        self._document_B = document_B
        if len(document_B):
            self._tokens_before -= self._tokens_before[np.searchsorted(document_B, document_B)]
