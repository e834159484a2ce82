"""What a newcomer mistypes or misplaces: the wrong kind of file at a flag, the wrong flag, the wrong order of steps.

Each is answered with what is there and what to give instead.
"""

from pathlib import Path

from tests.builders.cases import (
    BUILD,
    EVAL,
    INTERACTIVE,
    KNNLM,
    PREPROCESS,
    TRAIN,
    Call,
    Case,
    Place,
    check,
    parametrise,
)


def dump(place: Place, *more: object) -> list[object]:
    """Returns the arguments of writing the datastore that is there already, with others at their end."""
    words = [place.good.data, "--path", place.good.checkpoint, "--cpu", "--log-format", "none", "--gen-subset", "train"]
    return [*words, "--context-window", 8, "--save-knnlm-dstore", *more]


def texts(place: Place) -> Path:
    """Returns a directory of texts."""
    (place / "texts").mkdir()
    for split in ("train", "valid"):
        (place / "texts" / f"wiki.{split}.tokens").write_text("the cat sat\n", encoding="utf-8")
    return place / "texts"


def split_of_several_models(place: Place) -> list[object]:
    return [*dump(place, "--dstore-mmap", place.store()), "--gen-subset", "valid"]


def without_valid(place: Place) -> list[object]:
    data = place.data()
    (data / "valid.idx").unlink()
    return place.train(data=data)


def misspelled_checkpoint(place: Place) -> list[object]:
    path = place.checkpoint()
    return place.evaluate(path=path.with_suffix(""))


def text_as_data(place: Place) -> list[object]:
    return place.train(data=texts(place) / "wiki.train.tokens")


def retrievals(place: Place) -> list[object]:
    place.retrieval()
    return ["sweep", place.root]


CASES = [
    Case("first-keys-as-prefix", EVAL, lambda p: p.neighbours(store=p.good.root / "dstore_keys.npy"), "/dstore"),
    Case(
        "first-prefix-of-a-build",
        BUILD,
        lambda p: p.build(store=p.good.root / "dstore_vals.npy"),
        "--dstore-mmap",
    ),
    Case("first-manifest-as-prefix", KNNLM, lambda p: ["rows", p.good.root / "dstore.json", 3], "PREFIX takes a data"),
    Case("first-directory-as-prefix", EVAL, lambda p: p.neighbours(store=p.good.root), "give a prefix such as /"),
    Case("first-directory-to-write", EVAL, lambda p: dump(p, "--dstore-mmap", p.root), f"such as {'/'}"),
    Case("first-keys-to-write", EVAL, lambda p: dump(p, "--dstore-mmap", p / "new_keys.npy"), "/new"),
    Case("first-index-as-prefix", EVAL, lambda p: p.neighbours(store=p.good.index), "is a FAISS index, not"),
    Case(
        "first-prefix-as-index",
        EVAL,
        lambda p: p.neighbours(index=p.good.store),
        "it is a datastore's prefix; give the index",
    ),
    Case("first-no-such-prefix", EVAL, lambda p: p.neighbours(store=f"{p.good.store}s"), "; did you mean /"),
    Case("first-data-as-checkpoint", EVAL, lambda p: p.evaluate(path=p.good.data), "is a directory of binarised data"),
    Case("first-checkpoints", EVAL, lambda p: p.evaluate(path=p.good.root / "run"), "run/checkpoint_best.pt"),
    Case("first-no-suffix", EVAL, misspelled_checkpoint, "model.pt?"),
    Case("first-checkpoints-as-data", EVAL, lambda p: p.evaluate(data=p.good.root / "run"), "directory of checkpoints"),
    Case("first-split-as-data", EVAL, lambda p: p.evaluate(data=p.good.data / "valid"), "give that"),
    Case("first-text-as-data", TRAIN, text_as_data, "wiki.train.tokens is a text that is not binarised"),
    Case("first-texts-as-data", TRAIN, lambda p: p.train(data=texts(p)), "--validpref "),
    Case("first-no-data", TRAIN, lambda p: p.train(data=p / "gone"), "give the one that fairseq-preprocess --destdir"),
    Case(
        "first-words-as-data",
        INTERACTIVE,
        lambda p: ["Return a list", "--path", p.good.checkpoint],
        "if this is the text, give it on the standard input (echo 'Return a list' | …)",
    ),
    Case("first-no-valid", TRAIN, without_valid, "--validpref TEXT"),
    Case(
        "first-no-window",
        EVAL,
        lambda p: [*p.evaluate(), "--gen-subset", "train", "--save-knnlm-dstore", "--dstore-mmap", p.store()],
        "; this run has --context-window 0 instead of 8; give another",
    ),
    Case("first-other-split", EVAL, split_of_several_models, "valid instead of "),
    Case(
        "first-mmap-to-read",
        EVAL,
        lambda p: [*p.evaluate(), "--knnlm", "--dstore-mmap", p.good.store, "--indexfile", p.good.index],
        "--dstore-mmap names a datastore to write, but --knnlm reads one; give --dstore-filename /",
    ),
    Case("first-filename-to-write", EVAL, lambda p: dump(p, "--dstore-filename", p / "new"), "give --dstore-mmap /"),
    Case("first-filename-to-build", BUILD, lambda p: ["--dstore-filename", "x"], "here it is --dstore-mmap"),
    Case("first-word-of-others", TRAIN, lambda p: [*p.train(), "--max-steps", "1"], "here it is --max-update"),
    Case("first-space", TRAIN, lambda p: [*p.train(), " "], "write nothing behind the \\ that ends a line"),
    Case("first-quotes", TRAIN, lambda p: [*p.train(), "--arch transformer_lm"], "without quotes around both"),
    Case("first-two-directories", TRAIN, lambda p: [*p.train(), "other"], "unexpected argument other"),
    Case(
        "first-cutoffs",
        TRAIN,
        lambda p: p.train(more=["--criterion", "adaptive_loss", "--adaptive-softmax-cutoff", "20000,60000"]),
        "such as --adaptive-softmax-cutoff 2,10 and",
    ),
    Case("first-retrievals", KNNLM, retrievals, "is a directory that has some; give /"),
    Case("first-data-as-retrieval", KNNLM, lambda p: ["report", p.good.data], "is a directory of binarised data;"),
    Case(
        "first-checkpoint-as-dictionary",
        PREPROCESS,
        lambda p: [*p.preprocess(), "--srcdict", p.good.checkpoint],
        "; the file is a checkpoint",
    ),
]


@parametrise(CASES)
def test_first_hour(case: Case, place: Place, call: Call) -> None:
    check(case, place, call)
