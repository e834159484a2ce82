"""PREFIX.bin and PREFIX.idx: bytes of formats.md section 2 written by hand, damaged files, files of the original."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairseq.data.dictionary import Dictionary
from fairseq.data.indexed_dataset import IndexedDatasetWriter, MMapIndexedDataset
from fairseq.errors import DataError, MismatchError

GOLDEN_BIN = bytes.fromhex("04000a000800030005000200 0200 04000b0008000d0004000c0005000200 070006000700060009000200")
GOLDEN_IDX = bytes.fromhex(
    "4d4d49444944580000 0100000000000000 08 0400000000000000 06000000 01000000 08000000 06000000"
    "0000000000000000 0c00000000000000 0e00000000000000 1e00000000000000"
)
GOLDEN_TOKENS = [4, 10, 8, 3, 5, 2, 2, 4, 11, 8, 13, 4, 12, 5, 2, 7, 6, 7, 6, 9, 2]


def write(tmp_path: Path, idx: bytes = GOLDEN_IDX, tokens: bytes = GOLDEN_BIN) -> Path:
    (tmp_path / "train.idx").write_bytes(idx)
    (tmp_path / "train.bin").write_bytes(tokens)
    return tmp_path / "train"


def changed(at: int, data: bytes) -> bytes:
    return GOLDEN_IDX[:at] + data + GOLDEN_IDX[at + len(data) :]


def test_golden_files_are_read(tmp_path: Path) -> None:
    data = MMapIndexedDataset(write(tmp_path))
    assert len(data) == 4
    assert data.sizes.tolist() == [6, 1, 8, 6]
    assert data.sizes.dtype == np.int32
    assert data.offsets.tolist() == [0, 6, 7, 15, 21]
    assert data.offsets.dtype == np.int64
    assert data.tokens.tolist() == GOLDEN_TOKENS
    assert data.tokens.dtype == np.uint16
    assert not data.tokens.flags.writeable
    assert [data[i].tolist() for i in (0, 1, -1)] == [[4, 10, 8, 3, 5, 2], [2], [7, 6, 7, 6, 9, 2]]
    assert data[0].dtype == np.int64
    with pytest.raises(IndexError):
        data[4]


def test_golden_ids_make_the_golden_files(tmp_path: Path) -> None:
    with IndexedDatasetWriter(tmp_path / "train", 16) as writer:
        writer.write(np.array(GOLDEN_TOKENS[:7]), np.array([6, 1]))
        writer.write(np.array(GOLDEN_TOKENS[7:]), np.array([8, 6]))
        assert not any(tmp_path.glob("train.*"))
    assert (tmp_path / "train.bin").read_bytes() == GOLDEN_BIN
    assert (tmp_path / "train.idx").read_bytes() == GOLDEN_IDX
    assert (writer.num_sentences, writer.num_tokens) == (4, 21)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train.bin", "train.idx"]


@pytest.mark.parametrize(
    ("code", "pattern"),
    [(1, "<B"), (2, "<b"), (3, "<h"), (4, "<i"), (5, "<q"), (8, "<H"), (9, "<I"), (10, "<Q")],
)
def test_every_integer_code_is_read(tmp_path: Path, code: int, pattern: str) -> None:
    tokens = b"".join(struct.pack(pattern, token) for token in (7, 100, 2))
    idx = b"MMIDIDX\0\0" + struct.pack("<QBQ", 1, code, 2) + struct.pack("<ii", 2, 1)
    idx += struct.pack("<qq", 0, 2 * struct.calcsize(pattern))
    data = MMapIndexedDataset(write(tmp_path, idx, tokens))
    assert [data[0].tolist(), data[1].tolist()] == [[7, 100], [2]]
    data.check_ids(101, "dict.txt")


@pytest.mark.parametrize(("num_ids", "code", "width"), [(65_499, 8, 2), (65_500, 4, 4), (267_744, 4, 4)])
def test_the_written_dtype_follows_the_vocabulary(tmp_path: Path, num_ids: int, code: int, width: int) -> None:
    with IndexedDatasetWriter(tmp_path / "a", num_ids) as writer:
        writer.write(np.array([num_ids - 1, 2]), np.array([2]))
    assert (tmp_path / "a.idx").read_bytes()[17] == code
    assert (tmp_path / "a.bin").read_bytes() == (num_ids - 1).to_bytes(width, "little") + (2).to_bytes(width, "little")


def test_sentences_of_no_tokens_are_read(tmp_path: Path) -> None:
    idx = b"MMIDIDX\0\0" + struct.pack("<QBQ", 1, 8, 3) + struct.pack("<iii", 0, 1, 0) + struct.pack("<qqq", 0, 0, 2)
    data = MMapIndexedDataset(write(tmp_path, idx, b"\x02\x00"))
    assert [data[i].tolist() for i in range(3)] == [[], [2], []]


@pytest.mark.parametrize("num_sentences", [0, 3])
def test_a_file_of_no_tokens_is_read(tmp_path: Path, num_sentences: int) -> None:
    idx = b"MMIDIDX\0\0" + struct.pack("<QBQ", 1, 8, num_sentences) + bytes(12 * num_sentences)
    data = MMapIndexedDataset(write(tmp_path, idx, b""))
    assert data.sizes.tolist() == [0] * num_sentences
    assert len(data.tokens) == 0
    data.check_ids(8, "dict.txt")


def test_the_files_of_the_original_are_read(golden_dir: Path) -> None:
    dictionary = Dictionary.load(golden_dir / "data-bin" / "dict.txt")
    expected = {"train": 341_096, "valid": 55_514, "test": 66_605}
    for split, num_tokens in expected.items():
        data = MMapIndexedDataset(golden_dir / "data-bin" / split)
        data.check_ids(len(dictionary), "dict.txt")
        assert len(data.tokens) == int(data.sizes.sum()) == num_tokens
        assert all(data[i][-1] == 2 for i in range(len(data)))


BAD_INDEXES = {
    "empty": (b"", "must start with"),
    "magic": (changed(0, b"X"), "must start with b'MMIDIDX"),
    "old format": (b"TNTIDX\0\0" + bytes(40), "TNTIDX.*binarise the text again with fairseq-preprocess"),
    "short header": (GOLDEN_IDX[:20], "header of 26 bytes, but has 20"),
    "version": (changed(9, b"\x02"), "version 1, but is of version 2"),
    "float code": (changed(17, b"\x06"), "but is 6 .floating-point"),
    "unknown code": (changed(17, b"\x63"), "but is 99 .unknown"),
    "truncated": (GOLDEN_IDX[:-1], "must have 74 bytes for its 4 sentences, but has 73"),
    "too long": (GOLDEN_IDX + b"\0", "must have 74 bytes for its 4 sentences, but has 75"),
    "huge count": (changed(18, b"\xff" * 8), "18446744073709551615 sentences, but has 74"),
    "negative size": (changed(30, b"\xff\xff\xff\xff"), "sentence 1 has size -1"),
    "offset": (changed(50, b"\x0a"), "sentence 1 must start at byte 12, but starts at byte 10"),
    "first offset": (changed(42, b"\x02"), "sentence 0 must start at byte 0, but starts at byte 2"),
    "size": (changed(38, b"\x07"), "must have 44 bytes for the 22 tokens of train.idx, but has 42"),
}


@pytest.mark.parametrize("case", BAD_INDEXES)
def test_bad_indexes_are_refused(tmp_path: Path, case: str) -> None:
    idx, message = BAD_INDEXES[case]
    with pytest.raises(DataError, match=message) as caught:
        MMapIndexedDataset(write(tmp_path, idx))
    assert "train." in str(caught.value)
    assert "fairseq-preprocess" in str(caught.value)


@pytest.mark.parametrize("tokens", [b"", GOLDEN_BIN[:-1], GOLDEN_BIN + b"\0\0"])
def test_a_token_file_of_another_length_is_refused(tmp_path: Path, tokens: bytes) -> None:
    with pytest.raises(DataError, match=f"must have 42 bytes for the 21 tokens of train.idx, but has {len(tokens)}"):
        MMapIndexedDataset(write(tmp_path, tokens=tokens))


@pytest.mark.parametrize("missing", ["train.idx", "train.bin"])
def test_a_missing_file_says_what_makes_it(tmp_path: Path, missing: str) -> None:
    prefix = write(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=f"{missing} does not exist; fairseq-preprocess --only-source --trainpref TEXT"):
        MMapIndexedDataset(prefix)


def test_ids_beyond_the_dictionary_are_refused_with_their_place(tmp_path: Path) -> None:
    data = MMapIndexedDataset(write(tmp_path))
    data.check_ids(14, "dict.txt")
    with pytest.raises(MismatchError, match=r"the id 13 \(sentence 2, token 10\), but dict.txt has 13 ids"):
        data.check_ids(13, "dict.txt")


def test_ids_are_checked_over_block_boundaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairseq.data.indexed_dataset.CHECK_BLOCK_TOKENS", 4)
    with pytest.raises(MismatchError, match=r"sentence 2, token 10\)"):
        MMapIndexedDataset(write(tmp_path)).check_ids(13, "dict.txt")


def test_negative_ids_are_refused(tmp_path: Path) -> None:
    idx = b"MMIDIDX\0\0" + struct.pack("<QBQiq", 1, 4, 1, 2, 0)
    with pytest.raises(MismatchError, match="the id -5"):
        MMapIndexedDataset(write(tmp_path, idx, struct.pack("<ii", 4, -5))).check_ids(8, "dict.txt")


class CrashError(Exception):
    """Stands for whatever ends a program in the middle of a write."""


def test_a_crash_leaves_the_files_of_an_earlier_run(tmp_path: Path) -> None:
    prefix = write(tmp_path)
    with pytest.raises(CrashError), IndexedDatasetWriter(prefix, 16) as writer:
        writer.write(np.array([5, 2]), np.array([2]))
        raise CrashError
    assert MMapIndexedDataset(prefix).tokens.tolist() == GOLDEN_TOKENS
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train.bin", "train.idx"]


def test_a_kill_between_the_renames_leaves_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old index beside new tokens of the same length would be read as a whole data set."""
    prefix = write(tmp_path)

    def die(self: IndexedDatasetWriter) -> bytes:
        raise CrashError

    monkeypatch.setattr(IndexedDatasetWriter, "_index", die)
    with pytest.raises(CrashError), IndexedDatasetWriter(prefix, 16) as writer:
        writer.write(np.array(GOLDEN_TOKENS[::-1]), np.array([21]))
    with pytest.raises(DataError, match=r"train\.idx does not exist"):
        MMapIndexedDataset(prefix)


@given(st.lists(st.lists(st.integers(0, 70_000), max_size=6), max_size=12), st.sampled_from([65_499, 70_001]))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, sentences: list[list[int]], num_ids: int
) -> None:
    prefix = tmp_path_factory.mktemp("data") / "train"
    sentences = [[token % num_ids for token in sentence] for sentence in sentences]
    with IndexedDatasetWriter(prefix, num_ids) as writer:
        for sentence in sentences:
            writer.write(np.array(sentence, np.int64), np.array([len(sentence)]))
    data = MMapIndexedDataset(prefix)
    assert [data[i].tolist() for i in range(len(data))] == sentences
