"""The directory of a Hugging Face model: what it says of itself, and whether it can be used."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from fairseq.checkpoints.huggingface import ModelDirectory, read_model_directory
from fairseq.knn.inspect.findings import OK, SKIPPED, Findings
from fairseq.models.protocol import ModelIdentity
from fairseq.storage.file_kinds import MODEL
from fairseq.storage.weight_files import tensors_of
from fairseq.text.model_tokenizer import ModelTokenizer

Lines = list[tuple[str, Any]]
Description = tuple[str, Lines]

# What is told of config.json, where it has it: names that families give one thing, and ours.
_SETTINGS = (
    ("layers", ("num_hidden_layers", "n_layer", "n_layers", "num_layers")),
    ("width", ("hidden_size", "n_embd", "d_model")),
    ("attention heads", ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads")),
    ("vocabulary", ("vocab_size",)),
    ("positions", ("max_position_embeddings", "n_positions", "max_seq_len")),
)


def describe_model(path: Path) -> Description:
    """Returns what a model's directory is, and what it says.

    Raises:
        CheckpointError: its settings cannot be read, or its weights are not all there.
        DataError: its tokenizer cannot be read.
    """
    directory = read_model_directory(path)
    inner = directory.config.get("text_config")
    settings = {**directory.config, **(inner if isinstance(inner, dict) else {})}
    lines: Lines = [("family", directory.family)]
    for label, names in _SETTINGS:
        found = next((settings[name] for name in names if settings.get(name) is not None), None)
        lines.append((label, found))
    lines += [*_weights(directory), *_tokenizer(path)]
    return MODEL.partition(" ")[2], [line for line in lines if line[1] is not None]


def _weights(directory: ModelDirectory) -> Lines:
    files = directory.weight_files
    tensors = [tensor for path in files if path.suffix == ".safetensors" for tensor in tensors_of(path).values()]
    return [
        ("files of weights", ", ".join(path.name for path in files)),
        ("parameters", sum(math.prod(shape) for _, shape in tensors) if tensors else None),
        ("stored as", ", ".join(sorted({dtype for dtype, _ in tensors})) or None),
        ("weights sha256", directory.weights_sha256),
    ]


def _tokenizer(path: Path) -> Lines:
    if not (path / "tokenizer.json").is_file():
        return [("tokenizer", "none (tokenizer.json)")]
    tokenizer = ModelTokenizer(path, "--path")
    opening = tokenizer.opening_id
    return [
        ("tokens", tokenizer.num_tokens),
        ("a text begins with", None if opening is None else tokenizer.decode([opening])),
        ("in front of each row", "yes" if tokenizer.adds_bos else "no"),
        ("tokenizer sha256", tokenizer.sha256),
    ]


def check_model(findings: Findings, path: str, known: ModelIdentity) -> ModelIdentity:
    """Checks a model's directory, and returns what it adds to the identity of the model."""
    directory = findings.opened("model settings", lambda: read_model_directory(path))
    if directory is None:
        return known
    findings.add(OK, "model settings", f"of family {directory.family}")
    if (Path(path) / "tokenizer.json").is_file():
        tokenizer = findings.opened("model tokenizer", lambda: ModelTokenizer(path, "--path"))
        if tokenizer is not None:
            findings.add(OK, "model tokenizer", f"{tokenizer.num_tokens} tokens, sha256 {tokenizer.sha256[:12]}")
            known = replace(known, tokenizer_sha256=tokenizer.sha256)
    else:
        findings.add(SKIPPED, "model tokenizer", "there is none (tokenizer.json)")
    model = findings.opened("model", lambda: _loaded(path))
    if model is None:
        return known
    findings.add(OK, "model", f"every tensor is there and finite, key width {model.key_dimension}")
    sha256 = directory.weights_sha256
    findings.add(OK, "model weights", f"sha256 {sha256[:12]}")
    if known.vocabulary_size is not None:
        size, scored = known.vocabulary_size, model.vocabulary_size
        problem = f"it scores {scored} ids, but the dictionary has {size}; give the data of the model's own tokenizer"
        findings.judge("model vocabulary", problem if size > scored else None, f"{scored} ids are scored")
    return replace(known, weights_sha256=sha256, key_dimension=model.key_dimension)


def _loaded(path: str) -> Any:
    from fairseq.models.huggingface.loading import load_model

    return load_model(path)
