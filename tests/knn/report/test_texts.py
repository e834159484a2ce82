"""The texts of a retrieval: where they are found, and that they are the right ones."""

import json

import numpy as np
import pytest

from fairseq.errors import ConfigError, DataError, DatastoreError, MismatchError
from fairseq.knn.report.texts import check_hits, check_targets, open_texts, source_positions
from fairseq.knn.retrieval.retrieval import Retrieval
from tests.builders.shown_retrieval import FIRST, shown_retrieval


def opened(directory, data=None, dstore_data=None, **changes):
    """Returns the texts of a retrieval, of which the manifest is changed first."""
    record = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps({**record, **changes}))
    return open_texts(Retrieval.open(directory), data, dstore_data)


def test_texts_are_found_where_they_were_or_where_the_flags_say(tmp_path):
    directory = shown_retrieval(tmp_path)
    before = opened(directory)
    (tmp_path / "data-bin").rename(tmp_path / "moved")
    with pytest.raises(DatastoreError, match="which is not there; give --data where it is now"):
        opened(directory)
    moved = str(tmp_path / "moved")
    with pytest.raises(DatastoreError, match="give --dstore-data where it is now"):
        opened(directory, data=moved)
    after = opened(directory, data=moved, dstore_data=f"{moved}/train")
    assert (after.text == before.text).all() and (after.source == before.source).all()
    assert after.rows.at_P.tolist() == [FIRST] and after.dictionary.symbols == before.dictionary.symbols
    (tmp_path / "moved" / "dict.txt").unlink()
    with pytest.raises(DataError, match="does not exist"):
        opened(directory, data=moved, dstore_data=moved)


def test_other_texts_are_refused(tmp_path):
    directory = shown_retrieval(tmp_path)
    texts = opened(directory)
    ids, target, position = (np.load(directory / f"{name}.npy") for name in ("ids", "targets", "positions"))
    hits = np.unpackbits(np.load(directory / "hits.npy"), axis=1, count=12, bitorder="little")
    check_targets(texts.text, position, target)
    at = source_positions(texts, ids)
    check_hits(texts, at, target, hits)
    swapped = opened(directory, data=str(tmp_path / "data-bin/train"))
    with pytest.raises(MismatchError, match="its tokens differ"):
        check_targets(swapped.text, position, target)
    other = opened(directory, dstore_data=str(tmp_path / "data-bin/valid"))
    with pytest.raises(MismatchError, match="the datastore's text has 127 tokens, but row"):
        source_positions(other, ids)
    hits[0, 0] ^= 1
    with pytest.raises(MismatchError, match="1 of 1440 neighbours have another value"):
        check_hits(texts, at, target, hits)


def test_several_texts_lie_one_after_the_other(tmp_path):
    """Rows 0 to 99 are of a datastore of train, the others of one of valid, whose text has 127 tokens."""
    directory = shown_retrieval(tmp_path)
    alone = opened(directory)
    record = json.loads((directory / "manifest.json").read_text())
    train = {**record["datastore"], "rows": 100, "offset": 0, "store_id": None}
    valid = {**train, "prefix": "x/other", "offset": 100, "data": str(tmp_path / "data-bin/valid"), "first_position": 7}
    texts = opened(directory, datastore={"prefix": "dstore:x/other", "parts": [train, valid]})
    assert texts.source_tokens == len(texts.source) - 1 == 400 + 127
    assert texts.stores == ("dstore", "other")
    ids = np.array([[0, 99, 100], [-1, 150, 219]])
    at = source_positions(texts, ids)
    assert at[0, 0] == FIRST and at[1, 0] == -1
    assert texts.source[at[0, :2]].tolist() == alone.source[[FIRST, FIRST + 99]].tolist()
    assert texts.source[[at[0, 2], *at[1, 1:]]].tolist() == alone.text[[7, 57, 126]].tolist()
    assert texts.pieces_of_rows() == {"at": [FIRST, 401 + 7], "row": [0, 0], "store": [0, 1]}
    counts = np.bincount(np.concatenate([alone.source, alone.text]), minlength=len(texts.dictionary))
    assert texts.count_V.tolist() == counts.tolist()
    with pytest.raises(MismatchError, match="has 127 tokens, but row 120 is token 127"):
        source_positions(texts, ids + 1)
    with pytest.raises(ConfigError, match="--dstore-data names 1, but"):
        opened(directory, dstore_data="one")


def test_a_retrieval_that_does_not_know_its_rows_is_refused(tmp_path):
    directory = shown_retrieval(tmp_path)
    with pytest.raises(MismatchError, match="was made with dictionary 0000"):
        opened(directory, identity={"dictionary_sha256": "0" * 64})
    datastore = json.loads((directory / "manifest.json").read_text())["datastore"]
    with pytest.raises(DatastoreError, match="does not say which token"):
        opened(directory, datastore={**datastore, "first_position": None})
