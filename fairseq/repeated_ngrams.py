"""Which next tokens would repeat an n-gram that a text already holds."""

from collections.abc import Sequence


def repeating_tokens(tokens: Sequence[int], n: int) -> set[int]:
    """Returns the ids after which the last ``n`` tokens would stand twice in ``tokens``; none for n = 0."""
    if n == 0 or len(tokens) < n:
        return set()
    before = tuple(tokens[len(tokens) - n + 1 :])
    return {tokens[i + n - 1] for i in range(len(tokens) - n + 1) if tuple(tokens[i : i + n - 1]) == before}
