"""Naive oracles for where rows come from: loops over tokens and lines."""


def rows_of_text(sizes, mode, bounds, block_size, window):
    """Returns the token of each row: the targets of every block whose context is full; by document, of every block."""
    rows, before = [], 0
    for start, end in bounds:
        room = max(block_size + window - (end - start), 0)
        if mode == "document" or min(window, room, before) == window:
            rows += range(start, end)
        before += end - start
    return rows


def documents_of_lines(lines):
    """Returns the first line of each document of WikiText: a heading of one level between empty lines."""
    found = []
    for number, line in enumerate(lines):
        words = line.split()
        above, below = (lines[at].split() if 0 <= at < len(lines) else [] for at in (number - 1, number + 1))
        heading = len(words) >= 3 and words[0] == words[-1] == "=" and words[1] != "=" and words[-2] != "="
        if heading and not above and not below:
            found.append(number)
    return found
