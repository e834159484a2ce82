"""Datastores of knn-transformers: raw files as it writes them, of a tiny random Llama, by transformers alone.

The oracle of an evaluation is float64 from end to end: the model, every distance, the softmax and the mixture.
"""

import json
import re
import shlex
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from fairseq_cli.shared.run import run
from tests.builders.tiny_llama import TEXT, write_tiny_llama
from tests.builders.tiny_lm import Command, Outcome, main_of

BLOCK, K, LMBDA, T = 32, 8, 0.25, 2.0
TEXTS = {"train": TEXT.splitlines(keepends=True) * 3, "valid": TEXT.swapcase().splitlines(keepends=True)}


@dataclass(frozen=True)
class Peer:
    """The model, its texts tokenized one by one, and what the tool had of them."""

    model: Path
    data: Path
    root: Path

    def tokens(self, split: str, *, begun: bool = False) -> np.ndarray:
        """Returns the tokenizer's ids, all texts joined; of train, without the end that fills no block."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.model / "tokenizer.json"))
        parts = [[1] * begun + tokenizer.encode(text).ids for text in TEXTS[split]]
        ids = np.concatenate(parts).astype(np.int64)
        return ids[: len(ids) // BLOCK * BLOCK] if split == "train" else ids

    def states(self, ids: np.ndarray, stride: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns keys, targets and ln p of the targets, float64, window by window."""
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float64).eval()
        caught: list[torch.Tensor] = []
        model.model.layers[-1].mlp.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        found: list[tuple[np.ndarray, ...]] = []
        for start in range(0, len(ids), stride):
            begin = max(start + stride - BLOCK, 0)
            window = ids[begin : start + stride]
            with torch.inference_mode():
                log_p = model(torch.from_numpy(window[None])).logits[0].log_softmax(-1).numpy()
            at = np.arange(max(start - begin, 1), len(window))
            found.append((caught.pop()[0].numpy()[at - 1], window[at], log_p[at - 1, window[at]]))
        keys, targets, log_p = (np.concatenate(column) for column in zip(*found, strict=True))
        return keys, targets, log_p

    def store(self, name: str, stride: int, *, begun: bool = False) -> Path:
        """Writes the files of a datastore, and returns their prefix without the numbers."""
        keys, targets, _ = self.states(self.tokens("train", begun=begun), stride)
        prefix = self.root / name / f"dstore_llama_{len(keys)}_{keys.shape[1]}"
        prefix.parent.mkdir(exist_ok=True)
        keys.astype("<f2").tofile(f"{prefix}_keys.npy")
        targets.astype("<i4").tofile(f"{prefix}_vals.npy")
        return self.root / name / "dstore_llama"


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    root = tmp_path_factory.mktemp("peer")
    return _peer(root, write_tiny_llama(root / "model"))


def _peer(root: Path, model: Path) -> Peer:
    words: list[object] = ["--only-source", "--tokenizer", model, "--destdir", root / "data"]
    for split, texts in TEXTS.items():
        path = root / f"{split}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        words += [f"--{split}pref", path]
    code = run(
        "fairseq-preprocess", main_of("fairseq-preprocess"), [str(word) for word in [*words, "--log-format", "none"]]
    )
    assert code == 0
    return Peer(model, root / "data", root)


def adopt(command: Command, peer: Peer, source: Path, target: Path, words: str = "") -> Outcome:
    more = ["--dstore-mmap", target, "--data", peer.data, "--cpu", "--log-format", "none", *shlex.split(words)]
    return command("fairseq-knnlm", "adopt", source, *more)


