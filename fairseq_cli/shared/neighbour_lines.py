"""The lines of --show-neighbours: the rows of the datastore behind each token that was generated."""

from collections.abc import Callable, Iterator

from fairseq.data.passages.split_text import one_line
from fairseq.generate.generator import Generator
from fairseq.generate.hypotheses import Hypothesis
from fairseq.knn.neighbours.neighbour_source import NeighbourSource
from fairseq.knn.neighbours.passages import top_hits

WORDS_BEFORE, WORDS_AFTER = 12, 4


class NeighbourLines:
    """Asks the neighbours once more, for the tokens that were chosen.

    Args:
        neighbours: the datastores.
        generator: that made the texts.
        word_of: an id as people read it.
        most: rows of a token.
    """

    def __init__(
        self, neighbours: NeighbourSource, generator: Generator, word_of: Callable[[int], str], most: int
    ) -> None:
        self.neighbours, self.generator, self.word_of, self.most = neighbours, generator, word_of, most

    def of(self, text: Hypothesis) -> Iterator[str]:
        """Yields lines ``position, token, share, row, distance, text``, tabs between; one line where there is none."""
        votes = self.neighbours.votes(self.generator.context_vectors(text), text.tokens_T)
        hits = top_hits(votes, self.neighbours.temperature, self.most)
        for position, (token, hits_of_token) in enumerate(zip(text.tokens_T.tolist(), hits, strict=True)):
            word = one_line(self.word_of(token))
            if not hits_of_token:
                yield f"{position}\t{word}\t0\t-\t-\t"
            for hit in hits_of_token:
                passage = self.neighbours.passage(hit.row, WORDS_BEFORE, WORDS_AFTER)
                shown = passage.line if passage is not None else ""
                yield f"{position}\t{word}\t{hit.share:.6f}\t{hit.row}\t{hit.distance:.4f}\t{shown}"
