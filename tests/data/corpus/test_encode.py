"""Documents to ids: those of the package for whole documents, however they are cut and whoever encodes them."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from fairseq.data.corpus import encode
from fairseq.data.corpus.encode import encode_documents, ranges_of
from fairseq.data.corpus.files import Document
from fairseq.text.model_tokenizer import ModelTokenizer
from tests.builders.tokenizer_files import KINDS, SAMPLE, write


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the directory of a tokenizer of each kind."""
    return write(tmp_path_factory.mktemp("tokenizers") / request.param, KINDS[request.param]())


def mixed(seed: int, num_lines: int) -> str:
    """Returns lines of the sample in random order."""
    rng = np.random.default_rng(seed)
    lines = SAMPLE.splitlines(keepends=True)
    return "".join(lines[idx] for idx in rng.integers(0, len(lines), num_lines))


def check(directory: Path, texts: list[str], workers: int = 1) -> None:
    """Checks the ids and beginnings of documents against those of each text by itself."""
    documents = [Document(str(number), 1, text) for number, text in enumerate(texts)]
    tokenizer, told = ModelTokenizer(directory), list[int]()
    found = list(encode_documents(documents, tokenizer, workers, told.append))
    assert [document for document, _ in found] == documents
    for text, (_, encoded) in zip(texts, found, strict=True):
        ids, starts = tokenizer.encode_with_offsets(text)
        assert np.array_equal(encoded.ids, ids) and np.array_equal(encoded.starts, starts)
    assert sum(told) >= sum(len(text.encode()) for text in texts)


def test_documents_of_all_sizes(kind: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "BATCH_CHARACTERS", 100)
    monkeypatch.setattr(encode, "PIECE_CHARACTERS", 3000)
    monkeypatch.setattr(encode, "OVERLAP_CHARACTERS", 1000)
    met, meeting = list[bool](), encode._meeting

    def watched(left: encode.Encoded, right: encode.Encoded) -> tuple[int, int] | None:
        found = meeting(left, right)
        met.append(found is not None)
        return found

    monkeypatch.setattr(encode, "_meeting", watched)
    check(kind, ["a", mixed(1, 3), mixed(2, 600), " ", mixed(3, 70), "b" * 50])
    assert len(met) > 5 and all(met)


def test_pieces_that_never_meet_are_encoded_whole(kind: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "PIECE_CHARACTERS", 300)
    monkeypatch.setattr(encode, "OVERLAP_CHARACTERS", 10)
    check(kind, [mixed(4, 40), "a" * 5000])


@pytest.mark.parametrize("length", [1, 99, 110, 111, 200, 210, 1000])
def test_pieces_overlap_and_cover_the_text(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "PIECE_CHARACTERS", 100)
    monkeypatch.setattr(encode, "OVERLAP_CHARACTERS", 10)
    ranges = ranges_of(length)
    assert ranges[0][0] == 0 and ranges[-1][1] == length
    assert all(begin < end <= length for begin, end in ranges)
    assert all(right[0] < left[1] for left, right in itertools.pairwise(ranges))
    assert (len(ranges) == 1) == (length <= 110)


def test_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write(tmp_path, KINDS["byte_level"]())
    monkeypatch.setattr(encode, "BATCH_CHARACTERS", 100)
    check(directory, [mixed(seed, 5) for seed in range(20)], workers=2)


@pytest.mark.slow
def test_a_real_tokenizer_of_a_long_text_in_pieces(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ids of the project's own pages as one document, cut in twenty pieces, are those of the whole."""
    monkeypatch.setattr(encode, "PIECE_CHARACTERS", 10_000)
    monkeypatch.setattr(encode, "OVERLAP_CHARACTERS", 1000)
    pages = sorted((Path(__file__).parents[3] / "docs").glob("*.md"))
    check(smollm2, ["\n".join(page.read_text(encoding="utf-8") for page in pages)])
