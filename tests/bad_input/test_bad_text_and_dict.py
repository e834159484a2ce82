"""Texts and dictionaries that are not what they should be."""

from collections.abc import Callable
from pathlib import Path

from tests.builders.cases import EVAL, PREPROCESS, TRAIN, Call, Case, Place, check, parametrise


def with_dict(content: bytes) -> Callable[[Place], list[object]]:
    """Returns the evaluation of data whose dictionary is ``content``."""

    def make(place: Place) -> list[object]:
        data = place.data()
        (data / "dict.txt").write_bytes(content)
        return place.evaluate(data=data)

    return make


def with_text(content: bytes, *more: object) -> Callable[[Place], list[object]]:
    return lambda place: place.preprocess(content, more)


def with_srcdict(content: bytes) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        (place / "given.txt").write_bytes(content)
        return place.preprocess(more=["--srcdict", place / "given.txt"])

    return make


def dict_is_a_directory(place: Place) -> list[object]:
    data = place.data()
    (data / "dict.txt").unlink()
    (data / "dict.txt").mkdir()
    return place.evaluate(data=data)


def dict_is_missing(place: Place) -> list[object]:
    data = place.data()
    (data / "dict.txt").unlink()
    return place.train(data=data)


def second_data_dir(content: bytes) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        data = place.data()
        (data / "dict.txt").write_bytes(content)
        return place.train(data=Path(f"{place.good.data}:{data}"))

    return make


def text_is_a_directory(place: Place) -> list[object]:
    (place / "text").mkdir()
    return place.preprocess(None)


def destdir_is_a_file(place: Place) -> list[object]:
    (place / "out").write_text("mine\n", encoding="utf-8")
    return place.preprocess()


def results_are_there(place: Place) -> list[object]:
    (place / "out").mkdir()
    (place / "out" / "dict.txt").write_text("other 1\n", encoding="utf-8")
    return place.preprocess()


def other_ids_are_there(place: Place) -> list[object]:
    (place / "out").mkdir()
    (place / "out" / "test.idx").write_bytes(b"")
    return place.preprocess()


def srcdict_is_a_directory(place: Place) -> list[object]:
    (place / "given").mkdir()
    return place.preprocess(more=["--srcdict", place / "given"])


LONG = b"x" * 3_000_000
CASES = [
    Case("dict-empty", EVAL, with_dict(b""), "dict.txt must hold lines '<symbol> <count>', but is empty"),
    Case("dict-no-count", EVAL, with_dict(b"a 2\nword\n"), "dict.txt:2: a line must be '<symbol> <count>'"),
    Case("dict-blank-line", EVAL, with_dict(b"a 2\n\nb 1\n"), "dict.txt:2: a line must be"),
    Case("dict-negative-count", EVAL, with_dict(b"a -2\n"), "dict.txt:1: "),
    Case("dict-count-is-a-word", EVAL, with_dict(b"a 1\nb two\n"), "dict.txt:2: "),
    Case("dict-count-is-a-fraction", EVAL, with_dict(b"a 1.5\n"), "dict.txt:1: "),
    Case("dict-count-beyond-64-bits", EVAL, with_dict(b"a " + b"9" * 30 + b"\n"), "dict.txt:1: "),
    Case("dict-count-in-other-digits", EVAL, with_dict("a ٣\n".encode()), "dict.txt:1: "),
    Case("dict-duplicate", EVAL, with_dict(b"a 3\nb 2\na 1\n"), "dict.txt:3: each symbol must stand once, but 'a'"),
    Case("dict-special", EVAL, with_dict(b"a 3\n<pad> 2\n"), "dict.txt:2: each symbol must stand once, but '<pad>'"),
    Case("dict-latin-1", EVAL, with_dict(b"a 3\ncaf\xe9 2\n"), "dict.txt:2: the dictionary must be UTF-8"),
    Case("dict-utf-16", EVAL, with_dict("a 3\n".encode("utf-16")), "dict.txt:1: the dictionary must be UTF-8"),
    Case("dict-surrogate", EVAL, with_dict(b"\xed\xa0\x80 2\n"), "dict.txt:1: the dictionary must be UTF-8"),
    Case("dict-nul-bytes", EVAL, with_dict(bytes(4096)), "dict.txt:1: "),
    Case("dict-is-a-checkpoint", EVAL, with_dict(b"PK\x03\x04\x00\x00\x08\x08"), "dict.txt:1: "),
    Case("dict-overlong-line", EVAL, with_dict(b"a 1\n" + LONG + b"\n"), "dict.txt:2: "),
    Case("dict-of-another-text", EVAL, with_dict(b"a 1\nb 1\n"), "was trained with another dictionary"),
    Case("dict-is-a-directory", EVAL, dict_is_a_directory, "dict.txt"),
    Case("dict-is-missing", TRAIN, dict_is_missing, "dict.txt does not exist"),
    Case("dict-second-differs", TRAIN, second_data_dir(b"a 1\n"), "dict.txt differs from"),
    Case("dict-second-broken", TRAIN, second_data_dir(b"\xff\n"), "data-bin/dict.txt:1: the dictionary must be UTF-8"),
    Case("srcdict-empty", PREPROCESS, with_srcdict(b""), "given.txt must hold lines"),
    Case("srcdict-duplicate", PREPROCESS, with_srcdict(b"a 1\na 1\n"), "given.txt:2: "),
    Case("srcdict-latin-1", PREPROCESS, with_srcdict(b"\xe9 1\n"), "given.txt:1: the dictionary must be UTF-8"),
    Case("srcdict-is-a-directory", PREPROCESS, srcdict_is_a_directory, "given"),
    Case(
        "srcdict-is-missing", PREPROCESS, lambda p: p.preprocess(more=["--srcdict", p / "none"]), "none does not exist"
    ),
    Case("text-empty", PREPROCESS, with_text(b""), "--trainpref must name a text with words to count"),
    Case("text-only-blank-lines", PREPROCESS, with_text(b"\n \n\t\n"), "--trainpref must name a text with words"),
    Case("text-latin-1", PREPROCESS, with_text(b"a b\ncaf\xe9\n"), "text:2: the text must be UTF-8"),
    Case("text-cut-inside-a-character", PREPROCESS, with_text("naïve é".encode()[:-1]), "text:1: the text must be"),
    Case("text-overlong-line", PREPROCESS, with_text(LONG + b"\xff\n"), "text:1: the text must be UTF-8"),
    Case("text-utf-16", PREPROCESS, with_text("a b\n".encode("utf-16")), "text:1: the text must be UTF-8"),
    Case("text-is-a-directory", PREPROCESS, text_is_a_directory, "text is a directory; add --tokenizer MODEL"),
    Case("text-is-missing", PREPROCESS, lambda p: p.preprocess(None), "text does not exist"),
    Case("text-is-dev-null", PREPROCESS, lambda p: ["--only-source", "--trainpref", "/dev/null"], "/dev/null"),
    Case(
        "text-test-is-missing", PREPROCESS, with_text(b"a\n", "--testpref", "/nowhere/test"), "/nowhere/test does not"
    ),
    Case("destdir-is-a-file", PREPROCESS, destdir_is_a_file, "out"),
    Case("destdir-has-results", PREPROCESS, results_are_there, "dict.txt is there, and is not a dictionary"),
    Case("destdir-has-other-ids", PREPROCESS, other_ids_are_there, "test would stay beside a new one"),
]


@parametrise(CASES)
def test_bad_text_or_dictionary(case: Case, place: Place, call: Call) -> None:
    check(case, place, call)
