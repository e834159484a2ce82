"""dict.txt: golden bytes of formats.md section 1, ids, and files that are not what they should be."""

import hashlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq.data import dictionary_file
from fairseq.data.dictionary import Dictionary
from fairseq.errors import DataError

GOLDEN_TEXT = "the cat sat <unk> . the dog sat on the mat . b a b a c"
GOLDEN_FILE = b"the 3\n. 2\na 2\nb 2\nsat 2\nc 1\ncat 1\ndog 1\nmat 1\non 1\nmadeupword0000 0\nmadeupword0001 0\n"


def write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "dict.txt"
    path.write_bytes(data)
    return path


def test_golden_counts_make_the_golden_file(tmp_path: Path) -> None:
    dictionary = Dictionary.from_counts(Counter(GOLDEN_TEXT.split()))
    dictionary.save(tmp_path / "dict.txt")
    assert (tmp_path / "dict.txt").read_bytes() == GOLDEN_FILE
    assert len(dictionary) == 16


def test_golden_file_gives_the_golden_ids(tmp_path: Path) -> None:
    dictionary = Dictionary.load(write(tmp_path, GOLDEN_FILE))
    assert dictionary.symbols[:5] == ["<s>", "<pad>", "</s>", "<unk>", "the"]
    assert (dictionary.bos(), dictionary.pad(), dictionary.eos(), dictionary.unk()) == (0, 1, 2, 3)
    assert dictionary.ids_of("the cat sat <unk> .\n").tolist() == [4, 10, 8, 3, 5, 2]
    assert dictionary.ids_of("").tolist() == [2]
    assert dictionary.ids_of("the elephant").tolist() == [4, 3, 2]
    assert dictionary.counts[4:6] == [3, 2]
    assert dictionary[10] == "cat"
    assert dictionary.index("cat") == 10
    assert dictionary.index("elephant") == 3
    assert "cat" in dictionary
    assert "elephant" not in dictionary
    assert dictionary.string([0, 4, 10, 3, 2]) == "the cat <unk>"


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    dictionary = Dictionary.load(write(tmp_path, GOLDEN_FILE))
    assert dictionary.sha256() == hashlib.sha256(GOLDEN_FILE).hexdigest()


def test_the_original_dictionary_is_read_and_written_as_it_is(golden_dir: Path, tmp_path: Path) -> None:
    path = golden_dir / "data-bin" / "dict.txt"
    dictionary = Dictionary.load(path)
    assert len(dictionary) == 16304
    assert dictionary.to_bytes() == path.read_bytes()


def test_the_last_space_separates(tmp_path: Path) -> None:
    dictionary = Dictionary.load(write(tmp_path, "New York 7\n\u3000 3\n".encode()))
    assert dictionary.symbols[4:] == ["New York", "\u3000"]
    assert dictionary.counts[4:] == [7, 3]


def test_windows_line_ends_and_a_missing_last_one(tmp_path: Path) -> None:
    assert Dictionary.load(write(tmp_path, b"a 2\r\nb 1")).symbols[4:] == ["a", "b"]


