"""The rows that the tokens of a text are themselves, against a dict that is filled row by row."""

import hashlib
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fairseq.data.block_dataset import BlockDataset
from fairseq.data.dictionary import Dictionary
from fairseq.errors import DatastoreError, MismatchError
from fairseq.knn.datastore.manifest import Segment
from fairseq.knn.datastore.ranges import RowRanges
from fairseq.knn.datastore.store import Datastore
from fairseq.knn.neighbours.own_rows import OwnText, find_own_rows, own_text, own_text_warning
from tests.builders.tiny_lm import write_split

TEXT = np.random.default_rng(3).integers(4, 40, 60)
CUT = {"sample_break_mode": "none", "context_window": 10, "tokens_per_sample": 10}


def segment(prefix: Path, rows: int, spans: list[list[int]]) -> Segment:
    """Of a text of which token 10 is the first row."""
    tokens = Path(f"{prefix}.bin").read_bytes()
    settings = {**CUT, "data": str(prefix), "data_sha256": hashlib.sha256(tokens).hexdigest()}
    return Segment(settings, rows, RowRanges.of(spans))


def dataset_of(tokens: np.ndarray, block_size: int) -> BlockDataset:
    return BlockDataset(tokens.astype(np.uint16), np.array([len(tokens)]), "none", block_size)


def test_tokens_know_their_rows_in_every_segment_of_their_text(
    make_store: Callable[..., Datastore], tmp_path: Path
) -> None:
    """The text is the second segment of one datastore, in part, and twice in another one, whose ids come first."""
    (tmp_path / "dict.txt").write_text("".join(f"w{i} 1\n" for i in range(36)))
    other = TEXT[::-1]
    for name, text in (("train", TEXT), ("other", other)):
        write_split(tmp_path / name, [text.tolist()])
    train, stranger = tmp_path / "train", tmp_path / "other"
    parts = {
        "one": (segment(stranger, 50, [[0, 20]]), segment(train, 50, [[0, 5], [15, 40]])),
        "two": (segment(train, 50, [[0, 50]]), segment(stranger, 50, [[3, 9]]), segment(train, 50, [[48, 50]])),
    }
    row_of: list[dict[int, int]] = []  # by token, a dict for each segment of the text
    stores, number = [], 0
    for name, segments in reversed(parts.items()):
        offset, values = number, []
        for part in segments:
            text = TEXT if part.settings["data"] == str(train) else other
            tokens = [10 + row for start, stop in part.spans.pairs for row in range(start, stop)]
            if text is TEXT:
                row_of.append({token: number + n for n, token in enumerate(tokens)})
            number += len(tokens)
            values += text[tokens].tolist()
        keys = np.zeros((len(values), 4), np.float32)
        stores.append((make_store(name, keys, np.array(values), settings=CUT, segments=segments), offset))

    dictionary = Dictionary.load(tmp_path / "dict.txt")
    dataset = dataset_of(TEXT, 7)  # cut otherwise than the rows were
    own_rows = find_own_rows(stores, dataset, train, dictionary)
    for blocks in ([0], [8, 2, 5], list(range(9))):
        positions = [p for b in blocks for p in range(7 * b, min(7 * b + 7, 60))]
        found = own_rows.of(np.repeat(blocks, [min(7, 60 - 7 * b) for b in blocks]))
        assert found.tolist() == [[rows.get(p, -1) for rows in row_of] for p in positions]
    for (store, offset), rows in zip(stores, (row_of[:2], row_of[2:]), strict=True):
        for token, row in ((t, r) for by_token in rows for t, r in by_token.items()):
            assert store.values_N[row - offset] == TEXT[token]

    unknown = dataset_of(np.roll(TEXT, 1), 7)
    with pytest.raises(MismatchError, match=r"train is not a text that .*two and .*one was written from"):
        find_own_rows(stores, unknown, train, dictionary)
    bare = stores[0][0]
    bare.manifest = None
    with pytest.raises(DatastoreError):
        find_own_rows([(bare, 0)], dataset, train, dictionary)


def test_the_rows_of_a_text_that_can_be_found_are_counted(make_store: Callable[..., Datastore], tmp_path: Path) -> None:
    """Rows 0 to 19 and 50 to 69 of 70 are of the text; what is forgotten or beyond ``--dstore-size`` is not found."""
    for name, text in (("train", TEXT), ("other", TEXT[::-1])):
        write_split(tmp_path / name, [text.tolist()])
    parts = [("train", [[0, 20]]), ("other", [[0, 30]]), ("train", [[30, 50]])]
    segments = tuple(segment(tmp_path / name, 50, spans) for name, spans in parts)
    keys = np.zeros((70, 4), np.float32)
    store = make_store("d", keys, np.zeros(70, np.int64), settings=segments[0].settings, segments=segments)
    sha256 = segments[0].settings["data_sha256"]
    mine = [row for row in range(70) if row < 20 or row >= 50]
    for rows, forgotten in ((70, []), (70, [[5, 55]]), (60, [[0, 3]]), (50, [[0, 20]]), (70, [[0, 20], [50, 70]])):
        some = replace(store, rows=rows, forgotten=RowRanges.of(forgotten))
        left = [r for r in mine if r < rows and not any(a <= r < b for a, b in forgotten)]
        assert own_text([some], sha256) == ([OwnText(str(store.prefix), "train", len(left))] if left else [])
    assert [one.source for one in own_text([store, store], segments[1].settings["data_sha256"])] == ["other"]
    assert own_text([store], "0" * 64) == own_text([store], None) == []
    assert own_text([replace(store, manifest=None)], sha256) == []


def test_the_advice_can_be_pasted_whatever_the_names() -> None:
    line = own_text_warning([OwnText("my data/d", "a b", 3), OwnText("$HOME/e", "train", 4)], "text")
    assert (
        "3 rows of my data/d and 4 rows of $HOME/e are tokens of text" in line and "if the datastore has other" in line
    )
    words = shlex.split(line.rpartition("these rows: ")[2])
    first = ["fairseq-knnlm", "forget", "my data/d", "--source", "a b"]
    assert words == [*first, "&&", "fairseq-knnlm", "forget", "$HOME/e", "--source", "train"]
