"""Binarised data that is torn, lies, or belongs to another dictionary."""

import struct
from collections.abc import Callable

import numpy as np

from tests.builders.cases import EVAL, TRAIN, Call, Case, Place, check, parametrise
from tests.builders.tiny_lm import write_split

HEADER_BYTES = 26


def changed(start: int, new: bytes) -> Callable[[bytes], bytes]:
    """Returns what replaces the bytes from ``start`` on."""
    return lambda data: data[:start] + new + data[start + len(new) :]


def last_offset(value: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:-8] + struct.pack("<q", value)


def with_index(change: Callable[[bytes], bytes], split: str = "test") -> Callable[[Place], list[object]]:
    """Returns the evaluation of data whose index has been changed."""
    return with_file(f"{split}.idx", change)


def with_file(name: str, change: Callable[[bytes], bytes]) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        data = place.data()
        (data / name).write_bytes(change((data / name).read_bytes()))
        return place.evaluate(data=data)

    return make


def with_sentences(*sentences: list[int]) -> Callable[[Place], list[object]]:
    """Returns the evaluation of a split with these sentences."""

    def make(place: Place) -> list[object]:
        data = place.data()
        write_split(data / "test", sentences)
        return place.evaluate(data=data)

    return make


def missing(name: str) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        data = place.data()
        (data / name).unlink()
        return place.evaluate(data=data)

    return make


def directory(name: str) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        data = place.data()
        (data / name).unlink()
        (data / name).mkdir()
        return place.evaluate(data=data)

    return make


def no_sentences(place: Place) -> list[object]:
    data = place.data()
    (data / "test.bin").write_bytes(b"")
    (data / "test.idx").write_bytes(b"MMIDIDX\0\0" + struct.pack("<QBQ", 1, 8, 0))
    return place.evaluate(data=data)


def negative_ids(place: Place) -> list[object]:
    data = place.data()
    (data / "test.bin").write_bytes(np.array([5, -7, 2], "<i4").tobytes())
    header = b"MMIDIDX\0\0" + struct.pack("<QBQ", 1, 4, 1)
    (data / "test.idx").write_bytes(header + struct.pack("<iq", 3, 0))
    return place.evaluate(data=data)


def ids_of_64_bits(place: Place) -> list[object]:
    data = place.data()
    (data / "test.bin").write_bytes(np.array([5, 2**63 + 5, 2], "<u8").tobytes())
    header = b"MMIDIDX\0\0" + struct.pack("<QBQ", 1, 10, 1)
    (data / "test.idx").write_bytes(header + struct.pack("<iq", 3, 0))
    return place.evaluate(data=data)


def training(name: str, change: Callable[[bytes], bytes]) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        data = place.data()
        (data / name).write_bytes(change((data / name).read_bytes()))
        return place.train(data=data)

    return make


