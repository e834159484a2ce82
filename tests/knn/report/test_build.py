"""What the page of a retrieval shows, against loops: probabilities, votes, groups, verbatim context, windows."""

import base64
import json
import math
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq.errors import ConfigError, DataError, DatastoreError, MismatchError
from fairseq.knn.report import groups, pack
from fairseq.knn.report.figures import sweep_figures
from fairseq.knn.report.page import script_json
from fairseq.knn.report.scores import Columns, KnnSettings, gain, longest_overlap, nearest_hits, score, shared_suffix
from fairseq.knn.report.texts import check_hits, check_targets, open_texts, source_positions
from fairseq.knn.retrieval.retrieval import Retrieval
from tests.builders.shown_retrieval import FIRST, shown_retrieval
from tests.oracles.knn import knn_probability, mixture

EXACT = 1e-6  # of a log-probability that went through float32


def some_neighbours(n=40, k=9, seed=0):
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(100)[:k] for _ in range(n)])
    distances = np.sort(rng.random((n, k)) * 30, axis=1).astype(np.float32)
    hits = rng.random((n, k)) < 0.3
    ids[2, 4:], distances[2, 4:], hits[2, 4:] = -1, np.inf, False
    ids[5], distances[5], hits[5] = -1, np.inf, False
    return np.log(rng.random(n)), distances, ids, hits


@pytest.mark.parametrize("k", [1, 4, 9])
@pytest.mark.parametrize("temperature", [0.05, 1.0, 40.0])
def test_columns_are_those_of_a_loop(k, temperature):
    lm, distances, ids, hits = some_neighbours()
    columns = score(lm, distances, hits, np.zeros(40, np.int64), KnnSettings(k, temperature, 0.3))
    mixed = columns.mixture(0.3)
    for n in range(40):
        p = knn_probability(distances[n, :k], ids[n, :k], hits[n, :k].astype(int), 1, temperature)
        assert columns.knn_log_p_N[n] == pytest.approx(math.log(p) if p else -math.inf, rel=EXACT)
        assert mixed[n] == pytest.approx(math.log(mixture(math.exp(lm[n]), p, 0.3)), rel=EXACT)
        assert columns.num_hits_N[n] == hits[n, :k].sum()
        assert columns.first_hit_N[n] == (list(hits[n, :k]).index(True) if hits[n, :k].any() else -1)
        votes = [
            math.exp((float(distances[n, 0]) - float(d)) / temperature - columns.log_votes_N[n])
            for d, row in zip(distances[n, :k], ids[n, :k], strict=True)
            if row >= 0
        ]
        assert sum(votes) == pytest.approx(1 if votes else 0, rel=1e-9)
        assert sum(v for v, hit in zip(votes, hits[n, :k], strict=False) if hit) == pytest.approx(p, rel=1e-9)


def naive_suffix(text, at, source, source_at, longest):
    length = 0
    while length < min(longest, at, source_at) and text[at - length - 1] == source[source_at - length - 1]:
        length += 1
    return length


@given(
    st.lists(st.integers(0, 1), min_size=1, max_size=30),
    st.lists(st.integers(0, 1), min_size=1, max_size=30),
    st.data(),
)
@settings(max_examples=100, deadline=None)
def test_shared_suffixes_are_those_of_a_loop(text, source, data):
    pairs = data.draw(st.lists(st.tuples(st.integers(0, len(text) - 1), st.integers(0, len(source) - 1)), max_size=8))
    at, source_at = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    found = shared_suffix(np.array(text), at, np.array(source), source_at, 5)
    assert found.tolist() == [naive_suffix(text, a, source, b, 5) for a, b in pairs]


def test_the_longest_overlap_is_over_the_nearest_hits_only():
    rng = np.random.default_rng(3)
    text, source = rng.integers(0, 2, 50), rng.integers(0, 2, 80)
    at, source_at = rng.integers(0, 50, 30), rng.integers(0, 80, (30, 6))
    hits = rng.random((30, 6)) < 0.5
    hits[0] = False
    found = longest_overlap(text, at, source, source_at, hits, 2, 10)
    for n in range(30):
        nearest = [rank for rank in range(6) if hits[n, rank]][:2]
        wanted = max((naive_suffix(text, at[n], source, source_at[n, rank], 10) for rank in nearest), default=-1)
        assert found[n] == wanted
    token, rank = nearest_hits(hits, 2)
    assert list(zip(token, rank, strict=True)) == [
        (n, rank) for n in range(30) for rank in [r for r in range(6) if hits[n, r]][:2]
    ]


