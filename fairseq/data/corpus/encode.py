"""Encodes documents in parallel, with the same result for any number of workers.

Small documents go to a worker together, some 64 KiB at a time. A large one goes in pieces that overlap, and is put
together where two neighbouring pieces have the same tokens at the same places, many in a row: from such a place on,
what stands before has no say. Where two pieces never meet, the document is encoded whole.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np

from fairseq.arrays import Int64s
from fairseq.data.corpus.files import Document
from fairseq.runtime.parallel import ordered_map
from fairseq.text.model_tokenizer import ModelTokenizer

BATCH_CHARACTERS = 1 << 16
PIECE_CHARACTERS = 1 << 19
OVERLAP_CHARACTERS = 1 << 13
SAME_TOKENS = 64  # in a row, where two pieces meet


@dataclass(frozen=True)
class Encoded:
    """A text's ids, int64 ``[n]``, and where each begins, in bytes: ``[n + 1]``."""

    ids: Int64s
    starts: Int64s


def encode_documents(
    documents: Iterable[Document], directory: str, workers: int = 1
) -> Iterator[tuple[Document, Encoded]]:
    """Yields documents with their ids here, in order.

    Args:
        documents: not empty.
        directory: of the tokenizer.
        workers: processes; with one, this one.
    """
    waiting: deque[tuple[Document, int]] = deque()
    ready: deque[Encoded] = deque()
    for encoded in ordered_map(partial(encode_texts, directory), _batches(documents, waiting), workers):
        ready.extend(encoded)
        while waiting and len(ready) >= waiting[0][1]:
            document, num_pieces = waiting.popleft()
            pieces = [ready.popleft() for _ in range(num_pieces)]
            yield document, pieces[0] if num_pieces == 1 else _joined(document, pieces, directory)


def encode_texts(directory: str, texts: list[str]) -> list[Encoded]:
    """Returns the ids of each text."""
    tokenizer = _tokenizer(directory)
    return [Encoded(*tokenizer.encode_with_offsets(text)) for text in texts]


@lru_cache(1)
def _tokenizer(directory: str) -> ModelTokenizer:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the processes are ours
    return ModelTokenizer(directory)


def _batches(documents: Iterable[Document], waiting: deque[tuple[Document, int]]) -> Iterator[list[str]]:
    """Yields texts to encode together; notes each document and the number of its pieces."""
    batch, size = list[str](), 0
    for document in documents:
        pieces = pieces_of(document.text)
        waiting.append((document, len(pieces)))
        for piece in pieces:
            if batch and size + len(piece) > BATCH_CHARACTERS:
                yield batch
                batch, size = [], 0
            batch.append(piece)
            size += len(piece)
    if batch:
        yield batch


def pieces_of(text: str) -> list[str]:
    """Returns a text, or the overlapping pieces of a large one."""
    if len(text) <= PIECE_CHARACTERS + OVERLAP_CHARACTERS:
        return [text]
    starts = range(0, len(text), PIECE_CHARACTERS)
    return [
        text[max(start - OVERLAP_CHARACTERS, 0) : start + PIECE_CHARACTERS + OVERLAP_CHARACTERS] for start in starts
    ]


def _joined(document: Document, pieces: list[Encoded], directory: str) -> Encoded:
    """Returns the ids of a large document from those of its pieces; encodes it whole where two of them do not meet."""
    text, byte, placed = document.text, 0, [pieces[0]]
    for number, piece in enumerate(pieces[1:], 1):
        begins = [max(n * PIECE_CHARACTERS - OVERLAP_CHARACTERS, 0) for n in (number - 1, number)]
        byte += len(text[begins[0] : begins[1]].encode())
        placed.append(Encoded(piece.ids, piece.starts + byte))
    ids, starts, first = [], [], 0
    for left, right in pairwise(placed):
        meeting = _meeting(left, right)
        if meeting is None or meeting[0] < first:
            return encode_texts(directory, [text])[0]
        ids.append(left.ids[first : meeting[0]])
        starts.append(left.starts[first : meeting[0]])
        first = meeting[1]
    return Encoded(np.concatenate([*ids, placed[-1].ids[first:]]), np.concatenate([*starts, placed[-1].starts[first:]]))


def _meeting(left: Encoded, right: Encoded) -> tuple[int, int] | None:
    """Returns a token of each that is the same one, among many that are; None where there is none."""
    zone = int(np.searchsorted(left.starts, right.starts[0]))
    _, in_left, in_right = np.intersect1d(left.starts[zone:-1], right.starts[:-1], return_indices=True)
    in_left = in_left + zone
    same = left.ids[in_left] == right.ids[in_right]
    follows = (np.diff(in_left) == 1) & (np.diff(in_right) == 1) & same[1:] & same[:-1]
    breaks = np.flatnonzero(~np.concatenate([[False], follows, [False]]))  # a run lies between two of them
    if len(breaks) < 2:
        return None
    longest = int(np.argmax(np.diff(breaks)))
    if breaks[longest + 1] - breaks[longest] < SAME_TOKENS:
        return None
    middle = int(breaks[longest] + breaks[longest + 1]) // 2
    return int(in_left[middle]), int(in_right[middle])
