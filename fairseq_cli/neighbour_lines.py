"""The lines of --show-neighbours: which rows of the datastore spoke for each token that was generated."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fairseq.data.dictionary import Dictionary
from fairseq.generation import Generator, Hypothesis
from fairseq.knn.spoken import RowText, Voice, voices

if TYPE_CHECKING:
    from knnlm import KNN_Dstore

WORDS_BEFORE, WORDS_AFTER = 12, 4


class NeighbourLines:
    """Asks the neighbours once more, for the tokens that were chosen.

    Args:
        neighbours: the datastore.
        generator: that made the texts.
        dictionary: the words.
        most: rows of a token.
    """

    def __init__(self, neighbours: "KNN_Dstore", generator: Generator, dictionary: Dictionary, most: int) -> None:
        self.neighbours, self.generator, self.dictionary, self.most = neighbours, generator, dictionary, most
        self.text = RowText.open(neighbours.datastore)

    def of(self, text: Hypothesis) -> Iterator[str]:
        """Yields lines ``position, token, share, row, distance, text``, tabs between; one line where no row spoke."""
        votes = self.neighbours.votes(self.generator.context_vectors(text), text.tokens_T)
        spoken = voices(votes, self.neighbours.config.knn_temp, self.most)
        for position, (token, of_token) in enumerate(zip(text.tokens_T.tolist(), spoken, strict=True)):
            word = self.dictionary[token]
            if not of_token:
                yield f"{position}\t{word}\t0\t-\t-\t"
            for voice in of_token:
                passage = self._passage(voice, word)
                yield f"{position}\t{word}\t{voice.share:.6f}\t{voice.row}\t{voice.distance:.4f}\t{passage}"

    def _passage(self, voice: Voice, word: str) -> str:
        if self.text is None:
            return ""
        before, after = self.text.around(voice.row, WORDS_BEFORE, WORDS_AFTER)
        symbols = self.dictionary.symbols
        return " ".join([*(symbols[idx] for idx in before), f"[{word}]", *(symbols[idx] for idx in after)])