@pytest.mark.parametrize("stride", [BLOCK, BLOCK // 2])
def test_an_adopted_store_is_evaluated_as_brute_force_has_it(
    command: Command, peer: Peer, tmp_path: Path, stride: int
) -> None:
    source, target = peer.store(f"stride{stride}", stride), tmp_path / "new"
    outcome = adopt(command, peer, source, target, f"--path {peer.model} --tokens-per-sample {BLOCK} --stride {stride}")
    assert outcome.code == 0, outcome.err
    assert "ids raised by 4" in outcome.out
    keys, targets, _ = peer.states(peer.tokens("train"), stride)
    stored = np.fromfile(f"{target}_keys.npy", "<f2").reshape(keys.shape).astype(np.float64)
    assert (np.fromfile(f"{target}_vals.npy", "<i8") == targets + 4).all()
    assert next(source.parent.glob("*_keys.npy")).samefile(f"{target}_keys.npy")
    record = json.loads(Path(f"{target}.json").read_text())
    assert record["settings"]["keys_computed_again"] > BLOCK

    index, results = tmp_path / "flat.index", tmp_path / "r.json"
    build = ["--dstore-mmap", target, "--faiss-index", index, "--index-spec", "Flat", "--log-format", "none"]
    assert command("build_dstore.py", *build).code == 0
    words = ["--knnlm", "--dstore-filename", target, "--indexfile", index, "--k", K, "--lmbda", LMBDA, "--knn-temp", T]
    words += ["--sample-break-mode", "isolated", "--tokens-per-sample", BLOCK, "--results-path", results]
    outcome = command("fairseq-eval-lm", peer.data, "--path", peer.model, "--gen-subset", "valid", "--cpu", *words)
    assert outcome.code == 0, outcome.err

    found = json.loads(results.read_text())
    queries, wanted, log_p = peer.states(peer.tokens("valid"), BLOCK)
    assert found["targets"] == len(wanted)
    assert abs(found["lm"]["ppl"] / np.exp(-log_p.mean()) - 1) <= 1e-6
    p_knn = brute_force(queries, stored, targets, wanted)
    mixed = np.log((1 - LMBDA) * np.exp(log_p) + LMBDA * p_knn)
    assert abs(found["ppl"] / np.exp(-mixed.mean()) - 1) <= 1e-6


def brute_force(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns p_kNN of the wanted tokens, by every distance."""
    distances = ((queries[:, None] - keys[None]) ** 2).sum(2)
    near = np.argsort(distances, axis=1, kind="stable")[:, :K]
    gaps = np.take_along_axis(distances, near, 1) - distances.min(1, keepdims=True)
    weights = np.exp(-gaps / T)
    return (weights * (values[near] == wanted[:, None])).sum(1) / weights.sum(1)


def test_rows_know_their_text(command: Command, peer: Peer, tmp_path: Path) -> None:
    """Row r of windows that see nothing of each other: its words are found, and the text warns of itself."""
    source, target = peer.store("rows", BLOCK), tmp_path / "new"
    assert adopt(command, peer, source, target).code == 0
    outcome = command("fairseq-knnlm", "check", "--dstore-filename", target)
    assert outcome.code == 0, outcome.out
    shown = command("fairseq-knnlm", "rows", target, str(BLOCK + 3), "--json", tmp_path / "rows.json")
    assert shown.code == 0, shown.err
    record = json.loads((tmp_path / "rows.json").read_text())["found"][0]
    assert record["position"] == BLOCK + 5  # two windows have begun, each with a token that is no row
    words = ["--knnlm", "--dstore-filename", target, "--indexfile", tmp_path / "flat.index", "--k", K, "--lmbda", LMBDA]
    build = ["--dstore-mmap", target, "--faiss-index", tmp_path / "flat.index", "--index-spec", "Flat"]
    assert command("build_dstore.py", *build, "--log-format", "none").code == 0
    words += ["--exclude-own-row", "--tokens-per-sample", BLOCK, "--cpu"]
    outcome = command("fairseq-eval-lm", peer.data, "--path", peer.model, "--gen-subset", "train", *words)
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("own_index", [True, False])
def test_the_settings_are_printed_and_run(command: Command, peer: Peer, tmp_path: Path, own_index: bool) -> None:
    """What adopt prints is typed as it stands, but for the model's directory, λ and the size of the index."""
    source, target = peer.store(f"print{own_index}", BLOCK), tmp_path / "new"
    if own_index:
        prefix = Path(str(next(source.parent.glob("*_keys.npy"))).removesuffix("_keys.npy"))
        rows = np.fromfile(f"{prefix}_keys.npy", "<f2").reshape(-1, 16).astype(np.float32)
        index = faiss.IndexFlatL2(16)
        index.add(rows)
        faiss.write_index(index, str(prefix).replace("dstore_llama", "index_llama") + ".indexed")
    outcome = adopt(command, peer, source, target)
    assert outcome.code == 0, outcome.err
    assert ("there is no " in outcome.out) != own_index
    lines = outcome.out.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line) for line in lines if line.strip().startswith("fairseq-")]
    assert [words[0] for words in commands] == ["fairseq-build-dstore"] * (not own_index) + ["fairseq-eval-lm"]
    for words in commands:
        given = [str(peer.model) if word == "MODEL" else word for word in words[1:]]
        prog = "build_dstore.py" if words[0] == "fairseq-build-dstore" else words[0]
        done = command(prog, *given, *(["--cpu"] if words[0] == "fairseq-eval-lm" else []))
        assert done.code == 0, done.err
    assert "--sample-break-mode isolated --tokens-per-sample 32 " in outcome.out


@pytest.mark.parametrize(("splits", "chosen"), [("train test", "test"), ("train", "train")])
def test_the_printed_command_evaluates_a_split_that_is_there(
    command: Command, peer: Peer, tmp_path: Path, splits: str, chosen: str
) -> None:
    data = tmp_path / "data"
    shutil.copytree(peer.data, data, ignore=lambda _, names: [name for name in names if name.startswith("valid")])
    for path in list(data.glob("train.*")) if "test" in splits else ():
        shutil.copyfile(path, path.with_name(path.name.replace("train", "test", 1)))
    outcome = adopt(command, replace(peer, data=data), peer.store("split", BLOCK), tmp_path / "new")
    assert outcome.code == 0, outcome.err
    assert f"--gen-subset {chosen} " in outcome.out


def test_a_tokenizer_that_begins_texts(command: Command, tmp_path: Path) -> None:
    """As Llama's: the token in front of each text is a row, and of no text; keys are not compared."""
    root = tmp_path / "bos"
    peer = _peer(root, write_tiny_llama(root / "model", add_bos=True))
    source = peer.store("begun", BLOCK // 2, begun=True)
    outcome = adopt(command, peer, source, tmp_path / "new")
    assert outcome.code == 0, outcome.err
    assert "a beginning token in front of each document" in outcome.out
    assert "(not quite: here the beginning token stands in front of each row" in outcome.out
    record = json.loads((tmp_path / "new.json").read_text())
    assert "data" not in record["settings"] and record["settings"]["tokenizer_sha256"]
    values = np.fromfile(tmp_path / "new_vals.npy", "<i8")
    assert (values == peer.tokens("train", begun=True)[1:] + 4).all()


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        ("another text", "--gen-subset valid", "are not the tokens of the text"),
        ("another text", "--gen-subset valid --dictionary-only", ""),
        ("no id", "--dictionary-only", "ids must be from 0 to"),
        ("other keys", "--path MODEL --tokens-per-sample 32", "the key of row"),
        ("other stride", "--path MODEL --tokens-per-sample 8 --stride 2", "--stride of the run that wrote"),
        ("none", "--tokens-per-sample 32 --stride 33", "--stride 33 must be at most"),
        ("none", "--path MODEL --dictionary-only", "--dictionary-only is for --data alone"),
    ],
)
def test_what_is_not_of_the_text_is_refused(
    command: Command, peer: Peer, tmp_path: Path, change: str, words: str, said: str
) -> None:
    stride = BLOCK // 2 if "stride" in change else BLOCK
    source = peer.store(f"wrong {change} {len(words)}", stride)
    prefix = str(next(source.parent.glob("*_keys.npy"))).removesuffix("_keys.npy")
    if change == "no id":
        values = np.fromfile(f"{prefix}_vals.npy", "<i4")
        values[7] = 300
        values.tofile(f"{prefix}_vals.npy")
    if change == "other keys":
        np.roll(np.fromfile(f"{prefix}_keys.npy", "<f2"), 16).tofile(f"{prefix}_keys.npy")
    outcome = adopt(command, peer, source, tmp_path / "new", words.replace("MODEL", str(peer.model)))
    assert (outcome.code == 0) == (not said)
    assert said in outcome.err
    assert (tmp_path / "new.json").exists() == (not said)
    if not said:
        assert "the values were not compared with a text" in outcome.out


