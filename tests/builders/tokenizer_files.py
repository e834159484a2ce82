"""Directories of tokenizers of every kind that models have, each trained on a few lines."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.builders.tiny_llama import TEXT

MORE = "Ein Täßchen Öl für 😀 — naïve café, ﬁne №5.\r\nΜια γλώσσα\u00a0και\u3000日本語 e\u0301a\n\n\tThe end.\n"
SAMPLE = TEXT + MORE


def write(directory: Path, tokenizer: Any, **settings: Any) -> Path:
    """Writes tokenizer.json, and tokenizer_config.json where there are settings; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    if settings:
        (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory


def byte_level() -> Any:
    """Returns a byte-level one, as SmolLM2's and Llama 3's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _trained_on_bytes(tokenizer)


def gpt2() -> Any:
    """Returns a byte-level one that puts a space in front, and whose offsets are without spaces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return _trained_on_bytes(tokenizer)


def qwen() -> Any:
    """Returns a byte-level one that joins accents with their letters first."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _trained_on_bytes(tokenizer)


def _trained_on_bytes(tokenizer: Any) -> Any:
    from tokenizers import pre_tokenizers, trainers

    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SAMPLE.splitlines(keepends=True), trainer)
    return tokenizer


def word_piece() -> Any:
    """Returns one of lower-cased words without accents, as BERT's."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]", "[CLS]"], show_progress=False)
    tokenizer.train_from_iterator(SAMPLE.splitlines(), trainer)
    return tokenizer


def unigram() -> Any:
    """Returns one as sentencepiece's: ``▁`` for a space and in front, characters in their plain form."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(SAMPLE.splitlines(), trainer)
    return tokenizer


def llama() -> Any:
    """Returns one as Llama 2's: ``▁`` for a space, one in front, bytes for what it does not know, ``<s>`` in front."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers

    specials = ["<unk>", "<s>", "</s>"]
    training = Tokenizer(models.BPE(unk_token="<unk>"))
    training.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=150, special_tokens=specials, show_progress=False)
    training.train_from_iterator(TEXT.splitlines(keepends=True), trainer)
    model = json.loads(training.to_str())["model"]
    vocabulary = {token: idx for idx, token in enumerate(specials)}
    for token in [f"<0x{byte:02X}>" for byte in range(256)] + [t for t in model["vocab"] if t not in specials]:
        vocabulary[token] = len(vocabulary)
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in specials])
    return tokenizer


def gemma() -> Any:
    """Returns one as Gemma's: tokens of white space, ``<s> <pad> </s> <unk>`` of its own, ids that no token has."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    own = ["<pad>", "<eos>", "<bos>", "<unk>", "<s>", "</s>", "\n", "\n\n", "\t", "\u00a0", " ", "\\u000a", "<s>#4"]
    letters = sorted({*TEXT.replace(" ", ""), "▁"} - set(own))
    vocabulary = {token: idx for idx, token in enumerate(own)}
    vocabulary |= {letter: 20 + idx for idx, letter in enumerate(letters)}  # 13 … 19 are no token's
    vocabulary |= {f"<0x{byte:02X}>": len(letters) + 30 + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    plain = [AddedToken(token, normalized=False, special=False) for token in ("\n\n", "<s>", "</s>")]
    tokenizer.add_tokens(plain)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<pad>", "<eos>", "<bos>", "<unk>")])
    return tokenizer


KINDS: dict[str, Callable[[], Any]] = {
    "byte_level": byte_level,
    "gpt2": gpt2,
    "qwen": qwen,
    "word_piece": word_piece,
    "unigram": unigram,
    "llama": llama,
    "gemma": gemma,
}
