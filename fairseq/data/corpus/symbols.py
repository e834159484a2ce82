r"""The dictionary of a tokenizer: a symbol for every id, in the order of the ids.

A symbol is the token string. White space in it is written as ``\u0020``, for it separates in ``dict.txt``. A string
that is there already, as ``<s>`` is, gets its id: ``<s>#1``. An id without a token is ``madeupword0007``, as fillers
are.

Counts are 1, and 0 for fillers: no text's, so that all texts of a tokenizer have one dictionary.
"""

from collections.abc import Iterable

from fairseq.data.dictionary import SPECIALS, Dictionary


def dictionary_of(tokens: Iterable[str]) -> Dictionary:
    """Returns the dictionary of token strings, by their ids; "" for an id that has none."""
    symbols, counts, taken = [], [], set(SPECIALS)
    for idx, token in enumerate(tokens):
        symbol = escaped(token) or f"madeupword{idx:04d}"
        while symbol in taken:
            symbol = f"{symbol}#{idx}"
        taken.add(symbol)
        symbols.append(symbol)
        counts.append(1 if token else 0)
    return Dictionary(symbols, counts)


def escaped(token: str) -> str:
    r"""Returns a token string without white space: each such character as ``\u`` and its number."""
    if not any(letter.isspace() for letter in token):
        return token
    return "".join(f"\\u{ord(letter):04x}" if letter.isspace() else letter for letter in token)