def test_a_store_without_keys_is_searched_by_its_index(command: Command, peer: Peer, tmp_path: Path) -> None:
    """As the published ones are: values and index. What is found is what the index finds with all files there."""
    source, whole, bare = peer.store("published", BLOCK), tmp_path / "whole", tmp_path / "bare"
    prefix = str(next(source.parent.glob("*_keys.npy"))).removesuffix("_keys.npy")
    assert adopt(command, peer, source, whole).code == 0
    index = tmp_path / "knn.index"
    build = ["--dstore-mmap", whole, "--faiss-index", index, "--index-spec", "PQ4x4", "--log-format", "none"]
    assert command("build_dstore.py", *build).code == 0
    index.with_name("knn.index.json").unlink()
    Path(f"{prefix}_keys.npy").unlink()
    outcome = adopt(command, peer, Path(f"{prefix}_vals.npy"), bare)
    assert outcome.code == 0, outcome.err
    assert "there are no keys" in outcome.out and not Path(f"{bare}_keys.npy").exists()
    words = ["--indexfile", index, "--k", K, "--lmbda", LMBDA, "--cpu", "--log-format", "none", "--path", peer.model]
    words += ["--gen-subset", "valid", "--sample-break-mode", "isolated", "--tokens-per-sample", BLOCK, "--knnlm"]
    said = []
    for store in (whole, bare):
        own = ["--knn-sim-func", "do_not_recomp_l2", "--dstore-filename", store]
        done = command("fairseq-eval-lm", peer.data, *words, *own)
        assert done.code == 0, done.err
        said.append(re.findall("Perplexity: .*", done.out))
    assert said[0] == said[1] and len(said[0]) == 1
    done = command("fairseq-eval-lm", peer.data, *words, "--dstore-filename", bare)
    assert done.code and "distances of the index need no keys: --knn-sim-func do_not_recomp_l2" in done.err
    done = command("fairseq-knnlm", "check", "--dstore-filename", bare, "--indexfile", index)
    assert done.code == 0 and "it was adopted without" in done.out
    more = ["--dstore-mmap", tmp_path / "other", "--data", peer.data, "--path", peer.model, "--cpu"]
    done = command("fairseq-knnlm", "adopt", f"{prefix}_vals.npy", *more)
    assert done.code and "has no keys to compare" in done.err
    Path(f"{prefix}_vals.npy").write_bytes(b"123")
    done = command("fairseq-knnlm", "adopt", f"{prefix}_vals.npy", "--dstore-mmap", tmp_path / "other")
    assert done.code and "has 3 bytes, which are not" in done.err


def test_in_place_is_refused_where_values_change(command: Command, peer: Peer) -> None:
    source = peer.store("in place", BLOCK)
    outcome = command("fairseq-knnlm", "adopt", source, "--data", peer.data, "--log-format", "none")
    assert outcome.code and "give --dstore-mmap another prefix" in outcome.err
    assert len(list(source.parent.iterdir())) == 2


def test_flags_of_tokenized_texts_are_refused_for_words(command: Command, data_dir: Path, tmp_path: Path) -> None:
    np.ones((4, 4), "<f4").tofile(tmp_path / "x_keys.npy")
    np.full(4, 5, "<i8").tofile(tmp_path / "x_vals.npy")
    for flag in ("--dictionary-only", "--stride 4"):
        words = [tmp_path / "x", "--dimension", 4, "--dstore-mmap", tmp_path / "new", "--data", data_dir, *flag.split()]
        outcome = command("fairseq-knnlm", "adopt", *words)
        assert outcome.code and f"{flag.split()[0]} is for a text of a model's tokenizer" in outcome.err
