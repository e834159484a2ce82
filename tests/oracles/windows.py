"""Naive blocks and context windows, token by token."""

EOS, PAD = 2, 1


def greedy_blocks(sizes: list[int], block_size: int, first: int = 0) -> list[tuple[int, int]]:
    """Whole sentences while they fit; ``first`` is where the first sentence starts in the stream."""
    blocks, start, end = [], first, first
    for size in sizes:
        if end > start and end - start + size > block_size:
            blocks.append((start, end))
            start = end
        end += size
    return [*blocks, (start, end)] if end > start else blocks


def document_blocks(sizes: list[int], block_size: int) -> list[tuple[int, int]]:
    """Greedy blocks of each document; an empty line ends a document and belongs to none."""
    blocks, document, start, position = [], [], 0, 0
    for size in [*sizes, 1]:
        if size == 1:
            blocks += greedy_blocks(document, block_size, start)
            document, start = [], position + 1
        else:
            document.append(size)
        position += size
    return [(start, end) for start, end in blocks if end - start > 1]


def rows(
    tokens: list[int], sizes: list[int], blocks: list[tuple[int, int]], block_size: int, window: int
) -> list[tuple[list[int], list[int]]]:
    """(source, target) of each block in turn, from one running list of all earlier source tokens."""
    sentence_starts = {sum(sizes[:i]) for i in range(len(sizes))}
    earlier: list[int] = []
    result = []
    for start, end in blocks:
        source = [EOS if start in sentence_starts else tokens[start - 1], *tokens[start : end - 1]]
        context = list(earlier)
        while context and (len(context) > window or len(context) + len(source) > block_size + window):
            context.pop(0)
        result.append((context + source, [PAD] * len(context) + tokens[start:end]))
        earlier += source
    return result


def document_rows(
    tokens: list[int], sizes: list[int], block_size: int, window: int
) -> list[tuple[list[int], list[int]]]:
    """(source, target) of each block of each document: as much of the document before it as a row has room for."""
    result, first = [], 0
    for size in sizes:
        document = tokens[first : first + size]
        first += size
        source = [EOS, *document[:-1]]
        for start in range(0, size, block_size):
            target = document[start : start + block_size]
            end = start + len(target)
            seen = source[max(end - block_size - window, 0) : end]
            result.append((seen, [PAD] * (len(seen) - len(target)) + target))
    return result


def isolated_rows(tokens: list[int], block_size: int) -> list[tuple[list[int], list[int]]]:
    """(source, target) of each block: a slice of the text, shifted by one within itself."""
    pieces = [tokens[start : start + block_size] for start in range(0, len(tokens), block_size)]
    return [(piece[:-1], piece[1:]) for piece in pieces if len(piece) > 1]