CASES = [
    Case("idx-empty", EVAL, with_index(lambda _: b""), "test.idx must start with b'MMIDIDX"),
    Case("idx-half-a-magic", EVAL, with_index(lambda d: d[:5]), "test.idx must start with b'MMIDIDX"),
    Case("idx-half-a-header", EVAL, with_index(lambda d: d[:20]), "test.idx must have a header of 26 bytes"),
    Case("idx-header-only", EVAL, with_index(lambda d: d[:HEADER_BYTES]), "test.idx must have 386 bytes"),
    Case("idx-one-byte-short", EVAL, with_index(lambda d: d[:-1]), "test.idx must have 386 bytes"),
    Case("idx-one-byte-more", EVAL, with_index(lambda d: d + b"\0"), "test.idx must have 386 bytes"),
    Case("idx-wrong-magic", EVAL, with_index(changed(0, b"NOTANIDX!")), "test.idx must start with b'MMIDIDX"),
    Case("idx-old-magic", EVAL, with_index(changed(0, b"TNTIDX\0\0")), "test.idx must be of the mmap format"),
    Case("idx-is-text", EVAL, with_index(lambda _: b"a b c\n" * 50), "test.idx must start with"),
    Case("idx-version-0", EVAL, with_index(changed(9, struct.pack("<Q", 0))), "test.idx must be of version 1"),
    Case("idx-version-huge", EVAL, with_index(changed(9, b"\xff" * 8)), "test.idx must be of version 1"),
    Case("idx-dtype-0", EVAL, with_index(changed(17, b"\0")), "test.idx: the dtype code must be one of"),
    Case("idx-dtype-float", EVAL, with_index(changed(17, b"\x06")), "but is 6 (floating-point numbers)"),
    Case("idx-dtype-255", EVAL, with_index(changed(17, b"\xff")), "but is 255 (unknown)"),
    Case("idx-dtype-wider", EVAL, with_index(changed(17, b"\x04")), "test.idx: sentences must lie back to back"),
    Case("idx-count-0", EVAL, with_index(changed(18, struct.pack("<Q", 0))), "test.idx must have 26 bytes"),
    Case("idx-count-one-more", EVAL, with_index(changed(18, struct.pack("<Q", 31))), "for its 31 sentences"),
    Case("idx-count-huge", EVAL, with_index(changed(18, b"\xff" * 8)), "test.idx must have "),
    Case("idx-size-negative", EVAL, with_index(changed(26, struct.pack("<i", -1))), "sizes must not be negative"),
    Case("idx-size-huge", EVAL, with_index(changed(26, struct.pack("<i", 2**31 - 1))), "test.idx: sentences must lie"),
    Case("idx-last-size-lies", EVAL, with_index(changed(26 + 4 * 29, struct.pack("<i", 999))), "test.bin must have"),
    Case("idx-offset-negative", EVAL, with_index(last_offset(-2)), "sentence 29 must start at byte"),
    Case("idx-offset-outside", EVAL, with_index(last_offset(2**40)), "but starts at byte 1099511627776"),
    Case("idx-offset-off-by-one", EVAL, with_index(changed(26 + 120 + 8, b"\x01")), "sentence 1 must start at byte"),
    Case("idx-is-missing", EVAL, missing("test.idx"), "test.idx does not exist"),
    Case("idx-is-a-directory", EVAL, directory("test.idx"), "test.idx"),
    Case("idx-no-sentences", EVAL, no_sentences, "test.idx must have tokens, but has none in its 0"),
    Case("idx-zero-length-sentences", EVAL, with_sentences([], [], []), "test.idx must have tokens, but has none"),
    Case("bin-empty", EVAL, with_file("test.bin", lambda _: b""), "test.bin must have"),
    Case("bin-one-byte-short", EVAL, with_file("test.bin", lambda d: d[:-1]), "test.bin must have"),
    Case("bin-one-token-more", EVAL, with_file("test.bin", lambda d: d + b"\2\0"), "test.bin must have"),
    Case("bin-is-missing", EVAL, missing("test.bin"), "test.bin does not exist"),
    Case("bin-is-a-directory", EVAL, directory("test.bin"), "test.bin"),
    Case("bin-id-beyond", EVAL, with_sentences([4, 40, 2]), "test.bin holds the id 40 (sentence 0, token 1)"),
    Case("bin-id-beyond-late", EVAL, with_sentences([4, 2], [65535, 2]), "holds the id 65535 (sentence 1, token 2)"),
    Case("bin-id-negative", EVAL, negative_ids, "test.bin holds the id -7"),
    Case("bin-id-of-64-bits", EVAL, ids_of_64_bits, "test.bin holds the id 9223372036854775813"),
    Case("train-id-beyond", TRAIN, training("train.bin", lambda d: b"\xff\xff" + d[2:]), "train.bin holds the id 6553"),
    Case("train-torn", TRAIN, training("train.bin", lambda d: d[:100]), "train.bin must have"),
    Case("valid-torn", TRAIN, training("valid.idx", lambda d: d[:100]), "valid.idx must have"),
    Case("data-is-a-file", EVAL, lambda p: p.evaluate(data=p.good.data / "dict.txt"), "dict.txt"),
    Case("data-is-missing", TRAIN, lambda p: p.train(data=p / "none"), "none does not exist"),
    Case("data-is-empty", EVAL, lambda p: ["", *p.evaluate()[1:]], "data directory"),
    Case("data-split-is-missing", EVAL, lambda p: [*p.evaluate(), "--gen-subset", "x"], "x.idx does not exist"),
    Case("data-split-name-is-empty", EVAL, lambda p: [*p.evaluate(), "--gen-subset", ""], ".idx does not exist"),
]


@parametrise(CASES)
def test_bad_data(case: Case, place: Place, call: Call) -> None:
    check(case, place, call)
