"""The directory of a tiny random Llama, with a byte-level tokenizer trained on a few lines of English and code."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

TEXT = """The nearest neighbours of a token are the rows whose contexts are alike.
A language model reads a text from left to right, and says what comes next.
The weather was fine, and the children played by the river until the evening.
    def total(numbers):
        return sum(number for number in numbers)

for name in names:
    print(f"{name}: {len(name)} letters")
if __name__ == "__main__":
    main(sys.argv[1:])
"""
END = "<|endoftext|>"
NUM_TOKENS = 300


def write_tiny_llama(directory: Path, seed: int = 5, add_bos: bool = False, **config: Any) -> Path:
    """Writes config.json, model.safetensors and the tokenizer's files, and returns the directory.

    Args:
        directory: is made where it does not exist.
        seed: of the weights.
        add_bos: the tokenizer has a ``<s>`` of its own, which it puts in front of a text.
        config: settings of ``LlamaConfig`` in the place of these.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    num_tokens = write_tokenizer(directory, add_bos=add_bos)
    sizes = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    settings = dict(max_position_embeddings=128, vocab_size=num_tokens, tie_word_embeddings=True)
    ids = dict(bos_token_id=1 if add_bos else 0, eos_token_id=0, initializer_range=0.3)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, **settings, **ids, **config}))
    model.save_pretrained(directory)
    return directory


def write_tokenizer(directory: Path, *, add_bos: bool = False) -> int:
    """Writes tokenizer.json and tokenizer_config.json, and returns how many tokens there are."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    directory.mkdir(parents=True, exist_ok=True)
    specials = [END, "<s>"] if add_bos else [END]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_TOKENS, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT.splitlines(keepends=True), trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    named: dict[str, Any] = {"eos_token": END, "bos_token": "<s>" if add_bos else END, "add_bos_token": add_bos}
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **named}), encoding="utf-8"
    )
    return int(tokenizer.get_vocab_size())


@dataclass(frozen=True)
class LlamaRoad:
    """A tiny model with what the commands have made of it.

    Attributes:
        model: its directory.
        data: tokenized data: train, valid, test.
        store: prefix of the datastore of train.
        index: that finds the nearest.
    """

    model: Path
    data: Path
    store: Path
    index: Path

    @property
    def flags(self) -> list[object]:
        """The flags of the neighbours, all of them weighed alike."""
        files = ["--dstore-filename", self.store, "--indexfile", self.index]
        return ["--knnlm", *files, "--k", K, "--lmbda", LMBDA, "--knn-temp", TEMPERATURE]


K, LMBDA, TEMPERATURE = 16, 0.4, 3.0
BLOCKS = ["--tokens-per-sample", "32", "--context-window", "8"]


def make_road(directory: Path, model: Path, *dump: object) -> LlamaRoad:
    """Writes data, datastore and index of a model into a directory; ``dump`` are more flags of the datastore."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = TEXT.splitlines(keepends=True)
    texts = {
        "train": TEXT + "".join(reversed(lines)) + TEXT.upper(),
        "valid": "".join(lines[1:5]),
        "test": TEXT[40:420],
    }
    for name, text in texts.items():
        (directory / f"{name}.txt").write_text(text, encoding="utf-8")
    data, store, index = directory / "data", directory / "dstore", directory / "knn.index"
    quiet = ["--log-format", "none"]
    if not data.exists():
        prefixes = [word for name in texts for word in (f"--{name}pref", directory / f"{name}.txt")]
        _run("fairseq-preprocess", "--only-source", "--tokenizer", model, *prefixes, "--destdir", data, *quiet)
    subset = [data, "--path", model, "--gen-subset", "train", *BLOCKS, "--cpu", *quiet]
    _run("fairseq-eval-lm", *subset, "--save-knnlm-dstore", "--dstore-mmap", store, *dump)
    _run("build_dstore.py", "--dstore-mmap", store, "--faiss-index", index, "--index-spec", "Flat", *quiet)
    return LlamaRoad(model, data, store, index)


def _run(prog: str, *words: object) -> None:
    from fairseq_cli.shared.run import run
    from tests.builders.tiny_lm import main_of

    code = run(prog, main_of(prog), [str(word) for word in words])
    assert code == 0, words
