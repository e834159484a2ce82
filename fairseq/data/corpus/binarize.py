"""Makes NAME.bin and NAME.idx of a corpus, an entry a document, and beside them its source text."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fairseq.data.corpus.encode import BATCH_CHARACTERS, encode_documents
from fairseq.data.corpus.files import Corpus, Document
from fairseq.data.corpus.source_writer import SourceTextWriter
from fairseq.data.indexed_dataset import IndexedDatasetWriter
from fairseq.errors import DataError
from fairseq.runtime.progress import Progress
from fairseq.text.model_tokenizer import ModelTokenizer

WORKER_BYTES = 8 * BATCH_CHARACTERS  # of text; less does not repay the start of a process


@dataclass(frozen=True)
class CorpusSummary:
    """Counts of a corpus.

    Attributes:
        num_sentences: documents.
        num_tokens: of all.
        num_bytes: of their text.
        num_words: of it, as white space separates them.
        num_files: that were read.
        skipped: paths of files that are no text.
        specials: special tokens that are written out in it, and how often.
    """

    num_sentences: int
    num_tokens: int
    num_bytes: int
    num_words: int
    num_files: int
    skipped: list[str] = field(default_factory=list)
    specials: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        per_token = self.num_bytes / max(self.num_tokens, 1)
        return (
            f"{self.num_sentences} documents, {self.num_tokens} tokens, {self.num_words} words, {self.num_bytes} bytes"
            f" ({per_token:.3} a token)"
        )


def binarize_corpus(
    corpus: Corpus,
    files: Sequence[Path],
    prefix: Path,
    tokenizer: ModelTokenizer,
    vocabulary_size: int,
    workers: int,
    remove_old: Callable[[], object],
) -> tuple[CorpusSummary, dict[str, str]]:
    """Writes the ids and the source text of a corpus; returns its counts, and the hashes of the files.

    Args:
        corpus: of the texts.
        files: of it.
        prefix: of what is written.
        tokenizer: of the model.
        vocabulary_size: ids of the dictionary, which decide the dtype.
        workers: processes; the files are the same for any number.
        remove_old: removes what older files there are; called when the new ones are whole.

    Raises:
        DataError: a file or line that cannot be read, or no text at all.
    """
    size = sum(path.stat().st_size for path in files)
    skipped: list[str] = []
    specials: Counter[str] = Counter()
    special_ids = np.array(list(tokenizer.specials), np.int64)
    documents = _documents(corpus, files, skipped)
    workers = min(workers, 1 + size // WORKER_BYTES)
    with (
        IndexedDatasetWriter(prefix, vocabulary_size) as ids_writer,
        SourceTextWriter(prefix) as text_writer,
        Progress(f"tokenise {corpus.path.name}", size, "bytes") as progress,
    ):

        def advance(num_bytes: int) -> None:
            """Counts bytes of text, which are some more than the file's where pieces overlap, less of JSON."""
            progress.advance(min(num_bytes, size - progress.n))

        for document, encoded in encode_documents(documents, tokenizer, workers, advance):
            if not len(encoded.ids):
                continue
            ids_writer.write(encoded.ids, np.array([len(encoded.ids)]))
            text_writer.write(document.name, document.first_line, document.text.encode(), encoded.starts)
            found = encoded.ids[np.isin(encoded.ids, special_ids)].tolist()
            specials.update(map(tokenizer.specials.__getitem__, found))
        advance(size)
        if not ids_writer.num_tokens:
            raise DataError(f"{corpus.flag}: {corpus.path} has no text; give a file or directory that has some")
        remove_old()
    counts = (ids_writer.num_sentences, ids_writer.num_tokens, text_writer.num_bytes, text_writer.num_words)
    summary = CorpusSummary(*counts, len(files), skipped, dict(sorted(specials.items())))
    return summary, {"bin_sha256": ids_writer.sha256(), "offsets_sha256": text_writer.sha256()}


def _documents(corpus: Corpus, files: Sequence[Path], skipped: list[str]) -> Iterator[Document]:
    """Yields the documents of the files that have text; notes those that are none."""
    for path in files:
        found = corpus.read(path)
        if found is None:
            skipped.append(corpus.name_of(path))
        yield from (document for document in found or () if document.text)