def test_each_grouping_adds_up_to_the_whole_gain():
    rng = np.random.default_rng(4)
    lm, mixed = np.log(rng.random(500)), np.log(rng.random(500))
    overlap = rng.integers(-1, 60, 500)
    way = groups.by_overlap(overlap)
    shares = groups.gain_by_group(way, gain(lm, mixed))
    bounds = {
        "no hit": (-1, -1),
        "0": (0, 0),
        "1": (1, 1),
        "2": (2, 2),
        "3 – 4": (3, 4),
        "5 – 8": (5, 8),
        "9 – 16": (9, 16),
        "17 – 32": (17, 32),
        "≥ 33": (33, 99),
    }
    for label, bits in shares:
        low, high = bounds[label]
        inside = [n for n in range(500) if low <= overlap[n] <= high]
        assert inside
        assert bits == pytest.approx(sum(mixed[n] - lm[n] for n in inside) / 500 / math.log(2))
    assert {label for label, _ in shares} == set(bounds)
    whole = sum(mixed[n] - lm[n] for n in range(500)) / 500 / math.log(2)
    assert sum(bits for _, bits in shares) == pytest.approx(whole)


def test_probabilities_of_zero_gain_nothing():
    lm, mixed = np.log([0.5, 1e-300]), np.log([0.25, 1e-300])
    lm[1] = mixed[1] = -np.inf
    assert gain(lm, mixed).tolist() == [math.log(0.5), 0.0]
    assert groups.gain_by_group(groups.by_overlap(np.array([1, 1])), gain(lm, mixed)) == [("1", -0.5)]


def test_groups_by_frequency_kind_and_distance():
    way = groups.by_frequency(np.array([0, 1, 9, 10, 99, 100, 1000, 100000, 5000000]))
    assert [way.labels[code] for code in way.code_N] == [
        "never",
        "1 – 9",
        "1 – 9",
        "10 – 99",
        "10 – 99",
        "100 – 999",
        "1,000 – 9,999",
        "≥ 100,000",
        "≥ 100,000",
    ]
    symbols = ["<s>", "<pad>", "</s>", "<unk>", "word", "1984", "3rd", ",", "@-@", "naïve", "½", "日本"]
    way = groups.by_kind(symbols, np.arange(12))
    assert [way.labels[code] for code in way.code_N] == [
        "special symbols",
        "special symbols",
        "end of line",
        "special symbols",
        "words",
        "numbers",
        "words with digits",
        "punctuation",
        "punctuation",
        "words",
        "punctuation",
        "words",
    ]
    nearest = np.concatenate([np.random.default_rng(0).random(1000), [np.inf, np.inf]])
    way = groups.by_distance(nearest)
    assert len(way.labels) == 11 and np.bincount(way.code_N).tolist() == [*[100] * 10, 2]
    order = np.argsort(nearest, kind="stable")
    assert (np.diff(way.code_N[order].astype(int)) >= 0).all()


@pytest.mark.parametrize("nearest", [[np.inf, np.inf], [1.0, 1.0, 1.0], [0.0], [1.0, 1.0, 2.0, np.inf]])
def test_few_distances_make_fewer_groups(nearest):
    way = groups.by_distance(np.array(nearest))
    for distance, code in zip(nearest, way.code_N, strict=True):
        assert (way.labels[code] == "no neighbour") == math.isinf(distance)


@given(st.lists(st.integers(-1, 120), max_size=25))
@settings(max_examples=100, deadline=None)
def test_windows_hold_what_stands_around_every_neighbour_and_nothing_else(positions):
    text = np.arange(1000, 1121)
    positions = np.array(positions, np.int64)
    windows = pack.windows_around(positions, [(0, len(text))])
    wanted = sorted(
        {p for at in positions if at >= 0 for p in range(max(0, at - pack.BEFORE), min(121, at + pack.AFTER + 1))}
    )
    cut = windows.cut(text)
    assert cut.tolist() == [text[p] for p in wanted]
    place = windows.place(positions)
    for at, where in zip(positions, place, strict=True):
        assert (where == pack.NONE) if at < 0 else (cut[where] == text[at])
    for start, size, offset in zip(windows.start_W, windows.length_W, windows.offset_W, strict=True):
        assert cut[offset : offset + size].tolist() == text[start : start + size].tolist()