def test_overwrite_gives_a_later_id_that_wins_and_survives_saving(tmp_path: Path) -> None:
    data = b"a 5\nb 4\n<unk> 9 #fairseq:overwrite\na 3 #fairseq:overwrite\n"
    dictionary = Dictionary.load(write(tmp_path, data))
    assert dictionary.index("a") == 7
    assert dictionary.index("<unk>") == 6
    assert dictionary.unk() == 3
    assert len(dictionary) == 8
    assert dictionary.to_bytes() == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"dict\.txt .* is empty"),
        (b"a 1\nb\n", r":2: a line must be '<symbol> <count>', .*but is 'b';"),
        (b"a 1\n\nb 1\n", r":2: .*but is '';"),
        (b"a 1\nb x\n", r":2: .*the count a whole number .*but is 'b x';"),
        (b"a 1.5\n", r":1: .*the count a whole number .*but is 'a 1\.5';"),
        (b"a 1\nb 1\nc -3\n", r":3: .*the count a whole number .*but is 'c -3';"),
        (b"a 1\nb 1\na 1\n", r":3: .*'a' is already there \(on line 1\)"),
        (b"a 1\n<pad> 1\n", r":2: .*'<pad>' is already there \(one of the four specials\)"),
        (b"a 1\nb\xff 1\n", r":2: .*UTF-8.*0xff"),
        (b"\xff 1\n", r":1: .*UTF-8"),
        (b"a #fairseq:overwrite\n", r":1: .*'<symbol> <count>', .*but is 'a #fairseq:overwrite';"),
        (b"a 9999999999999999999999\n", r":1: .*of at most 18 digits, but is 'a 9+';"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Dictionary.load(write(tmp_path, data))


@pytest.mark.parametrize("last", [b"w7 1\n", b"w 1 x\n", b"\n", b" 1\n\n", b"<s> 4\n", b"w\xff 1\n", b"z 1 2"])
def test_a_bad_line_at_the_end_of_many_good_ones_is_named(tmp_path: Path, last: bytes) -> None:
    good = b"".join(b"w%d %d\n" % (i, 5000 - i) for i in range(5000))
    assert len(Dictionary.load(write(tmp_path, good))) == 5004
    number = 5002 if last == b" 1\n\n" else 5001
    if last == b"z 1 2":  # a symbol with a space in it is none
        assert Dictionary.load(write(tmp_path, good + last)).symbols[-1] == "z 1"
        return
    with pytest.raises(DataError, match=f":{number}: "):
        Dictionary.load(write(tmp_path, good + last))


lines = st.lists(st.sampled_from([*"ab012 ", " 1\n", " 2\n", "\n", "\t", "\u3000", "²", "-3", " #fairseq:overwrite\n"]))


@given(lines.map("".join))
def test_reading_all_lines_at_once_is_reading_them_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = write(tmp_path_factory.mktemp("dict"), text.encode())

    def outcome() -> object:
        try:
            found = Dictionary.load(path)
        except DataError as err:
            return str(err)
        return found.symbols, found.counts, found.indices

    at_once = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dictionary_file, "_read_clean", lambda text: None)
        assert outcome() == at_once


def test_a_missing_file_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; give the directory that fairseq-preprocess wrote"):
        Dictionary.load(tmp_path / "dict.txt")


def test_threshold_and_number_of_words() -> None:
    counts = Counter({"a": 5, "b": 3, "c": 3, "d": 1})
    assert Dictionary.from_counts(counts, threshold=3, padding_factor=1).symbols[4:] == ["a", "b", "c"]
    assert Dictionary.from_counts(counts, nwords=6, padding_factor=1).symbols[4:] == ["a", "b"]
    assert Dictionary.from_counts(counts, nwords=4, padding_factor=1).symbols[4:] == []
    assert len(Dictionary.from_counts(counts, nwords=5)) == 8


def test_specials_in_the_text_are_no_words() -> None:
    counts = Counter({"<unk>": 9, "</s>": 9, "<s>": 9, "<pad>": 9, "a": 1})
    assert Dictionary.from_counts(counts, padding_factor=1).symbols[4:] == ["a"]


def test_a_filler_that_is_a_word_of_the_text_is_not_repeated() -> None:
    dictionary = Dictionary.from_counts(Counter({"madeupword0000": 2}))
    assert dictionary.symbols[4:] == ["madeupword0000", "madeupword0001", "madeupword0002", "madeupword0003"]


words = st.text(st.characters(exclude_categories=("Cs", "Z", "Cc")), min_size=1, max_size=5).filter(
    lambda word: word.split() == [word]
)


@given(st.dictionaries(words, st.integers(0, 10**12), min_size=1))
def test_saving_and_loading_changes_nothing(tmp_path_factory: pytest.TempPathFactory, counts: dict[str, int]) -> None:
    dictionary = Dictionary.from_counts(counts)
    path = tmp_path_factory.mktemp("dictionary") / "dict.txt"
    dictionary.save(path)
    if len(dictionary) > 4:
        loaded = Dictionary.load(path)
        assert (loaded.symbols, loaded.counts, loaded.sha256()) == (
            dictionary.symbols,
            dictionary.counts,
            dictionary.sha256(),
        )


def test_specials_have_no_count() -> None:
    """Their counts are features of a weight λ; no file holds them."""
    assert Dictionary(["a", "b"], [7, 5]).counts == [0, 0, 0, 0, 7, 5]
