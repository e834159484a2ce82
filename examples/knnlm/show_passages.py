"""Prints what neighbours do for a text: a table, and some of its tokens with their neighbours, by file and line.

    python show_passages.py VALID TEST

VALID and TEST are retrievals (fairseq-eval-lm --save-retrieval) of data that has its source text (fairseq-preprocess
--tokenizer). The settings are those that ``fairseq-knnlm sweep VALID --apply TEST`` has chosen.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from fairseq.arrays import Float64s
from fairseq.data.source_text import SourceText
from fairseq.errors import DatastoreError, FairseqError
from fairseq.knn.datastore.provenance import Provenance
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.neighbours.distribution import gaps, log_probs, vote_shares
from fairseq.knn.retrieval.results import Choice, swept_choice
from fairseq.knn.retrieval.retrieval import Retrieval

BEFORE = 32  # tokens shown before a token
PASSAGES, NEIGHBOURS, CANDIDATES = 3, 2, 200
LEAST_SHARE = 0.01
LINE = 88  # characters of a line that are shown


class Scored:
    """A retrieval with its source text, and ln p of its N tokens: by the model, by the neighbours, by both."""

    def __init__(self, retrieval: Retrieval, choice: Choice) -> None:
        self.retrieval, self.text = retrieval, source_text(retrieval.manifest.data)
        distances_NK = np.asarray(retrieval.distances_NK)
        self.lm_N: Float64s = np.asarray(retrieval.lm_log_p_N)
        self.knn_N = log_probs(distances_NK, retrieval.hits_NK(), [choice.knn_temp], [choice.k])[0, 0]
        self.both_N = np.logaddexp(math.log1p(-choice.lmbda) + self.lm_N, math.log(choice.lmbda) + self.knn_N)

    def cells(self, log_p_N: Float64s) -> list[str]:
        """Returns perplexity by token and by word, and bits per byte."""
        position_N = self.retrieval.position_N
        first, last = int(position_N.min()), int(position_N.max()) + 1
        if last - first != len(log_p_N):
            raise DatastoreError(f"{self.retrieval.directory} has not every token; score whole documents")
        nats = -float(log_p_N.sum())
        by_token, by_word = (math.exp(nats / count) for count in (len(log_p_N), self.text.words(first, last)))
        return [f"{by_token:.2f}", f"{by_word:.2f}", f"{nats / math.log(2) / self.text.bytes_of(first, last):.3f}"]

    def telling(self) -> list[int]:
        """Returns the tokens that gain most, of several documents where there are."""
        best: list[int] = []
        for token in np.argsort(self.lm_N - self.both_N, kind="stable").tolist():
            word = self.text.text(position := int(self.retrieval.position_N[token]), position + 1).strip()
            if len(word) > 2 and word.isidentifier():
                best.append(token)
            if len(best) == CANDIDATES:
                break
        others = {self.text.document_of(int(self.retrieval.position_N[token])): token for token in reversed(best)}
        chosen = sorted(others.values(), key=best.index)
        return [*chosen, *(token for token in best if token not in chosen)][:PASSAGES]


def source_text(prefix: str) -> SourceText:
    """Returns the source text of a split; raises DatastoreError where it has none."""
    found = SourceText.open(prefix)
    if found is None:
        raise DatastoreError(f"{prefix} has no source text; make it with fairseq-preprocess --tokenizer")
    return found


def place(text: SourceText, position: int) -> str:
    """Returns file and line of a token."""
    return f"{text.name_of(text.document_of(position))}:{text.line_of(position)}"


def line_at(text: SourceText, position: int) -> str:
    """Returns the end of what stands before a token, on one line, and the token in brackets."""
    first = max(position - BEFORE, text.first_token(text.document_of(position)))
    before, token = text.text(first, position), text.text(position, position + 1)
    lines = [" ".join(line.split()) for line in before.splitlines()]
    shown = " ⏎ ".join(line for line in lines if line)[-LINE:]
    space = " ⏎ " if before.endswith("\n") else " " if before[-1:].isspace() or token[:1].isspace() else ""
    return f"{shown}{space}[{token.strip()}]"


def passages(scored: Scored, choice: Choice) -> Iterator[str]:
    """Yields lines: a token of the text, then the neighbours that vote for it most."""
    retrieval = scored.retrieval
    store = Datastore.open(retrieval.parts[0].prefix, load_keys=False)
    provenance = Provenance(store)
    for token in scored.telling():
        position = int(retrieval.position_N[token])
        lm, both = math.exp(scored.lm_N[token]), math.exp(scored.both_N[token])
        yield f"\n{place(scored.text, position)}   p = {lm:.2g} → {both:.2g}"
        yield f"    {line_at(scored.text, position)}"
        rows = slice(token, token + 1)
        ids_K, hits_K = retrieval.ids_NK[token, : choice.k], retrieval.hits_NK(rows)[0, : choice.k]
        share_K = vote_shares(gaps(np.asarray(retrieval.distances_NK[rows, : choice.k])), choice.knn_temp)[0]
        for k in np.flatnonzero(hits_K & (share_K >= LEAST_SHARE))[:NEIGHBOURS]:
            source = provenance.source(provenance.segment_of(int(ids_K[k])))
            text, at = source_text(str(source.prefix)), source.position(int(ids_K[k]))
            yield f"  {share_K[k]:4.0%} of the votes: {place(text, at)}"
            yield f"    {line_at(text, at)}"


def show(valid: str, test: str) -> Iterator[str]:
    """Yields the lines of the table and of the passages."""
    retrievals = [Retrieval.open(directory) for directory in (valid, test)]
    choice = swept_choice(retrievals[0])
    if choice is None:
        raise DatastoreError(f"{valid} has no sweep; run fairseq-knnlm sweep {valid} --apply {test}")
    scored = [Scored(retrieval, choice) for retrieval in retrievals]
    yield "| | valid: perplexity by token | by word | bits per byte | test: by token | by word | bits per byte |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for name, log_p in (("language model", "lm_N"), ("+ neighbours", "both_N")):
        cells = [cell for split in scored for cell in split.cells(getattr(split, log_p))]
        yield f"| {name} | {' | '.join(cells)} |"
    yield f"\nλ = {choice.lmbda:g}, k = {choice.k}, T = {choice.knn_temp:.3g}, chosen on valid"
    yield from passages(scored[1], choice)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints everything, and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("valid", help="retrieval that the sweep has chosen settings on")
    parser.add_argument("test", help="retrieval of another split")
    args = parser.parse_args(argv)
    try:
        for line in show(args.valid, args.test):
            print(line)
    except FairseqError as err:
        print(f"show_passages.py: error: {err}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