@given(st.lists(st.integers(-1, 90), max_size=25))
@settings(max_examples=100, deadline=None)
def test_windows_do_not_reach_into_another_text(positions):
    pieces = [(0, 40), (41, 60), (61, 91)]
    text_of = np.repeat([0, -1, 1, -1, 2], [40, 1, 19, 1, 30])
    positions = np.array([at for at in positions if at < 0 or text_of[at] >= 0], np.int64)
    windows = pack.windows_around(positions, pieces)
    wanted = {
        p
        for at in positions
        if at >= 0
        for p in range(max(0, at - pack.BEFORE), min(91, at + pack.AFTER + 1))
        if text_of[p] == text_of[at]
    }
    assert windows.cut(np.arange(91)).tolist() == sorted(wanted)
    for start, size in zip(windows.start_W, windows.length_W, strict=True):
        assert len(set(text_of[start : start + size])) == 1


def test_tokens_get_their_neighbours_by_how_much_changed():
    gains = np.array([0.1, -0.3, 2.0, 0.0, -0.1, np.inf, 0.5])
    assert pack.by_change(gains).tolist() == [5, 1, 2, 4, 6, 3, 0]


@pytest.mark.parametrize("budget", [0, 500, 3000, 20000, 1e9])
def test_the_budget_holds_and_is_used(budget):
    rng = np.random.default_rng(5)
    at = rng.integers(0, 100000, (200, 4))
    order = rng.permutation(200)

    def size(number):
        windows = pack.windows_around(at[order[:number]], [(0, 100000)])
        return (number * 4 * 8 + windows.num_tokens * 4 + len(windows.start_W) * 12) * 4 / 3

    chosen, _ = pack.choose(order, at, [(0, 100000)], budget)
    assert chosen.tolist() == sorted(order[: len(chosen)])
    assert size(len(chosen)) <= budget
    assert len(chosen) == 200 or size(len(chosen) + 2) > budget


def test_arrays_come_back_from_their_text():
    arrays = {"a": np.arange(6, dtype=np.uint16).reshape(2, 3), "b": np.array([-np.inf, 1.5], ">f4")}
    found = {name: (dtype, length, text) for name, dtype, length, text in pack.packed(arrays)}
    dtype, length, text = found["a"]
    assert (dtype, length) == ("uint16", 6)
    assert np.frombuffer(zlib.decompress(base64.b64decode(text)), "<u2").tolist() == [0, 1, 2, 3, 4, 5]
    assert np.frombuffer(zlib.decompress(base64.b64decode(found["b"][2])), "<f4").tolist() == [-np.inf, 1.5]


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_no_word_can_end_its_script_element(word):
    text = script_json({"words": [word, "</script>", "<!--"]})
    assert "<" not in text and "\u2028" not in text
    assert json.loads(text)["words"][0] == word


def test_figures_are_taken_once_and_as_svg(tmp_path):
    assert sweep_figures(tmp_path / "none") == []
    (tmp_path / "a.png").write_bytes(b"png")
    (tmp_path / "a.svg").write_bytes(b"<svg/>")
    (tmp_path / "b.png").write_bytes(b"b")
    assert sweep_figures(tmp_path) == [
        ("a", "data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode()),
        ("b", "data:image/png;base64," + base64.b64encode(b"b").decode()),
    ]


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
    check_targets(texts, position, target)
    at = source_positions(texts, ids)
    check_hits(texts, at, target, hits)
    swapped = opened(directory, data=str(tmp_path / "data-bin/train"))
    with pytest.raises(MismatchError, match="its tokens differ"):
        check_targets(swapped, position, target)
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


def test_columns_join_in_order():
    lm, distances, _, hits = some_neighbours()
    parts = [
        score(lm[rows], distances[rows], hits[rows], np.zeros(len(lm[rows]), np.int64), KnnSettings(9, 1.0, 0.5))
        for rows in (slice(0, 13), slice(13, 40))
    ]
    whole = score(lm, distances, hits, np.zeros(40, np.int64), KnnSettings(9, 1.0, 0.5))
    joined = Columns.joined(parts)
    for name in Columns.__dataclass_fields__:
        assert np.array_equal(getattr(joined, name), getattr(whole, name))
