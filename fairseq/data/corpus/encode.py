"""Encodes documents in parallel, with the same result for any number of workers.

Small documents go to a worker together, some 64 KiB at a time. A large one goes in pieces that overlap, and is put
together where two neighbouring pieces have the same tokens at the same places, many in a row: from such a place on,
what stands before has no say. Where two pieces never meet, the document is encoded whole.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from fairseq.arrays import Int32s, Int64s
from fairseq.data.corpus.files import Document
from fairseq.runtime.parallel import ordered_map
from fairseq.text.model_tokenizer import ModelTokenizer

BATCH_CHARACTERS = 1 << 16
PIECE_CHARACTERS = 1 << 19
OVERLAP_CHARACTERS = 1 << 13
SAME_TOKENS = 64  # in a row, where two pieces meet


@dataclass(frozen=True)
class Encoded:
    """A text's ids, int32 ``[n]``, and where each begins, in bytes: int64 ``[n + 1]``."""

    ids: Int32s
    starts: Int64s


def encode_documents(
    documents: Iterable[Document], tokenizer: ModelTokenizer, workers: int = 1, advance: Callable[[int], object] = int
) -> Iterator[tuple[Document, Encoded]]:
    """Yields documents with their ids here, in order.

    Args:
        documents: not empty.
        tokenizer: of the model; each process is sent one.
        workers: processes; with one, this one.
        advance: is told how many bytes of text have been encoded since it was told last.
    """
    waiting: deque[tuple[Document, int]] = deque()
    ready: deque[Encoded] = deque()
    for encoded in ordered_map(partial(encode_texts, tokenizer), _batches(documents, waiting), workers):
        ready.extend(encoded)
        advance(sum(int(text.starts[-1]) for text in encoded))
        while waiting and len(ready) >= waiting[0][1]:
            document, num_pieces = waiting.popleft()
            pieces = [ready.popleft() for _ in range(num_pieces)]
            yield document, pieces[0] if num_pieces == 1 else _joined(document.text, pieces, tokenizer)


def encode_texts(tokenizer: ModelTokenizer, texts: list[str]) -> list[Encoded]:
    """Returns the ids of each text."""
    encoded = map(tokenizer.encode_with_offsets, texts)
    return [Encoded(ids.astype(np.int32), starts) for ids, starts in encoded]


def _batches(documents: Iterable[Document], waiting: deque[tuple[Document, int]]) -> Iterator[list[str]]:
    """Yields texts to encode together; notes each document and the number of its pieces."""
    batch, size = list[str](), 0
    for document in documents:
        ranges = ranges_of(len(document.text))
        waiting.append((document, len(ranges)))
        for begin, end in ranges:
            if batch and size + end - begin > BATCH_CHARACTERS:
                yield batch
                batch, size = [], 0
            batch.append(document.text[begin:end])
            size += end - begin
    if batch:
        yield batch


def ranges_of(length: int) -> list[tuple[int, int]]:
    """Returns the characters of a text of this length that are encoded at once: all, or overlapping pieces."""
    if length <= PIECE_CHARACTERS + OVERLAP_CHARACTERS:
        return [(0, length)]
    starts, overlap = range(0, length, PIECE_CHARACTERS), OVERLAP_CHARACTERS
    return [(max(start - overlap, 0), min(start + PIECE_CHARACTERS + overlap, length)) for start in starts]


def _joined(text: str, pieces: list[Encoded], tokenizer: ModelTokenizer) -> Encoded:
    """Returns the ids of a large text from those of its pieces; encodes it whole where two of them do not meet."""
    begins = [begin for begin, _ in ranges_of(len(text))]
    ids, starts, first, left = [], [], 0, pieces[0]
    byte = 0
    for number, piece in enumerate(pieces[1:], 1):
        byte += len(text[begins[number - 1] : begins[number]].encode())
        right = Encoded(piece.ids, piece.starts + byte)
        meeting = _meeting(left, right)
        if meeting is None or meeting[0] < first:
            return encode_texts(tokenizer, [text])[0]
        ids.append(left.ids[first : meeting[0]])
        starts.append(left.starts[first : meeting[0]])
        first, left = meeting[1], right
    return Encoded(np.concatenate([*ids, left.ids[first:]]), np.concatenate([*starts, left.starts[first:]]))


def _meeting(left: Encoded, right: Encoded) -> tuple[int, int] | None:
    """Returns a token of each that is the same one, among many that are; None where there is none."""
    zone = int(np.searchsorted(left.starts[:-1], right.starts[0]))
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
